"""Values by map or by layer as figures want them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from weft.analysis.figures import Line


def by_layer(
    rows: Iterable[Mapping[str, Any]], value: str, name: str, *, chance: bool = False
) -> Line:
    """The mean of a column over the rows of each layer."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row[value] is not None and math.isfinite(row[value]):
            found.setdefault(row["layer"], []).append(row[value])
    points = tuple((float(layer), fmean(own)) for layer, own in sorted(found.items()))
    return Line(name, points or ((0.0, math.nan),), chance)


def by_cell(rows: Iterable[Mapping[str, Any]], value: str) -> dict[tuple[str, str], float]:
    """The mean of a column by layer and role."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row[value] is not None and math.isfinite(row[value]):
            found.setdefault((f"layer {row['layer']}", row["role"]), []).append(row[value])
    return {place: fmean(own) for place, own in found.items()}


def names_of(cells: Mapping[tuple[str, str], float]) -> tuple[list[str], list[str]]:
    """Rows and columns of cells, layers in order."""
    rows = sorted({row for row, _ in cells}, key=lambda name: int(name.removeprefix("layer ")))
    return rows, list(dict.fromkeys(column for _, column in cells))


def largest(rows: Sequence[Mapping[str, Any]], value: str) -> str:
    """Where a column is largest on average, in words: `layer 5, value`."""
    cells = by_cell(rows, value)
    if not cells:
        return "nowhere"
    layer, role = max(cells, key=cells.__getitem__)
    return f"{layer}, {role}"
