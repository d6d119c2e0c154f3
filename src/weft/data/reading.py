"""A task's rows: from files or the hub, in canonical columns, checked, before any model is loaded.

    settings ─ find_spec ─> spec ─ split_rows ─> rows ─ canonical ─ check ─> examples

Whatever a set's columns are called, a kind of task sees its own: `text`, `tokens`, `choices`,
`answers`, ...
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.config import Split, TaskSettings, read_yaml, validate
from weft.data.columns import ASKED, OF_ANY_KIND, normal, remedy
from weft.data.layout import Placed
from weft.data.memory import Given, digest_of, given_rows
from weft.data.sources import hub_columns, split_rows
from weft.registry import unknown
from weft.scoped import tell
from weft.tasks.contract import Example, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.sets import sets


@dataclass(frozen=True)
class LoadedTask:
    """A task with the rows of the splits asked for."""

    settings: TaskSettings
    """What the user said."""
    task: Task
    """The kind, with the set's labels."""
    splits: dict[Split, list[Example]]
    """Checked examples by split."""
    replay: tuple[Example, ...] = ()
    """Of another set, to be learnt beside the training rows."""


def find_spec(task: str | TaskSettings) -> TaskSpec:
    """The description of a set.

    Args:
        task: A registered set, or the path of a YAML file that describes the user's own; or a
            run's settings of a task, which name one or hold a description.

    Raises:
        KeyError: If there is no such set; names the nearest one.
        ValueError: If the description has a key or a value that is wrong.
    """
    name = task if isinstance(task, str) else task.name
    name = str(sets.included(name) or name)
    if not isinstance(task, str) and task.spec is not None:
        return validate(TaskSpec, {"name": name, **task.spec}, f"task {name}: spec")
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} or (name not in sets.names() and path.is_file()):
        return validate(TaskSpec, {"name": path.stem, **read_yaml(path)}, str(path))
    return validate(TaskSpec, sets.read(name), f"{name}.yaml")


def find_kind(spec: TaskSpec) -> type[Task]:
    """The class of a set's kind.

    Raises:
        ValueError: If there is no such kind, or it has no such column; names the nearest one.
    """
    if spec.kind not in kinds.names():
        raise ValueError(f"{spec.name}: {unknown('kind of task', spec.kind, kinds.names())}")
    kind = kinds.load(spec.kind)
    known = ["id", *OF_ANY_KIND, *kind.columns, *kind.optional]
    known += sum(kind.instead, ())
    known += [kind.target] if kind.target else []
    for name in [*spec.columns, *(spec.hub.columns if spec.hub else ())]:
        if name not in known:
            raise ValueError(f"{spec.name}: columns: {unknown(f'{spec.kind} column', name, known)}")
    return kind


def load_task(
    settings: TaskSettings,
    *,
    splits: Sequence[Split],
    seed: int,
    labels: Sequence[str] | None = None,
    given: Given | None = None,
) -> LoadedTask:
    """A task with its splits read, checked and sampled.

    Args:
        settings: Which set, where, and what to override. Without `data`, a set of the user's own
            that is not on the hub is looked for beside its YAML file.
        splits: The splits wanted; no other is read, but for the training split where labels must
            be collected.
        seed: Decides the samples of `max_examples`.
        labels: Class names in class order, as a trained expert has them ([] where its kind has
            none); None takes the spec's, or collects them from all of the training split.
        given: Rows in memory by split, in place of files; the settings that come back hold their
            digests.

    Raises:
        KeyError: If there is no such set.
        ValueError: If a setting, a file or a row is wrong: what, where, and what was expected.
    """
    spec = find_spec(settings)
    changed = {"max_length": settings.max_length, "stride": settings.stride}
    changed = {key: value for key, value in changed.items() if value is not None}
    spec = spec.model_copy(update={**changed, "truncate": settings.truncate or spec.truncate})
    kind = find_kind(spec)
    source = _Source(spec, settings, given)
    rows: dict[Split, list[tuple[Example, str]]] = {}
    for split in splits:
        tell(f"reading {settings.label}, {split}")
        rows[split] = _read(spec, kind, split, source)
    train = rows.get("train") or []
    if labels is None and spec.labels is None and kind.target is not None:
        train = train or _read(spec, kind, "train", source)
    telling = train or [placed for split in splits for placed in rows[split]]
    spec = kind.settle(spec, [example for example, _ in telling])
    if labels is None:
        try:
            labels = kind.collect_labels(spec, [example for example, _ in train])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    task = kind(spec, labels)
    examples: dict[Split, list[Example]] = {}
    for split, placed in rows.items():
        checked = [_checked(task, example, where) for example, where in placed]
        examples[split] = sample(checked, _limit(settings, split), seed=seed, split=split)
    if given is not None:
        settings = settings.model_copy(update={"in_memory": source.digests})
    return LoadedTask(settings, task, examples)


def _checked(task: Task, example: Example, where: str) -> Example:
    """The example as its kind has it, with what a row of any kind may have."""
    beside = {name: example[name] for name in OF_ANY_KIND if name in example}
    return {**task.check(example, where), **beside}


class _Source:
    """Where a task's rows are: in memory, in a folder, or on the hub."""

    def __init__(self, spec: TaskSpec, settings: TaskSettings, given: Given | None) -> None:
        self.digests: dict[Split, str] = {}
        self.given = given
        self.folder = Path(settings.data).expanduser() if settings.data else None
        if given is not None and settings.data:
            raise ValueError(
                f"task {settings.label}: rows are given and `data: {settings.data}` as well; choose one"
            )
        if given is None and self.folder is None:
            if settings.in_memory is not None:
                raise ValueError(
                    f"task {settings.label}: its rows were given in Python and are kept nowhere; give them again, "
                    "data={split: rows}, or a folder as `data`"
                )
            own = settings.name not in sets.names() and spec.hub is None
            if own and settings.spec is not None:
                raise ValueError(
                    f"task {settings.label}: where are its rows? Give data={{split: rows}}, or a folder as `data`"
                )
            self.folder = Path(settings.name).expanduser().parent if own else None

    def rows(self, spec: TaskSpec, split: Split) -> tuple[Iterable[Placed], dict[str, str]]:
        if self.given is None:
            return split_rows(spec, split, self.folder)
        found = given_rows(self.given, split)
        self.digests[split] = digest_of(found)
        hub = hub_columns(spec)
        there = found and all(source in found[0][0] for source in hub.values())
        return found, hub if there else spec.columns

    def __str__(self) -> str:
        return "data" if self.given is not None else str(self.folder or "the hub")


def _limit(settings: TaskSettings, split: Split) -> int | None:
    limit = settings.max_examples
    limit = limit.get(split) if isinstance(limit, dict) else limit
    if limit is not None and limit < 1:
        raise ValueError(f"task {settings.name}: max_examples must be at least 1, got {limit}")
    return limit


def _read(
    spec: TaskSpec, kind: type[Task], split: Split, source: _Source
) -> list[tuple[Example, str]]:
    rows, columns = source.rows(spec, split)
    usual = [*kind.columns, *([] if kind.target is None else [kind.target])]
    weighed = ["weight"] if split == "train" and "weight" in columns else []
    if not weighed:
        columns = {name: own for name, own in columns.items() if name != "weight"}
    owned = ["user"] if "user" in columns else []
    # A column that the spec names under another name is meant to be there, needed or not.
    named = [name for name, source in columns.items() if source != name]
    placed: list[tuple[Example, str]] = []
    places: dict[str, str] = {}
    for number, (row, where) in enumerate(rows):
        needed = usual
        if not _has(row, columns.get(usual[-1], usual[-1])):
            forms = [
                names
                for names in kind.instead
                if all(_has(row, columns.get(name, name)) for name in names)
            ]
            needed = list(forms[0]) if forms else usual
        needed = [*needed, *weighed, *owned]
        _refuse_missing([*needed, *named], row, where, columns)
        canonical = _canonical(kind, row, where, spec=spec, columns=columns)
        example = dict(kind.located(kind.read(spec, canonical, where), source.folder))
        null = [name for name in needed if name not in example]
        if null:
            raise ValueError(
                f"{where}: {null[0]!r} is needed, but its column holds nothing{remedy(null[0])}"
            )
        example.setdefault("id", f"{split}-{number}")
        if example["id"] in places:
            raise ValueError(
                f"{where}: id {example['id']!r} is also at {places[example['id']]}; ids must differ"
            )
        places[example["id"]] = where
        placed.append((example, where))
    if not placed:
        raise ValueError(f"{spec.name}: the {split} split in {source} has no rows")
    if not any(example.get("weight", 1.0) for example, _ in placed):
        raise ValueError(
            f"{placed[0][1]}: column {columns['weight']!r} is 0 here and in every other row, so nothing would be "
            "learnt; give a row more weight"
        )
    return placed


def _canonical(
    kind: type[Task], row: Mapping[str, Any], where: str, *, spec: TaskSpec, columns: dict[str, str]
) -> dict[str, Any]:
    """`row` in the kind's columns, values as the kind takes them; what it lacks is left out."""
    target = () if kind.target is None else (kind.target,)
    example: dict[str, Any] = {}
    of_any_kind = tuple(name for name in OF_ANY_KIND if name in columns)
    for name in dict.fromkeys(
        ("id", *kind.columns, *kind.optional, *sum(kind.instead, ()), *target, *of_any_kind)
    ):
        source = columns.get(name, name)
        value = _value(row, source) if _has(row, source) else None
        if value is not None:
            example[name] = normal(name)(value, spec, f"{where}: column {source!r}")
    return example


def _refuse_missing(
    names: Iterable[str], row: Mapping[str, Any], where: str, columns: Mapping[str, str]
) -> None:
    """Raise for the first of these canonical columns that `row` does not hold."""
    for name in names:
        source = columns.get(name, name)
        missing = [part for part in _parts(row, source) if part not in row]
        if missing:
            raise ValueError(
                f"{where}: {unknown('column', missing[0], map(str, row))}; the task's "
                f"`columns: {{{name}: ...}}` says which column holds {name!r}"
            )


def _parts(row: Mapping[str, Any], source: str) -> list[str]:
    """The columns that `source` means: itself, or several with commas between them."""
    several = "," in source and source not in row
    return [part.strip() for part in source.split(",")] if several else [source]


def _has(row: Mapping[str, Any], source: str) -> bool:
    return all(part in row for part in _parts(row, source))


def _value(row: Mapping[str, Any], source: str) -> Any:
    return row[source] if source in row else [row[part] for part in _parts(row, source)]


def example_from_user(task: Task, mapping: Mapping[str, Any], where: str) -> Example:
    """A row to predict, checked; columns may have the set's names or the canonical ones.

    Args:
        task: The task of the expert that will predict.
        mapping: The row; the target may be absent, and other columns are let be.
        where: What errors call the row, e.g. `rows.jsonl:3`; also its id where it has none.

    Raises:
        ValueError: If a column is missing or its value is wrong; starts with `where`.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where}: expected an object of columns, got {mapping!r:.60}")
    columns = {
        name: source
        for name, source in task.spec.columns.items()
        if (name in ASKED or name not in OF_ANY_KIND)
        and (_has(mapping, source) or name not in mapping)
    }
    # What is of any kind is looked for where `columns` name it: under its own name, too.
    columns |= {name: name for name in ASKED if name in task.spec.columns and name not in columns}
    # A kind may take another column instead (text for tokens): then its `check` decides.
    if not any(_has(mapping, columns.get(name, name)) for name in task.optional):
        _refuse_missing(task.columns, mapping, where, columns)
    example = _canonical(type(task), mapping, where, spec=task.spec, columns=columns)
    return _checked(task, {"id": where, **example}, where)


def sample(
    examples: Sequence[Example], count: int | None, *, seed: int, split: Split
) -> list[Example]:
    """A seeded sample without repeats, in the original order; all where `count` is None or more."""
    if count is None or count >= len(examples):
        return list(examples)
    generator = np.random.default_rng([seed, *split.encode()])
    chosen = generator.choice(len(examples), size=count, replace=False)
    return [examples[index] for index in sorted(chosen.tolist())]


def holdout(
    examples: Sequence[Example], fraction: float = 0.1, *, seed: int
) -> tuple[list[Example], list[Example]]:
    """`(kept, held)`: a seeded part of `examples` held out of the rest, both in the original order.

    Args:
        examples: Rows of a training split.
        fraction: Share held, between 0 and 1; at least one row is held and one kept.
        seed: Decides which.

    Raises:
        ValueError: If there are fewer than two rows or `fraction` is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held fraction must be between 0 and 1, got {fraction}")
    if len(examples) < 2:
        raise ValueError(f"holding rows out takes at least 2, got {len(examples)}")
    count = min(max(round(len(examples) * fraction), 1), len(examples) - 1)
    generator = np.random.default_rng([seed, *b"holdout"])
    held = set(generator.choice(len(examples), size=count, replace=False).tolist())
    parts: tuple[list[Example], list[Example]] = ([], [])
    for index, example in enumerate(examples):
        parts[index in held].append(example)
    return parts
