"""What is missing is found before any work, with what to bring and where to put it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.comparison.grid import label_of
from weft.data.generated import SIZES, write_demo_data
from weft.reproduction.cells import fillings
from weft.reproduction.needs import ready
from weft.reproduction.plan import make_plan
from weft.reproduction.profiles import Profile, profile
from weft.reproduction.reproducing import plan_for

BASES = ("distilbert", "bert-base", "bert-large")
SETS = {"wnut17": "conll", "squad": "squad", "swag": "csv"}


@pytest.mark.parametrize("fetch", [True, False])
def test_without_a_hub_every_base_and_set_is_named(fetch: bool, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="profile paper cannot be run yet; HF_HUB_OFFLINE"
    ) as found:
        ready(plan_for("paper", tmp_path / "out"), fetch=fetch)
    lines = str(found.value).splitlines()[1:]
    assert len(lines) == len(BASES) + len(SETS)
    for base, hub in zip(BASES, ("distilbert-base", "bert-base", "bert-large"), strict=True):
        (line,) = [line for line in lines if line.startswith(f"- base {base}:")]
        assert f"{hub}-uncased into DIR/{base} and give --bases DIR" in line
        assert "config.json, model.safetensors, tokenizer.json" in line
    for name, form in SETS.items():
        (line,) = [line for line in lines if line.startswith(f"- set {name}:")]
        assert f"in the form {form} as published at http" in line
        assert f"into DIR/{name} and give --data DIR" in line
    assert not (tmp_path / "out").exists()


def test_folders_take_the_place_of_the_hub(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    for base in BASES[:2]:
        shutil.copytree(tiny_folder("bert"), tmp_path / "bases" / base)
    plan = plan_for("paper", tmp_path / "out", data=tmp_path / "sets", bases=tmp_path / "bases")
    named = {label_of(base): entry.stands_for for base, entry in plan.profile.bases.items()}
    assert named == {"distilbert": "distilbert", "bert-base": "bert-base", "bert-large": None}
    # They are the published bases, wherever they lie.
    assert not any(own.why or own.differences for own in fillings(plan).values())
    assert {stage.folder.parent.name for stage in plan.stages} == set(BASES)
    with pytest.raises(ValueError, match="cannot be run yet") as found:
        ready(plan)
    lines = str(found.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "- base bert-large",
        *(f"- set {name}" for name in SETS),
    ]
    assert all(f"into {tmp_path / 'sets' / name} (" in "".join(lines) for name in SETS)
    with pytest.raises(ValueError, match="no such folder; --bases"):
        plan_for("paper", tmp_path / "out", bases=tmp_path / "nowhere")


def test_a_set_that_lacks_a_part_or_is_damaged_is_found_before_any_run(
    tiny_profile: Profile, tmp_path: Path
) -> None:
    own = tiny_profile.model_copy(update={"sets": "folder"})
    plan = make_plan("own", tmp_path / "out", data=tmp_path / "sets", own=own)
    write_demo_data(tmp_path / "sets", sizes=dict.fromkeys(SIZES, (6, 4)))
    (tmp_path / "sets" / "entities" / "validation.conll").unlink()
    choices = tmp_path / "sets" / "choices" / "train.csv"
    choices.write_text(choices.read_text().replace("label", "lable", 1))
    with pytest.raises(ValueError, match="profile own cannot be run yet") as found:
        ready(plan, fetch=False)
    first, second = str(found.value).splitlines()[1:]
    assert "set wnut17" in first
    assert "no file for the validation split" in first
    assert "set swag" in second
    assert "Did you mean 'lable'?" in second


def test_a_profile_is_a_name_or_a_file(tiny_profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="Did you mean 'paper'"):
        plan_for("papre")
    with pytest.raises(ValueError, match="no such file"):
        plan_for(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("summary: x\nbasse: {}\n")
    with pytest.raises(ValueError, match=r"own\.yaml: basse: no setting .* Did you mean 'bases'"):
        plan_for(str(tmp_path / "own.yaml"))
    from weft.config import to_yaml

    (tmp_path / "own.yaml").write_text(to_yaml(tiny_profile))
    assert profile(str(tmp_path / "own.yaml")) == tiny_profile
    assert plan_for(str(tmp_path / "own.yaml")).out == Path("runs") / "reproduce-own"
    assert plan_for("demo").out == Path("runs") / "reproduce-demo"
