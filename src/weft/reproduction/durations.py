"""How much shorter LoRA's training is than full fine-tuning's, as published and as measured, and how long all took."""

from dataclasses import dataclass

from weft.reproduction.answers import FULL, LORA
from weft.reproduction.figures import Address
from weft.reproduction.measuring import measured
from weft.reproduction.plan import Plan
from weft.reproduction.published import Study


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
