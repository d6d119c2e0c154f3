"""Gates as people look at them: maps by experts, then token by token, each cell with its number and its shade."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft.registry import unknown
from weft.reporting.combined.mixtures import Grid as Values
from weft.reporting.combined.mixtures import column_means, short_names
from weft.serving.errors import BadInput
from weft.serving.gates import Gates

SHADES = 10
"""From nothing to the largest gate."""


@dataclass(frozen=True)
class Cell:
    """One gate."""

    text: str
    shade: int
    """0 to `SHADES` of the largest gate's size; below 0 for gates below 0."""


@dataclass(frozen=True)
class Row:
    """What its cells belong to."""

    name: str
    key: str
    """The map's whole name; "" of a token."""
    cells: tuple[Cell | None, ...]
    """None where a map has no such gate."""


@dataclass(frozen=True)
class Grid:
    """Gates of things by expert."""

    caption: str
    what: str
    """What a row is."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class GateMap:
    """A mixture's gates on one input."""

    expert: str
    version: str
    task: str
    by_map: Grid
    """Means over tokens."""
    by_token: tuple[Grid, ...]
    """Of the chosen map, or means over all; one for each text that the input is read as."""
    chosen: str
    """The chosen map's whole name; "" is all."""


def gate_map(found: Gates, chosen: str = "") -> GateMap:
    """Gates of one input.

    Args:
        found: What the engine says.
        chosen: The map that is shown token by token; "" shows means over all.

    Raises:
        BadInput: If there is no such map, or the mixture's gates look at no token.
    """
    modules = list(found.layers)
    if not modules:
        raise BadInput(
            f"the gates of {found.expert} do not look at tokens, so there is no map of them; ask for its answer"
        )
    if chosen and chosen not in modules:
        raise BadInput(unknown("map", chosen, modules))
    names = dict(zip(modules, short_names(modules), strict=True))
    width = max(len(row) for one in found.sequences for own in one.gates.values() for row in own)
    experts = found.experts
    columns = experts if len(experts) == width else tuple(f"gate {at + 1}" for at in range(width))
    means = [
        column_means(_padded((row for one in found.sequences for row in one.gates[module]), width))
        for module in modules
    ]
    shown = [chosen] if chosen else modules
    tokens = [
        [
            column_means(_padded((one.gates[module][at] for module in shown), width))
            for at in range(len(one.tokens))
        ]
        for one in found.sequences
    ]
    numbers = [value for rows in (means, *tokens) for row in rows for value in row]
    top = max((abs(value) for value in numbers if value is not None), default=0.0) or 1.0
    by_map = tuple(
        Row(names[module], module, _cells(row, top))
        for module, row in zip(modules, means, strict=True)
    )
    where = f"map {names[chosen]}" if chosen else f"mean over all {len(modules)} maps"
    count = len(found.sequences)
    by_token = tuple(
        Grid(
            f"Gates token by token, {where}{f', text {number} of {count}' if count > 1 else ''}",
            "token",
            columns,
            tuple(
                Row(token, "", _cells(row, top))
                for token, row in zip(one.tokens, rows, strict=True)
            ),
        )
        for number, (one, rows) in enumerate(zip(found.sequences, tokens, strict=True), 1)
    )
    caption = "Mean gate over all tokens, by adapted map (layer.module)"
    grid = Grid(caption, "map", columns, by_map)
    return GateMap(found.expert, found.version, found.task, grid, by_token, chosen)


def _padded(rows: Iterable[Sequence[float]], width: int) -> Values:
    return tuple((*row, *[None] * (width - len(row))) for row in rows)


def _cells(row: Sequence[float | None], top: float) -> tuple[Cell | None, ...]:
    return tuple(
        None if value is None else Cell(f"{value:.2f}", round(SHADES * value / top))
        for value in row
    )
