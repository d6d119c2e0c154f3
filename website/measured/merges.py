"""What merges keep of the experts that they are made of, and what they take."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

HEADINGS = {"tasks": "Experts of three tasks", "skills": "Two skills of one text"}
"""By the part of the result file whose rows are merges."""


def document() -> Document | None:
    """Sections for what was measured; None where nothing was."""
    scores, speed = read("merges"), read("merging-cpu")
    sections: list[Section] = []
    if scores is not None:
        sections += [
            Section(key, heading, parts=(kept_table(scores[key]),))
            for key, heading in HEADINGS.items()
            if scores.get(key)
        ]
        if scores.get("parts"):
            parts = (parts_table(scores["parts"]),)
            sections.append(Section("parts", "Experts of parts of one set", parts=parts))
    if speed is not None:
        sections.append(_speed(speed))
    return Document("Merges", tuple(sections)) if sections else None


def kept_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each way to merge, means over seeds.

    Args:
        rows: Of one part of the result file, a row a seed.
    """
    by_way: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_way.setdefault(_way(row), []).append(row)
    tasks = list(dict.fromkeys(own["task"] for row in rows for own in row["tasks"]))
    lines = []
    for way, seeds in by_way.items():
        shares = {
            task: [
                own["share_of_own"] for row in seeds for own in row["tasks"] if own["task"] == task
            ]
            for task in tasks
        }
        cells = [percent(fmean(found)) if all(found) else "" for found in shares.values()]
        errors = [row["error"] for row in seeds if row.get("error") is not None]
        lines.append((way, *cells, percent(fmean(errors)) if errors else "", str(len(seeds))))
    headers = (
        "merge",
        *(f"{task}, % of its own expert" for task in tasks),
        "distance from the sum, %",
    )
    return Table("Means over seeds.", (*headers, "seeds"), tuple(lines))


def _way(row: dict[str, Any]) -> str:
    """A method, with what was said of its weights."""
    weights = row.get("weights") or []
    said = ", a sum" if weights and set(weights) == {1.0} else ""
    return f"{row['method']}{', searched' if row.get('searched') else said}"


def parts_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Experts of parts of the rows, joined, beside one that saw all of them; means over seeds."""
    by_way: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_way.setdefault((row["parts"], row["what"]), []).append(row)
    lines = tuple(
        (
            str(parts),
            what,
            percent(fmean(row["score"]["value"] for row in seeds)),
            f"{100 * fmean(row['difference_to_all_rows']['value'] for row in seeds):+.1f}",
            str(len(seeds)),
        )
        for (parts, what), seeds in by_way.items()
    )
    headers = ("parts", "what", "score %", "minus an expert of all rows", "seeds")
    return Table("Means over seeds.", headers, lines, words=2)


def _speed(result: dict[str, Any]) -> Section:
    rows = tuple(
        (
            row["method"],
            f"{row['seconds']:.2f}",
            percent(row["relative_error"]),
            _times(row, "times_faster_than_peft"),
            _times(row, "times_faster_than_peft_svd"),
        )
        for row in result["results"]
    )
    own = result["settings"]
    words = (
        f"{own['experts']} experts of rank {own['rank']} on {own['maps']}, {own['layers']} of {own['all_layers']} "
        f"layers, {own['seconds']}. Not measured: {result['not_measured']}.",
    )
    headers = ("merge", "seconds", "distance from the sum, %", "times faster than PEFT's own")
    headers += ("than PEFT's svd",)
    table = Table(measured_on(result), headers, rows)
    return Section("speed", "Time", words, parts=(table,))


def _times(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}" if row.get(key) is not None else ""
