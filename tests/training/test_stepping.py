"""What a step's gradient is the gradient of, whatever the pieces it is computed in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.testing import assert_close

from weft.answering.inference import padding_id
from weft.config import load_run
from weft.model.batching import collate
from weft.model.heads import kind_of
from weft.training.assembly import Session, assemble
from weft.training.settings import completed
from weft.training.stepping import Stepper

Settings = Callable[..., dict[str, Any]]
TASKS = ("topic", "tags", "where")


def session_of(run: dict[str, Any]) -> Session:
    return assemble(completed(load_run(run)), torch.device("cpu"))


def stepped(session: Session, step: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The sums that one step reports, and the gradients that it would take."""
    (learner,) = session.learners
    learner.step = lambda *_: None  # type: ignore[method-assign] - gradients are to stay
    sums = Stepper(session, Accelerator(cpu=True)).step([learner], step)
    gradients = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
    return sums, gradients


@pytest.mark.parametrize("accumulation", [1, 3])
def test_tasks_count_as_their_rows_were_drawn(accumulation: int, run_of: Settings) -> None:
    training = {"sampling": 1.0, "batch_size": 6, "accumulation": accumulation}
    session = session_of(run_of(*TASKS, experts="shared", training=training))
    _, found = stepped(session)
    (learner,) = session.learners
    for parameter in learner.parameters.values():
        parameter.grad = None
    weights = {stream.name: stream.weight(0) for stream in session.streams}
    assert len(set(weights.values())) > 1
    for stream in session.streams:
        batch = collate(stream.items(0), padding_id(session.base))
        for part in batch.parts:
            assert part.labels is not None
            logits = session.model(batch)[part.head]
            kind = kind_of(part.kind)
            count = kind.count(part.labels)
            (weights[stream.name] * kind.loss(logits, part.labels, 0.0) / count).backward()
    expected = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, msg=name)


def test_a_gate_loss_is_a_mean_over_the_step_s_tokens(run_of: Settings) -> None:
    mixture = {"name": "mixlora", "num_experts": 2, "rank": 2, "dropout": 0.0}
    mixture |= {"balance_weight": 0.0, "z_weight": 1.0}
    found = []
    for accumulation in (1, 3):
        run = run_of(*TASKS, training={"batch_size": 5, "accumulation": accumulation})
        found.append(stepped(session_of(run | {"mixture": mixture})))
    (whole, gradients), (pieces, others) = found
    assert whole["mix/z"] > 0
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        assert_close(pieces[name], value, msg=name)
    assert any("routers" in name for name in gradients)
    for name, gradient in gradients.items():
        assert_close(others[name], gradient, msg=name)
