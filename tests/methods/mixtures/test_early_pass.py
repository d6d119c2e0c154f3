"""Early-pass gates: one answer for a sequence, from what the bare base's first layers make of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call, Pass
from weft.methods.gates.frame import Frame
from weft.methods.gates.reading import summary
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
NEXT = "layer.1.attention.self.query"
Make = Callable[..., Mixture]


def drawn(*shape: int) -> Tensor:
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))
    )


def called(mixture: Mixture, hidden: Tensor, mask: Tensor | None = None, **trace: Any) -> Call:
    call = Call(GateTrace(mask, **trace), hidden=hidden)
    mixture.begin(call)
    return call


@pytest.mark.parametrize("layerwise", [False, True])
def test_the_equation_token_by_token(make: Make, parts: list[Part], layerwise: bool) -> None:
    settings: dict[str, Any] = {"layerwise": layerwise, "temperature": 2.0, "top_k": None}
    mixture = make("early_pass", parts, **settings, maps=[MAP, NEXT])
    x, hidden = drawn(2, 4, 3), drawn(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    call = called(mixture, hidden, mask)
    head = dict(mixture.head.named_parameters())  # type: ignore[union-attr]
    weight, bias = head["maps.0.weight"], head["maps.0.bias"]
    for at, module in enumerate((MAP, NEXT)):
        found = mixture.weave(module, x, call)
        own = slice(3 * at, 3 * at + 3) if layerwise else slice(0, 3)
        for row, length in enumerate((4, 2)):
            read = torch.cat([hidden[row, :length].mean(0), hidden[row, 0]])
            gates = ((weight[own] @ read + bias[own]) / 2.0).softmax(-1)
            for token in range(4):
                wanted = sum(
                    gate * part.scale * (part.B @ (part.A @ x[row, token]))
                    for gate, part in zip(gates, parts, strict=True)
                )
                assert_close(found[row, token], wanted)


def test_padding_on_either_side_changes_no_gate(make: Make, parts: list[Part]) -> None:
    mixture, hidden = make("early_pass", parts, top_k=None), drawn(1, 3, 3)
    x = drawn(1, 5, 3)
    whole = called(mixture, hidden)
    mixture.weave(MAP, x[:, :3], whole)
    for left in (0, 2):
        padded = torch.full((1, 5, 3), 7.0, dtype=torch.float64)
        padded[:, left : left + 3] = hidden
        mask = torch.zeros(1, 5, dtype=torch.long)
        mask[:, left : left + 3] = 1
        call = called(mixture, padded, mask)
        mixture.weave(MAP, x, call)
        assert_close(call.trace.gates[MAP].gates[:, 0], whole.trace.gates[MAP].gates[:, 0])
        read = summary(padded, mask, causal=True)
        assert_close(read, torch.cat([hidden.mean(1), hidden[:, 2]], -1))


def test_features_are_measured_by_all_that_training_has_seen(make: Make, parts: list[Part]) -> None:
    mixture = make("early_pass", parts)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    steps = [[drawn(2, 4, 3), 1 + drawn(2, 4, 3)], [3 * drawn(2, 4, 3)]]
    read: list[Tensor] = []
    for done, pieces in enumerate(steps, 1):
        mixture.train()
        for hidden in pieces:
            before = mixture.standard(torch.ones(6))  # type: ignore[operator]
            called(mixture, hidden, mask)
            # A step is over when it is: its pieces are all seen alike.
            assert torch.equal(mixture.standard(torch.ones(6)), before)  # type: ignore[operator]
            read.append(summary(hidden, mask, causal=False))
        mixture.eval()
        called(mixture, 100 + drawn(2, 4, 3), mask)
        mixture.after_step(done, 2)
        every = torch.cat(read)
        wanted = (every - every.mean(0)) / every.std(0, unbiased=False)
        assert_close(mixture.standard(every), wanted)  # type: ignore[operator]


def test_every_row_counts_once_in_the_label_loss(make: Make, parts: list[Part]) -> None:
    mixture = make("early_pass", parts, label_weight=0.5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    call = called(mixture, drawn(3, 3, 3), mask, labels=torch.tensor([2, 0, -1]))
    mixture.weave(MAP, drawn(3, 3, 3), call)
    ((weight, value),) = mixture.losses(call.trace).values()
    log = call.trace.logits[MAP][:, 0].log_softmax(-1)
    assert weight == 0.5
    assert_close(value, -(log[0, 2] + log[1, 0]) / 2)
    # Choices of a row are one answer, however many there are.
    rows = torch.tensor([0, 0, 2])
    call = called(mixture, drawn(3, 3, 3), mask, labels=torch.tensor([2, 2, 1]), rows=rows)
    mixture.weave(MAP, drawn(3, 3, 3), call)
    log = call.trace.logits[MAP][:, 0].log_softmax(-1)
    assert_close(log[0], log[1])
    assert_close(mixture.losses(call.trace)["label_ce"][1], -(log[0, 2] + log[2, 1]) / 2)
    assert make("early_pass", parts, label_weight=0.0).losses(call.trace) == {}
    with pytest.raises(ValueError, match="call names none"):
        mixture.losses(GateTrace(mask, gates=call.trace.gates, logits=call.trace.logits))


def test_gates_of_every_map_are_all_told_the_row_s_task(make: Make, parts: list[Part]) -> None:
    labels = torch.tensor([2, 0])
    for layerwise in (False, True):
        mixture = make("early_pass", parts, layerwise=layerwise, maps=[MAP, NEXT])
        call = called(mixture, drawn(2, 3, 3), torch.ones(2, 3, dtype=torch.long), labels=labels)
        for module in (MAP, NEXT):
            mixture.weave(module, drawn(2, 3, 3), call)
        each = [call.trace.logits[module][:, 0].log_softmax(-1) for module in (MAP, NEXT)]
        wanted = -sum(log[0, 2] + log[1, 0] for log in each) / 4
        assert_close(mixture.losses(call.trace)["label_ce"][1], wanted)
        assert torch.equal(each[0], each[1]) != layerwise


def test_on_a_decoder_a_token_s_gates_read_that_token_alone(parts: list[Part]) -> None:
    kind = mixtures.load("early_pass")
    spec, frame = (
        kind.settings_type.model_validate({"top_k": None}),
        Frame("llama", 3, 2, causal=True),
    )
    stacks = {MAP: kind.from_experts(MAP, parts, frame, spec)}
    mixture = kind("abc", stacks, frame, spec, torch.Generator().manual_seed(0)).double().eval()
    hidden, x = drawn(1, 4, 3), drawn(1, 4, 3)
    whole, changed = (
        called(mixture, hidden),
        called(mixture, hidden.clone().index_fill_(1, torch.tensor(3), 9.0)),
    )
    for call in (whole, changed):
        mixture.weave(MAP, x, call)
    before, after = (call.trace.gates[MAP].gates for call in (whole, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    assert not torch.equal(before[:, 0], before[:, 1])


@pytest.mark.parametrize("causal", [False, True])
def test_a_state_in_half_precision_is_read_in_single(parts: list[Part], causal: bool) -> None:
    kind, frame = mixtures.load("early_pass"), Frame("bert", 3, 2, causal=causal)
    spec = kind.settings_type()
    stacks = {MAP: kind.from_experts(MAP, parts, frame, spec)}
    hidden, mask = (100 + drawn(2, 6, 3)).bfloat16(), torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    said = []
    for state in (hidden, hidden.float()):
        mixture = kind("abc", stacks, frame, spec, torch.Generator().manual_seed(0)).float()
        call = called(mixture, state, mask)
        said.append((call.once["gates"].logits_of(0), mixture.standard.fresh.clone()))  # type: ignore[union-attr, operator]
    assert said[0][0].dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(*said, strict=True))


def test_inference_keeps_the_likeliest_and_training_all(make: Make, parts: list[Part]) -> None:
    mixture, hidden, x = make("early_pass", parts), drawn(2, 3, 3), drawn(2, 3, 3)
    said = {}
    for training in (True, False):
        call = called(mixture.train(training), hidden)
        mixture.weave(MAP, x, call)
        said[training] = call.trace.gates[MAP].gates
    assert (said[True] > 0).all()
    hot = torch.nn.functional.one_hot(said[True].argmax(-1), 3).to(said[False])
    assert_close(said[False], hot)
    with pytest.raises(ValueError, match="more than the 3 experts"):
        make("early_pass", parts, top_k=4)


def test_its_pass_is_short_and_the_bare_base_s(make: Make, parts: list[Part]) -> None:
    assert make("early_pass", parts, pass_layers=2).reads_pass == Pass(0.0, 2)
