"""One LoRA on concatenated data: steps whose rows are drawn from all tasks, and what the three strategies share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from weft.config import load_run
from weft.lowrank.route import Route
from weft.training.assembly import Session, assemble
from weft.training.loop import train
from weft.training.sampling import Sampled, shares
from weft.training.settings import completed
from weft.training.stepping import Stepper

Settings = Callable[..., dict[str, Any]]
TASKS = ("topic", "tags", "where")


def session_of(run: dict[str, Any]) -> Session:
    return assemble(completed(load_run(run)), torch.device("cpu"))


def test_shares_follow_sizes_to_the_temperature() -> None:
    assert shares([100, 300], 1.0).tolist() == [0.25, 0.75]
    assert shares([100, 300], 0.0).tolist() == [0.5, 0.5]
    root = np.sqrt([100, 400])
    assert shares([100, 400], 0.5).tolist() == (root / root.sum()).tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_frequencies_match_within_three_deviations(temperature: float, run_of: Settings) -> None:
    run = run_of(*TASKS[:2], experts="shared", training={"sampling": temperature})
    first = session_of(run).streams[0]
    training = first.training.model_copy(update={"batch_size": 1, "max_steps": 10_000})
    common = {key: getattr(first, key) for key in ("name", "task", "kind", "head", "members")}
    stream = Sampled(
        **common,
        records=first.records,
        held=None,
        training=training,
        seed=0,
        sizes=[5, 20],
        place=0,
        temperature=temperature,
    )
    p = shares([5, 20], temperature)[0]
    drawn = sum(stream.weight(step) for step in range(10_000))
    assert abs(drawn - 10_000 * p) < 3 * np.sqrt(10_000 * p * (1 - p))


def test_a_step_holds_one_batch_of_all_tasks_and_every_row_comes_once_an_epoch(
    run_of: Settings,
) -> None:
    run = run_of(*TASKS, experts="shared", training={"sampling": 1.0, "max_steps": 200})
    streams = session_of(run).streams
    for step in range(200):
        assert sum(len(stream.items(step)) for stream in streams) == 4
        assert sum(stream.weight(step) for stream in streams) == pytest.approx(1.0)
    for stream in streams:
        assert isinstance(stream, Sampled)
        seen = [item.record["id"] for step in range(200) for item in stream.items(step)]
        ids = sorted(record["id"] for record in stream.records)
        assert sorted(seen[: len(ids)]) == ids


def test_it_trains_and_repeats_itself(run_of: Settings, tmp_path: Path) -> None:
    run = run_of(*TASKS, experts="shared", training={"sampling": 0.5})
    found = [train(run, out=tmp_path / name).parts() for name in ("one", "two")]
    for one, two in zip(*found, strict=True):
        assert one.metrics == two.metrics
        assert one.metrics


def test_separate_experts_refuse_it(run_of: Settings) -> None:
    with pytest.raises(ValueError, match="experts: shared or both"):
        session_of(run_of(*TASKS, training={"sampling": 1.0}))
    with pytest.raises(ValueError, match="sampling"):
        session_of(run_of("tags", training={"sampling": 1.0}))


def test_shared_and_own_adapters_get_gradients_from_their_rows_alone(run_of: Settings) -> None:
    session = session_of(run_of(*TASKS, experts="both"))
    stepper = Stepper(session, Accelerator(cpu=True))
    learner = session.learners[0]
    kept = learner.streams
    learner.streams = [stream for stream in kept if stream.name != "where"]
    learner.step = lambda *_: None  # type: ignore[method-assign] - gradients are to stay
    stepper.step([learner], 0)

    def moved(name: str) -> bool:
        adapters = session.model.expert(name).adapters.values()
        return any(
            value.grad is not None and bool(value.grad.abs().sum() > 0)
            for adapter in adapters
            for value in adapter.parameters()
        )

    assert moved("shared")
    assert moved("tags")
    assert not moved("where")


def test_shared_and_own_with_the_own_at_zero_is_the_shared_one(run_of: Settings) -> None:
    session = session_of(run_of(*TASKS, experts="both"))
    model = session.model.eval()
    generator = torch.Generator().manual_seed(1)
    for adapter in model.expert("shared").adapters.values():
        value = adapter.get_parameter("B")
        with torch.no_grad():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
    inputs = {
        "input_ids": torch.tensor([[2, 9, 8, 3]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
        "token_type_ids": torch.zeros(1, 4, dtype=torch.long),
    }
    both = model.states(inputs, Route.everywhere("shared", "tags"))
    assert_close(both, model.states(inputs, Route.everywhere("shared")))
    assert not torch.equal(both, model.states(inputs, None))
