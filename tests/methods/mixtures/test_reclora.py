"""RecLoRA's mixed weights beside its equation, written sequence by sequence and factor by factor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import reclora
from weft.methods.mixtures.contract import Mixture

MAP, OTHER = "layer.0.attention.self.query", "layer.1.attention.self.query"
SIZE = 5
Make = Callable[..., Mixture]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def of(make: Make, parts: list[Part], **settings: Any) -> reclora.RecLoRA:
    """Its gates away from where they start."""
    made = make("reclora", parts, start="experts", state_size=SIZE, width=4, **settings)
    assert isinstance(made, reclora.RecLoRA)
    with torch.no_grad():
        for at, (name, value) in enumerate(made.named_parameters()):
            if not name.startswith("stacks."):
                value.add_(drawn(*value.shape, seed=20 + at))
    return made


def woven(mixture: Mixture, x: Tensor, state: Tensor, module: str = MAP) -> tuple[Tensor, Call]:
    call = Call(GateTrace(), state=state)
    mixture.begin(call)
    return mixture.weave(module, x, call), call


def gates_of(mixture: reclora.RecLoRA, state: Tensor, place: int) -> Tensor:
    """The gates of one map for one state, written out."""
    centred = state - state.mean()
    normal = centred / (centred.square().mean() + reclora.EPS).sqrt()
    own = normal * mixture.scale[place] + mixture.shift[place]
    inside = torch.stack(
        [own @ mixture.first[place][:, at] + mixture.first_bias[place][at] for at in range(4)]
    ).clamp_min(0)
    said = inside @ mixture.last[place] + mixture.last_bias[place]
    return (said / mixture.spec.temperature).softmax(0)


def naive(
    mixture: reclora.RecLoRA, parts: list[Part], x: Tensor, state: Tensor, place: int = 0
) -> Tensor:
    """Each sequence by its own A and B, made of the experts' one after another; lacking ranks are 0."""
    widest = max(len(part.A) for part in parts)
    found = []
    for rows, own in zip(x, state, strict=True):
        gates = gates_of(mixture, own, place)
        shares = gates.sqrt() if mixture.spec.root else gates
        A = torch.zeros(widest, x.shape[-1], dtype=torch.float64)
        B = torch.zeros(len(parts[0].B), widest, dtype=torch.float64)
        for share, part in zip(shares, parts, strict=True):
            A[: len(part.A)] += share * part.A
            B[:, : len(part.A)] += share * part.scale * part.B
        found.append(torch.stack([B @ (A @ token) for token in rows]))
    return torch.stack(found)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("ranks", ["equal", "unequal"])
def test_it_is_the_equation_in_values_and_gradients(
    make: Make, parts: list[Part], ranks: str, temperature: float, root: bool
) -> None:
    if ranks == "unequal":
        parts = [parts[0], Part(parts[1].A[:1], parts[1].B[:, :1], parts[1].scale), parts[2]]
    mixture = of(make, parts, temperature=temperature, root=root, maps=[MAP, OTHER])
    x, state = drawn(4, 6, 3).requires_grad_(), drawn(4, SIZE, seed=1)
    for place, module in enumerate((MAP, OTHER)):
        own, _ = woven(mixture, x, state, module)
        wanted = naive(mixture, parts, x, state, place)
        assert_close(own, wanted, rtol=1e-12, atol=1e-12)
        toward = drawn(*own.shape, seed=3)
        learnt = [x, mixture.first, mixture.last_bias, mixture.scale]
        assert_close(
            torch.autograd.grad(own, learnt, toward),
            torch.autograd.grad(wanted, learnt, toward),
            rtol=1e-10,
            atol=1e-10,
        )


def test_a_sequence_s_gates_are_recorded_for_all_its_tokens(make: Make, parts: list[Part]) -> None:
    mixture = of(make, parts)
    x, state = drawn(4, 6, 3), drawn(4, SIZE, seed=1)
    _, call = woven(mixture, x, state)
    gates = call.trace.gates[MAP].gates
    assert gates.shape == (4, 6, 3)
    wanted = torch.stack([gates_of(mixture, own, 0) for own in state])
    assert_close(gates, wanted.unsqueeze(1).expand(-1, 6, -1))


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("expert", [0, 1, 2])
def test_a_gate_that_is_sure_leaves_one_expert_as_it_is(
    make: Make, parts: list[Part], expert: int, root: bool
) -> None:
    mixture = of(make, parts, root=root)
    with torch.no_grad():
        mixture.last_bias[:, expert] += 1e4
    x, state = drawn(2, 4, 3), drawn(2, SIZE, seed=1)
    own = parts[expert]
    assert_close(woven(mixture, x, state)[0], own.scale * x @ own.A.T @ own.B.T)
    # The mixture of outputs says the same where one gate is 1.
    plain = make("uniform", [own])
    assert_close(woven(mixture, x, state)[0], plain.weave(MAP, x, Call(GateTrace())))


def test_one_expert_is_one_lora_whatever_the_state(make: Make, parts: list[Part]) -> None:
    mixture = of(make, parts[:1])
    x = drawn(3, 4, 3)
    wanted = parts[0].scale * x @ parts[0].A.T @ parts[0].B.T
    for seed in (1, 2):
        assert_close(woven(mixture, x, drawn(3, SIZE, seed=seed))[0], wanted)


def test_the_same_state_is_the_same_adapter_and_a_batch_is_its_rows(
    make: Make, parts: list[Part]
) -> None:
    mixture = of(make, parts)
    x, state = drawn(1, 4, 3).expand(3, -1, -1), drawn(3, SIZE, seed=1)
    state = torch.stack([state[0], state[1], state[0]])
    found, _ = woven(mixture, x, state)
    assert_close(found[0], found[2], rtol=0, atol=0)
    assert not torch.allclose(found[0], found[1])
    for at in range(3):
        alone, _ = woven(mixture, x[at : at + 1], state[at : at + 1])
        assert_close(found[at : at + 1], alone)


def test_a_start_from_nothing_changes_nothing_and_reads_as_many_numbers_as_are_said(
    make_new: Make,
) -> None:
    mixture = make_new("reclora", {MAP: (6, 8)}, state_size=SIZE)
    x = drawn(2, 4, 8)
    assert torch.equal(woven(mixture, x, drawn(2, SIZE))[0], torch.zeros(2, 4, 6).double())
    assert mixture.spec.states == SIZE
    assert len(mixture.experts) == 8


def test_no_gradient_reaches_what_made_the_state(make: Make, parts: list[Part]) -> None:
    mixture = of(make, parts)
    state = drawn(2, SIZE, seed=1).requires_grad_()
    found, _ = woven(mixture, drawn(2, 4, 3), state)
    found.sum().backward()
    assert state.grad is None
    assert mixture.first.grad is not None
    assert mixture.first.grad.abs().sum() > 0


def test_few_experts_can_be_kept(make: Make, parts: list[Part]) -> None:
    mixture = of(make, parts, top_k=1)
    state, x = drawn(3, SIZE, seed=1), drawn(3, 4, 3)
    found, call = woven(mixture, x, state)
    best = call.trace.logits[MAP][:, 0].argmax(-1)
    wanted = [
        parts[at].scale * own @ parts[at].A.T @ parts[at].B.T
        for own, at in zip(x, best.tolist(), strict=True)
    ]
    assert_close(found, torch.stack(wanted))
    with pytest.raises(ValueError, match="top_k 4 is more than the 3 experts"):
        of(make, parts, top_k=4)


def test_who_is_left_out_has_a_slope_that_is_a_number_by_roots_too(
    make: Make, parts: list[Part]
) -> None:
    mixture = of(make, parts, top_k=2, root=True)
    found, call = woven(mixture, drawn(3, 4, 3), drawn(3, SIZE, seed=1))
    gates = call.trace.gates[MAP].gates
    assert (gates == 0).any()
    found.sum().backward()
    assert mixture.first.grad is not None
    assert mixture.first.grad.isfinite().all()
    assert mixture.first.grad.abs().sum() > 0


def test_without_a_state_all_rows_have_the_same_gates_which_learn(
    make: Make, parts: list[Part]
) -> None:
    mixture = make("reclora", parts, start="experts", state_size=0)
    x = drawn(1, 4, 3).expand(2, -1, -1)
    found, call = woven(mixture, x, torch.zeros(2, 0))
    assert torch.equal(found[0], found[1])
    assert call.trace.gates[MAP].gates.std(-1).min() > 0
    found.sum().backward()
    assert mixture.last_bias.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
