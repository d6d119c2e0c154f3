"""Which words a reader does not know: the population's expert, a reader's own, and both."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

TENTH, ALL = "shared+personal 0.1", "shared+personal 1"


def document() -> Document | None:
    """The table; None where nothing was measured."""
    result = read("personal/words")
    if result is None:
        return None
    own, rows = result["settings"], {row["method"]: row for row in result["rows"]}
    words = (
        f"SemEval-2016's complex words, {own['readers']} readers, each with labels of their own for the same words: "
        f"{own['words']['train']:,} to learn from, {own['words']['validation']:,} in other sentences to score on. It "
        "stands in for jargon as researchers know it, and is not that. The population has seen none of the readers "
        "that are scored.",
        _tenth(rows[TENTH]["from_all_labels"]),
    )
    lines = [_line(row) for row in result["rows"]]
    headers = (
        "method, share of a reader's labels",
        "F1 of unknown words %",
        "macro F1 %",
        "from population",
    )
    table = Table(
        f"Means over readers with 95 % intervals over readers, {len(own['seeds'])} seeds. {measured_on(result)}",
        headers,
        tuple(lines),
    )
    few = Table(
        f"Of {own['asked']} words a reader, which the decoder was asked about; the first of the seeds for the decoder.",
        headers[:3],
        tuple((row["method"], _score(row["f1"]), _score(row["f1_macro"])) for row in result["few"]),
    )
    return Document(
        "Experts of users",
        (
            Section("short", "In short", words),
            Section("table", "The table", parts=(table,)),
            Section("few", "Beside a decoder that is shown the reader's words", parts=(few,)),
        ),
    )


def _tenth(lost: dict[str, Any]) -> str:
    """Whether a tenth of the labels is enough, as far as the interval tells."""
    told = f"A tenth of the labels scores {_score(lost)} against all of them, paired by reader"
    if lost["high"] < 0:
        return f"{told}: a tenth is not enough here."
    if lost["low"] > 0:
        return f"{told}: more labels made it worse."
    return f"{told}: the interval holds 0, so no loss is shown, nor ruled out beyond {_points(lost['low'])}."


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    return row["method"], _score(row["f1"]), _score(row["f1_macro"]), _score(row["from_population"])


def _score(own: dict[str, Any]) -> str:
    return f"{percent(own['value'])} [{percent(own['low'])}, {percent(own['high'])}]"


def _points(value: float) -> str:
    return f"{abs(100 * value):.1f} points"
