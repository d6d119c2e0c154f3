"""Every number of a reproduction is that of the run folders, worked out again by hand."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from weft.reproduction.gap import GapRow
from weft.reproduction.report import Reproduction

SEEDS = (0, 1)


def out_of(done: Reproduction) -> Path:
    return done.outcome.plan.out / next(iter({row.base for row in done.gap}))


def runs(done: Reproduction, stage: str, task: str, recipe: str, rate: float) -> list[Path]:
    place = out_of(done) / stage / "final" / task / recipe
    return [place / f"{rate:g}-seed{seed}" for seed in SEEDS]


def scores(folders: list[Path], metric: str) -> list[float]:
    """A validation score of each run."""
    found = []
    for folder in folders:
        rows = json.loads((folder / "metrics.json").read_text())
        (row,) = [r for r in rows if (r["name"], r["split"]) == (metric, "validation")]
        found.append(row["value"])
    return found


def training(folders: list[Path], key: str) -> list[Any]:
    return [json.loads((folder / "training.json").read_text())[key] for folder in folders]


def size(folder: Path) -> int:
    return sum(len(path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def found(done: Reproduction, stage: str, task: str, recipe: str) -> GapRow:
    rows = [r for r in done.gap if (r.stage, r.task, r.recipe) == (stage, task, recipe)]
    assert len(rows) == 1
    return rows[0]


def test_every_recipe_has_a_row_at_each_of_its_rates(done: Reproduction) -> None:
    said = [(row.task, row.stage, row.recipe) for row in done.gap]
    ways = [("study", "full"), ("study", "lora")]
    ways += [("own", "full"), ("own", "lora")]
    assert said == [(task, *way) for task in ("wnut17", "swag") for way in ways]
    assert done.outcome.failed == ()


def test_scores_shares_and_parameters_are_those_of_the_runs(done: Reproduction) -> None:
    shares = 0
    for row in done.gap:
        folders = runs(done, row.stage, row.task, row.recipe, row.learning_rate)
        values = scores(folders, row.metric)
        assert row.score.value == pytest.approx(mean(values), abs=1e-12)
        assert row.deviation == pytest.approx(stdev(values), abs=1e-12)
        assert row.score.low <= row.score.value <= row.score.high
        assert {row.trained} == set(training(folders, "trainable_parameters"))
        assert {row.adapters} == set(training(folders, "adapter_parameters"))
        base = training(folders, "base_parameters")[0]
        assert row.trained_share == pytest.approx(row.trained / base)
        full = found(done, "own", row.task, "full")
        whole = scores(runs(done, "own", row.task, "full", full.learning_rate), row.metric)
        if mean(whole) == 0:
            assert row.share is None
            continue
        assert row.share is not None
        assert row.share.value == pytest.approx(mean(values) / mean(whole))
        assert row.share.low <= row.share.value <= row.share.high
        shares += 1
    assert shares
    assert {row.learning_rate for row in done.gap if row.stage == "study"} == {5e-5}


def test_the_best_of_two_rates_is_taken_and_lies_on_an_edge(done: Reproduction) -> None:
    for task in ("wnut17", "swag"):
        row = found(done, "own", task, "lora")
        held = {}
        for rate in (1e-3, 1e-2):
            path = out_of(done) / "own" / "search" / task / "lora" / f"{rate:g}" / "metrics.json"
            rows = json.loads(path.read_text())
            held[rate] = next(r["value"] for r in rows if r["name"] == row.metric)
        assert held[row.learning_rate] == max(held.values())
        assert row.on_edge
        assert not found(done, "own", task, "full").on_edge


def test_claims_hold_our_shares_beside_the_published_ones(done: Reproduction) -> None:
    rows = {(row.base, row.task, row.metric): row for row in done.kept}
    assert len(rows) == 15
    own = rows["distilbert", "wnut17", "accuracy"]
    assert own.published == pytest.approx(93.6 / 94.7)
    assert own.published_parameters == pytest.approx(0.15 / 67)
    for stage, share in (("study", own.study), ("own", own.own)):
        ours, whole = (
            mean(
                scores(
                    runs(done, stage, "wnut17", r, found(done, stage, "wnut17", r).learning_rate),
                    "accuracy",
                )
            )
            for r in ("lora", "full")
        )
        assert share is not None
        assert share.value == pytest.approx(ours / whole)
    lora = found(done, "own", "wnut17", "lora")
    assert own.parameters == pytest.approx(lora.adapters / lora.of)
    unmeasured = [r for key, r in rows.items() if key[0] != "distilbert" or key[1] == "squad"]
    assert len(unmeasured) == 12
    assert all((r.study, r.own, r.parameters) == (None, None, None) for r in unmeasured)


def test_times_are_ratios_of_epochs_and_of_everything(done: Reproduction) -> None:
    rows = {(row.base, row.task): row for row in done.faster}
    assert len(rows) == 9
    for task in ("wnut17", "swag"):
        took = {
            recipe: mean(training(runs(done, "study", task, recipe, 5e-5), "seconds"))
            for recipe in ("lora", "full")
        }
        row = rows["distilbert", task]
        # One epoch each: three steps for ten rows, four at a time.
        assert row.whole == pytest.approx(took["lora"] / took["full"])
        assert row.epoch == pytest.approx(took["lora"] / took["full"])
        assert row.seeds == 2
    assert rows["bert-base", "swag"].published_epoch == pytest.approx(621.50 / 532.43)
    assert rows["bert-large", "wnut17"].published_whole == pytest.approx(244.80 / 439.05)
    assert (rows["distilbert", "squad"].epoch, rows["bert-base", "swag"].epoch) == (None, None)


def test_costs_are_seconds_bytes_and_a_price(done: Reproduction) -> None:
    for row in done.costs:
        if row.stage == "mixtures":
            folders = [out_of(done) / "mixtures" / f"{row.what}-seed{seed}" for seed in SEEDS]
            disk = [size(folder / "mixture") for folder in folders]
            took = training([folder / "demo_entities" for folder in folders], "seconds")
        else:
            assert row.task is not None
            rate = found(done, row.stage, row.task, row.what).learning_rate
            folders = runs(done, row.stage, row.task, row.what, rate)
            disk = [size(folder / "expert") for folder in folders]
            took = training(folders, "seconds")
            assert row.trained == training(folders, "trainable_parameters")[0]
        assert row.seconds == pytest.approx(mean(took))
        assert row.disk_mib == pytest.approx(mean(disk) / 2**20)
        assert row.optimizer_mib == pytest.approx(2 * 4 * row.trained / 2**20)
        assert row.usd == pytest.approx(2.0 * mean(took) / 3600)
    assert [row.what for row in done.costs if row.stage == "mixtures"] == ["xlora"]
    every = [path.parent for path in out_of(done).rglob("training.json")]
    # A mixture's tasks are trained together: each has the time of all. A merge trains nothing.
    every = [
        folder for folder in every if folder.name != "demo_choices" and "merges" not in folder.parts
    ]
    assert sum(total.runs for total in done.totals) == len(every) == 22
    whole = sum(training(every, "seconds"))
    assert sum(total.seconds for total in done.totals) == pytest.approx(whole)
    assert sum(total.usd for total in done.totals) == pytest.approx(2.0 * whole / 3600)


def test_mixtures_stand_beside_their_own_experts(done: Reproduction) -> None:
    assert [(row.mixture, row.task) for row in done.blends] == [
        ("xlora", "wnut17"),
        ("xlora", "swag"),
    ]
    for row, label in zip(done.blends, ("demo_entities", "demo_choices"), strict=True):
        folders = [out_of(done) / "mixtures" / f"xlora-seed{seed}" for seed in SEEDS]
        rate = found(done, "own", row.task, "lora").learning_rate
        ours = scores([folder / label for folder in folders], row.metric)
        theirs = scores(runs(done, "own", row.task, "lora", rate), row.metric)
        assert row.score.value == pytest.approx(mean(ours))
        assert row.expert.value == pytest.approx(mean(theirs))
        assert row.difference.value == pytest.approx(mean(ours) - mean(theirs))
        named = scores([folder / label for folder in folders], "recognition")
        assert row.recognition == pytest.approx(mean(named))
        beside = [json.loads((folder / "beside.json").read_text()) for folder in folders]
        assert row.gate_parameters == beside[0]["cost"]["gate_parameters"]
        uniform = [
            line["score"]["value"]
            for said in beside
            for line in said["rows"]
            if (line["task"], line["what"]) == (label, "uniform gates")
        ]
        assert row.beside["uniform gates"] == pytest.approx(mean(uniform))


def test_merges_stand_beside_their_own_experts(done: Reproduction) -> None:
    assert [(row.merge, row.task) for row in done.merges] == [("ties", "wnut17"), ("ties", "swag")]
    for row, label in zip(done.merges, ("demo_entities", "demo_choices"), strict=True):
        folders = [out_of(done) / "merges" / f"ties-seed{seed}" for seed in SEEDS]
        rate = found(done, "own", row.task, "lora").learning_rate
        ours = scores([folder / label for folder in folders], row.metric)
        theirs = scores(runs(done, "own", row.task, "lora", rate), row.metric)
        assert row.score.value == pytest.approx(mean(ours))
        assert row.expert.value == pytest.approx(mean(theirs))
        assert row.difference.value == pytest.approx(mean(ours) - mean(theirs))
        said = [json.loads((folder / "merge.json").read_text()) for folder in folders]
        assert row.error == pytest.approx(mean(one["error"] for one in said))
        assert {one["settings"]["density"] for one in said} == {0.5}
    text = (done.outcome.plan.out / "report.md").read_text()
    assert "## Merges" in text
    assert "merge - expert" in text
