"""Whether what a recommender knows of a user makes a text model's experts the user's own."""

from typing import Any

from website.measured.files import in_points, measured_on, read
from weft.reporting.document import Document, Section, Table

ALONE, TEXT, OURS = "recommender", "text", "RecLoRA"


def document() -> Document | None:
    """The table; None where nothing was measured."""
    result = read("personal/recommendation")
    if result is None:
        return None
    own, rows = result["settings"], {row["method"]: row for row in result["rows"]}
    words = (
        f"MovieLens-100k, {own['users']:,} users, whose last rating is scored: is it four stars or more, as "
        f"{100 * own['liked']:.0f} % are? The recommender on ids has read all other ratings, text models "
        f"{own['sampled']:,} prompts. They stand on a sentence encoder of 23 million parameters that knows films by "
        "title and genre alone, and not what a large language model has read of them: the mechanism in small, not the "
        "paper's experiment.",
        *_contrasts(rows),
    )
    parts = [
        Section("short", "In short", words),
        Section("table", "The table", parts=(_table(result),)),
    ]
    decoder = read("personal/recommendation-smollm2")
    if decoder is not None:
        own, rows = decoder["settings"], {row["method"]: row for row in decoder["rows"]}
        words = (
            f"SmolLM2-135M reads {own['sampled']:,} prompts once and answers by a yes/no head on its last token; "
            f"{own['users']:,} of the users are asked about.",
            *_contrasts(rows),
        )
        parts.append(Section("decoder", "On a decoder", words, parts=(_table(decoder),)))
    return Document("Recommendation by text and ids", tuple(parts))


def _contrasts(rows: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    found = rows[OURS]
    return (
        "Gates that read the recommender's state against the text alone, AUC in points: "
        f"{in_points(found['from_text']['auc'])}. Against the recommender alone: "
        f"{in_points(found['from_recommender']['auc'])}.",
    )


def _table(result: dict[str, Any]) -> Table:
    seeds = len(result["settings"]["seeds"])
    return Table(
        f"Means of {seeds} seeds, 95 % intervals over users. {measured_on(result)}",
        ("", "AUC %", "log loss", "AUC from recommender", "AUC from text", "rate"),
        tuple(_line(row) for row in result["rows"]),
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    auc, loss, rate = row["auc"], row["loss"], row["learning_rate"]
    return (
        row["method"],
        f"{100 * auc['value']:.1f} [{100 * auc['low']:.1f}, {100 * auc['high']:.1f}]",
        f"{loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
        *(
            in_points(row[f"from_{other}"]["auc"]) if f"from_{other}" in row else ""
            for other in (ALONE, TEXT)
        ),
        "" if rate is None else f"{rate:g}",
    )
