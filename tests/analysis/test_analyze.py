"""`weft.analyze` and `weft analyze`: the report, its files, going on, and what is refused."""

import csv
import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import weft
from tests.merging.runs import Made
from weft.analysis.analyze import Analysis
from weft.analysis.keeping import PACKAGE, code_of
from weft.analysis.questions import questions
from weft.cli import app


@pytest.fixture
def runs(made: Made) -> list[Path]:
    return [
        made("topic"),
        made("tags", targets=["query", "ffn_in", "ffn_out"], rank=3),
        made("where", name="dora"),
    ]


@pytest.mark.parametrize("treebank", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_question_is_answered_and_written(
    runs: list[Path], trees: Path, tmp_path: Path, treebank: bool
) -> None:
    """Experts of several ranks and maps, one of them without exact factors; with a treebank, probes too."""
    asked: list[str] = []
    found = weft.analyze(
        runs,
        out=tmp_path / "out",
        data=trees if treebank else None,
        progress=lambda *step: asked.append(step[2]),
    )
    needs = {name: questions.load(name).needs for name in questions.names()}
    never = {name for name, own in needs.items() if own in ("training", "gates")}
    if not treebank:
        never |= {name for name, own in needs.items() if own == "trees"}
    # These say only when they are asked that they want a model trained whole, or texts that all experts read.
    left = never | {"whole"} | (set() if treebank else {"similarity"})
    assert found.values["not_asked"].keys() == left
    assert sorted(asked) == sorted([*(needs.keys() - never), "writing"])
    page = (tmp_path / "out" / "report.html").read_text()
    for name in set(questions.names()) - left:
        answer, kind = found.values["questions"][name], questions.load(name)
        assert answer["numbers"], name
        assert answer["rows"], name
        assert kind.asks in unescape(page)
        with (tmp_path / "out" / "tables" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [list(row) for row in rows] == [list(row) for row in answer["rows"]]
    assert all(figure.alt and figure.caption for figure in found.document.figures)
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == found.values
    assert all(path.is_file() for path in found.files)


def test_without_trees_own_rows_are_read(runs: list[Path], tmp_path: Path) -> None:
    found = weft.analyze(runs[1:2], ["displacement", "cka"], out=tmp_path / "out")
    rows = found.values["questions"]["displacement"]["rows"]
    assert {row["read"] for row in rows} == {"tags validation"}
    assert {row["tag"] for row in rows if row["tagged by"]} <= {"O", "animal"}


def test_the_same_call_asks_nothing_again_and_says_the_same(
    runs: list[Path], trees: Path, tmp_path: Path
) -> None:
    def ask(*names: str, **values: Any) -> tuple[Analysis, list[str]]:
        asked: list[str] = []
        found = weft.analyze(
            runs[:2],
            names,
            out=tmp_path / "out",
            data=trees,
            progress=lambda *step: asked.append(step[2]),
            **values,
        )
        return found, asked[:-1]

    first, asked = ask("sizes", "amplification", "interference")
    assert asked == ["sizes", "amplification", "interference"]
    page = (tmp_path / "out" / "report.html").read_text()
    second, asked = ask("sizes", "amplification", "interference")
    assert asked == []
    assert second.values == first.values
    assert (tmp_path / "out" / "report.html").read_text() == page
    (tmp_path / "out" / "answers" / "sizes.json").unlink()
    assert ask("sizes", "amplification", "interference")[1] == ["sizes"]
    assert ask("sizes", seed=1)[1] == ["sizes"]
    weights = next((runs[0] / "expert").glob("adapter_model*"))
    weights.write_bytes(weights.read_bytes())
    assert ask("sizes", seed=1)[1] == []
    runs[0].joinpath("expert", "note").write_text("another file")
    assert ask("sizes", seed=1)[1] == ["sizes"]


def test_all_code_that_measures_marks_answers(tmp_path: Path) -> None:
    """A question's measures lie in other rooms too, such as what finds intruders."""
    assert Path(weft.__file__).parent == PACKAGE
    copied = shutil.copytree(PACKAGE / "lowrank", tmp_path / "lowrank")
    before = code_of(tmp_path)
    with (copied / "intruders.py").open("a") as file:
        file.write("# another\n")
    code_of.cache_clear()
    assert code_of(tmp_path) != before


def test_a_damaged_answer_is_named(runs: list[Path], tmp_path: Path) -> None:
    weft.analyze(runs[:1], ["sizes"], out=tmp_path / "out")
    path = tmp_path / "out" / "answers" / "sizes.json"
    values = json.loads(path.read_text())
    del values["words"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"sizes\.json is damaged"):
        weft.analyze(runs[:1], ["sizes"], out=tmp_path / "out")


def test_experts_answer_as_before(runs: list[Path], trees: Path, tmp_path: Path) -> None:
    """Random experts and hooks come and go; what a run answers stays what it was."""
    before = weft.predict(runs[0], ["good dog"], precision="fp64")
    weft.analyze(runs[:1], ["cka", "contribution"], out=tmp_path / "out", data=trees)
    assert weft.predict(runs[0], ["good dog"], precision="fp64") == before


@pytest.mark.slow
def test_one_expert_leaves_out_what_compares(runs: list[Path], tmp_path: Path) -> None:
    found = weft.analyze(runs[:1], out=tmp_path / "out")
    left = found.values["not_asked"]
    assert {"interference", "subspaces"} <= set(left)
    assert all("two" in left[name] for name in ("interference", "subspaces"))
    assert found.document.sections[-1].key == "not-asked"


class TestRefusals:
    def test_what_is_asked_for_and_cannot_be_answered(self, made: Made, tmp_path: Path) -> None:
        run = made("topic")
        out = tmp_path / "out"
        with pytest.raises(KeyError, match="Did you mean 'sizes'"):
            weft.analyze([run], ["size"], out=out)
        with pytest.raises(ValueError, match="give the runs of at least two"):
            weft.analyze([run], ["subspaces"], out=out)
        with pytest.raises(ValueError, match="no question"):
            weft.analyze([run], [], out=out)
        assert not out.exists()

    def test_runs_that_hold_nothing(self, made: Made, tmp_path: Path) -> None:
        run, out = made("topic"), tmp_path / "out"
        with pytest.raises(ValueError, match="no run"):
            weft.analyze([], out=out)
        with pytest.raises(ValueError, match="given twice"):
            weft.analyze([run, run], out=out)
        with pytest.raises(ValueError, match="head alone"):
            weft.analyze([made("tags", name="head")], out=out)
        with pytest.raises(ValueError, match="is no folder"):
            weft.analyze([run], out=out, data=tmp_path / "nowhere")
        with pytest.raises(ValueError, match="no device named"):
            weft.analyze([run], out=out, device="gpu")
        assert not out.exists()

    def test_another_base(self, made: Made, tmp_path: Path) -> None:
        run, other = made("topic"), made("tags")
        card = other / "expert" / "weft.json"
        values = json.loads(card.read_text())
        card.write_text(json.dumps({**values, "digest": "0" * 64}))
        with pytest.raises(ValueError, match="different bases"):
            weft.analyze([run, other], out=tmp_path / "out")


def test_the_command_does_the_same(runs: list[Path], tmp_path: Path) -> None:
    arguments = ["analyze", *map(str, runs[:2]), "--questions", "spectra, intruders"]
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a"), "--json"])
    assert said.exit_code == 0, said.stderr
    found = weft.analyze(runs[:2], ["spectra", "intruders"], out=tmp_path / "b")
    assert json.loads(said.stdout) == found.values
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a")])
    assert "ARE THERE NEW DIRECTIONS" in said.stdout
    assert f"wrote {tmp_path / 'a' / 'report.html'}" in said.stdout
    refused = CliRunner().invoke(app, ["analyze", str(runs[0]), "--questions", "size"])
    assert refused.exit_code == 2
    assert "Did you mean 'sizes'" in refused.stderr


def test_numbers_do_not_depend_on_the_order_of_experts(runs: list[Path], tmp_path: Path) -> None:
    one = weft.analyze(runs[:2], ["spectra"], out=tmp_path / "a").values["questions"]["spectra"]
    other = weft.analyze(runs[1::-1], ["spectra"], out=tmp_path / "b").values["questions"][
        "spectra"
    ]

    def by_expert(answer: dict[str, Any]) -> dict[tuple[str, str], Any]:
        return {(row["of"], row["what"]): row for row in answer["numbers"]}

    assert by_expert(one) == by_expert(other)


def test_seeds_of_torch_are_left_alone(runs: list[Path], tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    weft.analyze(runs[:1], ["spectra", "amplification"], out=tmp_path / "out")
    assert torch.equal(torch.random.get_rng_state(), state)
