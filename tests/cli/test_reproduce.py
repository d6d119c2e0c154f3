import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reproduction.tiny_profiles import tiny
from weft.config import to_yaml
from weft.reproduction.costs import PRICE
from weft.reproduction.reproducing import reproduce

Say = Callable[..., Any]


@pytest.fixture
def own(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A profile of one set, as a user would write it: seven runs with one seed."""
    profile = tiny(tiny_folder("bert"))
    profile = profile.model_copy(update={"tasks": {"swag": profile.tasks["swag"]}})
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(profile))
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--profile", "papre"), "no profile named 'papre'. Did you mean 'paper'?"),
        (("--profile", "small"), "give --data with squad, swag, wnut17 in it"),
        (("--profile", "demo", "--data", "."), "profile demo makes its own sets"),
        (("--profile", "paper"), "base bert-large: bring config.json, model.safetensors"),
        (("--profile", "paper", "--plan"), "into DIR/squad and give --data DIR"),
        (("--profile", "small", "--data", "nowhere"), "into nowhere/wnut17 ("),
        (("--profile", "small", "--data", "nowhere", "--plan"), "in the form csv"),
    ],
)
def test_what_is_missing_is_said_before_any_work(
    arguments: tuple[str, ...], sentence: str, say: Say, tmp_path: Path
) -> None:
    said = say("reproduce", *arguments, "--out", tmp_path / "out")
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert not (tmp_path / "out").exists()


def test_a_plan_says_what_it_would_run_and_writes_nothing(
    own: Path, say: Say, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call = ("reproduce", "--profile", own, "--out", out, "--seeds", 1, "--plan")
    said = say(*call, "--json")
    assert said.code == 0, said.err
    found = said.json
    counts = {(line["stage"], line["what"]): line["runs"] for line in found["lines"]}
    assert counts == {
        ("study", "full"): 1,
        ("study", "lora"): 1,
        ("own", "full"): 1,
        ("own", "lora"): 3,
        ("mixtures", "xlora"): 1,
    }
    assert (found["runs"], found["done"]) == (7, 0)
    assert found["seconds_left"] > 0
    assert not out.exists()


@pytest.mark.slow
def test_command_and_verb_give_the_same_tables(
    own: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    call = ("reproduce", "--profile", own, "--out", out, "--seeds", 1, "--price", 3)
    said = say(*call, "--workers", 2, "--json")
    assert said.code == 0, said.err
    assert "7 runs, 0 done, 7 to run" in said.err
    assert said.json == json.loads((out / "reproduction.json").read_text())
    verb = reproduce(str(own), tmp_path / "verb", seeds=1).as_json()
    for key in ("seeds", "goals", "published"):
        assert (said.json[key] == json.loads(json.dumps(verb[key]))) == (key != "published")
    scores, others = (
        [(row["task"], row["stage"], row["recipe"], row["score"]) for row in found["gap"]]
        for found in (said.json, verb)
    )
    assert scores == others
    assert said.json["published"]["usd"] == pytest.approx(verb["published"]["usd"] * 3 / PRICE)
    again = say(*call)
    assert again.code == 0, again.err
    assert "7 runs, 7 done, 0 to run" in again.err
    assert "THE GAP CLOSED" in again.out
    assert f"wrote {out / 'report.html'}" in again.out
    other = own.with_name("other.yaml")
    other.write_text(own.read_text().replace("0.01", "0.02"))
    refused = say("reproduce", "--profile", other, "--out", out, "--seeds", 1)
    assert (refused.code, refused.out) == (2, "")
    assert "holds runs of other settings: recipes.lora.learning_rates" in refused.err


@pytest.mark.slow
def test_failed_runs_are_shown_and_the_tables_are_written(
    tiny_folder: Callable[[str], Path], say: Say, tmp_path: Path
) -> None:
    profile = tiny(tiny_folder("bert"))
    lora = profile.recipes["lora"]
    bad = lora.recipe.model_copy(update={"targets": ["no_such_module"]})
    update = {
        "tasks": {"swag": profile.tasks["swag"]},
        "recipes": {"lora": lora.model_copy(update={"recipe": bad, "learning_rates": [1e-3]})},
        "mixtures": {},
    }
    own, out = tmp_path / "own.yaml", tmp_path / "out"
    own.write_text(to_yaml(profile.model_copy(update=update)))
    call = ("reproduce", "--profile", own, "--out", out, "--seeds", 1, "--quiet", "--json")
    said = say(*call, "--workers", 2)
    assert (said.code, said.err) == (1, "")
    (failed,) = said.json["failed"]
    assert failed["run"].endswith("own/final/swag/lora/0.001-seed0")
    assert "no_such_module" in failed["error"]
    assert [row["recipe"] for row in said.json["gap"]] == ["full", "lora"]
    assert "no_such_module" in (out / "report.html").read_text()
