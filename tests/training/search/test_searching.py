"""`learning_rate: search` writes a rate that held-out rows of train chose, and goes on when it is killed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import weft
from weft.config import load_run
from weft.methods.rates import rate_for
from weft.runs import RunFolder
from weft.scoped import speaking
from weft.training.callbacks import Event
from weft.training.search.halving import Halving
from weft.training.search.searching import FILE, FOLDER
from weft.training.settings import completed

Settings = Callable[..., dict[str, Any]]
STEPS = 12


@pytest.fixture
def wanted(run_of: Settings) -> dict[str, Any]:
    """A run that wants a rate."""
    return run_of("topic", training={"learning_rate": "search", "max_steps": STEPS})


@dataclass(frozen=True)
class Whole:
    """A search that nothing stopped, and what was said of it."""

    folder: RunFolder
    said: list[str]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Whole]:
    """The run folder of `wanted`, trained once for all tests of it: a search is ten trainings."""
    made: list[Whole] = []

    def folder(wanted: dict[str, Any]) -> Whole:
        if not made:
            said: list[str] = []
            with speaking(said.append):
                run = weft.train(wanted, out=tmp_path_factory.mktemp("searched") / "run")
            made.append(Whole(run, said))
        return made[0]

    return folder


def table(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / FILE).read_text("utf-8"))


def test_the_rate_is_that_of_the_table_and_the_run_is_that_of_a_run_that_says_it(
    wanted: dict[str, Any], tmp_path: Path, searched: Callable[[dict[str, Any]], Whole]
) -> None:
    folder, said = searched(wanted).folder, searched(wanted).said
    own = table(folder)
    assert own["around"] == rate_for(1e-3, "adapters", 32).value
    last = [row for row in own["tried"] if row["round"] == 3]
    best = max(last, key=lambda row: (row["score"], -row["loss"], -row["learning_rate"]))
    assert folder.run.training.learning_rate == own["best"] == best["learning_rate"]
    assert folder.run.training.rate_from is not None
    assert "found by a search over" in folder.run.training.rate_from.said
    plan = Halving(own["around"], STEPS)
    assert own["steps"] == sum(row["steps"] for row in own["tried"]) >= plan.cost
    assert f"{plan.trials} trainings, {plan.cost} steps in all before the {STEPS}" in said[0]
    assert "only about 2 rows are held out" in said[1]
    assert f"learning rate {own['best']:g}, found" in said[-1]
    assert not (folder.path / FOLDER).exists()
    stated = wanted | {"training": wanted["training"] | {"learning_rate": own["best"]}}
    again = weft.train(stated, out=tmp_path / "again")
    assert folder.metrics == again.metrics
    assert (folder.expert / "adapter_model.safetensors").read_bytes() == (
        again.expert / "adapter_model.safetensors"
    ).read_bytes()


def test_it_never_reads_the_validation_rows(
    wanted: dict[str, Any], tmp_path: Path, tasks_folder: Path
) -> None:
    trials: list[Path] = []

    def stop(event: Event) -> None:
        config = next((tmp_path / "run" / FOLDER).glob("*/run.yaml"))
        trials.append(config)
        run = yaml.safe_load(config.read_text("utf-8"))
        assert run["training"]["evaluate_on"] == run["training"]["select_on"] == "holdout"
        raise KeyError("seen")

    with pytest.raises(KeyError, match="seen"):
        weft.train(wanted, out=tmp_path / "run", report=stop)
    assert trials


def test_a_search_that_was_killed_goes_on_and_finds_the_same(
    wanted: dict[str, Any], tmp_path: Path, searched: Callable[[dict[str, Any]], Whole]
) -> None:
    class Killed(Exception):  # noqa: N818 - stands for the end of the process
        pass

    steps: list[int] = []

    def kill(event: Event) -> None:
        steps.append(event.step)
        if len(steps) == 25:
            raise Killed

    with pytest.raises(Killed):
        weft.train(wanted, out=tmp_path / "run", report=kill)
    half = RunFolder.open(tmp_path / "run")
    assert half.run.training.learning_rate == "search"
    assert not half.is_complete
    before = table(half)
    assert before["best"] is None
    assert len(before["tried"]) == 2
    rest: list[int] = []
    folder = weft.train(resume=half.path, report=lambda event: rest.append(event.step))
    assert table(folder)["tried"][:2] == before["tried"]
    whole = searched(wanted).folder
    assert table(folder) == table(whole)
    assert folder.metrics == whole.metrics
    # The trial that it was killed in had no checkpoint, and is the only one that begins anew.
    assert len(rest) == table(whole)["steps"] - 2 * 10 + STEPS


def test_rows_in_memory_that_changed_are_refused(wanted: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"{word} day", "label": word} for n, word in enumerate("ab" * 8)]
    spec = {"kind": "sequence_classification", "labels": ["a", "b"], "max_length": 16}
    run = wanted | {"task": {"name": "own", "spec": spec}}

    def stop(event: Event) -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        weft.train(run, out=tmp_path / "run", data={"train": rows, "validation": rows}, report=stop)
    with pytest.raises(ValueError, match="the rows given now are not those"):
        weft.train(resume=tmp_path / "run", data={"train": rows[2:], "validation": rows})


def test_what_a_search_cannot_do_is_refused(wanted: dict[str, Any], tmp_path: Path) -> None:
    run = wanted | {"training": wanted["training"] | {"evaluate_on": "holdout"}}
    with pytest.raises(ValueError, match="search chooses on the rows that evaluate_on: holdout"):
        completed(load_run(run))
    with pytest.raises(ValueError, match="expected a number greater than 0, or search, got 'serch"):
        load_run(wanted, ["training.learning_rate=serch"])
    assert load_run(wanted, ["training.learning_rate=search"]).training.rate is None
    assert load_run(wanted, ["training.learning_rate=1e-3"]).training.rate == 1e-3
