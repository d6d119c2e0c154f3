"""The study's claims as a section: what LoRA keeps, how fast it trains, what everything costs."""

from weft.comparison.grid import label_of
from weft.reporting.document import Table
from weft.reproduction.claims import verdicts
from weft.reproduction.costs import usd
from weft.reproduction.durations import published_hours
from weft.reproduction.layout import Block, Section, decimal, percent, share
from weft.reproduction.plan import STUDY
from weft.reproduction.result import Reproduction
from weft.reproduction.tables import NAMES


def claims(found: Reproduction) -> Section:
    """What the figures say of each claim."""
    plan = found.outcome.plan
    said = [*verdicts(plan, found.kept, found.faster), _cheap(found)]
    return Section(
        "claims", "Claims", tuple(said), (_kept_table(found), _time_table(found), _price(found))
    )


def _kept_table(found: Reproduction) -> Block:
    rows = [
        (
            _base(found, row.base),
            f"{_set(found, row.task)} {NAMES.get(row.metric, row.metric)}",
            percent(row.published),
            percent(row.published_parameters, 2),
            share(row.study),
            share(row.own),
            percent(row.parameters, 2),
        )
        for row in found.kept
    ]
    headers = (
        "base",
        "score",
        "published: share (%)",
        "published: parameters (%)",
        "measured at the study's rate: share (%)",
        "measured at their own rates: share (%)",
        "measured: parameters (%)",
    )
    caption = (
        "LoRA's score as a share of full fine-tuning's, and its parameters (without the head, as the study has them) "
        "as a share of the base's. In brackets 95 % bootstrap intervals over rows, the same rows for both."
    )
    return Block(Table(caption, headers, tuple(rows), words=2), brief=False)


def _time_table(found: Reproduction) -> Block:
    rows = [
        (
            _base(found, row.base),
            _set(found, row.task),
            decimal(row.published_epoch, 2),
            decimal(row.epoch, 2),
            decimal(row.published_whole, 2),
            decimal(row.whole, 2),
            str(row.seeds),
        )
        for row in found.faster
    ]
    headers = (
        "base",
        "set",
        "epoch: published (ratio)",
        "epoch: measured (ratio)",
        "all epochs: published (ratio)",
        "all epochs: measured (ratio)",
        "seeds",
    )
    caption = (
        "LoRA's training time divided by full fine-tuning's, both at the study's settings; below 1 it is shorter. A "
        "set that stops early may run more epochs with one than with the other."
    )
    return Block(Table(caption, headers, tuple(rows), words=2), brief=False)


def _price(found: Reproduction) -> Block:
    plan = found.outcome.plan
    bound = plan.study.claims["cheap"].bound
    times = {
        "published: all trainings of tables 2 to 4": 3600 * published_hours(plan.study),
        "measured: the same trainings, as far as this profile runs them, one seed": _once(found),
        "measured: everything this report needed": sum(total.seconds for total in found.totals),
    }
    rows = []
    for what, seconds in times.items():
        price = usd(seconds, found.price)
        under = "yes" if price < bound else "no"
        rows.append((what, decimal(seconds / 3600, 2), decimal(price, 2), under))
    headers = ("what", "time (h)", "price (USD)", f"under {bound:g} USD")
    caption = (
        f"Training time and its price at {found.price:g} USD an hour, an assumption that --price changes. Reading rows "
        "and the final scores are not in it."
    )
    return Block(Table(caption, headers, tuple(rows)))


def _base(found: Reproduction, published: str) -> str:
    """A published base, and which one took its place."""
    plan = found.outcome.plan
    own = [b for b in plan.profile.bases if plan.published_base(b) == published]
    other = [label_of(base) for base in own if label_of(base) != published]
    return plan.study.bases[published] + (f" (here {other[0]})" if other else "")


def _set(found: Reproduction, task: str) -> str:
    """A published set, and which one took its place."""
    plan = found.outcome.plan
    own, published = plan.set_name(task), plan.study.tasks[task]
    return published if own == published else f"{published} (here {own})"


def _once(found: Reproduction) -> float:
    return sum(row.seconds for row in found.costs if row.stage == STUDY)


def _cheap(found: Reproduction) -> str:
    study = found.outcome.plan.study
    hours, says = published_hours(study), study.claims["cheap"].says
    whole = sum(total.seconds for total in found.totals)
    return (
        f"{says[0].upper()}{says[1:]}: at {found.price:g} USD an hour (assumed) the {hours:.1f} hours published cost "
        f"{usd(3600 * hours, found.price):.2f} USD; everything measured here took {whole / 3600:.2f} hours, "
        f"{usd(whole, found.price):.2f} USD."
    )
