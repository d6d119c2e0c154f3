"""What LoRA keeps of full fine-tuning, as published and as measured, and what that says of the study's claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.reproduction.answers import FULL, LORA, Answers, Way
from weft.reproduction.durations import Faster, value_at
from weft.reproduction.figures import Address
from weft.reproduction.plan import OWN, STUDY, Plan
from weft.reproduction.published import Study
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
