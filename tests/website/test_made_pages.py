"""What is written by scripts is what they write today: result pages, README's table, the picture."""

import json
import re
from pathlib import Path

import pytest

from website import picture
from website.measured import pages as measured
from website.measured.files import NAMES, read
from website.measured.merges import kept_table, parts_table
from website.measured.reproduction import RECIPES
from website.sources import ROOT

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
MADE = measured.pages()
WORDS = re.compile(r"<text[^>]*>(.*?)</text>", re.DOTALL)


@pytest.mark.parametrize("path", MADE)
def test_a_page_of_results_is_made_from_the_results(path: str) -> None:
    kept = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".svg"):
        # Where lines lie depends on matplotlib's version; what they are called does not.
        assert WORDS.findall(kept) == WORDS.findall(MADE[path])
    else:
        assert kept == MADE[path], "make results"


def test_no_page_is_left_of_results_that_are_gone() -> None:
    folder = ROOT / measured.FOLDER
    there = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {path for path in MADE if path.startswith(measured.FOLDER)}


def test_readme_shows_the_scores_of_the_study_s_runs() -> None:
    result = read("small/reproduction")
    assert result is not None
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- results -->")[1]
    rows = [line.strip("|").split("|") for line in shown.splitlines() if line.startswith("|")][2:]
    for task, cells in zip(NAMES, rows, strict=False):
        own = {row["recipe"]: row for row in result["gap"] if row["task"] == task}
        for recipe, cell in zip(RECIPES, cells[1:], strict=True):
            assert float(cell.split()[0]) == round(100 * own[recipe]["score"]["value"], 1)


def test_the_picture_is_drawn_from_what_the_demo_said() -> None:
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.draw(), "make picture"


def test_the_picture_shows_every_expert_and_what_it_found() -> None:
    said = json.loads(picture.SAID.read_text(encoding="utf-8"))
    words = re.sub(r"<[^>]+>", "", picture.draw())
    for result in said["results"]:
        assert f"{result['trained_parameters']:,} numbers" in words
    cases = [shown["case"] for shown in said["shown"] if shown["task"] == "entities"]
    found = min(cases, key=lambda case: bool(case["wrong"]))
    assert found["marks"]
    for mark in found["marks"]:
        assert f"{found['text'][mark['start'] : mark['end']]}{mark['label']}" in words


def test_merges_are_means_over_seeds_by_way() -> None:
    def row(method: str, share: float, **more: object) -> dict[str, object]:
        own = {"task": "squad", "share_of_own": share, "before": {"value": 0.4}}
        return {"seed": 0, "method": method, "tasks": [own], **more}

    rows = [
        row("cat", 0.5, weights=[0.5, 0.5], error=0.0),
        row("cat", 0.7, weights=[0.5, 0.5], error=0.1),
    ]
    rows += [row("cat", 0.9, weights=[1.0, 1.0]), row("cat", 0.8, searched=True)]
    assert kept_table(rows).rows == (
        ("cat", "60.0 ± 14.1", "5.0", "", "2"),
        ("cat, a sum", "90.0", "", "", "1"),
        ("cat, searched", "80.0", "", "", "1"),
    )
    assert "squad 40.0 %" in kept_table(rows).caption
    score = {"score": {"value": 0.5}, "difference_to_all_rows": {"value": -0.25}}
    assert parts_table([{"parts": 3, "what": "ties", **score}]).rows == (
        ("3", "ties", "50.0", "-25.0", "1"),
    )


def test_every_result_file_is_on_some_page(tmp_path: Path) -> None:
    shown = "".join(text for path, text in MADE.items() if path.endswith(".md"))
    scripts = {
        json.loads(path.read_text(encoding="utf-8")).get("script", path.stem)
        for path in (ROOT / "results").glob("*.json")
    }
    missing = {script for script in scripts if script.replace("_", "\\_") not in shown}
    # Every recipe on every kind: a check that each learns, no comparison.
    assert missing == {"benchmarks/variant_kinds.py"}
