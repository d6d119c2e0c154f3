"""A generator learns from run folders and writes experts that are as good as any to every command."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.testing import assert_close

import weft
from tests.generating.runs import SETTINGS, WORDS
from tests.merging.runs import Made
from weft.config import TaskSettings
from weft.data.encoding import encode_examples
from weft.data.reading import load_task
from weft.generating.generate import read_generated
from weft.generating.generator import Generator
from weft.generating.learn import Epoch
from weft.generating.settings import GeneratorSettings
from weft.generating.sources import find, flat_expert, read
from weft.generating.vectors import task_vector
from weft.lowrank.route import Route
from weft.model.expert import factors_of
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.training.stopping import Interrupted


@pytest.fixture
def written(generator: Path, words: Path, tmp_path: Path) -> RunFolder:
    """An expert for the task that the generator has not seen."""
    last = words / WORDS[-1]
    return weft.generate(
        generator, last / "train.csv", task=str(last / "big.yaml"), out=tmp_path / "new", data=last
    )


def test_a_generated_expert_is_evaluated_asked_reloaded_and_exported(
    written: RunFolder, made: Made, tmp_path: Path
) -> None:
    assert written.is_complete
    result = weft.evaluate(written.path)
    assert not isinstance(result, list)
    assert (result.task, result.n) == ("big", 12)
    [answer] = weft.predict(written.path, [{"text": "the big dog"}])
    _, card = load_expert(written.expert, made.base)
    assert card.labels == ("without", "with")
    # Export is exact: the merged checkpoint, loaded by transformers, says the same.
    weft.export(written.path, tmp_path / "out", to="merged")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", dtype=torch.float64
    )
    tokens = made.base.tokenizer(["the big dog"], return_tensors="pt")
    with torch.no_grad():
        logits = theirs.eval()(**tokens).logits[0]
    said = torch.tensor([answer["probabilities"][label] for label in card.labels])
    assert_close(logits.softmax(-1).float(), said)
    assert theirs.config.id2label[int(logits.argmax())] == answer["label"]


def test_what_is_written_is_what_the_generator_said(
    generator: Path, made: Made, words: Path, written: RunFolder
) -> None:
    own = Generator.load(generator)
    [*_, last] = find([made.folder / word for word in WORDS])
    vector = read(last, made.base, own.record.settings, torch.device("cpu")).vector
    state = own.state(vector, seed=0)
    expert, _ = load_expert(written.expert, made.base)
    for module, (A, B) in factors_of(expert, made.base.trunk).items():
        assert_close(A, state[f"{module}.A"].double())
        assert_close(B, state[f"{module}.B"].double())
    assert expert.head is not None
    for name, value in expert.head.state().items():
        assert_close(value, state[f"head.{name}"].double())
    told = read_generated(written.path)
    assert told["rows"] == 12
    assert {one["task"] for one in told["nearest"]} == set(WORDS[:-1])
    assert told["nearest"][0]["distance"] <= told["nearest"][1]["distance"]


def test_the_same_seed_is_the_same_expert_and_another_another(
    generator: Path, words: Path, tmp_path: Path
) -> None:
    def made(name: str, word: str = "big", **how: Any) -> dict[str, torch.Tensor]:
        own = words / word
        task, rows = str(own / f"{word}.yaml"), own / "train.csv"
        folder = weft.generate(generator, rows, task=task, out=tmp_path / name, **how)
        return load_file(folder.expert / "adapter_model.safetensors")

    one, same = made("a", seed=1), made("b", seed=1)
    assert all(torch.equal(same[name], value) for name, value in one.items())
    other, task = made("c", seed=2), made("d", word="cat", seed=1)
    assert not all(torch.equal(other[name], value) for name, value in one.items())
    assert not all(torch.equal(task[name], value) for name, value in one.items())
    middle, again = made("e", seed=1, spread=0.0), made("f", seed=2, spread=0.0)
    assert all(torch.equal(again[name], value) for name, value in middle.items())


def test_a_task_vector_is_the_mean_state_of_what_has_each_class(
    made: Made, runs: list[Path]
) -> None:
    [source, _] = find(runs[:2])
    own = read(source, made.base, GeneratorSettings(examples=100), torch.device("cpu")).vector
    with (made.tasks / "cat" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = Model(made.base).snapshot
    sums: dict[str, list[torch.Tensor]] = {"without": [], "with": []}
    for row in rows:
        tokens = made.base.tokenizer([row["text"]], return_tensors="pt")
        with torch.no_grad():
            states = held.states(dict(tokens), None)[0]
        sums[row["label"]].append(states.mean(0))
    expected = torch.cat([torch.stack(own).mean(0) for own in sums.values()])
    assert_close(own.values, expected)
    pooled = read(
        source,
        made.base,
        GeneratorSettings(examples=100, vector="pooled"),
        torch.device("cpu"),
    ).vector
    every = torch.stack([*sums["without"], *sums["with"]]).mean(0)
    assert_close(pooled.values, every)


def test_the_vector_of_a_decoder_is_its_state_at_the_last_position(
    tiny_folder: Any, tasks_folder: Path, tmp_path: Path
) -> None:
    made = Made(tmp_path, tiny_folder("gpt2"), tasks_folder)
    settings = TaskSettings(name=str(tasks_folder / "go_on" / "go_on.yaml"))
    loaded = load_task(settings, splits=["validation"], seed=0)
    records = encode_examples(
        loaded.task, loaded.splits["validation"][:3], made.base.tokenizer, cache=None
    )
    own = task_vector(made.base, loaded.task, records, "pooled", torch.device("cpu"))
    held = Model(made.base).snapshot
    ends = []
    for record in records:
        for ids in record["input_ids"]:
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
            with torch.no_grad():
                ends.append(held.states(inputs, Route.by_row([()], [1]))[0, -1])
    assert_close(own.values, torch.stack(ends).mean(0))


def test_rows_alone_are_read_as_those_of_the_generators_tasks(
    generator: Path, tmp_path: Path
) -> None:
    rows = [{"text": "the big cat", "label": "yes"}, {"text": "the cat", "label": "no"}]
    made = weft.generate(generator, rows, out=tmp_path / "new")
    [answer] = weft.predict(made.path, [{"text": "the big dog"}])
    assert answer["label"] in ("yes", "no")
    result = weft.evaluate(made.path, data=rows)
    assert not isinstance(result, list)
    assert result.n == 2


def test_an_interrupted_generator_ends_in_the_same_bits(runs: list[Path], tmp_path: Path) -> None:
    whole = weft.learn(runs, tmp_path / "whole", settings=SETTINGS)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weft.learn(runs, tmp_path / "cut", settings=SETTINGS, report=stop)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    with pytest.raises(ValueError, match="not trained to its end; go on with weft learn --resume"):
        Generator.load(tmp_path / "cut")
    seen: list[int] = []
    cut = weft.learn(resume=tmp_path / "cut", report=lambda epoch: seen.append(epoch.epoch))
    assert seen == [3, 4, 5, 6]
    one, other = (load_file(own / "generator.safetensors") for own in (whole, cut))
    assert all(torch.equal(other[name], value) for name, value in one.items())
    assert (whole / "log.jsonl").read_text() == (cut / "log.jsonl").read_text()
    names = {"generator.json", "generator.safetensors", "tasks.safetensors", "log.jsonl"}
    assert {file.name for file in cut.iterdir()} == names
    assert weft.learn(resume=cut) == cut


def test_a_signal_stops_between_epochs_with_the_state_saved(
    runs: list[Path], tmp_path: Path
) -> None:
    def ask(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped after epoch 1 of 6; go on with --resume"):
        weft.learn(runs, tmp_path / "g", settings=SETTINGS, report=ask)
    assert weft.learn(resume=tmp_path / "g") == tmp_path / "g"


def test_statistics_of_the_nearest_task_or_by_a_leak_of_the_task_itself(
    runs: list[Path], made: Made, words: Path, tmp_path: Path
) -> None:
    g = weft.learn(runs[:-1], tmp_path / "g", settings={**SETTINGS, "statistics": "own"})
    last = words / "big"
    rows, task = last / "train.csv", str(last / "big.yaml")
    near = weft.generate(g, rows, task=task, out=tmp_path / "near")
    leak = weft.generate(g, rows, task=task, out=tmp_path / "leak", statistics_of=runs[-1])
    told = read_generated(near.path)
    assert told["statistics"] == f"of {told['nearest'][0]['task']}"
    assert read_generated(leak.path)["statistics"].endswith("the same task's, a leak")
    nearest = next(run for run in runs if run.name == told["nearest"][0]["task"])
    own = Generator.load(g)
    vector = read(find(runs)[-1], made.base, own.record.settings, torch.device("cpu")).vector
    made_up = own.state(vector)
    for folder, source in ((near, nearest), (leak, runs[-1])):
        # x = (w - m) / s is the same of both; m and s are those of the source.
        layout, theirs = flat_expert(source / "expert", made.base, "canonical")
        _, written = flat_expert(folder.expert, made.base, "trained")
        for name, values, start in zip(
            layout.names, written.split(layout.sizes), theirs.split(layout.sizes), strict=True
        ):
            if folder is near:
                assert_close(values, made_up[name].flatten(), rtol=1e-5, atol=1e-6)
            else:
                mean, spread = start.mean(), start.std(unbiased=False)
                nearby = near_of(made_up[name], layout, name, made, nearest)
                assert_close(values, nearby * spread + mean, rtol=1e-4, atol=1e-5)


def near_of(value: torch.Tensor, layout: Any, name: str, made: Made, nearest: Path) -> torch.Tensor:
    """What the autoencoder said of a tensor, the nearest task's statistics taken away."""
    _, theirs = flat_expert(nearest / "expert", made.base, "canonical")
    start = dict(zip(layout.names, theirs.split(layout.sizes), strict=True))[name]
    return (value.flatten() - start.mean()) / start.std(unbiased=False)


def test_a_generator_knows_its_log_and_its_tasks(generator: Path, runs: list[Path]) -> None:
    lines = [json.loads(line) for line in (generator / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    record = Generator.load(generator).record
    assert [(own.name, own.run) for own in record.tasks] == [(r.name, str(r)) for r in runs[:-1]]


def test_a_trained_trajectory_is_what_a_generator_sees(
    words: Path, tiny_folder: Any, made: Made, tmp_path: Path
) -> None:
    def trained(word: str, **training: Any) -> RunFolder:
        config = {
            "base": str(tiny_folder("bert")),
            "task": str(words / word / f"{word}.yaml"),
            "recipe": {"name": "lora", "rank": 2},
            "training": {
                "max_steps": 8,
                "batch_size": 4,
                "learning_rate": 5e-3,
                "precision": "fp64",
                **training,
            },
        }
        return weft.train(config, out=tmp_path / f"{word}-{len(training)}")

    run = trained("cat", trajectory=3)
    kept = sorted(own.name for own in run.trajectory.iterdir())
    assert kept == ["step-00000006", "step-00000007", "step-00000008"]
    last = load_file(run.trajectory / kept[-1] / "adapter_model.safetensors")
    ended = load_file(run.expert / "adapter_model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in ended.items())
    first = load_file(run.trajectory / kept[0] / "adapter_model.safetensors")
    assert any(not torch.equal(first[name], value) for name, value in ended.items())
    other = trained("red")
    assert not other.trajectory.exists()
    g = weft.learn([run.path, other.path], tmp_path / "g", settings=SETTINGS)
    assert [own.states for own in Generator.load(g).record.tasks] == [3, 1]
