"""A mixture's folder moves as one and names what is wrong with it; what cannot be mixed is refused before any work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.training.mixed_runs import Runs, runs_of, steps
from weft.answering.evaluation import evaluate
from weft.base.loading import load_base
from weft.runs import RunFolder
from weft.storage.loading import load_run_model
from weft.storage.mixture import load_mixture
from weft.training.loop import train
from weft.training.settings import mix_config

Break = Callable[[Path], None]


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


@pytest.fixture
def folder(runs: Runs, tmp_path: Path) -> RunFolder:
    """A copy of an X-LoRA over five experts, to be broken."""
    whole = runs.mixture("bert", "xlora", "mixture.width=8")
    return RunFolder(shutil.copytree(whole.path, tmp_path / "copy"))


def values(folder: RunFolder) -> dict[str, dict[str, float]]:
    """The scores that training left, by task."""
    return {
        part.path.name: {m["name"]: m["value"] for m in part.metrics} for part in folder.parts()
    }


def evaluated(folder: RunFolder) -> dict[str, dict[str, float]]:
    found = evaluate(folder.path, save=False)
    assert isinstance(found, list)
    return {one.task: {name: own.value for name, own in one.scores.items()} for one in found}


def test_the_folder_moves_as_one(runs: Runs, tmp_path: Path) -> None:
    experts = shutil.copytree(runs.experts("bert").path, tmp_path / "experts")
    made = train(mix_config([experts], "xlora", steps(1)), out=tmp_path / "mixture")
    before = values(made)
    shutil.rmtree(experts)
    elsewhere = tmp_path / "else" / "where"
    elsewhere.parent.mkdir()
    shutil.move(made.path, elsewhere)
    assert evaluated(RunFolder(elsewhere)) == before
    alone = evaluate(elsewhere / "tags", save=False)
    assert not isinstance(alone, list)
    assert {name: own.value for name, own in alone.scores.items()} == before["tags"]


def test_evaluating_keeps_what_training_measured(folder: RunFolder) -> None:
    before, scores = values(folder), [part.metrics for part in folder.parts()]
    evaluate(folder.path)
    assert values(folder) == before
    for part, was in zip(folder.parts(), scores, strict=True):
        assert {row["name"] for row in part.metrics} == {row["name"] for row in was}


def without_expert(mixture: Path) -> None:
    shutil.rmtree(mixture / "experts" / "tags")


def changed_expert(mixture: Path) -> None:
    file = mixture / "experts" / "tags" / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first] + 1e-7}, file)


def without_gate(mixture: Path) -> None:
    tensors = load_file(mixture / "gate.safetensors")
    del tensors["mixture.head.maps.0.weight"]
    save_file(tensors, mixture / "gate.safetensors")


def gate_of_another(mixture: Path) -> None:
    tensors = load_file(mixture / "gate.safetensors")
    tensors["mixture.head.maps.0.bias"] = torch.zeros(2)
    save_file(tensors, mixture / "gate.safetensors")


def described(mixture: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = mixture / "mixture.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text()))))


def newer(mixture: Path) -> None:
    described(mixture, lambda said: said | {"format": 99})


def newer_with_more(mixture: Path) -> None:
    described(mixture, lambda said: said | {"format": 99, "colour": "red"})


def other_setting(mixture: Path) -> None:
    described(mixture, lambda said: said | {"mixture": said["mixture"] | {"widht": 3}})


def without_head(mixture: Path) -> None:
    shutil.rmtree(mixture / "heads" / "tags")


def without_mixture(mixture: Path) -> None:
    shutil.rmtree(mixture)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_expert, r"lacks its expert tags: .*restore"),
        (changed_expert, r"tags is not the expert that was mixed: its files have changed"),
        (without_gate, r"gate\.safetensors lacks tensors of the gate: head\.maps\.0\.weight"),
        (gate_of_another, r"its tensors are not those of .*head\.maps\.0\.bias"),
        (newer, r"mixture\.yaml: format 99, this weft reads 1; update weft"),
        (newer_with_more, r"mixture\.yaml: format 99, this weft reads 1; update weft"),
        (other_setting, r"'widht'.*Did you mean 'width'"),
        (without_head, r"heads.tags"),
        (without_mixture, r"holds no mixture yet; train it to its end"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    damage: Break, sentence: str, folder: RunFolder
) -> None:
    damage(folder.path / "mixture")
    with pytest.raises(ValueError, match=sentence):
        load_run_model(folder.path / "topic", device="cpu")


def test_experts_that_a_mixture_trained_are_in_its_own_file(runs: Runs, tmp_path: Path) -> None:
    whole = runs.mixture("bert", "xlora", "mixture.width=8", "mixture.train_experts=true")
    assert not (whole.mixture / "experts").exists()
    folder = RunFolder(shutil.copytree(whole.path, tmp_path / "copy"))
    tensors = load_file(folder.mixture / "gate.safetensors")
    del tensors["mixture.stacks.1.A"]
    save_file(tensors, folder.mixture / "gate.safetensors")
    with pytest.raises(ValueError, match=r"lacks stacks\.1\.A"):
        load_run_model(folder.path / "topic", device="cpu")


def test_a_mixture_of_another_base_is_refused(folder: RunFolder, runs: Runs) -> None:
    other = load_base(str(runs.tiny_folder("distilbert")))
    with pytest.raises(ValueError, match="mixture for another base: it was trained on"):
        load_mixture(folder.mixture, other)


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no expert to mix; give the run folders"):
        mix_config([], "xlora")


def test_two_experts_of_one_name_are_refused(runs: Runs, tmp_path: Path) -> None:
    one = runs.experts("bert").path
    two = shutil.copytree(one, tmp_path / "two")
    with pytest.raises(ValueError, match=r"two experts are named 'topic': .*rename the task"):
        mix_config([one, two], "xlora")


def test_experts_of_different_bases_are_refused(runs: Runs, tmp_path: Path) -> None:
    one, two = runs.experts("bert").path / "topic", runs.experts("distilbert").path / "tags"
    with pytest.raises(ValueError, match="experts of different bases cannot be mixed"):
        mix_config([one, two], "xlora")


def test_a_mixture_is_not_mixed_again(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"is a mixture, which is not mixed again"):
        mix_config([folder.path], "xlora")


def test_a_run_that_has_not_ended_is_refused(runs: Runs, tmp_path: Path) -> None:
    part = shutil.copytree(runs.experts("bert").path / "tags", tmp_path / "tags")
    shutil.rmtree(part / "expert")
    with pytest.raises(ValueError, match="holds no expert yet; train it to its end first"):
        mix_config([part], "xlora")


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"name": "dora", "rank": 2}, r"dora.*has no exact factors .*weft export --rank"),
        ({"name": "head"}, r"recipe head trains no adapters, so there is nothing to mix"),
        ({"name": "full"}, r"full-run.*(trains no adapters|whole trained model)"),
        ({"name": "lora", "train_also": ["norms"]}, r"owns copies of .*train_also"),
    ],
)
def test_what_has_no_factors_to_mix_is_refused(
    recipe: dict[str, Any], sentence: str, runs: Runs, tmp_path: Path
) -> None:
    run = runs.settings("bert", "tags", recipe=recipe, training={"max_steps": 1})
    expert = train(run, out=tmp_path / f"{recipe['name']}-run")
    with pytest.raises(ValueError, match=sentence):
        train(mix_config([expert.path], "xlora"), out=tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("xlora", ["mixture.top_k=9"], r"mixture xlora: top_k 9 is more than the 5 experts"),
        ("xlora", ["mixture.topk=2"], r"topk.*Did you mean 'top_k'"),
        ("xloar", [], r"xloar.*Did you mean 'xlora'"),
        ("single_pass", ["mixture.reader=layer", "mixture.layer=7"], r"layer 7: .*layers 0 to 1"),
        ("xlora", ["recipe.name=dora"], r"recipe dora: a mixture's experts are trained as"),
        ("mixlora", ["mixture.start=experts"], r"mixture mixlora: .*start: nothing"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, overrides: list[str], sentence: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, KeyError), match=sentence):
        train(mix_config([runs.experts("bert").path], name, overrides), out=tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()


def test_a_task_without_its_data_is_refused(runs: Runs, tmp_path: Path) -> None:
    tasks = shutil.copytree(runs.tasks, tmp_path / "tasks")
    run = runs.settings("bert", "topic", "tags") | {
        "tasks": [{"name": str(tasks / task / f"{task}.yaml")} for task in ("topic", "tags")]
    }
    experts = train(run, out=tmp_path / "experts")
    (tasks / "tags" / "train.conll").unlink()
    with pytest.raises(ValueError, match=r"tags.*train"):
        train(mix_config([experts.path], "uniform"), out=tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()
