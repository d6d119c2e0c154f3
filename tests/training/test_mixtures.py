"""Every mixture trains over experts that exist, changes only what is its own, and comes back as it was."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.mixed import NAMES, batch_of, is_new, of_experts, rows, takes_experts, tiny
from tests.training.mixed_runs import Runs, runs_of, steps
from weft.answering.evaluation import evaluate
from weft.base.loading import load_base
from weft.methods.gates.settings import trains_experts
from weft.methods.gates.trace import GateTrace, traced
from weft.model.mixing import MIX, make_mix, method_of, starts_from_experts
from weft.runs import RunFolder
from weft.storage.ingredients import read_ingredients
from weft.storage.loading import load_run_model
from weft.storage.mixture import folder_digest, load_mixture
from weft.training.loop import Event, Interrupted, train
from weft.training.settings import mix_config

BASES = ("distilbert", "roberta", "modernbert", "llama")
BF16 = "training.precision=bf16"
OF_EXPERTS = [name for name in NAMES if takes_experts(name)]
START = "mixture.start=experts"
CASES = [
    *[(base, name, ()) for base in BASES for name in ("xlora", "single_pass")],
    *[("bert", name, (BF16, START) if is_new(name) else (BF16,)) for name in OF_EXPERTS],
    *[("gpt2", name, ()) for name in NAMES],
    *[("bert", "mixlora", ()), ("bert", "xlora", ()), ("bert", "uniform", ())],
    *[("bert", "single_pass", ("mixture.reader=local",))],
    *[("llama", "single_pass", ("mixture.reader=layer",))],
]
EACH = pytest.mark.parametrize(
    ("base", "name", "more"), CASES, ids=lambda own: own if isinstance(own, str) else "-".join(own)
)


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


def overrides(name: str, more: tuple[str, ...] = ()) -> list[str]:
    settings = of_experts(name) if START in more else tiny(name)
    return [*(f"mixture.{key}={value}" for key, value in settings.items()), *more]


def mixture(runs: Runs, base: str, name: str, more: tuple[str, ...] = ()) -> RunFolder:
    return runs.mixture(base, name, *overrides(name, more))


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["value"] for row in rows}


@EACH
def test_it_leaves_a_complete_folder_that_answers_as_it_did(
    base: str, name: str, more: tuple[str, ...], runs: Runs
) -> None:
    folder = mixture(runs, base, name, more)
    assert folder.is_complete
    assert not folder.checkpoints.exists()
    assert [part.path.name for part in folder.parts()] == list(runs.kinds(base))
    for part in folder.parts():
        assert part.training is not None
        assert part.run.task is not None
        assert all(math.isfinite(row["value"]) for row in part.metrics)
        [recognition] = [row for row in part.metrics if row["name"] == "recognition"]
        assert recognition["low"] <= recognition["value"] <= recognition["high"]
    part = folder.parts()[1]
    found = evaluate(part.path, save=False)
    assert not isinstance(found, list)
    assert {key: own.value for key, own in found.scores.items()} == scores(part.metrics)
    lines = (part.path / "predictions-validation.jsonl").read_text().splitlines()
    assert [json.loads(json.dumps(row)) for row in found.predictions] == list(
        map(json.loads, lines)
    )


@EACH
def test_only_what_it_declares_has_changed(
    base: str, name: str, more: tuple[str, ...], runs: Runs
) -> None:
    folder = mixture(runs, base, name, more)
    settings = folder.run.mixture
    assert settings is not None
    _, spec = method_of(settings)
    on = load_base(folder.run.base, dtype=torch.float32 if BF16 in more else torch.float64)
    mix, heads, _ = load_mixture(folder.mixture, on)
    owners = read_ingredients(settings.runs, on)
    mixed = owners if starts_from_experts(spec) else {}
    start = make_mix(settings, on, mixed, list(owners), folder.run.seed).mixture
    after = mix.mixture.state_dict()
    assert after.keys() == start.state_dict().keys()
    free = {key for key, value in start.named_parameters() if value.requires_grad}
    free |= {key for key, _ in start.named_buffers()}
    changed = {key for key, was in start.state_dict().items() if not torch.equal(after[key], was)}
    assert changed <= free
    assert bool(changed) == any(value.requires_grad for value in start.parameters())
    learns = trains_experts(spec)
    for task, owner in owners.items():
        copied = folder.mixture / "experts" / task
        assert copied.is_dir() != learns
        assert learns or folder_digest(copied) == folder_digest(owner.folder)
        head, was = heads[task][0].head, owner.expert.head
        assert head is not None
        assert was is not None
        before = was.state()
        same = all(torch.equal(value, before[key]) for key, value in head.state().items())
        assert same == (not learns) or not before


def gates(folder: RunFolder, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    loaded = load_run_model(folder.parts()[0].path, device="cpu")
    batch = batch_of([*rows("topic", 3, MIX), *rows("tags", 3, MIX)])
    trace = GateTrace()
    with torch.inference_mode(), traced(trace):
        answers = loaded.model(batch)
    return {module: own.gates for module, own in trace.gates.items()}, answers


@pytest.mark.parametrize(
    "base",
    # What a mixture saves is of its kind, not of the base: the others are for the patient.
    ["bert", "gpt2", *(pytest.param(base, marks=pytest.mark.slow) for base in BASES)],
)
@pytest.mark.parametrize("name", NAMES)
def test_reloaded_under_another_seed_its_gates_have_the_same_bits(
    name: str, base: str, runs: Runs
) -> None:
    folder = mixture(runs, base, name)
    first, second = gates(folder, 1), gates(folder, 2)
    assert first[0]
    for before, after in zip(first, second, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("xlora", ["mixture.depth=2", "mixture.width=8"]),
        ("smora", ["mixture.top_k=2", START, "mixture.bias_rate=0.01"]),
        ("lora_mixer", ["mixture.train_experts=true", "mixture.hard_share=0.4"]),
    ],
)
def test_it_resumes_to_the_same_bits(
    name: str, more: list[str], runs: Runs, tmp_path: Path
) -> None:
    config = mix_config(
        [runs.experts("bert").path], name, [*steps(6), *more, "mixture.dropout=0.1"]
    )
    whole = train(config, out=tmp_path / "whole")

    def interrupt(event: Event) -> None:
        if event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, out=tmp_path / "broken", report=interrupt)
    assert not RunFolder(tmp_path / "broken").is_complete
    resumed = train(resume=tmp_path / "broken")
    assert resumed.is_complete
    for file in sorted(whole.mixture.rglob("*.safetensors")):
        expected = load_file(file)
        found = load_file(resumed.mixture / file.relative_to(whole.mixture))
        assert expected.keys() == found.keys()
        assert [n for n, value in expected.items() if not torch.equal(value, found[n])] == []
    for part, other in zip(whole.parts(), resumed.parts(), strict=True):
        assert part.metrics == other.metrics
