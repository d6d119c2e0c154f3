"""What a report says of runs is what their folders say."""

import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from weft.reporting.combined.mixtures import short_names
from weft.reporting.groups import Group
from weft.reporting.run_report import Report, gather


def section(report: Report, task: str, split: str | None) -> Group:
    return next(own for own in report.groups if (own.task, own.split) == (task, split))


def values(folder: Path, name: str = "accuracy") -> list[dict[str, Any]]:
    return [row for row in json.loads((folder / "metrics.json").read_text()) if row["name"] == name]


def test_tasks_and_splits_are_apart(report: Report) -> None:
    found = {(own.task, own.split): {run.run for run in own.runs} for own in report.groups}
    validation = {"lora/seed1", "lora/seed2", "rank3", "full", "head", "pair", "mix"}
    assert found == {
        ("topic", "validation"): validation,
        ("topic", "holdout"): {"searched"},
        ("topic", None): {"begun", "begun-pair"},
        ("tags", "validation"): {"pair", "mix"},
        ("tags", None): {"begun-pair"},
    }


def test_seeds_of_one_method_are_one_entry(report: Report, runs_folder: Path) -> None:
    own = section(report, "topic", "validation")
    entry = next(entry for entry in own.entries if len(entry.runs) > 1)
    seeds = [runs_folder / "lora" / f"seed{seed}" for seed in (1, 2)]
    rows = [values(seed)[0] for seed in seeds]
    costs = [json.loads((seed / "training.json").read_text()) for seed in seeds]
    assert [run.folder.path for run in entry.runs] == seeds
    assert entry.score == mean(row["value"] for row in rows)
    assert entry.spread == stdev(row["value"] for row in rows)
    assert entry.interval == (min(row["low"] for row in rows), max(row["high"] for row in rows))
    for key in ("trainable_parameters", "seconds_per_epoch"):
        assert entry.cost(key) == mean(cost[key] for cost in costs)


def test_entries_are_named_by_what_sets_them_apart(report: Report) -> None:
    names = {entry.name: entry for entry in section(report, "topic", "validation").entries}
    assert {"full", "head", "xlora"} < set(names)
    assert len(names) == 6
    rank = next(name for name, entry in names.items() if entry.runs[0].run == "rank3")
    assert rank.startswith("lora, ")
    assert "rank 3" in rank


@pytest.mark.parametrize("task", ["topic", "tags"])
def test_best_come_first(report: Report, task: str) -> None:
    own = section(report, task, "validation")
    scores = [entry.score for entry in own.entries if entry.score is not None]
    assert len(scores) == len(own.entries)
    assert scores == sorted(scores, reverse=True)
    assert own.metric == {"topic": "accuracy", "tags": "f1"}[task]


def test_perplexity_is_best_where_it_is_low(runs_folder: Path, tmp_path: Path) -> None:
    for name, value in (("worse", 9.0), ("better", 3.0)):
        folder = shutil.copytree(runs_folder / "full", tmp_path / name)
        card = json.loads((folder / "expert" / "weft.json").read_text())
        card["task"] |= {"kind": "masked_lm", "labels": None}
        (folder / "expert" / "weft.json").write_text(json.dumps(card | {"labels": []}))
        row = {"name": "perplexity", "value": value, "low": value, "high": value}
        row |= {"n": 10, "seed": 1, "split": "validation"}
        (folder / "metrics.json").write_text(json.dumps([row]))
        (folder / "run.yaml").write_text(
            (folder / "run.yaml").read_text().replace("batch_size: 4", f"batch_size: {int(value)}")
        )
    own = gather([tmp_path]).groups[0]
    assert not own.higher_is_better
    assert [entry.runs[0].run for entry in own.entries] == ["better", "worse"]


def test_curves_are_the_logs(report: Report, runs_folder: Path) -> None:
    for own in report.groups:
        for run in own.runs:
            log = runs_folder / run.run / "log.jsonl"
            lines = (
                [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
            )
            losses = [(row["step"], row["loss"][run.task]) for row in lines if "loss" in row]
            scores = [(row["step"], row["score"][run.task]) for row in lines if "score" in row]
            assert (list(run.loss), list(run.selection)) == (losses, scores)
    measured = {run.run for own in report.groups for run in own.runs if run.selection}
    assert measured == {"lora/seed1", "lora/seed2", "rank3"}


def test_what_is_missing_is_said(report: Report, runs_folder: Path, tmp_path: Path) -> None:
    for name in ("begun, topic", "begun-pair, topic", "begun-pair, tags"):
        lines = [line for line in report.missing if line.startswith(f"{name}: ")]
        assert len(lines) == 3, report.missing
        assert {"training has not ended" in line for line in lines} == {True, False}
    mix = shutil.copytree(runs_folder / "mix", tmp_path / "mix")
    for path in (mix / "beside.json", mix / "tags" / "gates-validation.json", mix / "log.jsonl"):
        path.unlink()
    lines = gather([mix]).missing
    assert [line for line in lines if "gate maps" in line] == [
        "mix, tags: no gate maps; write them with `weft evaluate --gates`"
    ]
    assert sum("no learning curve" in line for line in lines) == 2
    assert sum("beside.json" in line for line in lines) == 1


def test_a_line_that_a_kill_cut_off_is_no_point(runs_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs_folder / "full", tmp_path / "run")
    whole = gather([run]).groups[0].runs[0].loss
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": {"top')
    assert gather([run]).groups[0].runs[0].loss == whole


def test_families_are_what_was_trained(report: Report, runs_folder: Path, tmp_path: Path) -> None:
    families = {run.run: run.family for own in report.groups for run in own.runs}
    said = {run: families[run] for run in ("full", "head", "rank3", "mix")}
    assert said == {"full": "base", "head": "head", "rank3": "adapters", "mix": "mixture"}
    config = shutil.copytree(runs_folder / "rank3", tmp_path / "rank3") / "run.yaml"
    config.write_text(config.read_text().replace("name: lora", "name: gone"))
    gone = gather([tmp_path]).groups[0].runs[0]
    assert (gone.method, gone.family) == ("gone", "adapters")
    assert gone.missing == (
        "its recipe's description (gone) is not there: it counts as one of adapters",
    )


def test_runs_that_cannot_be_compared_are_said(
    report: Report, runs_folder: Path, tmp_path: Path
) -> None:
    assert section(report, "topic", "holdout").remarks == ()
    remarks = section(report, "topic", "validation").remarks
    assert any("several tasks" in line and "mix, pair" in line for line in remarks)
    for name, rows in (("few", 5), ("many", 10)):
        run = shutil.copytree(runs_folder / "full", tmp_path / name)
        metrics = [row | {"n": rows} for row in json.loads((run / "metrics.json").read_text())]
        (run / "metrics.json").write_text(json.dumps(metrics))
    assert any("over 10 and 5 rows" in line for line in gather([tmp_path]).groups[0].remarks)


def test_each_run_counts_once_however_it_is_given(runs_folder: Path) -> None:
    once = gather([runs_folder / "full", runs_folder / "lora"])
    again = gather([runs_folder / "full", runs_folder / "lora" / "seed1", runs_folder / "lora"])
    assert [len(own.runs) for own in once.groups] == [len(own.runs) for own in again.groups] == [3]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder and has none below it"):
        gather([tmp_path])


def test_gates_are_the_files(report: Report, runs_folder: Path) -> None:
    (mixture,) = report.mixtures
    assert [table.task for table in mixture.gates] == ["topic", "tags"]
    for table in mixture.gates:
        said = json.loads((runs_folder / "mix" / table.task / "gates-validation.json").read_text())
        assert [list(row) for row in table.gates] == list(said["gates"].values())
        assert [list(row) for row in table.selected] == list(said["selected"].values())
        assert list(table.columns) == said["experts"] == ["topic", "tags"]
        columns = zip(*said["gates"].values(), strict=True)
        assert table.averages == [mean(column) for column in columns]
        assert list(table.maps) == ["0.query", "0.value", "1.query", "1.value"]
    beside = json.loads((runs_folder / "mix" / "beside.json").read_text())
    assert list(mixture.standings) == beside["rows"]


def test_names_lose_only_what_all_share() -> None:
    bert = ["e.layer.0.attention.self.query", "e.layer.1.attention.self.value"]
    assert short_names(bert) == ["0.query", "1.value"]
    assert short_names(["h.0.attn.c", "h.1.mlp"]) == ["0.attn.c", "1.mlp"]
    assert short_names(["h.0.attn"]) == ["h.0.attn"]
    assert short_names([]) == []
