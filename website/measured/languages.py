"""What a decoder learns of languages that it hardly knows, and what it forgets."""

from collections.abc import Mapping
from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

METRIC = "bits_per_byte"
TOKENS = {"old": "the base's tokenizer", "new": "a new tokenizer"}
MIXES = {"alone": "no replay", "replay": "replay of English"}


def document() -> Document | None:
    """The tables; None where nothing was measured."""
    result = read("decoders/languages")
    if result is None:
        return None
    sizes = result["sizes"]
    words = (
        f"{result['base']} on {sizes['rows']} rows of Galician with trained embeddings and head; then on "
        f"{sizes['pairs']} sentences to translate; and on three languages one after the other. So few rows are learnt "
        "by heart in a few epochs: held-out rows decide when to stop, and what is shown are rows that nothing else "
        "saw. Bits per byte are comparable across tokenizers; lower is better.",
        measured_on(result),
    )
    return Document(
        "A decoder and other languages",
        (
            Section("short", "In short", notes=tuple(_short(result))),
            Section("pretraining", "Continued pre-training", words, parts=(_pretraining(result),)),
            Section("translation", "Translation into Galician", parts=(_translation(result),)),
            Section("layra", "One language after the other (LayRA)", parts=(_layra(result),)),
            Section("arithmetic", "Model arithmetic", parts=(_arithmetic(result),)),
        ),
    )


def _short(result: Mapping[str, Any]) -> list[str]:
    found = []
    for name, row in result["pretraining"].items():
        mix, tokens = name.split("-")
        changes = " and ".join(
            f"{language.capitalize()} by {_apart(row[language]['from_base'])}"
            for language in ("galician", "english")
        )
        found.append(f"{MIXES[mix]}, {TOKENS[tokens]}: bits per byte change on {changes}.")
    return found


def _pretraining(result: Mapping[str, Any]) -> Table:
    lines = [
        (says, "", *(_bits(result["bare"][own][language]) for language in ("galician", "english")))
        for says, own in (
            ("nothing trained", "bare"),
            ("nothing trained, new tokenizer", "bare-new"),
        )
    ]
    for name, row in result["pretraining"].items():
        mix, tokens = name.split("-")
        both = (_bits(row[language]) for language in ("galician", "english"))
        lines.append((MIXES[mix], TOKENS[tokens], *both))
    return Table(
        "Bits per byte, mean over seeds with its 95 % interval over rows",
        ("", "", "Galician", "English"),
        tuple(lines),
    )


def _translation(result: Mapping[str, Any]) -> Table:
    lines = [(name, *_written(row)) for name, row in result["translation"].items()]
    return Table("English to Galician", ("configuration", *_WRITTEN), tuple(lines))


def _arithmetic(result: Mapping[str, Any]) -> Table:
    lines = [(count, *_written(row)) for count, row in result["arithmetic"].items()]
    caption = "A translation expert plus so much of what LayRA learnt of Galician"
    return Table(caption, ("times", *_WRITTEN), tuple(lines))


_WRITTEN = ("BLEU", "chrF", "bits per byte", "of the rows trained on", "letters that leak %")


def _written(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = (
        f"{percent(row[name]['score']['value'])} [{percent(row[name]['score']['low'])}, "
        f"{percent(row[name]['score']['high'])}]"
        for name in ("bleu", "chrf")
    )
    likely = row["likelihood"]
    return (
        *scores,
        _bits(likely["validation"]),
        _bits(likely["train"]),
        percent(row["leakage"]["letters"], 2),
    )


def _layra(result: Mapping[str, Any]) -> Table:
    languages = list(next(iter(result["layra"].values())))
    lines = [("nothing", *(_bits(result["bare"]["bare"][own]) for own in languages))]
    lines += [
        (after, *(f"{_bits(row[own])} ({_apart(row[own]['from_base'])})" for own in languages))
        for after, row in result["layra"].items()
    ]
    return Table(
        "Bits per byte of each language after each was learnt, and how much that is above the base's",
        ("after", *languages),
        tuple(lines),
    )


def _bits(row: Mapping[str, Any]) -> str:
    own = row["scores"][METRIC]
    return f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]"


def _apart(own: Mapping[str, float]) -> str:
    return f"{own['value']:+.3f} [{own['low']:+.3f}, {own['high']:+.3f}]"
