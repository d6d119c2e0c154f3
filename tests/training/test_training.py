"""What training promises, on tiny bases and tasks of every kind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from weft.base.loading import load_base
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.training.loop import Event, Interrupted, train

Settings = Callable[..., dict[str, Any]]
TASKS = ("topic", "tags", "endings", "where")


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every saved tensor of a run's expert."""
    return load_file(folder / "expert" / "adapter_model.safetensors")


def assert_same(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_several_experts_in_one_run_equal_their_separate_runs(
    run_of: Settings, tmp_path: Path, accumulation: int
) -> None:
    training = {"max_steps": 20, "accumulation": accumulation, "max_grad_norm": 0.05}
    train(run_of(*TASKS, training=training), out=tmp_path / "several")
    for name in TASKS:
        train(run_of(name, training={"max_steps": 20, "max_grad_norm": 0.05}), out=tmp_path / name)
        assert_same(tensors(tmp_path / "several" / name), tensors(tmp_path / name), 1e-8)


def test_an_expert_changes_when_it_trains_and_the_base_does_not(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("topic")
    before = load_base(run["base"]).digest
    folder = train(run, out=tmp_path / "run")
    state = tensors(folder.path)
    ups = [value for name, value in state.items() if "lora_B" in name]
    assert ups
    assert all(value.abs().max() > 0 for value in ups)
    assert load_base(run["base"]).digest == before


def test_the_same_seed_repeats_itself_and_another_does_not(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("tags", training={"base_dropout": 0.2})
    first = train(run, out=tmp_path / "first")
    again = train(run, out=tmp_path / "again")
    other = train(run | {"seed": 4}, out=tmp_path / "other")
    assert_same(tensors(again.path), tensors(first.path))
    assert any(
        not torch.equal(value, tensors(other.path)[name])
        for name, value in tensors(first.path).items()
    )


def _dropout_run(run_of: Settings) -> dict[str, Any]:
    return run_of(
        "topic",
        "tags",
        training={"base_dropout": 0.1, "precision": "fp32", "early_stopping": 50, "eval_every": 2},
        recipe={"name": "lora", "dropout": 0.1},
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_bits(
    run_of: Settings, tmp_path: Path, stop: signal.Signals
) -> None:
    run = _dropout_run(run_of)
    whole = train(run, out=tmp_path / "whole")

    def interrupt(event: Event) -> None:
        if event.step == 5:
            os.kill(os.getpid(), stop)

    with pytest.raises(Interrupted, match="--resume"):
        train(run, out=tmp_path / "broken", report=interrupt)
    assert not RunFolder(tmp_path / "broken").is_complete
    resumed = train(resume=tmp_path / "broken")
    for part, expected in zip(resumed.parts(), whole.parts(), strict=True):
        assert_same(tensors(part.path), tensors(expected.path))
        assert part.metrics == expected.metrics
    steps = [json.loads(line)["step"] for line in resumed.log.read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in whole.log.read_text().splitlines()]
    assert not resumed.checkpoints.exists()


def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_bits(
    run_of: Settings, tmp_path: Path
) -> None:
    run = _dropout_run(run_of)
    run["training"] |= {"checkpoint_every": 3}
    whole = train(run, out=tmp_path / "whole")
    code = (
        "import json, os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from weft.training.loop import train\n"
        "def kill(event):\n"
        "    if event.step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(json.loads(sys.argv[1]), out=sys.argv[2], report=kill)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, json.dumps(run), str(tmp_path / "broken")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == [
        "step-00000003"
    ]
    resumed = train(resume=tmp_path / "broken")
    for part, expected in zip(resumed.parts(), whole.parts(), strict=True):
        assert_same(tensors(part.path), tensors(expected.path))


def test_gradient_checkpointing_changes_nothing_but_memory(
    run_of: Settings, tmp_path: Path
) -> None:
    plain = train(run_of("tags", "topic"), out=tmp_path / "plain")
    run = run_of("tags", "topic", training={"gradient_checkpointing": True})
    checkpointed = train(run, out=tmp_path / "checkpointed")
    for part, expected in zip(checkpointed.parts(), plain.parts(), strict=True):
        assert_same(tensors(part.path), tensors(expected.path), 1e-10)


def test_early_stopping_is_per_expert_and_brings_the_best_weights_back(
    run_of: Settings, tmp_path: Path
) -> None:
    training = {"max_steps": 30, "eval_every": 2, "early_stopping": 2, "select_on": "validation"}
    folder = train(run_of("topic", "tags", training=training), out=tmp_path / "run")
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    for part in folder.parts():
        name = part.path.name
        scores = {
            line["step"]: line["score"][name] for line in lines if name in line.get("score", {})
        }
        best = max(scores.values())
        first_best = next(step for step, value in scores.items() if value == best)
        assert part.training is not None
        assert part.training["best_step"] == first_best
        # Patience of two evaluations after the best one, then nothing more.
        assert max(scores) == min(first_best + 4, 30)
        assert part.training["steps"] == max(scores)
        metric = "f1" if name == "tags" else "accuracy"
        final = next(row["value"] for row in part.metrics if row["name"] == metric)
        assert final == pytest.approx(best, abs=1e-12)


def test_early_stopping_on_loss_keeps_the_weights_with_the_least(
    run_of: Settings, tmp_path: Path
) -> None:
    training = {
        "max_steps": 40,
        "eval_every": 2,
        "early_stopping": 3,
        "early_stopping_on": "loss",
        "select_on": "validation",
        "learning_rate": 0.05,
    }
    folder = train(run_of("tags", training=training), out=tmp_path / "run")
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    losses = {line["step"]: line["held_loss"]["tags"] for line in lines if "held_loss" in line}
    assert all(line["score"].keys() == {"tags"} for line in lines if "held_loss" in line)
    best = min(losses, key=lambda step: losses[step])
    assert folder.training is not None
    assert folder.training["best_step"] == best
    assert folder.training["steps"] == max(losses) == best + 6 < 40
    # The score is best elsewhere, so that watching it would be seen.
    scores = {line["step"]: line["score"]["tags"] for line in lines if "held_loss" in line}
    assert max(scores, key=lambda step: scores[step]) != best


@pytest.mark.parametrize("experts", ["shared", "both"])
def test_shared_experts_are_saved_as_one_expert_for_each_task(
    run_of: Settings, tmp_path: Path, experts: str
) -> None:
    run = run_of("topic", "tags", experts=experts, training={"max_steps": 6})
    folder = train(run, out=tmp_path / "run")
    first, second = (tensors(part.path) for part in folder.parts())
    downs = [name for name in first if "lora_A" in name]
    shared = [torch.equal(first[name][:8], second[name][:8]) for name in downs]
    assert downs
    assert all(shared)
    assert {first[name].shape[0] for name in downs} == {8 if experts == "shared" else 16}
    if experts == "both":
        assert not any(torch.equal(first[name][8:], second[name][8:]) for name in downs)
    base = load_base(run["base"], dtype=torch.float64)
    expert, card = load_expert(folder.parts()[1].expert, base)
    assert card.head == "token_classification"
    assert expert.adapter_parameters() == sum(v.numel() for n, v in second.items() if "lora_" in n)


def test_train_also_trains_private_copies(run_of: Settings, tmp_path: Path) -> None:
    recipe = {"name": "lora", "train_also": ["norms", "word_embeddings"]}
    run = run_of("topic", recipe=recipe)
    folder = train(run, out=tmp_path / "run")
    state = tensors(folder.path)
    base = load_base(run["base"], dtype=torch.float64)
    norms = [name for name in state if "LayerNorm" in name and name.endswith("weight")]
    assert len(norms) == 5
    changed = state["base_model.model.bert.embeddings.word_embeddings.weight"]
    assert not torch.equal(changed, base.trunk.get_input_embeddings().weight)
    expert, _ = load_expert(folder.expert, base)
    torch.testing.assert_close(
        expert.copies["embeddings.word_embeddings"].weight, changed, rtol=0, atol=0
    )


def test_init_from_starts_where_another_run_ended(run_of: Settings, tmp_path: Path) -> None:
    first = train(run_of("topic"), out=tmp_path / "first")
    tiny = {"max_steps": 1, "learning_rate": 1e-12}
    second = train(
        run_of("topic", init_from=str(first.path), training=tiny), out=tmp_path / "second"
    )
    assert_same(tensors(second.path), tensors(first.path), 1e-9)


def test_only_trained_parameters_are_in_checkpoints(run_of: Settings, tmp_path: Path) -> None:
    sizes = []

    def look(event: Event) -> None:
        found = list((tmp_path / "run" / "checkpoints").glob("*/state.safetensors"))
        sizes.extend(load_file(path).keys() for path in found)

    run = run_of("topic", training={"checkpoint_every": 2, "keep_checkpoints": 2})
    train(run, out=tmp_path / "run", report=look)
    names = {
        name.split("/", 1)[1] for keys in sizes for name in keys if name.startswith("0/weight/")
    }
    assert names
    assert all("_adapters" in name or "head.module.classifier" in name for name in names)


def test_full_trains_every_weight_of_a_private_copy(run_of: Settings, tmp_path: Path) -> None:
    run = run_of("topic", recipe="full", training={"learning_rate": 1e-3})
    folder = train(run, out=tmp_path / "run")
    base = load_base(run["base"], dtype=torch.float64)
    saved = load_file(folder.expert / "model.safetensors")
    for name, value in base.trunk.named_parameters():
        if "pooler" not in name and "position" not in name:
            assert not torch.equal(saved[f"bert.{name}"].to(value), value), name


def test_nothing_is_written_over(run_of: Settings, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="exists"):
        train(run_of("topic"), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("base", "kind"), [("bert", "topic"), ("bert", "endings"), ("bert", "fill"), ("gpt2", "go_on")]
)
def test_full_trains_poolers_and_language_model_heads_too(
    run_of: Settings, tmp_path: Path, base: str, kind: str
) -> None:
    run = run_of(
        kind, base=base, recipe="full", training={"learning_rate": 1e-3, "precision": "fp32"}
    )
    folder = train(run, out=tmp_path / "run")
    before = load_file(Path(run["base"]) / "model.safetensors")
    after = load_file(folder.expert / "model.safetensors")
    heads = [name for name in after if "pooler" in name or name.startswith("cls.") or "wte" in name]
    assert heads
    for name in heads:
        assert not torch.equal(after[name], before[name]), name
    if kind in ("fill", "go_on"):
        # Tied before, tied after: the output map is not stored a second time.
        assert not {"cls.predictions.decoder.weight", "lm_head.weight"} & after.keys()
