"""The figure of the learning rates says what the leaderboard says."""

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from weft.reporting.boards import NO_FIGURE, write_board
from weft.reporting.rates import draw_rates

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def row_of(recipe: str, best: float, values: dict[float, float], **more: Any) -> dict[str, Any]:
    search = [
        {"learning_rate": rate, "value": value, "low": value - 0.05, "high": value + 0.05, "n": 40}
        for rate, value in values.items()
    ]
    row = {"base": "tiny", "task": "topic", "metric": "accuracy", "recipe": recipe}
    return {**row, "learning_rate": best, "search": search, **more}


def board_of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"rows": list(rows), "grid": {"search_seed": 7}, "level": 0.95, "remarks": []}


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
    board = write_board(board_of(LORA), tmp_path)
    assert (board["figure"], board["remarks"]) == (None, [NO_FIGURE])
    assert (tmp_path / "leaderboard.json").is_file()
