"""Whether what a recommender knows of a user makes a text model's experts the user's own."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table

ALONE, TEXT, OURS = "recommender", "text", "RecLoRA"


def document() -> Document | None:
    """The table; None where nothing was measured."""
    result = read("personal/recommendation")
    if result is None:
        return None
    own, rows = result["settings"], {row["method"]: row for row in result["rows"]}
    apart = rows[OURS]["from_text"]["auc"]
    words = (
        f"MovieLens-100k, {own['users']:,} users, whose last rating is scored: is it four stars or more, as "
        f"{100 * own['liked']:.0f} % are? The recommender on ids has read all other ratings, text models "
        f"{own['sampled']:,} prompts. They stand on a sentence encoder of 23 million parameters that knows films by "
        "title and genre alone, and not what a large language model has read of them: the mechanism in small, not the "
        "paper's experiment.",
        f"Gates that read the recommender's state against the text alone, AUC in points: {_points(apart)}. "
        f"Against the recommender alone: {_points(rows[OURS]['from_recommender']['auc'])}.",
    )
    headers = ("", "AUC %", "log loss", "AUC from recommender", "AUC from text", "rate")
    table = Table(
        f"Means of {len(own['seeds'])} seeds, 95 % intervals over users. {measured_on(result)}",
        headers,
        tuple(_line(row) for row in result["rows"]),
    )
    return Document(
        "Recommendation by text and ids",
        (Section("short", "In short", words), Section("table", "The table", parts=(table,))),
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    auc, loss, rate = row["auc"], row["loss"], row["learning_rate"]
    return (
        row["method"],
        f"{100 * auc['value']:.1f} [{100 * auc['low']:.1f}, {100 * auc['high']:.1f}]",
        f"{loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
        *(
            _points(row[f"from_{other}"]["auc"]) if f"from_{other}" in row else ""
            for other in (ALONE, TEXT)
        ),
        "" if rate is None else f"{rate:g}",
    )


def _points(own: dict[str, Any]) -> str:
    return f"{100 * own['value']:+.1f} [{100 * own['low']:+.1f}, {100 * own['high']:+.1f}]"
