"""The figure of the learning rates says what the leaderboard says."""

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.reporting.reading import Page, markdown_tables
from weft.reporting.boards import NO_FIGURE, NO_PAGE, write_leaderboard
from weft.reporting.rates import draw_rates
from weft.reporting.writers import show

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def row_of(recipe: str, best: float, values: dict[float, float], **more: Any) -> dict[str, Any]:
    search = [
        {"learning_rate": rate, "value": value, "low": value - 0.05, "high": value + 0.05, "n": 40}
        for rate, value in values.items()
    ]
    row = {"base": "tiny", "task": "topic", "metric": "accuracy", "recipe": recipe, "n": 40}
    row |= {"learning_rate": best, "search": search, "seeds": [0], "from_baseline": None, **more}
    cost = dict.fromkeys(("trainable_parameters", "adapter_parameters"), 12_345)
    cost |= {"seconds": 1.25, "peak_memory_mib": 2048.4}
    score = {"value": 0.5, "low": 0.25, "high": 1.0}
    return {**row, **cost, "scores": {str(row["metric"]): score}}


def board_of(*rows: dict[str, Any]) -> dict[str, Any]:
    said = {"grid": {"search_seed": 7}, "level": 0.95, "baseline": None}
    return {"rows": list(rows), **said, "choices": [], "failed": [], "remarks": []}


LORA = row_of("lora", 1e-2, {1e-3: 0.5, 1e-2: 0.75, 1e-1: 0.25})
FULL = row_of("full", 1e-4, {1e-5: 0.4, 1e-4: 0.6})
LOWER = row_of("lora", 1e-3, {1e-3: 12.5, 1e-2: 17.0}, task="fill", metric="perplexity")
HEAD = row_of("head", 1e-3, {}) | {"search": []}


def test_the_figure_has_a_line_for_each_recipe_and_units(tmp_path: Path) -> None:
    picture = draw_rates(board_of(LORA, FULL, LOWER, HEAD), tmp_path)
    assert picture is not None
    assert (tmp_path / picture.png).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / picture.svg).read_text()
    nodes = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    said = ["".join(node.itertext()).strip() for node in nodes]
    for words in ("accuracy (%), held-out rows", "learning rate (peak; no unit)", "topic, tiny"):
        assert words in said, words
    assert "perplexity (no unit), held-out rows" in said
    assert {"0.0001", "0.001", "0.01", "0.1"} <= set(said)
    assert [words for words in said if "$" in words] == []
    assert (said.count("lora"), said.count("full"), said.count("head")) == (1, 1, 0)
    assert "seed 7" in picture.caption
    assert "40 rows" in picture.caption
    assert "95 %" in picture.caption
    numbers = re.findall(r"([\d.]+) at ([\d.e-]+)", picture.alt)
    for row, factor in ((LORA, 100), (FULL, 100), (LOWER, 1)):
        for point in row["search"]:
            assert (f"{factor * point['value']:g}", f"{point['learning_rate']:g}") in numbers
    assert picture.alt in (tmp_path / "learning-rates.txt").read_text()
    assert picture.alt[:60] in text


def test_the_same_numbers_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_rates(board_of(LORA, FULL), tmp_path / name)
    for name in ("learning-rates.svg", "learning-rates.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_more_recipes_than_colours_can_be_told_apart(tmp_path: Path) -> None:
    many = [row_of(f"recipe{n:02}", 1e-3, {1e-3: n / 50, 1e-2: n / 60}) for n in range(30)]
    picture = draw_rates(board_of(*many), tmp_path)
    assert picture is not None
    text = (tmp_path / picture.svg).read_text()
    assert all(f"recipe{n:02}" in text for n in range(30))


def test_nothing_searched_is_no_figure(tmp_path: Path) -> None:
    assert draw_rates(board_of(HEAD), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_board_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the import system does where a package is not there.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    board = write_leaderboard(board_of(LORA), tmp_path).values
    assert (board["figure"], board["remarks"]) == (None, [NO_FIGURE])
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == board
    assert NO_FIGURE in (tmp_path / "leaderboard.html").read_text().replace("&#39;", "'")


def test_without_jinja2_the_board_is_there_and_its_page_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    board = write_leaderboard(board_of(LORA), tmp_path).values
    assert board["remarks"] == [NO_PAGE]
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == board
    assert not (tmp_path / "leaderboard.html").exists()


def test_a_leaderboard_says_every_number_of_its_board_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = {"value": 0.125, "low": -0.5, "high": 0.625, "p_corrected": 0.0312}
    lora = LORA | {"from_baseline": apart, "seeds": [0, 1], "deviation": 0.0456}
    board = board_of(lora, FULL, LOWER) | {"baseline": "full", "remarks": ["mind *this*"]}
    board["failed"] = [{"run": "a/b", "error": None}, {"run": "c", "error": "ValueError: [x]"}]
    gap = {"value": 0.125, "low": -0.5, "high": 0.625, "p": 0.25}
    choice = {"take": "full", "best": "lora", "why": "smaller", "near": ["full"], "beside": "full"}
    board["choices"] = [{"base": "tiny", "task": "topic", **choice, "gap": gap}]
    said = write_leaderboard(board, tmp_path)
    assert [section.words for section in said.sections[:2]] == [
        (
            "Take full: it trains 12,345 parameters in place of 12,345, and its accuracy (%) of 50.0 cannot be told "
            "from lora's 50.0 by these rows and seeds (difference -50.0 to 62.5 points of accuracy, p 0.25 corrected).",
        ),
        (),
    ]
    assert said.values == {**board, "figure": said.values["figure"]}
    text = (tmp_path / "leaderboard.html").read_text()
    assert Page(text).tables == markdown_tables((tmp_path / "leaderboard.md").read_text())
    assert Page(text).tables[0] == [
        [
            "recipe",
            "mean (95 % interval)",
            "sd over seeds",
            "learning rate",
            "minus full (95 % interval)",
            "p corrected",
            "trained",
            "adapter",
            "s/run",
            "peak MiB",
        ],
        [
            "lora",
            "50.0 (25.0 to 100.0)",
            "4.6",
            "0.01",
            "12.5 (-50.0 to 62.5)",
            "0.031",
            "12,345",
            "12,345",
            "1.2",
            "2,048",
        ],
        ["full", "50.0 (25.0 to 100.0)", "", "0.0001", "", "", "12,345", "12,345", "1.2", "2,048"],
    ]
    assert [section.heading for section in said.sections] == [
        "topic on tiny",
        "fill on tiny",
        "To keep in mind",
    ]
    assert [figure.name for figure in said.figures] == ["rates-tiny-topic", "rates-tiny-fill"]
    show(said)
    shown = capsys.readouterr().out
    for words in ("failed: a/b: not finished", "failed: c: ValueError: [x]", "mind *this*"):
        assert words in shown
        assert words in text
    assert all(cell in shown for table in Page(text).tables for row in table for cell in row)
