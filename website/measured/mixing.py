"""What mixing experts is for: rows that one expert was not trained for."""

from typing import Any

from website.measured.files import in_points, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

NOISE = 0.05
"""Corrected p below which a difference is called one."""


def document() -> Document | None:
    """Every set of rows by every way; None where nothing was measured."""
    result = read("mixing")
    rows = [*result.get("together", []), *result.get("topics", [])] if result else []
    if not rows:
        return None
    assert result is not None
    own = result["settings"]
    how = (
        f"{len(own['seeds'])} seeds, at most {own['scored']} rows of a set. A question about "
        "a tweet is answered by SQuAD's head and asks for the entity of a type; where a tweet follows a paragraph only "
        "its own words are scored. Intervals are over rows; differences are from the best single expert, paired by row "
        "and seed, with p corrected for all of the page (Holm). The base is uncased, and no set at hand has entities "
        "marked in encyclopedic paragraphs: case and tagged paragraphs are not tried.",
        measured_on(result),
    )
    sections = [Section("short", "In short", notes=_notes(rows)), Section("how", "How", how)]
    sections += [
        Section(f"set-{number}", f"{row['rows'][0].upper()}{row['rows'][1:]}", parts=(_table(row),))
        for number, row in enumerate(rows)
    ]
    return Document("What mixing is for", tuple(sections))


def _apart(row: dict[str, Any], *, above: bool) -> list[str]:
    """Ways that differ from the best single expert beyond noise."""
    return [
        f"{way} ({100 * own['from_best']['value']:+.1f})"
        for way, own in row["ways"].items()
        if "from_best" in own
        and own["p_corrected"] < NOISE
        and (own["from_best"]["value"] > 0) is above
    ]


def _notes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    better = [
        f"{row['rows']}: {', '.join(own)}" for row in rows if (own := _apart(row, above=True))
    ]
    worse = [
        f"{row['rows']}: {', '.join(own)}" for row in rows if (own := _apart(row, above=False))
    ]
    none = "nowhere"
    return (
        f"Better than the best single expert beyond noise, in points: {'; '.join(better) or none}.",
        f"Worse beyond noise: {'; '.join(worse) or none}.",
    )


def _table(row: dict[str, Any]) -> Table:
    lines = []
    for way, own in row["ways"].items():
        score, apart = own["score"], own.get("from_best")
        said = "" if apart is None else in_points(apart)
        p = "" if apart is None else f"{own['p_corrected']:.3f}"
        told = f"{percent(score['value'])} [{percent(score['low'])}, {percent(score['high'])}]"
        lines.append((way, told, said, p))
    headers = ("way", f"{row['metric']} %", "from the best single expert", "p corrected")
    return Table(f"{row['n']} rows; the best alone: {row['best_alone']}.", headers, tuple(lines))
