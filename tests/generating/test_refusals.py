"""What does not belong together is refused, by name and before long work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.generating.runs import SETTINGS, write_tasks
from tests.merging.runs import Made
from weft.generating.generator import Generator
from weft.generating.settings import GeneratorSettings
from weft.generating.sources import find, read


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ({"rank": 3}, r"query\.A: expected shape \(2, 32\), got shape \(3, 32\)"),
        ({"targets": ["query"]}, r"value\.A: expected shape \(2, 32\), got no such tensor"),
        ({"name": "dora"}, "dora changes weights by more than low-rank factors"),
        ({"name": "head"}, "recipe head trained no adapters"),
        ({"train_also": ["norms"]}, "owns copies of .*LayerNorm"),
    ],
)
def test_experts_of_other_tensors_are_refused(
    recipe: dict[str, Any], match: str, made: Made, runs: list[Path], tmp_path: Path
) -> None:
    odd = made("cat", "odd" + "".join(map(str, recipe.values())), **recipe)
    with pytest.raises(ValueError, match=match):
        weft.learn([runs[1], odd], tmp_path / "g", settings=SETTINGS)
    assert not (tmp_path / "g").exists()


def test_runs_of_other_bases_kinds_and_classes_are_refused(
    made: Made, runs: list[Path], tiny_folder: Callable[[str], Path], tmp_path: Path, words: Path
) -> None:
    away = Made(tmp_path, tiny_folder("roberta"), words)("cat")
    with pytest.raises(ValueError, match="has another base"):
        weft.learn([runs[0], away], tmp_path / "g")
    three = made.labelled("three", ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"has another number of classes \(3\)"):
        weft.learn([runs[0], three], tmp_path / "g")
    with pytest.raises(ValueError, match="from two at least, and got 1"):
        weft.learn([runs[0]], tmp_path / "g")
    with pytest.raises(ValueError, match="is given twice"):
        weft.learn([runs[0], runs[0]], tmp_path / "g")
    with pytest.raises(ValueError, match="no setting named 'epoch'"):
        weft.learn(runs, tmp_path / "g", settings={"epoch": 3})
    with pytest.raises(ValueError, match="leave them away"):
        weft.learn(runs, resume=tmp_path / "g")
    with pytest.raises(ValueError, match="so it is no generator"):
        weft.learn(resume=tmp_path)
    with pytest.raises(ValueError, match="so it is no generator"):
        weft.generate(runs[0], words / "big" / "train.csv")


def test_a_generator_is_of_its_base(
    generator: Path, words: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows, task = words / "big" / "train.csv", str(words / "big" / "big.yaml")
    with pytest.raises(ValueError, match=r"is not the base of the generator .*digest"):
        weft.generate(
            generator, rows, task=task, base=str(tiny_folder("distilbert")), out=tmp_path / "new"
        )
    # Under another name it is the same.
    weft.generate(generator, rows, task=task, base=str(tiny_folder("bert")), out=tmp_path / "new")
    with pytest.raises(ValueError, match="exists; choose another --out"):
        weft.generate(generator, rows, task=task, out=tmp_path / "new")


def test_a_task_vector_of_another_base_or_shape_is_refused(
    generator: Path, runs: list[Path], made: Made
) -> None:
    own = Generator.load(generator)
    source, device = find(runs)[0], torch.device("cpu")
    vector = read(source, made.base, own.record.settings, device).vector
    own.state(vector)
    with pytest.raises(ValueError, match="a task's vector of another base: it was read from"):
        own.state(replace(vector, digest="0" * 64))
    pooled = read(source, made.base, GeneratorSettings(vector="pooled"), device).vector
    with pytest.raises(
        ValueError, match=r"of another shape: pooled, 32 numbers; .* labelled ones of 64"
    ):
        own.state(pooled)


def test_examples_of_another_kind_or_other_classes_are_refused(
    generator: Path, words: Path, tasks_folder: Path, tmp_path: Path
) -> None:
    tags = tasks_folder / "tags"
    with pytest.raises(ValueError, match="tags is token_classification, but the generator"):
        weft.generate(generator, tags / "train.conll", task=str(tags / "tags.yaml"))
    rows = [{"text": "the cat", "label": label} for label in "abc"]
    with pytest.raises(ValueError, match=r"has 3 classes \(a, b, c\), but the generator"):
        weft.generate(generator, rows, out=tmp_path / "new")
    one = [{"text": "the cat", "label": "with"}]
    with pytest.raises(ValueError, match="every class at least once, and no row has without"):
        weft.generate(generator, one, task=str(words / "big" / "big.yaml"), out=tmp_path / "new")
    with pytest.raises(ValueError, match="no such file"):
        weft.generate(generator, tmp_path / "rows.csv", out=tmp_path / "new")
    with pytest.raises(ValueError, match="only one with statistics: own takes an expert's"):
        weft.generate(generator, one, statistics_of=tmp_path, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_trajectory_is_of_one_task_with_adapters(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for run in (
        run_of("topic", "tags", training={"trajectory": 2}),
        run_of("topic", training={"trajectory": 2}, recipe={"name": "head"}),
        run_of("topic", training={"trajectory": 2}, recipe={"name": "full"}),
    ):
        with pytest.raises(ValueError, match=r"training\.trajectory keeps states of one expert"):
            weft.train(run, out=tmp_path / "run")


def test_a_damaged_generator_is_refused(generator: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(generator, tmp_path / "g")
    text = (tmp_path / "g" / "generator.json").read_text()
    (tmp_path / "g" / "generator.json").write_text(text.replace('"latent": 4', '"latent": 5'))
    with pytest.raises(ValueError, match=r"has shape \(4, .*, but generator.json asks for \(5, "):
        Generator.load(tmp_path / "g")
    (tmp_path / "g" / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"generator\.safetensors"):
        Generator.load(tmp_path / "g")


def test_tasks_are_made_of_the_same_texts(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "words")
    texts = {
        tuple(line.split(",")[0] for line in (own / "train.csv").read_text().splitlines())
        for own in folder.iterdir()
    }
    assert len(texts) == 1
