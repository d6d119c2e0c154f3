"""Draws README's picture from what the demo said: `make picture`.

Threads of experts woven through the layers of one base; beside each a text that no expert has seen, and its answer.
"""

import json
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from weft.atomic import write_text
from weft.reporting.drawing import PALETTE
from weft.reporting.numbers import percent

ROOT = Path(__file__).resolve().parents[1]
SAID = ROOT / "docs" / "picture" / "demo.json"
PICTURE = ROOT / "docs" / "picture" / "experts.svg"
WIDTH, TOP = 720, 74
LEFT, LAYERS, APART = 26, 6, 22
"""Where the base's layers begin, how many are drawn, and how far apart."""
CARD = 186
"""Where the texts begin."""
LETTERS = 64
"""In a line of text."""
LINE, HEAD, FOOT = 21, 40, 54
"""Heights: of a line of text, of what stands above it, and of its score below."""
BAR = 270
"""Of a score of 100 %."""
STYLE = (
    "svg{color:#1c2126;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e4e8ec;background:#14171b}}"
    ".layer{stroke:#cdd2d7;stroke-width:7}@media(prefers-color-scheme:dark){.layer{stroke:#464d55}}"
    "text{font-family:system-ui,sans-serif;font-size:15px;fill:currentColor}"
    ".small{font-size:13px}.faint{opacity:.72}.head{font-weight:600}"
)


def picture(said: dict[str, Any]) -> str:
    """The drawing of a demo, as the text of an SVG file.

    Args:
        said: What `weft demo --json` printed.
    """
    results = said["results"]
    alt = f"{len(results)} experts woven into one frozen base. " + " ".join(
        f"{result['task']}: {percent(result['expert']['value'])} %." for result in results
    )
    drawn: list[str] = []
    y = TOP
    for colour, result in zip(PALETTE, results, strict=False):
        lines = _lines(_shown(said, result["task"]), colour)
        drawn += _expert(y, colour, result, lines, said["base_parameters"])
        y += HEAD + LINE * len(lines) + FOOT
    recognised = min(result["recognised"]["value"] for result in results)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 20}" role="img" '
        f'aria-label="{escape(alt)}">',
        f"<style>{STYLE}</style>",
        *_base(said, y),
        *drawn,
        _text(
            CARD,
            y + 6,
            f"Asked without naming a task, a mixture knew it for {percent(recognised, 0)} % of the rows.",
            "small",
        ),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _shown(said: dict[str, Any], task: str) -> dict[str, Any]:
    """The first row of a task that the demo shows, one that is answered rightly if there is one."""
    cases = [shown["case"] for shown in said["shown"] if shown["task"] == task]
    return min(cases, key=lambda case: bool(case["wrong"]))


def _base(said: dict[str, Any], height: int) -> Iterator[str]:
    yield _text(LEFT - 10, 26, "one frozen base, an expert for each task", "head")
    million = said["base_parameters"] / 1e6
    words = (
        f"{million:.1f} million parameters that nothing writes to; the experts trained together in "
        f"{said['training_seconds']:.0f} s on a CPU"
    )
    yield _text(LEFT - 10, 48, words, "small faint")
    for layer in range(LAYERS):
        x = LEFT + APART * layer
        yield (
            f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 4}" class="layer" stroke-linecap="round"/>'
        )


def _thread(y: int, colour: str) -> Iterator[str]:
    """A thread over every second layer and under the others, and on to its text."""
    at = y + 9
    waves = "".join(
        f" q {APART / 2} {-26 if layer % 2 else 26} {APART} 0" for layer in range(LAYERS)
    )
    yield (
        f'<path d="M {LEFT - 11} {at}{waves} L {CARD - 14} {at}" fill="none" stroke="{colour}" '
        'stroke-width="4" stroke-linecap="round"/>'
    )
    for layer in range(0, LAYERS, 2):
        x = LEFT + APART * layer
        yield f'<line x1="{x}" y1="{at + 4}" x2="{x}" y2="{at + 22}" class="layer"/>'


def _expert(
    y: int, colour: str, result: dict[str, Any], lines: list[str], base: int
) -> Iterator[str]:
    yield from _thread(y, colour)
    numbers = result["trained_parameters"]
    head = f'<tspan class="head" fill="{colour}">{result["task"]}</tspan>'
    about = f"{numbers:,} numbers, {percent(numbers / base)} % of the base"
    yield f'<text x="{CARD}" y="{y + 14}">{head}<tspan class="small faint" dx="10">{about}</tspan></text>'
    for at, line in enumerate(lines):
        yield f'<text x="{CARD}" y="{y + HEAD + LINE * at}">{line}</text>'
    yield from _score(y + HEAD + LINE * len(lines) - 8, colour, result)


def _lines(case: dict[str, Any], colour: str) -> list[str]:
    """Text and question in lines that are broken between words, what was found in them marked; the best choice."""
    lines = _wrapped(case["text"], case["marks"], colour)
    if case["asked"]:
        lines += _wrapped(case["asked"], [], colour)
    if case["options"]:
        best = max(case["options"], key=lambda option: option["probability"])
        said = f"{percent(best['probability'], 0)} %"
        lines.append(_marked(best["text"], said, colour))
    return lines


def _wrapped(text: str, marks: list[dict[str, Any]], colour: str) -> list[str]:
    lines, at = [], 0
    for words in textwrap.wrap(text, LETTERS):
        start = text.index(words, at)
        at = start + len(words)
        parts, here = [], start
        for mark in marks:
            first, last = max(mark["start"], start), min(mark["end"], at)
            if first < last:
                label = "answer" if mark["label"] == "said" else mark["label"]
                shown = label if last == mark["end"] else ""
                parts += [escape(text[here:first]), _marked(text[first:last], shown, colour)]
                here = last
        lines.append("".join([*parts, escape(text[here:at])]))
    return lines


def _marked(text: str, label: str, colour: str) -> str:
    named = f'<tspan class="small" fill="{colour}" dx="4">{escape(label)}</tspan>' if label else ""
    return (
        f'<tspan font-weight="600" fill="{colour}" text-decoration="underline">{escape(text)}</tspan>'
        f"{named}"
    )


def _score(y: int, colour: str, result: dict[str, Any]) -> Iterator[str]:
    expert, guess = result["expert"]["value"], result["guess"]["value"]
    yield (
        f'<rect x="{CARD}" y="{y}" width="{BAR}" height="10" rx="5" fill="currentColor" opacity=".12"/>'
    )
    yield f'<rect x="{CARD}" y="{y}" width="{BAR * expert:.1f}" height="10" rx="5" fill="{colour}"/>'
    if guess:
        x = CARD + BAR * guess
        yield (
            f'<line x1="{x:.1f}" y1="{y - 3}" x2="{x:.1f}" y2="{y + 13}" stroke="currentColor" stroke-width="2"/>'
        )
    words = f"{result['metric']} {percent(expert)} %, a guess {percent(guess)} %"
    yield _text(CARD + BAR + 10, y + 10, words, "small")


def _text(x: int, y: int, words: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" class="{style}">{escape(words)}</text>'


def draw() -> str:
    """The picture of the demo that is kept."""
    return picture(json.loads(SAID.read_text(encoding="utf-8")))


if __name__ == "__main__":
    write_text(PICTURE, draw())
