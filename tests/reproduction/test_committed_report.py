"""The report in `results/small` is the document of the numbers beside it."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.reading import Page
from weft.comparison.grid import label_of
from weft.reporting.document import Document
from weft.reproduction.cells import Cell, fillings
from weft.reproduction.claims import Faster, Kept
from weft.reproduction.costs import CostRow, Total
from weft.reproduction.gap import GapRow, Goal
from weft.reproduction.mixtures import Blend
from weft.reproduction.plan import make_plan
from weft.reproduction.published import Address
from weft.reproduction.report import Reproduction, document
from weft.reproduction.running import Failure, Outcome
from weft.tasks.scoring import Difference, Score

SMALL = Path(__file__).parents[2] / "results" / "small"
VALUES = json.loads((SMALL / "reproduction.json").read_text(encoding="utf-8"))


def scores(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A row with its scores as they were before they were written."""
    made = {key: row[key] and Score(**row[key]) for key in keys}
    return {**row, **made}


def read(values: dict[str, Any]) -> Reproduction:
    """What was gathered from the runs; the runs themselves are not there."""
    plan = make_plan(values["profile"], "nowhere", data="data", seeds=len(values["seeds"]))
    filled = fillings(plan)
    cells = []
    for said in values["cells"]:
        address = Address(*(said[key] for key in Address._fields))
        own = (said[key] for key in ("measured", "deviation", "seeds"))
        figure = plan.study.figure(address)
        cells.append(Cell(figure, filled[address], *own, tuple(said["remarks"])))
    gap = [
        {key: value for key, value in row.items() if key not in ("trained_share", "meets_goal")}
        for row in values["gap"]
    ]
    blends = [
        scores(row, "score", "expert") | {"difference": Difference(**row["difference"])}
        for row in values["mixtures"]
    ]
    failed = tuple(Failure(**row) for row in values["failed"])
    return Reproduction(
        outcome=Outcome(plan, {}, (), failed),
        cells=tuple(cells),
        kept=tuple(Kept(**scores(row, "study", "own")) for row in values["kept"]),
        faster=tuple(Faster(**row) for row in values["faster"]),
        gap=tuple(GapRow(**scores(row, "score", "share")) for row in gap),
        goals=tuple(Goal(**row) for row in values["goals"]),
        blends=tuple(Blend(**row) for row in blends),
        costs=tuple(CostRow(**row) for row in values["costs"]),
        totals=tuple(Total(**row) for row in values["totals"]),
        price=values["usd_per_hour"],
        machines=tuple(values["machines"]),
    )


@pytest.fixture(scope="module")
def said() -> Document:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    return document(read(VALUES))


def test_numbers_that_were_written_are_read_whole(said: Document) -> None:
    # Versions are those of the program that writes.
    again = json.loads(json.dumps(said.values))
    assert {**again, "versions": None} == {**VALUES, "versions": None}


def test_the_page_shows_the_tables_and_words_of_its_numbers(said: Document) -> None:
    text = (SMALL / "report.html").read_text(encoding="utf-8")
    shown = Page(text).tables
    assert shown == [[list(table.headers), *map(list, table.rows)] for table in said.tables]
    lines = set(map(unescape, re.findall(r">([^<]+)<", text)))
    expected = [said.title]
    for section in said.sections:
        expected += [section.heading, *section.words, *section.notes]
        for table in section.tables:
            expected += [table.caption, *table.notes, *table.remarks]
    assert [words for words in expected if words not in lines] == []


def test_the_page_s_figures_are_those_of_its_numbers(said: Document) -> None:
    found = Page((SMALL / "report.html").read_text(encoding="utf-8"))
    figures = [own["id"] for tag, own in found.elements if tag == "figure"]
    bases = map(label_of, make_plan("small", "nowhere", data="data").profile.bases)
    # Those of the rates need the runs.
    rates = [f"rates-{base}-{task}" for base in bases for task in VALUES["sets"]]
    assert sorted(figures) == sorted([*(figure.name for figure in said.figures), *rates])
    words = {own["aria-label"] for tag, own in found.elements if tag == "svg"}
    assert {figure.alt for figure in said.figures} <= words
