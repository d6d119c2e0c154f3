"""Figures show the numbers, name what they measure and in which unit, and stand out on light and dark pages."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from weft.reporting.document import Figure, distinct_names, safe_name
from weft.reporting.drawing import PALETTE, axes, draw, number_logarithmic, wrapped
from weft.reporting.numbers import compact
from weft.reporting.run_figures import _undominated
from weft.reporting.run_report import Report, document

UNIT = re.compile(
    r"\((%|s|nats|count|no unit|layer\.module|0 to 1)[,)]?|\(count, logarithmic scale\)"
)


def words(figure: Figure) -> list[str]:
    """All text in the drawing, in its order."""
    root = ET.fromstring(figure.svg)
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def every(figures: dict[str, list[Figure]]) -> list[Figure]:
    return [figure for own in figures.values() for figure in own]


def luminance(color: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ground", ["#ffffff", "#14171b"])
def test_colours_stand_out_on_light_and_dark(ground: str) -> None:
    for color in PALETTE:
        light, dark = sorted([luminance(color), luminance(ground)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, color


def test_the_page_has_the_grounds_the_palette_was_chosen_for() -> None:
    style = Path(__file__).parents[2] / "src" / "weft" / "reporting" / "base.css"
    assert re.findall(r"--ground: (#\w+)", style.read_text()) == ["#ffffff", "#14171b"]


def test_figures_say_what_they_show(figures: dict[str, list[Figure]]) -> None:
    names = {figure.name.rsplit("-", 1)[1] for figure in every(figures)}
    assert names == {"scores", "times", "sizes", "loss", "selection", "gates", "reliability"}
    for figure in every(figures):
        said = words(figure)
        units = [text for text in said if UNIT.search(text)]
        assert len(units) >= (1 if figure.name.endswith(("scores", "times")) else 2), said
        assert any(text.startswith(("topic", "tags", "xlora on")) for text in said), said
        assert figure.caption.endswith(".")
        assert len(figure.alt) > 40
        assert figure.alt != figure.caption


def test_figures_take_the_pages_colours_and_letters(figures: dict[str, list[Figure]]) -> None:
    for figure in every(figures):
        assert "currentColor" in figure.svg
        assert "#010203" not in figure.svg
        assert "font-family" not in figure.svg
        root = ET.fromstring(figure.svg)
        assert (root.get("width"), root.get("height")) == (None, None)
        assert root.get("viewBox")
        names = [own.get("id") for own in root.iter() if own.get("id")]
        assert all(str(name).startswith(f"{figure.name}-") for name in names)
        assert ET.fromstring(figure.file).get("viewBox") == root.get("viewBox")


def test_no_figure_shows_markup_and_steps_are_whole(figures: dict[str, list[Figure]]) -> None:
    for figure in every(figures):
        assert [text for text in words(figure) if "$" in text or "mathdefault" in text] == []
        if figure.name.endswith(("loss", "selection")):
            said = words(figure)
            steps = said[: said.index("optimizer steps (count)")]
            assert all(step.isdigit() for step in steps), steps


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([2e-3, 5e-3], ["0.002", "0.005"]),
        ([2e-3, 2.1e-3, 4e-3, 9e-3], ["0.002", "0.004", "0.009"]),
        ([1e-3, 3e-3, 1e-2], ["0.001", "0.01"]),
        ([3e-3], ["0.003"]),
    ],
)
def test_logarithmic_axes_have_numbers_wherever_they_lie(
    values: list[float], numbers: list[str]
) -> None:
    def paint(drawn: Any) -> None:
        own = axes(drawn, "title", "x", "y")
        own.plot(values, values, "o")
        own.set_xscale("log")
        own.set_yticks([])
        number_logarithmic(own, values, lambda value: f"{value:g}")

    said = [text.strip() for text in words(draw("name", 2.0, "caption", "alt", paint))]
    assert [text for text in said if text] == [*numbers, "x", "y", "title"]


def test_drawing_again_gives_the_same_bytes(
    report: Report, figures: dict[str, list[Figure]]
) -> None:
    again = {own.key: list(own.figures) for own in document(report).sections if own.figures}
    assert again == figures


def test_scores_and_times_name_every_method(
    report: Report, figures: dict[str, list[Figure]]
) -> None:
    section = report.groups[0]
    for kind in ("scores", "times"):
        figure = next(own for own in figures[section.key] if own.name.endswith(kind))
        said = " ".join(words(figure))
        for place, entry in enumerate(section.entries, 1):
            assert wrapped(f"{place} {entry.name}").split("\n")[0] in said
    seconds = [f"{entry.cost('seconds_per_epoch'):,.1f}" for entry in section.entries]
    times = next(own for own in figures[section.key] if own.name.endswith("times"))
    texts = [text.strip() for text in words(times)]
    # One after the other; a number of the axis may be the same as one of them.
    assert any(texts[at : at + len(seconds)] == seconds for at in range(len(texts)))
    best = section.entries[0]
    assert best.name in figures[section.key][0].alt
    assert f"{100 * (best.score or 0):.1f}" in figures[section.key][0].alt


def test_heat_maps_hold_the_gates(
    report: Report, figures: dict[str, list[Figure]], runs_folder: Path
) -> None:
    (mixture,) = report.mixtures
    for figure, task in zip(figures[f"mixture-{mixture.key}"], ("topic", "tags"), strict=True):
        said = json.loads((runs_folder / "mix" / task / "gates-validation.json").read_text())
        cells = [f"{value:.2f}" for row in said["gates"].values() for value in row]
        texts = words(figure)
        start = next(at for at in range(len(texts)) if texts[at : at + len(cells)] == cells)
        assert start
        assert {"expert", "topic", "tags", "0.query", "1.value", "mean gate (no unit)"} <= set(
            texts
        )


def test_dotted_line_joins_what_no_smaller_one_beats() -> None:
    points = [(5.0, 0.3), (1.0, 0.2), (2.0, 0.1), (5.0, 0.4), (9.0, 0.4)]
    assert _undominated(points, True) == [(1.0, 0.2), (5.0, 0.4)]
    assert _undominated(points, False) == [(1.0, 0.2), (2.0, 0.1)]


@pytest.mark.parametrize(
    ("value", "said"),
    [(78733, "78.7k"), (22570381, "22.6M"), (0.05, "0.05"), (0, "0"), (999, "999")],
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert compact(value) == said


def test_names_of_files_are_safe_and_of_one_thing_each() -> None:
    assert safe_name("lora/seed1 (ü)-my_task.2") == "lora_seed1____-my_task_2"
    assert distinct_names(["a b", "a/b", "a_b-2", "a_b"]) == ["a_b", "a_b-2", "a_b-2-2", "a_b-3"]
