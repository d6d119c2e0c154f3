"""What training adds to a sentence encoder's vectors."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

METRIC = "spearman"


def document() -> Document | None:
    """The table; None where nothing was measured."""
    result = read("embeddings")
    if result is None:
        return None
    task = result["grid"]["tasks"]["stsb_embedding"]
    rows, n = task["task"]["max_examples"]["train"], result["base"]["n"]
    words = (
        f"STS-B, validation ({n:,} pairs), Spearman between the cosine of two texts' vectors and people's score: "
        f"all-MiniLM-L6-v2 as it is, and trained on {rows:,} scored pairs, each recipe at a rate of its own.",
        "The base is a sentence encoder already, and so few pairs add nothing to it on this set; the rows that the "
        "rate was searched on say more than they should.",
    )
    lines = [("the base as it is", "", _score(result["base"]), "", "")]
    lines += [_line(row) for row in result["rows"]]
    headers = ("recipe", "rate", "Spearman % [95 % interval]", "± seeds", "seeds")
    return Document(
        "Embeddings",
        (Section("short", "In short", words), _table(measured_on(result), headers, lines)),
    )


def _table(caption: str, headers: tuple[str, ...], lines: list[tuple[str, ...]]) -> Section:
    return Section("table", "The table", parts=(Table(caption, headers, tuple(lines)),))


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    rate = f"{row['learning_rate']:g}"
    return row["recipe"], rate, _score(row), percent(row["deviation"]), str(len(row["seeds"]))


def _score(row: dict[str, Any]) -> str:
    own = row["scores"][METRIC]
    return f"{percent(own['value'])} [{percent(own['low'])}, {percent(own['high'])}]"
