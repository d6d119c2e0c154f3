"""A mixture in a report: its gates by map and expert, as tables and heat maps, and what stands beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from weft.reporting.document import Figure, Section, Table, distinct_names
from weft.reporting.drawing import axes, draw
from weft.reporting.numbers import NONE, interval, unit
from weft.reporting.runs import SPLITS, TaskRun
from weft.runs import STANDINGS, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure as Canvas

Grid = tuple[tuple[float | None, ...], ...]
"""A value for each map and gate; None where a map has no such gate."""
NUMBERED = 8
"""Columns up to which every cell has its number in it."""
LEVELS = 40
"""Colours of a scale; of 50 and more matplotlib makes a picture of dots, which an SVG embeds."""
NAMED = 24
"""Columns up to which each has its name below it."""


@dataclass(frozen=True)
class GateTable:
    """One task's gates."""

    task: str
    split: str
    tokens: int
    maps: tuple[str, ...]
    """Names of the adapted linear maps, without what they have in common."""
    columns: tuple[str, ...]
    """The experts, or numbered gates where there are not as many gates as experts."""
    gates: Grid
    """Mean gate over the task's tokens."""
    selected: Grid
    """Share of the tokens that select it, 0 to 1."""

    @property
    def averages(self) -> list[float | None]:
        """The mean gate over all maps that have it, by column."""
        return column_means(self.gates)

    @property
    def is_sparse(self) -> bool:
        """Whether some token leaves some expert out."""
        return any(value is not None and value < 1 for row in self.selected for value in row)


@dataclass(frozen=True)
class MixtureRun:
    """A mixture of one run folder, with all its tasks."""

    run: str
    method: str
    gates: tuple[GateTable, ...]
    standings: tuple[Mapping[str, Any], ...]
    """Rows of `beside.json`: the mixture's score of a task, and those it has to beat."""
    said: tuple[str, ...]
    """The remarks of `beside.json`."""
    missing: tuple[str, ...]
    key: str
    """Names the mixture in addresses and file names."""


def mixtures_of(runs: Sequence[TaskRun]) -> list[MixtureRun]:
    """The mixtures among some runs."""
    grouped: dict[str, list[TaskRun]] = {}
    for run in runs:
        if run.family == "mixture":
            grouped.setdefault(run.run, []).append(run)
    keys = distinct_names(list(grouped))
    return [_mixture(own, key) for own, key in zip(grouped.values(), keys, strict=True)]


def _mixture(parts: Sequence[TaskRun], key: str) -> MixtureRun:
    first = parts[0]
    places = [first.folder.path, first.folder.path.parent]
    path = next((at / STANDINGS for at in places if (at / STANDINGS).is_file()), None)
    beside = json.loads(path.read_text(encoding="utf-8")) if path else {}
    tasks = {part.task for part in parts}
    tables = [(part.task, gate_table(part.folder)) for part in parts]
    missing = [
        f"{first.run}, {task}: no gate maps; write them with `weft evaluate --gates`"
        for task, table in tables
        if table is None
    ]
    if path is None:
        missing.append(f"{first.run}: no {STANDINGS}, so nothing stands beside its scores")
    return MixtureRun(
        run=first.run,
        method=first.method,
        gates=tuple(table for _, table in tables if table is not None),
        standings=tuple(row for row in beside.get("rows", []) if row["task"] in tasks),
        said=tuple(beside.get("remarks", [])),
        missing=tuple(missing),
        key=key,
    )


def gate_table(folder: RunFolder) -> GateTable | None:
    """The gates that `weft evaluate --gates` left in one task's run folder; None if it did not."""
    places = ((split, folder.path / f"gates-{split}.json") for split in SPLITS)
    split, path = next(((split, path) for split, path in places if path.is_file()), ("", None))
    if path is None:
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    width = max(map(len, said["gates"].values()), default=0)
    experts = said["experts"]
    # One gate for all experts, or one for each rank: they have no names.
    columns = experts if len(experts) == width else [f"gate {at + 1}" for at in range(width)]
    gates, selected = (
        tuple((*row, *[None] * (width - len(row))) for row in said[key].values())
        for key in ("gates", "selected")
    )
    return GateTable(
        task=said["task"],
        split=split,
        tokens=said["tokens"],
        maps=tuple(short_names(list(said["gates"]))),
        columns=tuple(columns),
        gates=gates,
        selected=selected,
    )


def column_means(cells: Grid) -> list[float | None]:
    """The mean over the maps that have a value, by column."""
    columns = [[v for v in column if v is not None] for column in zip(*cells, strict=True)]
    return [mean(values) if values else None for values in columns]


def short_names(modules: Sequence[str]) -> list[str]:
    """Module names without the parts that are the same in all of them.

    `encoder.layer.0.attention.self.query` beside `encoder.layer.1.attention.self.value` is `0.query`.
    """
    parts = [name.split(".") for name in modules]
    shortest = min(map(len, parts), default=0)
    if len(set(map(len, parts))) > 1:
        start = next(
            (at for at in range(shortest) if len({own[at] for own in parts}) > 1), shortest - 1
        )
        return [".".join(own[start:]) for own in parts]
    apart = [at for at in range(shortest) if len({own[at] for own in parts}) > 1]
    return [
        ".".join(own[at] for at in apart) or name for own, name in zip(parts, modules, strict=True)
    ]


def mixture_section(mixture: MixtureRun) -> Section:
    """What a report says of a mixture beside its scores."""
    tables = (_standings_table(mixture), _gates_table(mixture))
    return Section(
        key=f"mixture-{mixture.key}",
        heading=f"Mixture {mixture.run} ({mixture.method})",
        notes=mixture.said,
        parts=(*(table for table in tables if table.rows), *gate_figures(mixture)),
    )


def _standings_table(mixture: MixtureRun) -> Table:
    """A mixture beside what it has to beat."""
    rows = []
    for row in mixture.standings:
        metric, apart = row["metric"], row["difference"]
        rows.append(
            (
                row["task"],
                unit(metric),
                row["what"],
                interval(metric, row["score"]),
                NONE if apart is None else interval(metric, apart),
                f"{row['n']:,}",
            )
        )
    headers = (
        "task",
        "score",
        "what",
        "value (95 % interval)",
        "mixture - this (95 % interval)",
        "rows",
    )
    caption = (
        f"{mixture.run} ({mixture.method}) beside each task's own expert and the simpler ways to combine them; "
        "differences are paired over the same rows."
    )
    return Table(caption, headers, tuple(rows), words=3)


def _gates_table(mixture: MixtureRun) -> Table:
    """The mean gate over all maps, by task and expert."""
    columns = list(dict.fromkeys(name for table in mixture.gates for name in table.columns))
    rows = []
    for table in mixture.gates:
        means = dict(zip(table.columns, table.averages, strict=True))
        cells = [means.get(column) for column in columns]
        values = (NONE if value is None else f"{value:.3f}" for value in cells)
        rows.append((table.task, table.split, *values, f"{table.tokens:,}"))
    caption = f"{mixture.run} ({mixture.method}): mean gate over all maps and tokens, by task (rows) and expert."
    return Table(caption, ("task", "split", *columns, "tokens"), tuple(rows), words=2)


def gate_figures(mixture: MixtureRun) -> list[Figure]:
    """Mean gates of every task on one scale; and the share of tokens by expert, where gates leave some out."""
    values = [v for table in mixture.gates for row in table.gates for v in row if v is not None]
    # The last hyphen but one ends the mixture's part of a name: that has hyphens too.
    tasks = distinct_names([table.task.replace("-", "_") for table in mixture.gates])
    found = []
    for table, task in zip(mixture.gates, tasks, strict=True):
        name = f"{mixture.key}-{task}"
        heat = partial(_heat, mixture, table)
        found.append(heat(f"{name}-gates", table.gates, what="mean gate", limits=_range(values)))
        if table.is_sparse:
            what = "share of tokens selected"
            found.append(heat(f"{name}-selected", table.selected, what=what, limits=(0.0, 1.0)))
    return found


def _range(values: list[float]) -> tuple[float, float]:
    """From 0, or as far below as above it, to the largest gate."""
    top = max(map(abs, values), default=1.0) or 1.0
    return (-top if min(values, default=0.0) < 0 else 0.0), top


def _heat(
    mixture: MixtureRun,
    table: GateTable,
    name: str,
    cells: Grid,
    *,
    what: str,
    limits: tuple[float, float],
) -> Figure:
    share = what.startswith("share")

    def paint(drawn: "Canvas") -> None:
        import numpy as np
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        title = f"{mixture.method} on {table.task}: {what}"
        own = axes(drawn, title, "expert", "adapted map (layer.module)")
        grid = [[np.nan if value is None else value for value in row] for row in cells]
        norm = Normalize(*limits)
        # One hue for sizes, two where gates go below 0; both are even in lightness.
        colors = colormaps["viridis" if limits[0] == 0 else "PuOr"].resampled(LEVELS)
        mesh = own.pcolormesh(np.ma.masked_invalid(grid), cmap=colors, norm=norm)
        if len(table.columns) <= NUMBERED:
            _write(own, cells, colors, norm)
        _name_columns(own, table)
        own.set_yticks([at + 0.5 for at in range(len(table.maps))], table.maps)
        own.invert_yaxis()
        own.grid(visible=False)
        own.tick_params(length=0)
        unit = "share of tokens (0 to 1)" if share else "mean gate (no unit)"
        bar = drawn.colorbar(mesh, ax=own, label=unit, location="bottom", aspect=40, shrink=0.8)
        bar.outline.set_visible(False)  # type: ignore[operator]

    filled = [
        (value, name, column)
        for row, name in zip(cells, table.maps, strict=True)
        for value, column in zip(row, table.columns, strict=True)
        if value is not None
    ]
    top = max(filled, default=(0.0, "", ""))
    averages = ", ".join(
        f"{name} {value or 0.0:.2f}"
        for name, value in zip(table.columns, column_means(cells), strict=True)
    )
    said = averages if len(table.columns) <= NUMBERED else f"{len(table.columns)} columns"
    alt = (
        f"Heat map of the {what} by adapted map and expert, {mixture.run} on {table.task}. Means over maps: {said}. "
        f"Largest: {top[0]:.2f}, {top[2]} on {top[1]}."
    )
    caption = (
        f"{mixture.run}: {what} over {table.tokens:,} tokens of {table.task} ({table.split}). "
        + (
            "1 means that every token selects the expert."
            if share
            else "All tasks share one colour scale."
        )
        + (
            ""
            if all(value is not None for row in cells for value in row)
            else " Empty cells: the map has no such expert."
        )
    )
    height = 1.7 + 0.17 * len(table.maps)
    return draw(name, height, caption, alt, paint)


def _name_columns(own: "Axes", table: GateTable) -> None:
    """Experts below the map; of many, a few."""
    step = 1 if len(table.columns) <= NAMED else len(table.columns) // 8
    shown = range(0, len(table.columns), step)
    names = [table.columns[at] for at in shown]
    is_long = sum(len(name) + 2 for name in names) > 50
    own.set_xticks([at + 0.5 for at in shown], names)
    for label in own.get_xticklabels() if is_long else ():
        label.set(rotation=40, ha="right")


def _write(own: "Axes", cells: Grid, colors: "Colormap", norm: "Normalize") -> None:
    """Each cell's number, black or white, whichever its colour carries."""
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            if value is None:
                continue
            red, green, blue, _ = colors(norm(value))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            own.text(
                column + 0.5,
                row + 0.5,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="#000000" if light else "#ffffff",
            )
