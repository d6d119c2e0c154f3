"""A run is completed once: defaults written out, paths absolute, and completing it again changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.config import RateSource, load_run
from weft.methods.mixtures import mixtures
from weft.methods.rates import rate_for
from weft.methods.recipes import recipe_file
from weft.training.settings import completed

Settings = Callable[..., dict[str, Any]]


def test_a_complete_run_says_what_was_left_open(run_of: Settings) -> None:
    run = run_of("topic", training={"learning_rate": None}, recipe="pissa")
    found = completed(load_run(run)).run
    # The tiny base's states have 32 numbers, those of the base that rates were measured on 384.
    stated = recipe_file("pissa").training["learning_rate"]
    assert found.training.learning_rate == rate_for(stated, "adapters", 32).value > 2 * stated
    assert found.recipe.model_dump()["rank"] == 8
    assert completed(found).run == found


def test_paths_are_those_of_the_folder_that_the_run_was_said_in(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    run = run_of("topic") | {"base": "own", "init_from": "own", "data": "rows"}
    found = completed(load_run(run)).run
    assert (found.base, found.init_from) == (str(tmp_path / "own"), str(tmp_path / "own"))
    assert found.task is not None
    assert (found.task.data, found.data) == (str(tmp_path / "rows"), None)


def test_an_alias_is_no_folder_of_its_name(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(load_run(run_of("topic") | {"base": "minilm"})).run.base == "minilm"


def test_nothing_said_is_lora_on_all_maps_at_the_rate_that_was_measured_for_them() -> None:
    found = completed(load_run({"task": "swag"})).run
    assert (found.base, found.recipe.name, found.recipe.targets) == (
        "minilm",
        "lora",
        ["all-linear"],
    )
    assert found.training.learning_rate == 1e-3
    assert found.training.rate_from is not None
    assert "0.001, measured at this base's width, 384" in found.training.rate_from.said


def test_on_query_and_value_the_rate_is_the_one_that_was_measured_there() -> None:
    for targets in (["query", "value"], ["value", "query"]):
        run = load_run({"task": "swag", "recipe": {"name": "lora", "targets": targets}})
        assert completed(run).run.training.learning_rate == 2e-3
    run = load_run({"task": "swag", "recipe": {"name": "lora", "targets": ["query"]}})
    assert completed(run).run.training.learning_rate == 1e-3


@pytest.mark.parametrize(("recipe", "rate"), [("lora", 5.95e-4), ("full", 5e-5), ("head", 1e-3)])
def test_a_rate_is_carried_to_the_width_of_the_base(recipe: str, rate: float) -> None:
    found = completed(load_run({"task": "swag", "base": "bert-base", "recipe": recipe})).run
    assert found.training.learning_rate == rate
    assert found.training.rate_from is not None
    assert "at width 384" in found.training.rate_from.said
    assert found.training.rate_from.said.endswith("; here 768")


def test_a_rate_that_the_user_says_is_never_touched() -> None:
    for rate in (2e-3, 5e-5, "3e-4"):
        values = {"task": "swag", "base": "bert-large", "training": {"learning_rate": rate}}
        training = completed(load_run(values)).run.training
        assert training.learning_rate == float(rate)
        assert training.rate_from is None


def test_a_head_has_the_rate_that_the_recipe_says_for_it_unless_the_user_says_one() -> None:
    said = {"task": "swag", "recipe": "altlora"}
    own = completed(load_run(said)).run
    assert own.training.head_learning_rate == 2e-3
    assert completed(own).run == own
    searched = said | {"training": {"learning_rate": 0.9}}
    assert completed(load_run(searched)).run.training.head_learning_rate == 2e-3
    users = said | {"training": {"head_learning_rate": 1e-4}}
    assert completed(load_run(users)).run.training.head_learning_rate == 1e-4
    plain = completed(load_run(said | {"recipe": "lora"})).run
    assert plain.training.head_learning_rate is None


def test_a_rate_changed_in_a_complete_run_is_the_users() -> None:
    complete = completed(load_run({"task": "swag"})).run
    changed = completed(load_run(complete, ["training.learning_rate=0.01"])).run
    assert (changed.training.learning_rate, changed.training.rate_from) == (0.01, None)
    source = RateSource(rate=1e-3, said="whatever")
    kept = complete.training.model_copy(update={"rate_from": source})
    assert completed(complete.model_copy(update={"training": kept})).run.training == kept


def test_a_mixture_s_rate_is_its_own_at_any_width(tmp_path: Path) -> None:
    run = {"base": "bert-base", "tasks": ["swag", "wnut17"], "mixture": {"name": "hydralora"}}
    training = completed(load_run(run)).run.training
    assert training.learning_rate == mixtures.load("hydralora").learning_rate
    assert training.rate_from is not None
    assert "the mixture's" in training.rate_from.said
