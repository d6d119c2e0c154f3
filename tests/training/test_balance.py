"""Tasks' losses on one scale: the gradient is the plain formula's, in whatever pieces, and goes on where it was."""

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from tests.training.mixed_runs import Runs, runs_of, steps
from weft.answering.inference import padding_id
from weft.config import Run
from weft.methods.balances import balances
from weft.model.batching import collate
from weft.model.heads import kind_of
from weft.storage.loading import load_run_model
from weft.training.assembly import Session, assemble
from weft.training.loop import Event, Interrupted, train
from weft.training.preparation.balancing import MOST_ROWS, balance_of
from weft.training.settings import completed, mix_config
from weft.training.stepping import Stepper

FEW = ["training.precision=fp64", "training.max_steps=3"]


@pytest.fixture(scope="module")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


def mixed(runs: Runs, name: str = "xlora", *overrides: str) -> Run:
    parts = [part.path for part in runs.experts("bert").parts()]
    return mix_config(parts, name, [*steps(3), *FEW, *overrides])


def assembled(run: Run) -> Session:
    return assemble(completed(run), torch.device("cpu"))


def loss_of(session: Session, items: list[Any], name: str) -> tuple[Tensor, float]:
    """A task's loss over rows, one row after the other, and the number of labelled items."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for item in items:
        batch = collate([item], padding_id(session.base))
        (part,) = batch.parts
        assert part.labels is not None
        logits = session.model(batch)[part.head]
        total = total + kind_of(part.kind).loss(logits, part.labels, 0.0, part.weights)
        count += part.count
    return total, count


@torch.no_grad()
def own_loss(runs: Runs, session: Session, name: str) -> float:
    """What a task's own expert loses on its first rows, asked of the expert's own run."""
    stream = next(stream for stream in session.streams if stream.name == name)
    part = next(part for part in runs.experts("bert").parts() if part.path.name == name)
    loaded = load_run_model(part.path, device="cpu")
    total, count = 0.0, 0.0
    for row in range(min(MOST_ROWS, len(stream.records))):
        item = replace(stream.item(row, 0), head=loaded.name, members=loaded.members)
        batch = collate([item], padding_id(session.base))
        (own,) = batch.parts
        assert own.labels is not None
        logits = loaded.model.snapshot(batch)[own.head]
        total += kind_of(own.kind).loss(logits, own.labels, 0.0, own.weights).item()
        count += own.count
    return total / count


@torch.no_grad()
def start_loss(session: Session, name: str) -> float:
    """What the mixture loses on a task's first rows as it starts."""
    stream = next(stream for stream in session.streams if stream.name == name)
    rows = range(min(MOST_ROWS, len(stream.records)))
    total, count = loss_of(session, [stream.item(row, 0) for row in rows], name)
    return total.item() / count


@pytest.mark.parametrize("name", balances.names())
def test_the_gradient_is_that_of_the_sum_on_one_scale(name: str, runs: Runs) -> None:
    run = mixed(runs, "xlora", f"mixture.balance={name}", "training.accumulation=3")
    session = assembled(run)
    measures = balances.load(name).measures
    scale = {
        stream.name: 1.0
        if measures is None
        else start_loss(session, stream.name)
        if measures == "start"
        else own_loss(runs, session, stream.name)
        for stream in session.streams
    }
    assert measures is None or len(set(scale.values())) == len(scale) > 1
    (learner,) = session.learners
    wanted = torch.zeros((), dtype=torch.float64)
    for stream in session.streams:
        total, count = loss_of(session, stream.items(0), stream.name)
        wanted = wanted + total / count / scale[stream.name]
    gates = {key: value for key, value in learner.parameters.items() if value.requires_grad}
    expected = torch.autograd.grad(wanted, list(gates.values()), allow_unused=True)
    learner.step = lambda *_: None  # type: ignore[method-assign] - gradients are to stay
    Stepper(session, Accelerator(cpu=True)).step([learner], 0)
    assert gates
    for (key, value), gradient in zip(gates.items(), expected, strict=True):
        assert gradient is not None, key
        assert value.grad is not None, key
        # Sums over rows in another order, in double precision.
        assert_close(value.grad, gradient, rtol=1e-9, atol=1e-12, msg=key)


def test_what_a_mixture_adds_keeps_its_weight(runs: Runs) -> None:
    found = []
    for name in ("none", "start"):
        session = assembled(mixed(runs, "early_pass", f"mixture.balance={name}"))
        (learner,) = session.learners
        learner.step = lambda *_: None  # type: ignore[method-assign]
        found.append(Stepper(session, Accelerator(cpu=True)).step([learner], 0))
    plain, scaled = found
    # What is reported is the loss itself, whatever it counts.
    assert plain.keys() == scaled.keys()
    for key, value in plain.items():
        assert torch.equal(value, scaled[key]), key


@pytest.mark.parametrize("name", ["early_pass", "smora", "xlora"])
def test_to_measure_changes_nothing(name: str, runs: Runs) -> None:
    own = ("mixture.start=experts", "mixture.top_k=2") if name == "smora" else ()
    before = torch.get_rng_state()
    measured = assembled(mixed(runs, name, "mixture.balance=start", *own))
    assert torch.equal(torch.get_rng_state(), before)
    plain = assembled(mixed(runs, name, "mixture.balance=none", *own))
    assert measured.mix is not None
    assert plain.mix is not None
    state = plain.mix.state_dict()
    assert state
    for key, value in measured.mix.state_dict().items():
        assert torch.equal(value, state[key]), key
    asked = assembled(mixed(runs, name, "mixture.balance=expert", *own))
    assert set(asked.model.experts) == set(plain.model.experts)
    again = assembled(mixed(runs, name, "mixture.balance=start", *own))
    for stream in again.streams:
        weights = [s.learners[0].balance.weight(stream.name) for s in (measured, again)]
        assert weights[0] == weights[1]


def test_an_interrupted_run_ends_in_the_same_bits(runs: Runs, tmp_path: Path) -> None:
    run = mixed(runs, "xlora", "mixture.balance=uncertainty", "training.max_steps=6")
    whole = train(run, out=tmp_path / "whole")

    def interrupt(event: Event) -> None:
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(run, out=tmp_path / "broken", report=interrupt)
    resumed = train(resume=tmp_path / "broken")
    expected, found = (
        load_file(folder.mixture / "gate.safetensors") for folder in (whole, resumed)
    )
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_balances_that_cannot_be_are_refused(runs: Runs) -> None:
    with pytest.raises(KeyError, match=r"no balance named 'strat'\. Did you mean 'start'"):
        completed(mixed(runs, "xlora", "mixture.balance=strat"))
    with pytest.raises(ValueError, match="no task's own; choose balance: start"):
        completed(mixed(runs, "mola", "mixture.balance=expert"))
    session = assembled(mixed(runs, "xlora", "mixture.balance=start"))
    settings = session.run.mixture
    assert settings is not None
    spec = completed(session.run).gates
    stream = next(stream for stream in session.streams if stream.name == "tags")
    blank = copy.copy(stream)
    blank.records = [
        {**record, "labels": [[-100] * len(own) for own in record["labels"]]}
        for record in stream.records
    ]
    with pytest.raises(ValueError, match="training rows of tags is 0, and nothing can be divided"):
        balance_of(spec, session.model, [blank], session.ingredients, session.run)
