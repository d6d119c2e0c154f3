"""A recipe of the user's own is a file anywhere, and nothing that was trained with it needs that file again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import weft
from weft.config import RecipeSettings
from weft.methods.rates import rate_for
from weft.methods.recipes import recipe_file, recipes, resolve, self_contained

OWN: dict[str, Any] = {
    "summary": "LoRA on the feed-forward maps.",
    "adapter": "lora",
    "settings": {"rank": 3, "alpha": 6},
    "targets": ["ffn_in", "ffn_out"],
    "training": {"learning_rate": 4e-3},
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(OWN), encoding="utf-8")
    return path


def test_it_resolves_as_a_recipe_of_the_folder_does(own: Path) -> None:
    found = resolve(RecipeSettings(name=str(own), rank=2))  # type: ignore[call-arg]
    assert (found.name, found.settings.targets) == ("mine", ["ffn_in", "ffn_out"])
    assert found.learning_rate == 4e-3
    assert found.spec is not None
    assert (found.spec.rank, found.describe().model_dump()["alpha"]) == (2, 6)
    assert resolve(found.describe()).describe() == found.describe()


def test_a_run_and_its_expert_need_the_file_no_more(
    own: Path, run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = run_of("topic", training={"max_steps": 2, "learning_rate": None}, recipe=str(own))
    folder = weft.train(run, out=tmp_path / "run")
    own.unlink()
    assert folder.run.recipe.name == "mine"
    assert folder.run.training.learning_rate == rate_for(4e-3, "adapters", 32).value
    assert weft.predict(folder.path, ["a good film"])
    again = weft.train(folder.run, out=tmp_path / "again")
    assert again.metrics == folder.metrics


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"adapter": "lorra"}, "lora"),
        ({"training": {}}, r"training: .*expected \{learning_rate: NUMBER\}"),
        ({"training": {"learning_rate": -1}}, r"training: .*expected \{learning_rate: NUMBER\}"),
        ({"training": {"learning_rate": 1e-3, "epochs": 2}}, "expected {learning_rate"),
        ({"training": {"head_learning_rate": 1e-3}}, "expected {learning_rate"),
        ({"targetz": "query"}, "Did you mean 'targets'"),
        ({"settings": {"rank": 0}}, "rank"),
    ],
)
def test_what_is_wrong_in_it_is_said(own: Path, changed: dict[str, Any], said: str) -> None:
    own.write_text(yaml.safe_dump(OWN | changed), encoding="utf-8")
    with pytest.raises((KeyError, ValueError), match=said):
        resolve(RecipeSettings(name=str(own)))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml"):
        resolve(RecipeSettings(name=str(tmp_path / "none.yaml")))


def test_a_rate_as_yaml_writes_it_is_a_number(own: Path) -> None:
    text = yaml.safe_dump(OWN | {"training": None}).replace("null", "{learning_rate: 1e-3}")
    own.write_text(text, encoding="utf-8")
    assert recipe_file(str(own)).training == {"learning_rate": 1e-3}


def test_weft_s_own_stay_names(own: Path) -> None:
    settings = RecipeSettings(name="lora")
    assert self_contained(settings) is settings
    with recipes.including(own.parent):
        held = self_contained(RecipeSettings(name="mine"))
    assert held.name == "mine"
    assert resolve(held).settings.targets == ["ffn_in", "ffn_out"]
