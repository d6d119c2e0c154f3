"""What goes beyond the study as sections: the gap to full fine-tuning, and the mixtures."""

from weft.comparison.grid import label_of
from weft.reporting.document import NONE, Table, unit
from weft.reporting.tables import number
from weft.reproduction.answers import FULL
from weft.reproduction.blends import Blend
from weft.reproduction.gap import GOAL_PARAMETERS, GOAL_SHARE, GapRow
from weft.reproduction.layout import Block, Section, decimal, listed, percent, scored, share
from weft.reproduction.plan import OWN, STUDY
from weft.reproduction.result import Reproduction


def gap(found: Reproduction) -> Section:
    """How much of full fine-tuning each recipe keeps, and whether the goal is reached."""
    plan = found.outcome.plan
    said = [
        f"Goal: at its own learning rate LoRA reaches at least {percent(GOAL_SHARE, 0)} % of full fine-tuning's score "
        f"with under {percent(GOAL_PARAMETERS, 0)} % of its parameters, the head included."
    ]
    said += [f"{plan.set_name(own.task)} on {own.base}: {own.says}." for own in found.goals]
    bases = dict.fromkeys(map(label_of, plan.profile.bases))
    blocks = [
        _gap_table(found, base, own)
        for base in bases
        if (own := [row for row in found.gap if row.base == base])
    ]
    return Section("gap", "The gap closed", tuple(said), tuple(blocks))


def rate_name(row: GapRow) -> str:
    """A recipe and whose rate it has."""
    return f"{row.recipe}, {'study' if row.stage == STUDY else 'own'} rate"


def is_whole(row: GapRow) -> bool:
    """Full fine-tuning at its own rate, which the others are held against."""
    return row.recipe == FULL and row.stage == OWN


def _gap_table(found: Reproduction, base: str, own: list[GapRow]) -> Block:
    plan = found.outcome.plan
    rows = [
        (
            plan.set_name(row.task),
            rate_name(row),
            unit(row.metric),
            scored(row.metric, row.score),
            number(row.metric, row.deviation) if len(row.seeds) > 1 else NONE,
            listed(row.seeds),
            f"{row.n:,}",
            "100" if is_whole(row) else share(row.share),
            percent(row.trained_share, 2),
            f"{row.learning_rate:g}" + (" (edge)" if row.on_edge else ""),
        )
        for row in own
    ]
    headers = (
        "set",
        "recipe",
        "score",
        "mean (95 % interval)",
        "sd over seeds",
        "seeds",
        "rows",
        "% of full, own rate",
        "trained (% of the base)",
        "learning rate",
    )
    caption = (
        f"{base}: full fine-tuning and LoRA at the study's rate, and every recipe at a rate searched on a held-out "
        "tenth of train. Intervals are over rows; trained parameters include the head's."
    )
    remarks = ("(edge): the first or last rate tried; a better one may lie beyond",)
    edge = remarks if any(row.on_edge for row in own) else ()
    return Block(Table(caption, headers, tuple(rows), words=3), remarks=edge)


def mixtures(found: Reproduction) -> Section:
    """Mixtures of the experts at their own rates; the study gave parameters alone."""
    said = ["The study counted parameters of its mixtures and published no score of them."]
    if not found.blends:
        said.append("No mixture is finished.")
    bases = dict.fromkeys(row.base for row in found.blends)
    blocks = [
        _mixture_table(found, base, [row for row in found.blends if row.base == base])
        for base in bases
    ]
    return Section("mixtures", "Mixtures", tuple(said), tuple(blocks))


def _mixture_table(found: Reproduction, base: str, own: list[Blend]) -> Block:
    plan = found.outcome.plan
    others = list(dict.fromkeys(what for row in own for what in row.beside))
    rows = [
        (
            row.mixture,
            plan.set_name(row.task),
            unit(row.metric),
            scored(row.metric, row.score),
            scored(row.metric, row.expert),
            scored(row.metric, row.difference),
            *(number(row.metric, row.beside[o]) if o in row.beside else NONE for o in others),
            percent(row.recognition),
            f"{row.gate_parameters:,} ({percent(row.gate_share, 2)} %)",
            decimal(row.forward_over_base, 2),
        )
        for row in own
    ]
    headers = (
        "mixture",
        "set",
        "score",
        "mean (95 % interval)",
        "its own expert",
        "mixture - expert",
        *others,
        "recognised (%)",
        "gates (of the base)",
        "forward / base",
    )
    experts = ", ".join(dict.fromkeys(row.experts for row in own))
    caption = (
        f"{base}: mixtures of the {experts} experts of all sets, beside each set's own expert on the same rows; "
        f"seeds {listed(own[0].seeds)}. Differences are paired; recognised is the share of rows whose set was named."
    )
    return Block(Table(caption, headers, tuple(rows), words=3))
