"""The demo's comparison is a document like any other."""

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.reporting.reading import Page, markdown_tables
from weft.demo.demonstration import Result
from weft.demo.display import document, show_demonstration
from weft.reporting.writers import to_html, to_markdown
from weft.tasks.scoring import Score

RESULT = Result("choices", "lora", "runs/x", 12345, "accuracy", Score(0.5, 0.4, 0.6), 0.25, 3.21)
ROW = ["choices", "lora", "12,345", "accuracy", "50.0 (40.0 to 60.0)", "25.0", "3.2"]


def test_the_terminal_shows_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    show_demonstration([RESULT], Path("runs"))
    said = capsys.readouterr().out
    assert [part for part in (*ROW, "run folders are in runs") if part not in said] == []


def test_page_and_markdown_show_the_same_table() -> None:
    said = document([RESULT])
    assert said.values == [asdict(RESULT)]
    (table,) = Page(to_html(said)).tables
    assert table[1:] == [ROW]
    assert markdown_tables(to_markdown(said)) == [table]
