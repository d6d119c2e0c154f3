"""One document through every writer: the same words and numbers, whole, alone, and nobody's markup."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from tests.reporting.reading import Page, markdown_tables
from weft.reporting.document import Document, Figure, Section, Table, raised
from weft.reporting.drawing import axes, draw
from weft.reporting.writers import show, to_html, to_json, to_markdown, write

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

SPITEFUL = "<b>&amp; a|b_c* [d](e) `f` #g \\ $h$ [red]i[/]"
"""Markup of every form that is none here."""


def drawing(name: str) -> Figure:
    return draw(
        name,
        2.0,
        f"Caption of {name}, {SPITEFUL}.",
        f"Words of {name}, {SPITEFUL}, for who cannot see it.",
        lambda drawn: axes(drawn, "title", "x (s)", "y (%)").plot([1, 2], [3, 4]),
    )


TABLE = Table(
    f"A table, {SPITEFUL}.",
    ("what", SPITEFUL, "number"),
    (("one" + raised((1, 12)), SPITEFUL, "1.5"), ("two", "", "n/a")),
    words=2,
    notes=(f"first note, {SPITEFUL}.", "second note."),
    remarks=("a remark.",),
)
FOLDED = Table("All of it.", ("a", "b"), (("x", "2"),), folded="Open it", brief=False)
WHOLE = Document(
    f"Title {SPITEFUL}",
    (
        Section(
            "first",
            f"Heading {SPITEFUL}",
            words=("A paragraph.", f"Another, {SPITEFUL}."),
            notes=(f"a note of the section, {SPITEFUL}", "one more"),
            parts=(TABLE, drawing("one"), drawing("two"), FOLDED),
        ),
        Section("second", "Only words", words=("The end.",), brief=False),
    ),
    {"number": 0.1 + 0.2, "none": None, "list": [1, "ü"]},
)


def plain(html: str) -> str:
    """The text between tags, white space folded."""
    bare = re.sub(r"<(style|svg|title)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def unescaped(markdown: str) -> str:
    return " ".join(re.sub(r"\\(.)", r"\1", markdown).split())


def words_of(document: Document, *, brief: bool) -> list[str]:
    """All that a reader is to see."""
    found: list[str] = []
    for section in document.sections:
        if brief and not section.brief:
            continue
        found += [section.heading.upper() if brief else section.heading]
        found += [*section.words, *section.notes]
        for table in section.tables:
            if table.brief or not brief:
                found += [table.caption, *table.headers, *table.notes, *table.remarks]
                found += [cell for row in table.rows for cell in row]
        found += [] if brief else [figure.caption for figure in section.figures]
    return [" ".join(words.split()) for words in found]


def test_page_and_markdown_say_all_of_it_and_the_same() -> None:
    page, text = to_html(WHOLE), to_markdown(WHOLE)
    for said in (plain(page), unescaped(text)):
        assert [words for words in words_of(WHOLE, brief=False) if words not in said] == []
    tables = [[list(table.headers), *map(list, table.rows)] for table in WHOLE.tables]
    assert Page(page).tables == tables == markdown_tables(text)


def test_parts_come_in_their_order_in_every_form() -> None:
    said = plain(to_html(WHOLE)), unescaped(to_markdown(WHOLE))
    places = [
        [text.index(words) for words in ("A table,", "Caption of one", "Caption of two", "All of")]
        for text in said
    ]
    assert places == [sorted(own) for own in places]


def test_the_page_asks_nothing_of_anyone_and_gives_words_to_every_figure() -> None:
    text = to_html(WHOLE)
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert found.addresses == ["data:,"]
    assert "script" not in {tag for tag, _ in found.elements}
    assert "//" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert len(set(found.names)) == len(found.names)
    assert set(found.targets) <= set(found.names)
    drawings = [own for tag, own in found.elements if tag == "svg"]
    assert [own["aria-label"] for own in drawings] == [figure.alt for figure in WHOLE.figures]
    assert {own["role"] for own in drawings} == {"img"}
    assert [tag for tag, _ in found.elements].count("details") == 1
    # Numbers stand on the right; the last column of words names the row.
    cells = [
        own.get("class") or own.get("scope") for tag, own in found.elements if tag in ("td", "th")
    ]
    assert cells[:9] == ["col", "col", "number", None, "row", "number", None, "row", "number"]


def test_a_terminal_shows_what_is_brief(capsys: pytest.CaptureFixture[str]) -> None:
    show(WHOLE)
    lines = capsys.readouterr().out.splitlines()
    said = " ".join(" ".join(lines).split())
    assert [words for words in words_of(WHOLE, brief=True) if words not in said] == []
    assert "All of it" not in said
    assert "The end" not in said


def test_json_is_the_numbers_unrounded() -> None:
    assert json.loads(to_json(WHOLE)) == WHOLE.values
    assert "0.30000000000000004" in to_json(WHOLE)


def test_files_are_written_with_the_figures_that_the_markdown_shows(tmp_path: Path) -> None:
    written = write(WHOLE, tmp_path / "new" / "folder", values="numbers.json")
    names = ("report.html", "report.md", "numbers.json")
    assert written == [tmp_path / "new" / "folder" / name for name in names]
    shown = re.findall(r"^!\[.*\]\((figures/.*)\)$", written[1].read_text(), flags=re.MULTILINE)
    assert shown == ["figures/one.svg", "figures/two.svg"]
    for name, figure in zip(shown, WHOLE.figures, strict=True):
        assert (written[0].parent / name).read_text() == figure.file
    assert written[0].read_text() == to_html(WHOLE)
    assert written[1].read_text() == to_markdown(WHOLE)
    assert written[2].read_text() == to_json(WHOLE)


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 2 headers and a row of 1 cells: \('x',\)"):
        Table("Caption", ("a", "b"), (("x",),))


def test_two_things_of_one_name_are_refused() -> None:
    twice = (Section("same", "One"), Section("same", "Two"))
    with pytest.raises(ValueError, match="two sections or figures are called same"):
        Document("Title", twice)
