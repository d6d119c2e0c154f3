"""Schedules beside transformers' own, patience, the rows of a step, and one optimizer step beside torch's parts."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from weft.base.loading import load_base
from weft.config import RecipeSettings, TrainingSettings
from weft.methods.recipes import Recipe, resolve
from weft.model.batching import epoch_batches
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.tasks.contract import Record
from weft.training.learning import Learner, Stopper, Stream, rate_factor


class Rows:
    """As much of a task as a stream asks of it."""

    higher_is_better = True

    def length(self, record: Record) -> int:
        return max(len(ids) for ids in record["input_ids"])

    def at_step(self, record: Record, *, seed: int, step: int) -> Record:
        return record

    def sample(self, record: Record, draw: np.random.Generator) -> Record:
        return {**record, "drawn": int(draw.integers(1_000_000))}


def training_of(**settings: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(settings)


def stream_of(rows: int = 10, seed: int = 3, **training: Any) -> Stream:
    records = [
        {"id": str(at), "input_ids": [[1] * (1 + at % 4), [1] * (1 + at % 3)]} for at in range(rows)
    ]
    return Stream(
        "topic",
        Rows(),  # type: ignore[arg-type]
        "sequence_classification",
        "topic",
        ("topic",),
        records,
        None,
        training_of(**training),
        seed,
    )


@pytest.mark.parametrize("total", [1, 7, 40])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_rise_from_the_first_step_and_fall_to_nothing(
    schedule: str, warmup: float, total: int
) -> None:
    training = training_of(schedule=schedule, warmup=warmup)
    warm = round(warmup * total)
    for step in range(total):
        done = (step - warm) / max(1, total - warm)
        wanted = {
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "constant": 1.0,
        }[schedule]
        found = rate_factor(training, step, total)
        assert found > 0
        assert found == pytest.approx((step + 1) / warm if step < warm else wanted, abs=1e-12)
    if schedule != "constant" and warm < total:
        assert rate_factor(training, total, total) == pytest.approx(0, abs=1e-12)


def test_patience_ends_after_so_many_that_are_no_better() -> None:
    for sign in (1, -1):
        stopper = Stopper(2, higher_is_better=sign > 0)
        said = [stopper.better(sign * score, step) for step, score in enumerate((3, 3, 5, 4))]
        assert said == [True, False, True, False]
        assert (stopper.best, stopper.best_step, stopper.is_over) == (sign * 5, 2, False)
        assert not stopper.better(sign * 5, 4)
        assert stopper.is_over
    endless = Stopper(None, higher_is_better=True)
    assert endless.better(0.0, 0)
    assert not any(endless.better(-1.0, step) for step in range(1, 50))
    assert not endless.is_over


def test_an_epoch_shows_every_row_once_and_a_step_is_known_by_its_number_alone() -> None:
    stream = stream_of(10, batch_size=4, epochs=1.5)
    assert (stream.steps_per_epoch, stream.total_steps) == (3, 5)
    assert stream.lengths == [max(1 + at % 4, 1 + at % 3) for at in range(10)]
    told = [[item.record for item in stream.items(step)] for step in range(6)]
    for epoch in (0, 1):
        ids = [record["id"] for step in told[3 * epoch : 3 * epoch + 3] for record in step]
        assert sorted(ids) == [str(at) for at in range(10)]
        batches = epoch_batches(stream.lengths, 4, seed=3, epoch=epoch, bucketing=True)
        assert ids == [str(row) for batch in batches for row in batch]
    twin = stream_of(10, batch_size=4, epochs=1.5)
    for step in (4, 0, 5, 1, 3, 2):
        assert [item.record for item in twin.items(step)] == told[step]
    draws = {record["drawn"] for step in told for record in step}
    assert len(draws) == 20
    other = stream_of(10, seed=4, batch_size=4)
    assert {item.record["drawn"] for step in range(3) for item in other.items(step)}.isdisjoint(
        draws
    )
    [item] = [item for item in twin.items(0) if item.record["id"] == told[0][0]["id"]]
    assert (item.head, item.kind, item.members) == (
        "topic",
        "sequence_classification",
        ("topic",),
    )
    assert stream_of(10, batch_size=4, max_steps=2).total_steps == 2
    assert stream_of(10, batch_size=40, epochs=0.01).total_steps == 1
    assert stream.weight(0) == 1.0


Make = Callable[..., tuple[Learner, list[Expert]]]


@pytest.fixture
def make(tiny_folder: Callable[[str], Path]) -> Make:
    """A learner of LoRA experts in double precision, and they."""

    def build_learner(*names: str, **training: Any) -> tuple[Learner, list[Expert]]:
        base = load_base(str(tiny_folder("bert")), dtype=torch.float64)
        recipe: Recipe = resolve(RecipeSettings.model_validate({"name": "lora", "rank": 2}))
        made = [
            build(name, base, recipe, Head("sequence_classification", base, 3, seed=at), seed=at)
            for at, name in enumerate(names)
        ]
        for expert in made:
            for value in expert.trained().values():
                value.data = value.data.double()
        settings = {"learning_rate": 0.01, **training}
        stream = stream_of(8, batch_size=4, max_steps=10)
        learner = Learner(
            [stream, stream_of(8, batch_size=4, max_steps=5)],
            [(expert, recipe) for expert in made],
            training_of(**settings),
        )
        return learner, made

    return build_learner


def give_gradients(learner: Learner, scale: float) -> dict[str, Tensor]:
    """Gradients of a norm far over 1, and a copy of them."""
    draw = torch.Generator().manual_seed(0)
    for value in learner.parameters.values():
        value.grad = scale * torch.randn(value.shape, generator=draw).to(value.dtype)
    return {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("limit", [0.0, 1.0, 1e6])
def test_a_step_is_adamw_s_on_gradients_that_each_expert_clips_by_itself(
    make: Make, limit: float
) -> None:
    learner, experts = make(
        "a", "b", max_grad_norm=limit, weight_decay=0.1, head_learning_rate=0.5, warmup=0.5
    )
    assert learner.total == 10
    by_hand = copy.deepcopy(dict(learner.parameters))
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [value],
                "lr": 0.5 if "head" in name else 0.01,
                "weight_decay": 0.1 if value.dim() > 1 else 0.0,
            }
            for name, value in by_hand.items()
        ]
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step, scale in enumerate((30.0, 0.001, 7.0)):
        given = give_gradients(learner, scale)
        for expert in experts:
            own = {name: g for name, g in given.items() if name.startswith(f"{expert.name}/")}
            norm = math.sqrt(sum(float(g.square().sum()) for g in own.values()))
            # clip_grad_norm_ adds 1e-6 to the norm.
            factor = min(1.0, limit / (norm + 1e-6)) if limit else 1.0
            for name, grad in own.items():
                by_hand[name].grad = factor * grad
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_factor(learner.training, step, 10)
        optimizer.step()
        learner.step(step, scaler)
        assert learner.done == step + 1
        assert all(value.grad is None for value in learner.parameters.values())
        assert_close(dict(learner.parameters), by_hand, rtol=1e-12, atol=1e-14)


def test_the_best_weights_return_and_without_any_nothing_changes(make: Make) -> None:
    learner, _ = make("a")
    start = {name: value.detach().clone() for name, value in learner.parameters.items()}
    learner.restore_best()
    assert_close(dict(learner.parameters), start, rtol=0, atol=0)
    learner.keep_best()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    give_gradients(learner, 1.0)
    learner.step(0, scaler)
    for name, value in learner.parameters.items():
        assert not torch.equal(value, start[name])
    learner.restore_best()
    assert_close(dict(learner.parameters), start, rtol=0, atol=0)


@pytest.mark.parametrize(("watched", "higher"), [("score", True), ("loss", False)])
def test_what_is_watched_decides_which_way_is_better(
    make: Make, watched: str, higher: bool
) -> None:
    learner, _ = make("a", early_stopping=1, early_stopping_on=watched)
    assert learner.stopper.better(1.0, 0)
    assert learner.stopper.better(2.0, 1) == higher


def test_two_experts_keep_their_states_apart_by_name(make: Make) -> None:
    learner, experts = make("a", "b")
    parts = ("optimizer", "controller", "expert")
    own = [f"{name}/{part}" for name in "ab" for part in parts]
    assert list(learner.hooks()) == ["/balance", *own]
    for expert in experts:
        for name, value in expert.trained().items():
            assert learner.parameters[f"{expert.name}/{name}"] is value


class Counting(Expert):
    """Remembers what it was told after each step."""

    def after_step(self, done: int, total: int) -> None:
        self.told = [*getattr(self, "told", []), (done, total)]


def test_an_expert_is_told_how_many_steps_are_done(make: Make) -> None:
    learner, [expert] = make("a")
    counting = Counting("c", dict(expert.adapters), expert.head)
    learner.experts = [(counting, recipe) for _, recipe in learner.experts]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(2):
        give_gradients(learner, 1.0)
        learner.step(step, scaler)
    assert counting.told == [(1, 10), (2, 10)]


@pytest.mark.parametrize("rate", [None, 0.25])
def test_a_private_trunk_learns_at_the_run_s_rate_or_else_the_recipe_s(
    make: Make, rate: float | None
) -> None:
    learner, _ = make("a", learning_rate=rate)
    trunk = nn.Linear(3, 2)
    own = Learner(learner.streams, learner.experts, learner.training, trunk)
    assert own.parameters.keys() - learner.parameters.keys() == {"trunk/weight", "trunk/bias"}
    rates = {
        id(value): group["lr"] for group in own.optimizer.param_groups for value in group["params"]
    }
    wanted = rate or learner.experts[0][1].learning_rate
    assert {rates[id(value)] for value in trunk.parameters()} == {wanted}
    assert len(rates) == len(own.parameters)
