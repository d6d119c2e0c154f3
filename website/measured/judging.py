"""Which metric of written text follows what people say of it."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table

NAMES = {
    "words": "length in words",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "similarity": "similarity",
}
MAIN = "FactualF1"
WAYS = ("spearman", "kendall", "pearson")


def document() -> Document | None:
    """Correlations with people, and a decoder's notes on both tracks; None where nothing was measured."""
    result = read("decoders/judging")
    if result is None or "people" not in result:
        return None
    people = result["people"]
    by_human = {line["human"]: None for line in people["correlations"]}
    words = (
        f"MTS-Dialog: {people['rows']} machine notes of {people['conversations']} conversations, and what people "
        "scored of each; every metric beside every score, over rows. More is better on both sides: errors count "
        "negative. Notes of one conversation share a reference, so intervals (95 %, percentile) resample conversations "
        "with all their notes.",
        measured_on({**result, "machine": people["machine"]}),
    )
    tables = (
        _ways(people),
        _table(people, list(by_human)),
    )
    return Document(
        "Metrics beside people",
        (
            Section("short", "In short", words=tuple(_said(people))),
            Section("people", "Correlations", words=words, parts=tables),
            *([_notes(result)] if "notes" in result else []),
        ),
    )


def _notes(result: dict[str, Any]) -> Section:
    """A decoder's notes against its base's, on both tracks."""
    own = result["notes"]
    flags = tuple(
        (
            str(one["seed"]),
            str(one["judge"].get("model") or one["judge"]["base"]),
            one["protocol"],
            "refused" if one["refused"] else _flags(one),
        )
        for one in own["found"]
    )
    apart = tuple(
        (NAMES[name], f"{value['mean']:.3f}", f"{value['deviation']:.3f}")
        for name, value in own["over_seeds"].items()
    )
    words = (
        f"LoRA on {own['base']}, trained on {own['train_rows']} conversations, against the base, on {own['rows']} "
        "others.",
        measured_on({**result, "machine": own["machine"]}),
    )
    tables = (
        Table("Expert minus base, mean over seeds.", ("metric", "difference", "± seeds"), apart),
        Table("Both tracks.", ("seed", "judge", "protocol", "flags"), flags, words=4),
    )
    return Section("notes", "Notes of an expert", words=words, parts=tables)


def _flags(one: dict[str, Any]) -> str:
    return ", ".join(f"{NAMES[pair['metric']]} {pair['flag']}" for pair in one["agreement"])


def _line(people: dict[str, Any], human: str, way: str, metric: str) -> dict[str, Any]:
    return next(
        one
        for one in people["correlations"]
        if (one["human"], one["way"], one["metric"]) == (human, way, metric)
    )


def _said(people: dict[str, Any]) -> list[str]:
    own = sorted(
        (_line(people, MAIN, "spearman", name) for name in NAMES), key=lambda one: -one["value"]
    )
    order = ", ".join(f"{NAMES[one['metric']]} {one['value']:.2f}" for one in own)
    beside = NAMES[people["beside"]]
    apart = {
        word: [NAMES[one["metric"]] for one in own if sign * one["from_beside"][end] > 0]
        for word, sign, end in (("better", 1, "low"), ("worse", -1, "high"))
    }
    said = [f"{word} than {beside}: {', '.join(names)}" for word, names in apart.items() if names]
    return [
        f"Facts of a note that people find right and whole (F1), beside metrics, Spearman: {order}.",
        f"Beyond chance {'; '.join(said)}."
        if said
        else f"None differs from {beside} beyond chance.",
    ]


def _ways(people: dict[str, Any]) -> Table:
    rows = tuple(
        (
            NAMES[metric],
            *(_number(_line(people, MAIN, way, metric)) for way in WAYS),
            _number(_line(people, MAIN, "spearman", metric)["from_beside"]),
        )
        for metric in NAMES
    )
    beside = NAMES[people["beside"]]
    headers = ("metric", "Spearman", "Kendall", "Pearson", f"Spearman from {beside}'s")
    return Table("People's F1 of facts.", headers, rows)


def _table(people: dict[str, Any], humans: list[str]) -> Table:
    rows = tuple(
        (NAMES[metric], *(_number(_line(people, human, "spearman", metric)) for human in humans))
        for metric in NAMES
    )
    return Table("Every score of people, Spearman.", ("metric", *humans), rows)


def _number(one: dict[str, Any]) -> str:
    return f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
