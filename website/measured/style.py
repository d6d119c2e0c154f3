"""A style by n-grams at decoding time, beside asking for it and training an expert."""

from typing import Any

from website.measured.files import measured_on, read
from website.measured.points import Point, points_figure
from weft.reporting.document import Document, Section, Table

NEAR, COST = "unseen_style_perplexity", "base_perplexity"
COLUMNS = {
    NEAR: "perplexity under the held-out style",
    COST: "perplexity under the base",
    "divergence": "JS divergence a step, nats",
    "trigram_overlap": "trigrams of the corpus",
    "distinct_2": "distinct-2",
    "repetition": "repetition",
}
KINDS = {"base": "base", "prompt": "asked", "lora": "trained"}


def document() -> Document | None:
    """Nearness and cost by way, drawn and as a table; None where nothing was measured."""
    result = read("decoders/style")
    if result is None:
        return None
    ways = result["ways"]
    held = result["held_out_style_perplexity"]
    how = (
        f"{result['base']} goes on from {result['openings']} openings that are not of the book, {result['tokens']} "
        f"tokens each, drawn at temperature 1, {len(result['seeds'])} seeds. The style is Don Quixote's in English: "
        f"n-grams of {result['paragraphs']:,} paragraphs ({result['corpus_tokens']:,} tokens) steer at each strength; "
        "LoRA learnt from the same paragraphs. The last tenth is held out: perplexity under its n-grams says how "
        f"near a text is to the style; the tenth itself has {held:,.0f} under those of the rest. Perplexity under the "
        "base says what the nearness costs, read beside repetition. Intervals are over seeds, by Student's t.",
        measured_on(result),
    )
    headers = ("way", *COLUMNS.values())
    lines = tuple(
        (name, *(_number(own[column]) for column in COLUMNS)) for name, own in ways.items()
    )
    figure = points_figure(
        "style",
        [
            Point(
                name,
                own[NEAR]["value"],
                own[NEAR]["low"],
                own[NEAR]["high"],
                KINDS.get(name, "steered"),
            )
            for name, own in ways.items()
        ],
        title="How near a text is to the style",
        axis="perplexity under n-grams of the held-out tenth; lower is nearer",
        caption="Means over seeds with 95 % intervals; the line is the base's.",
        mark=ways["base"][NEAR]["value"],
    )
    return Document(
        "A style by n-grams at decoding time",
        (
            Section("short", "In short", notes=_notes(ways)),
            Section("how", "How", how),
            Section("table", "The table", parts=(figure, Table("By way", headers, lines, words=1))),
        ),
    )  # fmt: skip


def _number(own: dict[str, Any]) -> str:
    digits = 0 if abs(own["value"]) >= 100 else 2
    return f"{own['value']:,.{digits}f} [{own['low']:,.{digits}f}, {own['high']:,.{digits}f}]"


def _notes(ways: dict[str, Any]) -> tuple[str, ...]:
    """Which strengths help, and the strongest help beside asking and training."""
    steered = {name: own for name, own in ways.items() if name not in KINDS}
    free = [
        name
        for name, own in steered.items()
        if own[NEAR]["from_base"]["high"] < 0 and own[COST]["from_base"]["low"] <= 0
    ]
    nearest = min(steered, key=lambda name: steered[name][NEAR]["value"])
    told = [name for name in (nearest, "prompt", "lora") if name in ways]
    return (
        f"Nearer to the style beyond noise, at no cost beyond noise: {', '.join(free) or 'no strength'}.",
        *(
            f"{name}: nearer by {_apart(ways[name][NEAR]['from_base'], -1)}, perplexity under the base higher by "
            f"{_apart(ways[name][COST]['from_base'], 1)}."
            for name in told
        ),
    )


def _apart(own: dict[str, Any], sign: int) -> str:
    low, high = sorted((sign * own["low"], sign * own["high"]))
    beyond = "" if low * high > 0 else " (within noise)"
    return f"{sign * own['value']:,.1f} [{low:,.1f}, {high:,.1f}]{beyond}"
