"""A merge in a report: what it was made of, how far it is from that by role, what each task lost or gained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.merging.record import Compared, Record, read_record
from weft.reporting.document import Document, Section, Table, distinct_names
from weft.reporting.numbers import NONE, scored, unit
from weft.reporting.runs import TaskRun

READING = (
    "The error is the distance of the merged change of the weights from the exact weighted sum of the experts', as a "
    "share of that sum (Frobenius norm, over all maps of a role together). It says how much a method changed, not "
    "whether that was bad: a method that drops what experts disagree on is far from the sum on purpose."
)


@dataclass(frozen=True)
class MergedRun:
    """A merged expert of one run folder, with all its tasks."""

    run: str
    record: Record
    key: str
    """Names it in addresses."""


def merges_of(runs: Sequence[TaskRun]) -> list[MergedRun]:
    """The merged ones among some runs; the tasks of one share its record."""
    places: dict[Path, str] = {}
    for run in runs:
        if run.merged:
            alone = read_record(run.folder.path) is not None
            places[run.folder.path if alone else run.folder.path.parent] = run.run
    found = [(name, read_record(path)) for path, name in places.items()]
    there = [(name, record) for name, record in found if record is not None]
    keys = distinct_names([name for name, _ in there])
    return [MergedRun(name, own, key) for (name, own), key in zip(there, keys, strict=True)]


def document_of(run: str, record: Record) -> Document:
    """One merge as a document of its own."""
    return Document(f"{run}: {record.method} merge", (section(MergedRun(run, record, "merge")),))


def section(merged: MergedRun) -> Section:
    """All that there is to say of one merge."""
    record = merged.record
    parts = [_experts(merged), _errors(merged)]
    if record.scores:
        parts.append(_scores(merged))
    return Section(
        key=f"merge-{merged.key}",
        heading=f"{merged.run}: {record.method} merge",
        words=(_summary(record), *_verdicts(record.scores)),
        notes=(*record.notes, READING),
        parts=tuple(parts),
    )


def _summary(record: Record) -> str:
    count = len(record.experts)
    experts = f"{count} experts" if count > 1 else "One expert"
    if record.error == 0:
        far = "exactly their weighted sum"
    elif record.error is None:
        far = "a change where their weighted sum is none"
    else:
        far = f"{_percent(record.error)} % of their weighted sum away from it"
    return f"{experts} merged into one of rank {record.rank}: {far}."


def _verdicts(rows: Sequence[Compared]) -> list[str]:
    """What each task lost or gained, as sentences."""
    said = []
    for row in rows:
        sign = 1 if row.higher_is_better else -1
        if max(sign * row.difference.low, sign * row.difference.high) < 0:
            what = "is worse than"
        elif min(sign * row.difference.low, sign * row.difference.high) > 0:
            what = "is better than"
        else:
            what = "does not differ beyond chance from"
        said.append(f"{row.task}: the merged expert {what} {row.run}.")
    return said


def _experts(merged: MergedRun) -> Table:
    rows = tuple(
        (
            made.run,
            ", ".join(made.tasks),
            f"{made.weight:.4g}",
            str(made.rank),
            f"{_percent(made.lost)} %" if made.lost else NONE,
        )
        for made in merged.record.experts
    )
    by_map = "; weights differ by map, these are their means" if _by_map(merged.record) else ""
    caption = f"What {merged.run} was made of{by_map}."
    headers = ("expert", "tasks", "weight", "rank", "did not enter")
    return Table(caption, headers, rows, words=2)


def _by_map(record: Record) -> bool:
    return "by_map" in record.learned


def _errors(merged: MergedRun) -> Table:
    record = merged.record
    rows = [(role, _error(value)) for role, value in record.errors.items()]
    rows.append(("all maps", _error(record.error)))
    return Table(
        f"How far {merged.run} is from the exact weighted sum, by role.",
        ("role", "error, % of the sum"),
        tuple(rows),
    )


def _scores(merged: MergedRun) -> Table:
    rows = tuple(
        (
            row.task,
            row.run,
            unit(row.metric),
            f"{row.n:,}",
            scored(row.metric, row.before),
            scored(row.metric, row.after),
            scored(row.metric, row.difference),
        )
        for row in merged.record.scores
    )
    split = merged.record.scores[0].split
    caption = (
        f"Scores on {split} before the merge and after it, with 95 % bootstrap intervals over rows; the difference is "
        "after minus before on the same rows, with both resampled together."
    )
    headers = ("task", "expert", "score", "rows", "before", "after", "difference")
    return Table(caption, headers, rows, words=3)


def _error(value: float | None) -> str:
    return "the sum is nothing" if value is None else _percent(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}"
