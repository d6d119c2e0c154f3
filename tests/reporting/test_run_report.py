"""The page and the Markdown: whole, alone, and equal to the run folders."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reporting.reading import Page, markdown_tables
from weft.cli import app
from weft.reporting.document import Document, Figure
from weft.reporting.run_report import Report, document, gather
from weft.reporting.writers import to_html, to_markdown, write
from weft.runs import RunFolder


@pytest.fixture(scope="module")
def text(said: Document) -> str:
    return to_html(said)


def expected(value: float, low: float, high: float, *, percent: bool) -> str:
    """A score as a reader would write it by hand."""
    ends = (f"{100 * v:.1f}" if percent else f"{v:.4g}" for v in (value, low, high))
    return "{} ({} to {})".format(*ends)


def test_page_is_whole(text: str) -> None:
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert len(set(found.names)) == len(found.names)
    assert set(found.targets) <= set(found.names)
    tags = [tag for tag, _ in found.elements]
    assert [tags.count(tag) for tag in ("html", "head", "title", "body", "main", "h1")] == [1] * 6
    assert ("html", {"lang": "en"}) in found.elements
    assert any(own.get("name") == "viewport" for tag, own in found.elements if tag == "meta")
    for table in found.tables:
        assert len({len(row) for row in table}) == 1


def test_page_asks_nothing_of_anyone(text: str) -> None:
    found = Page(text)
    assert found.addresses == ["data:,"]
    assert "script" not in {tag for tag, _ in found.elements}
    assert "@import" not in text
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert "//" not in outside
    assert "default-src 'none'" in text


def test_every_figure_is_in_it_with_words(text: str, figures: dict[str, list[Figure]]) -> None:
    drawings = [own for tag, own in Page(text).elements if tag == "svg"]
    every = [figure for own in figures.values() for figure in own]
    assert sorted(own["aria-label"] for own in drawings) == sorted(figure.alt for figure in every)
    assert {own["role"] for own in drawings} == {"img"}
    assert text.count("<figcaption>") == len(every)


def test_every_figure_can_be_enlarged_without_a_script(text: str) -> None:
    found = Page(text).elements
    drawings = [at for at, (tag, _) in enumerate(found) if tag == "svg"]
    assert drawings
    for at in drawings:
        (label, own), (box, what) = found[at - 2 : at]
        assert (label, own, box, what["type"]) == ("label", {"class": "zoom"}, "input", "checkbox")
        assert what["aria-label"]
    assert ".zoom:has(:checked)" in text


def test_every_score_is_the_folders(text: str, report: Report, runs_folder: Path) -> None:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    tables = [table for table in Page(text).tables if table[0][:3] == ["#", "run", "seed"]]
    for table, section in zip(tables, report.groups, strict=True):
        for row in table[1:]:
            rows[section.task, str(section.split), row[1]] = dict(zip(table[0], row, strict=True))
    seen = 0
    for metrics in sorted(runs_folder.rglob("metrics.json")):
        part = RunFolder.open(metrics.parent)
        assert part.run.task is not None
        several = (metrics.parent.parent / "run.yaml").is_file()
        run = (metrics.parent.parent if several else metrics.parent).relative_to(runs_folder)
        training = json.loads((metrics.parent / "training.json").read_text())
        for score in json.loads(metrics.read_text()):
            row = rows[part.run.task.label, score["split"], run.as_posix()]
            fractions = ("accuracy", "f1", "precision", "recall", "recognition")
            percent = score["name"].split("_")[0] in fractions
            column = f"{score['name']} (%)" if percent else score["name"]
            assert row[column] == expected(
                *(score[key] for key in ("value", "low", "high")), percent=percent
            )
            assert (row["seed"], row["rows"]) == (str(score["seed"]), str(score["n"]))
            assert (row["steps"], row["s"]) == (
                str(training["steps"]),
                f"{training['seconds']:.1f}",
            )
            assert (row["rate"], row["its source"]) == (
                f"{training['learning_rate']:g}",
                training["learning_rate_from"],
            )
            seen += 1
    assert seen == sum(len(run.scores) for section in report.groups for run in section.runs) > 15


def test_means_and_costs_are_the_folders(text: str, runs_folder: Path) -> None:
    table = next(table for table in Page(text).tables if table[0][:2] == ["#", "method"])
    row = dict(zip(table[0], next(row for row in table if row[1] == "full"), strict=True))
    (score,) = [s for s in RunFolder(runs_folder / "full").metrics if s["name"] == "accuracy"]
    cost = RunFolder(runs_folder / "full").training
    assert cost is not None
    assert row["accuracy (%)"] == f"{100 * score['value']:.1f}"
    assert row["95 % intervals"] == f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
    assert row["trained parameters"] == f"{cost['trainable_parameters']:,}"
    share = 100 * cost["trainable_parameters"] / cost["base_parameters"]
    assert row["% of the base"] == f"{share:.3g}"
    assert row["s/epoch"] == f"{cost['seconds_per_epoch']:.1f}"
    assert row["peak memory (MiB)"] == f"{cost['peak_memory_mib']:,.0f}"
    assert (row["seeds"], row["sd over seeds"]) == ("1", "n/a")


def test_markdown_has_the_pages_tables(text: str, report: Report, said: Document) -> None:
    written = to_markdown(said)
    assert markdown_tables(written) == Page(text).tables
    for line in report.missing:
        assert line.replace("`", "\\`") in written


def test_names_are_no_markup(runs_folder: Path, tmp_path: Path) -> None:
    name = "a<b>&|_$x$ *y*"
    shutil.copytree(runs_folder / "full", tmp_path / "runs" / name)
    shutil.copytree(runs_folder / "head", tmp_path / "runs" / "head")
    written = write(document(gather([tmp_path / "runs"])), tmp_path / "out")
    own = Page(written[0].read_text(encoding="utf-8"))
    assert name in [row[1] for table in own.tables for row in table]
    assert sorted(markdown_tables(written[1].read_text(encoding="utf-8"))) == sorted(own.tables)


def test_command_writes_shows_and_says_the_same(
    report: Report, runs_folder: Path, tmp_path: Path
) -> None:
    run = CliRunner().invoke(app, ["report", str(runs_folder), "--out", str(tmp_path), "--json"])
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["files"] == [str(tmp_path / name) for name in ("report.html", "report.md")]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (tmp_path / "report.md").read_text())
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("figures/*")} == set(shown)
    scores = [[entry.score for entry in own.entries] for own in report.groups]
    assert [[own["score"] for own in part["methods"]] for part in said["sections"]] == scores
    people = CliRunner().invoke(app, ["report", str(runs_folder), "--out", str(tmp_path)])
    for entry in report.groups[0].entries:
        assert entry.name.split(",")[0] in people.stdout
    assert "WHAT IS MISSING\n- begun, topic: training has not ended" in people.stdout


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert "no run folder" in run.stderr
    assert not (tmp_path / "out").exists()
