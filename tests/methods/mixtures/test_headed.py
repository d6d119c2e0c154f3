"""What every head of gates can be set to: how it starts, what it reads, what it is told, who answers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.reading import summary
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]
HEADED = pytest.mark.parametrize("name", ["xlora", "single_pass"])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def called(mixture: Mixture, hidden: Tensor, **trace: Any) -> Call:
    call = Call(GateTrace(MASK, **trace), hidden=hidden)
    mixture.begin(call)
    mixture.weave(MAP, drawn(*hidden.shape), call)
    return call


def linear(mixture: Mixture) -> tuple[Tensor, Tensor]:
    head = dict(mixture.named_parameters())
    return head["head.maps.0.weight"], head["head.maps.0.bias"]


@HEADED
@pytest.mark.parametrize("settings", [{}, {"depth": 2, "width": 5, "layerwise": True}])
def test_gates_may_start_at_uniform(
    make: Make, parts: list[Part], name: str, settings: dict[str, Any]
) -> None:
    mixture = make(name, parts, head_start="uniform", **settings)
    gates = called(mixture, drawn(2, 4, 3)).trace.gates[MAP].gates
    assert torch.equal(gates, torch.full_like(gates, 1 / 3))
    drawn_one = make(name, parts, **settings)
    assert not torch.equal(called(drawn_one, drawn(2, 4, 3)).trace.gates[MAP].gates, gates)
    same = dict(drawn_one.named_parameters())
    for key, value in mixture.named_parameters():
        last = f"head.maps.{settings.get('depth', 1) - 1}."
        assert torch.equal(value, same[key]) != key.startswith(last), key


@HEADED
def test_one_gate_a_sequence_reads_mean_and_first_token(
    make: Make, parts: list[Part], name: str
) -> None:
    mixture, hidden = make(name, parts, reads="sequence", layerwise=False), drawn(2, 4, 3)
    weight, bias = linear(mixture)
    found = called(mixture, hidden).trace.gates[MAP].gates
    for row, length in enumerate((4, 2)):
        read = torch.cat([hidden[row, :length].mean(0), hidden[row, 0]])
        for token in range(4):
            assert_close(found[row, token], (weight @ read + bias).softmax(-1))
    # Choices of a row have the mean of what is said of them.
    together = called(mixture, hidden, rows=torch.tensor([0, 0]))
    said = torch.stack([weight @ read + bias for read in summary(hidden, MASK, causal=False)])
    assert_close(together.trace.gates[MAP].gates[1, 2], said.mean(0).softmax(-1))


@HEADED
def test_tokens_are_measured_by_all_that_training_has_seen(
    make: Make, parts: list[Part], name: str
) -> None:
    mixture = make(name, parts, standardise=True, layerwise=False)
    plain = make(name, parts, layerwise=False)
    assert plain.tallies() == []
    seen = []
    for done, hidden in enumerate((drawn(2, 4, 3), 2 + 3 * drawn(2, 4, 3, seed=1)), 1):
        mixture.train()
        called(mixture, hidden)
        seen += [hidden[0], hidden[1, :2]]
        mixture.after_step(done, 2)
    mixture.eval()
    every = torch.cat(seen)
    new = drawn(2, 4, 3, seed=2)
    weight, bias = linear(mixture)
    wanted = (new - every.mean(0)) / every.std(0, unbiased=False)
    found = called(mixture, new).trace.gates[MAP].gates
    assert_close(found, (wanted @ weight.T + bias).softmax(-1))


@HEADED
def test_gates_may_be_told_the_row_s_task(make: Make, parts: list[Part], name: str) -> None:
    labels = torch.tensor([2, 0])
    mixture = make(name, parts, label_weight=0.5, layerwise=False)
    call = called(mixture, drawn(2, 4, 3), labels=labels)
    ((weight, value),) = mixture.losses(call.trace).values()
    log = call.trace.logits[MAP].log_softmax(-1)
    assert weight == 0.5
    assert_close(value, -(log[0, :, 2].sum() + log[1, :2, 0].sum()) / 6)
    assert mixture.row_means == frozenset()
    mixture = make(name, parts, label_weight=0.5, reads="sequence", layerwise=False)
    call = called(mixture, drawn(2, 4, 3), labels=labels)
    log = call.trace.logits[MAP].log_softmax(-1)
    assert_close(mixture.losses(call.trace)["label_ce"][1], -(log[0, 0, 2] + log[1, 0, 0]) / 2)
    assert mixture.row_means == {"label_ce"}
    assert make(name, parts).losses(call.trace) == {}


@HEADED
def test_the_likeliest_may_answer_alone(make: Make, parts: list[Part], name: str) -> None:
    mixture, hidden = make(name, parts, infer_top_k=1, layerwise=False), drawn(2, 4, 3)
    found = called(mixture, hidden).trace.gates[MAP].gates
    soft = called(mixture.train(), hidden).trace.gates[MAP].gates
    weight, bias = linear(mixture)
    assert_close(soft, (hidden @ weight.T + bias).softmax(-1))
    wanted = torch.nn.functional.one_hot(soft.argmax(-1), 3).double()
    assert_close(found, wanted)


def test_what_cannot_be_is_refused(make: Make, parts: list[Part]) -> None:
    with pytest.raises(ValueError, match="infer_top_k 4 is more than the 3 experts"):
        make("xlora", parts, infer_top_k=4)
    with pytest.raises(ValueError, match="infer_top_k 1 keeps the largest of a softmax over all"):
        make("xlora", parts, infer_top_k=1, top_k=2)
    for settings in ({"standardise": True}, {"reads": "sequence"}):
        with pytest.raises(ValueError, match="choose reader embedding or layer"):
            make("single_pass", parts, reader="local", **settings)
    kind = mixtures.load("xlora")
    spec, frame = kind.settings_type(reads="sequence"), Frame("llama", 3, 2, causal=True)
    stacks = {MAP: kind.from_experts(MAP, parts, frame, spec)}
    with pytest.raises(ValueError, match="must not see those after it; choose reads: token"):
        kind("abc", stacks, frame, spec, torch.Generator().manual_seed(0))
