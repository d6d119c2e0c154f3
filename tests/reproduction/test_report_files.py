"""The files say what the numbers are, ask nothing of anyone, and name no folder of the machine."""

import json
import re
from pathlib import Path

import pytest

from tests.reporting.reading import Page, markdown_tables
from weft.reporting.writers import PAGE, TEXT
from weft.reproduction.report import VALUES, Reproduction, document


@pytest.fixture(scope="module")
def texts(done: Reproduction) -> dict[str, str]:
    out = done.outcome.plan.out
    return {name: (out / name).read_text(encoding="utf-8") for name in (PAGE, TEXT, VALUES)}


def test_the_values_are_those_that_were_gathered(done: Reproduction, texts: dict[str, str]) -> None:
    found = json.loads(texts[VALUES])
    assert found == json.loads(json.dumps(done.as_json()))
    cells = [(cell["table"], cell["published"], cell["measured"]) for cell in found["cells"]]
    assert cells == [(c.figure.address.table, c.figure.printed, c.measured) for c in done.cells]
    assert found["seeds"] == [0, 1]
    assert found["usd_per_hour"] == 2.0
    assert found["published"]["usd"] == pytest.approx(2 * 159_859.604 / 3600)
    assert [place["runs"] for place in found["machines"]] == [22]
    assert found["failed"] == []


def test_no_file_names_a_folder_of_the_machine(done: Reproduction, texts: dict[str, str]) -> None:
    out = done.outcome.plan.out
    figures = {path.name: path.read_text() for path in (out / "figures").iterdir()}
    bases = [str(Path(base).parent) for base in done.outcome.plan.profile.bases]
    for name, text in {**texts, **figures}.items():
        for place in (str(out.parent), *bases, str(Path.home())):
            assert place not in text, name


def test_the_page_is_whole_and_asks_nothing_of_anyone(texts: dict[str, str]) -> None:
    found = Page(texts[PAGE])
    assert texts[PAGE].startswith("<!DOCTYPE html>\n")
    assert len(set(found.names)) == len(found.names)
    assert set(found.targets) <= set(found.names)
    assert all(address.startswith("data:") for address in found.addresses)
    assert "script" not in {tag for tag, _ in found.elements}
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", texts[PAGE])
    assert "//" not in outside
    assert "default-src 'none'" in texts[PAGE]
    for table in found.tables:
        assert len({len(row) for row in table}) == 1


def test_every_figure_has_words_and_a_file(done: Reproduction, texts: dict[str, str]) -> None:
    page = Page(texts[PAGE])
    figures = sorted((done.outcome.plan.out / "figures").iterdir())
    base = next(iter({row.base for row in done.gap}))
    names = [f"gap-{base}", f"rates-{base}-swag", f"rates-{base}-wnut17", f"sizes-{base}"]
    assert [path.stem for path in figures] == names
    assert sum(tag == "figure" for tag, _ in page.elements) == len(names)
    assert texts[PAGE].count("<figcaption>") == len(names)
    words = [own.get("aria-label", "") for tag, own in page.elements if tag == "svg"]
    assert len(words) == len(names)
    assert all(len(said) > 80 for said in words)
    linked = re.findall(r"!\[[^\n]*?\]\((figures/[^)]*)\)", texts[TEXT])
    assert sorted(linked) == [f"figures/{name}.svg" for name in names]
    axes = {"(%)", "(count, logarithmic scale)", "no unit)"}
    drawn = "".join(path.read_text() for path in figures)
    assert all(unit in drawn for unit in axes)


def test_page_and_markdown_show_the_same_tables(done: Reproduction, texts: dict[str, str]) -> None:
    tables = document(done).tables
    shown = Page(texts[PAGE]).tables
    assert shown == [[list(t.headers), *map(list, t.rows)] for t in tables]
    assert markdown_tables(texts[TEXT]) == shown


def test_every_published_number_stands_beside_ours(
    done: Reproduction, texts: dict[str, str]
) -> None:
    tables = Page(texts[PAGE]).tables[:6]
    cells = [cell for table in tables for row in table[1:] for cell in row[1:]]
    assert len(cells) == len(done.cells) == 106
    for text, cell in zip(cells, done.cells, strict=True):
        published, ours = text.split(" / ")
        assert published == cell.figure.printed
        assert ours.startswith("n/a") == (cell.measured is None)
        if cell.measured is not None and cell.figure.unit == "%":
            assert float(ours.split()[0]) == pytest.approx(cell.measured, abs=0.06)


def test_stand_ins_claims_and_goals_are_in_words(texts: dict[str, str]) -> None:
    for text in (texts[PAGE], texts[TEXT]):
        assert "Stand-in: a made-up set is not WNUT17." in text
        assert "Not measured: profile demo has nothing in the place of SQuAD." in text
        assert "true of 7 of 15 scores as published" in text
        assert "shorter in 8 of 9 pairs as published" in text
        assert "the 44.4 hours published cost 88.81 USD" in text
        assert "Goal: at its own learning rate LoRA reaches at least 97 %" in text
        assert "SWAG (here made-up choices) accuracy" in text
        assert "computed, not measured" in text
        assert re.search(r"made-up choices on \S+: (not )?reached", text.replace("\\", ""))
