"""What every mixture promises at one map, applied to each file of the folder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.lowrank.route import given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]
OWN: dict[str, dict[str, Any]] = {"smora": {"top_k": 2}, "mola": {"top_k": 2}}
READERS = ({"reader": "embedding"}, {"reader": "local"})
OF_EXPERTS = [(name, OWN.get(name, {})) for name in mixtures.names() if name != "mixlora"]
OF_EXPERTS += [("single_pass", settings) for settings in READERS]
COUNTING = ("early_pass", "smora")
"""Mixtures that remember something of every training batch until the step is done."""
OF_DROPPED = ("comol",)
"""Mixtures whose gate reads the projection of the dropped input, as their papers have it."""


def of_experts(make: Make, name: str, parts: list[Part], **settings: Any) -> Mixture:
    kind = mixtures.load(name).settings_type
    start = {"start": "experts"} if issubclass(kind, TrainedSpec) else {}
    return make(name, parts, **start, **settings)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def call_of(mixture: Mixture, hidden: Tensor, labels: Tensor) -> Call:
    state = None if mixture.spec.states is None else hidden.new_zeros(len(hidden), 0)
    call = Call(GateTrace(labels=labels), hidden=hidden, state=state)
    if state is not None or mixture.reads_pass is not None or mixture.reads_layer is not None:
        mixture.begin(call)
    return call


@pytest.mark.parametrize(("name", "settings"), OF_EXPERTS)
def test_gates_read_the_whole_input_and_only_the_experts_a_dropped_one(
    make: Make, parts: list[Part], name: str, settings: dict[str, Any]
) -> None:
    mixture = of_experts(make, name, parts, dropout=0.9, **settings).train()
    x, hidden, labels = drawn(4, 6, 3), drawn(4, 6, 3, seed=1), torch.tensor([0, 1, 2, 0])
    said, outputs = [], []
    for _ in range(2):
        call = call_of(mixture, hidden, labels)
        # Head dropout is of the gate and no matter here.
        torch.manual_seed(5)
        outputs.append(mixture.weave(MAP, x, call))
        said.append(call.trace.logits[MAP])
        torch.manual_seed(6)
    mixture.spec = mixture.spec.model_copy(update={"dropout": 0.0})
    whole = call_of(mixture, hidden, labels)
    plain = mixture.weave(MAP, x, whole)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(plain, outputs[0])
    assert torch.equal(whole.trace.logits[MAP], said[0]) == (name not in OF_DROPPED)


@pytest.mark.parametrize(("name", "settings"), OF_EXPERTS)
def test_a_call_s_record_is_of_all_its_sequences_or_none(
    make: Make, parts: list[Part], name: str, settings: dict[str, Any]
) -> None:
    mixture = of_experts(make, name, parts, **settings)
    x, hidden, labels = drawn(4, 6, 3), drawn(4, 6, 3, seed=1), torch.tensor([0, 1, 2, 0])
    index = torch.tensor([1, 3])
    part = call_of(mixture, hidden, labels)
    with given_rows(index):
        found = mixture.weave(MAP, x[index], part)
    assert (part.trace.gates, part.trace.logits) == ({}, {})
    whole = call_of(mixture, hidden, labels)
    assert_close(found, mixture.weave(MAP, x, whole)[index])
    assert whole.trace.gates[MAP].gates.shape[:2] == (4, 6)
    assert whole.trace.logits.keys() == {MAP}


@pytest.mark.parametrize(("name", "settings"), OF_EXPERTS)
def test_what_two_processes_counted_adds_up_to_what_one_would(
    make: Make, parts: list[Part], name: str, settings: dict[str, Any]
) -> None:
    def seen(*pieces: slice) -> list[Mixture]:
        """A mixture for each piece, after it has looked at it."""
        made = []
        for piece in pieces:
            mixture = of_experts(make, name, parts, **settings).train()
            call = call_of(mixture, hidden[piece], labels[piece])
            mixture.weave(MAP, x[piece], call)
            mixture.observe(call.trace)
            made.append(mixture)
        return made

    x, hidden, labels = drawn(4, 6, 3), drawn(4, 6, 3, seed=1), torch.tensor([0, 1, 2, 0])
    [alone] = seen(slice(0, 4))
    start = {key: value.clone() for key, value in alone.named_buffers()}
    both = seen(slice(0, 3), slice(3, 4))
    assert bool(alone.tallies()) == (name in COUNTING)
    for each in zip(*(mixture.tallies() for mixture in both), strict=True):
        total = sum(each, torch.zeros_like(each[0]))
        for tally in each:
            tally.copy_(total)
    for mixture in (alone, *both):
        with torch.no_grad():
            mixture.after_step(1, 2)
    for mixture in both:
        assert_close(dict(mixture.named_buffers()), dict(alone.named_buffers()))
    moved = any(not torch.equal(value, start[key]) for key, value in alone.named_buffers())
    assert moved == (name in COUNTING)


@pytest.mark.parametrize(("name", "settings"), OF_EXPERTS)
def test_the_numbers_of_a_gate_are_those_outside_of_the_experts(
    make: Make, parts: list[Part], name: str, settings: dict[str, Any]
) -> None:
    mixture = of_experts(make, name, parts, **settings)
    own = {key: value for key, value in mixture.named_parameters() if "stacks." not in key}
    assert mixture.gate_parameters == sum(value.numel() for value in own.values())
    assert len(own) < len(list(mixture.parameters()))
