"""The study's claims: what LoRA keeps, how fast it trains, what everything costs; as published and as measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.comparison.grid import label_of
from weft.reporting.document import Section, Table
from weft.reporting.numbers import decimal, percent, share
from weft.reproduction.answers import FULL, LORA, Answers, Way
from weft.reproduction.cells import measured
from weft.reproduction.costs import usd
from weft.reproduction.plan import OWN, STUDY, Plan
from weft.reproduction.published import Address, Study
from weft.reproduction.six_tables import NAMES
from weft.tasks.scoring import Score


@dataclass(frozen=True)
class Kept:
    """What LoRA keeps of one published score of full fine-tuning."""

    base: str
    """As published, and so below."""
    task: str
    metric: str
    published: float
    published_parameters: float
    """LoRA's as a share of those of full fine-tuning, both as printed."""
    study: Score | None
    """Measured at the study's rate; None where it was not."""
    own: Score | None
    """Measured with each at its own rate."""
    parameters: float | None
    """Adapters, without the head, as the study counts them, as a share of the base's."""


@dataclass(frozen=True)
class Faster:
    """LoRA's training time beside full fine-tuning's, at the study's settings; below 1 it is shorter."""

    base: str
    task: str
    published_epoch: float
    published_whole: float
    epoch: float | None
    """Of an epoch."""
    whole: float | None
    """Of all epochs that were run."""
    seeds: int


@dataclass(frozen=True)
class Spent:
    """Training time that was paid for."""

    once: float
    """Seconds of one training of each recipe at the study's settings."""
    whole: float
    """Seconds of all finished runs."""
    price: float
    """USD for an hour."""


def kept(plan: Plan, found: Mapping[tuple[str, str], Answers]) -> list[Kept]:
    """A row for each published score.

    Args:
        plan: What was run.
        found: By published base and task.
    """
    rows = []
    for full in plan.study.figures():
        at = full.address
        if at.table != 5 or at.method != FULL or at.task is None or at.base is None:
            continue
        ours = found.get((at.base, at.task))
        counts = [_counted(plan.study, at.base, method) for method in (LORA, FULL)]
        rows.append(
            Kept(
                base=at.base,
                task=at.task,
                metric=at.metric,
                published=value_at(plan.study, at._replace(method=LORA)) / float(full.value),
                published_parameters=counts[0] / counts[1],
                study=_share(ours, STUDY, at.metric),
                own=_share(ours, OWN, at.metric),
                parameters=_parameters(ours),
            )
        )
    return rows


def verdicts(plan: Plan, rows: Sequence[Kept], times: Sequence[Faster]) -> list[str]:
    """What the figures say of the first two claims, as sentences."""
    claim = plan.study.claims["kept"]
    most = claim.share or 1.0
    columns = {
        "as published": [(row.published, row.published_parameters) for row in rows],
        "measured at the study's rate": [(r.study.value, r.parameters) for r in rows if r.study],
        "measured with each at its own rate": [(r.own.value, r.parameters) for r in rows if r.own],
    }
    parts = []
    for words, values in columns.items():
        holds = [s for s, of in values if s >= claim.bound and of is not None and of < most]
        parts.append(f"{len(holds)} of {len(values)} scores {words}")
    shorter = [row.published_epoch < 1 for row in times]
    ours = [row.epoch < 1 for row in times if row.epoch is not None]
    return [
        f"{claim.says}: true of {', '.join(parts)}.",
        f"{plan.study.claims['faster'].says}: an epoch is shorter in {sum(shorter)} of {len(shorter)} pairs as "
        f"published, in {sum(ours)} of {len(ours)} as measured.",
    ]


def _share(found: Answers | None, stage: str, metric: str) -> Score | None:
    return found.share(Way(stage, LORA), Way(stage, FULL)).get(metric) if found else None


def _parameters(found: Answers | None) -> float | None:
    for way, row in found.rows.items() if found else ():
        if way.recipe == LORA and found:
            of = (found.runs[way][0].training or {})["base_parameters"]
            return row.adapter_parameters / of
    return None


def _counted(study: Study, base: str, method: str) -> float:
    return value_at(study, Address(5, base, method, None, "trainable_parameters"))


def faster(plan: Plan) -> list[Faster]:
    """A row for each published base and task."""
    rows = []
    for full in plan.study.figures():
        at = full.address
        if at.method != FULL or at.metric != "seconds_per_epoch" or at.base is None:
            continue
        bases = [base for base in plan.profile.bases if plan.published_base(base) == at.base]
        runs = bool(bases) and at.task in plan.profile.tasks
        epoch, seeds = _ratio(plan, bases[0], at) if runs else (None, 0)
        whole, _ = _ratio(plan, bases[0], at._replace(metric="seconds")) if runs else (None, 0)
        rows.append(
            Faster(
                base=at.base,
                task=str(at.task),
                published_epoch=_published_ratio(plan.study, at),
                published_whole=_published_ratio(plan.study, at._replace(metric="seconds")),
                epoch=epoch,
                whole=whole,
                seeds=seeds,
            )
        )
    return rows


def published_hours(study: Study) -> float:
    """Of all trainings of tables 2 to 4."""
    seconds = [float(f.value) for f in study.figures() if f.address.metric == "seconds"]
    return sum(seconds) / 3600


def value_at(study: Study, address: Address) -> float:
    """A published figure as a number."""
    return float(study.figure(address).value)


def _published_ratio(study: Study, full: Address) -> float:
    return value_at(study, full._replace(method=LORA)) / value_at(study, full)


def _ratio(plan: Plan, base: str, full: Address) -> tuple[float | None, int]:
    """LoRA's mean over that of full fine-tuning, and the seeds behind both."""
    ours, whole = measured(plan, base, full._replace(method=LORA)), measured(plan, base, full)
    if ours is None or whole is None:
        return None, 0
    return ours.value / whole.value, min(ours.seeds, whole.seeds)


def claims_section(
    plan: Plan,
    rows: Sequence[Kept],
    times: Sequence[Faster],
    spent: Spent,
) -> Section:
    """What the figures say of each claim."""
    said = [*verdicts(plan, rows, times), _cheap(plan.study, spent)]
    tables = (_kept_table(plan, rows), _time_table(plan, times), _price_table(plan.study, spent))
    return Section("claims", "Claims", tuple(said), parts=tables)


def _kept_table(plan: Plan, rows: Sequence[Kept]) -> Table:
    cells = [
        (
            _base(plan, row.base),
            f"{_set(plan, row.task)} {NAMES.get(row.metric, row.metric)}",
            percent(row.published),
            percent(row.published_parameters, 2),
            share(row.study),
            share(row.own),
            percent(row.parameters, 2),
        )
        for row in rows
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
    return Table(caption, headers, tuple(cells), words=2, brief=False)


def _time_table(plan: Plan, times: Sequence[Faster]) -> Table:
    cells = [
        (
            _base(plan, row.base),
            _set(plan, row.task),
            decimal(row.published_epoch, 2),
            decimal(row.epoch, 2),
            decimal(row.published_whole, 2),
            decimal(row.whole, 2),
            str(row.seeds),
        )
        for row in times
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
    return Table(caption, headers, tuple(cells), words=2, brief=False)


def _price_table(study: Study, spent: Spent) -> Table:
    bound = study.claims["cheap"].bound
    times = {
        "published: all trainings of tables 2 to 4": 3600 * published_hours(study),
        "measured: the same trainings, as far as this profile runs them, one seed": spent.once,
        "measured: everything this report needed": spent.whole,
    }
    rows = []
    for what, seconds in times.items():
        price = usd(seconds, spent.price)
        under = "yes" if price < bound else "no"
        rows.append((what, decimal(seconds / 3600, 2), decimal(price, 2), under))
    headers = ("what", "time (h)", "price (USD)", f"under {bound:g} USD")
    caption = (
        f"Training time and its price at {spent.price:g} USD an hour, an assumption that --price changes. Reading rows "
        "and the final scores are not in it."
    )
    return Table(caption, headers, tuple(rows))


def _base(plan: Plan, published: str) -> str:
    """A published base, and which one took its place."""
    own = [b for b in plan.profile.bases if plan.published_base(b) == published]
    other = [label_of(base) for base in own if label_of(base) != published]
    return plan.study.bases[published] + (f" (here {other[0]})" if other else "")


def _set(plan: Plan, task: str) -> str:
    """A published set, and which one took its place."""
    own, published = plan.set_name(task), plan.study.tasks[task]
    return published if own == published else f"{published} (here {own})"


def _cheap(study: Study, spent: Spent) -> str:
    hours, says = published_hours(study), study.claims["cheap"].says
    return (
        f"{says[0].upper()}{says[1:]}: at {spent.price:g} USD an hour (assumed) the {hours:.1f} hours published cost "
        f"{usd(3600 * hours, spent.price):.2f} USD; everything measured here took {spent.whole / 3600:.2f} hours, "
        f"{usd(spent.whole, spent.price):.2f} USD."
    )
