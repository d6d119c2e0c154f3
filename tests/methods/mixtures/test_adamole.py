"""AdaMoLE's learned threshold beside its equation written token by token."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import adamole
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]


def linear(mixture: Mixture) -> torch.nn.Linear:
    return mixture.thresholds[0].maps[0]  # type: ignore[index, union-attr, return-value]


def router(mixture: Mixture) -> Tensor:
    return mixture.routers.weight(MAP)  # type: ignore[union-attr, operator]


def naive(
    x: Tensor, own: list[Tensor], parts: list[Part | None], most: float
) -> tuple[Tensor, ...]:
    """Excess, gates and output of every token of `(tokens, in)`; own: gate's weight, threshold's weight and bias."""
    weight, toward, bias = own
    rows = []
    for token in x:
        p = (weight @ token).softmax(0)
        tau = most / (1 + torch.exp(-(toward[0] @ token + bias[0])))
        kept = [max(p[at] - tau, p[at] * 0) for at in range(len(parts))]
        total = sum(kept)
        gates = [value / total if total.item() else value for value in kept]
        added = sum(
            gate * part.scale * (part.B @ (part.A @ token))
            for gate, part in zip(gates, parts, strict=True)
            if part is not None
        )
        rows.append((p - tau, torch.stack(gates), added))
    return tuple(torch.stack(each) for each in zip(*rows, strict=True))  # type: ignore[arg-type]


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", ["dense", "grouped"])
@pytest.mark.parametrize("most", [None, 0.0, 0.9])
@pytest.mark.parametrize("kept", [[0, 1, 2], [0, None, 2], [1]])
def test_it_is_the_equation_in_values_and_gradients(
    make: Make, parts: list[Part], path: str, most: float | None, kept: list[int | None]
) -> None:
    some = [None if at is None else parts[at] for at in kept]
    mixture = make("adamole", some, start="experts", max_threshold=most)
    mixture.path = path
    own = [router(mixture), linear(mixture).weight, linear(mixture).bias]
    with torch.no_grad():
        for at, value in enumerate(own):
            value.copy_(drawn(*value.shape, seed=at))
    copies = [value.detach().clone().requires_grad_(True) for value in own]
    x = drawn(2, 5, 3)
    mine, other = (x.clone().requires_grad_(True) for _ in range(2))
    call = Call()
    found = mixture.weave(MAP, mine, call)
    bound = 1 / len(kept) if most is None else most
    excess, gates, wanted = naive(other.reshape(-1, 3), copies, some, bound)
    told = call.trace.gates[MAP]
    assert_close(told.scores.reshape(-1, len(kept)), excess)
    assert torch.equal(told.selected, told.scores >= 0)
    assert_close(told.gates.reshape(-1, len(kept)), gates)
    assert_close(found, wanted.view(2, 5, 2))
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert_close(mine.grad, other.grad)
    for value, copy in zip(own, copies, strict=True):
        assert_close(value.grad, copy.grad)


@pytest.mark.parametrize("experts", [1, 3, 7])
def test_somebody_always_speaks(make_new: Make, experts: int) -> None:
    mixture = make_new("adamole", {MAP: (4, 6)}, num_experts=experts).eval()
    with torch.no_grad():
        for value in (router(mixture), linear(mixture).weight, linear(mixture).bias):
            value.mul_(5)
    call = Call()
    mixture.weave(MAP, drawn(8, 16, 6), call)
    told = call.trace.gates[MAP]
    assert told.selected.any(-1).all()
    assert (told.gates >= 0).all()
    ones = torch.ones(8, 16, dtype=torch.float64)
    assert_close(told.gates.sum(-1), ones)
    assert experts == 1 or len(told.selected.sum(-1).unique()) > 1


def test_equal_scores_share_and_a_bound_that_is_reached_leaves_the_base(
    make: Make, parts: list[Part], x: Tensor
) -> None:
    mixture = make("adamole", parts, start="experts")
    with torch.no_grad():
        for value in (router(mixture), linear(mixture).weight, linear(mixture).bias):
            value.zero_()
    call = Call()
    mixture.weave(MAP, x, call)
    third = torch.full((1, 2, 3), 1 / 3, dtype=torch.float64)
    assert_close(call.trace.gates[MAP].gates, third)
    beyond = make("adamole", parts, start="experts", max_threshold=1.0)
    with torch.no_grad():
        router(beyond).zero_()
        linear(beyond).weight.zero_()
        linear(beyond).bias.fill_(10.0)
    out = beyond.weave(MAP, x, call)
    assert torch.equal(out, torch.zeros_like(out))
    assert not call.trace.gates[MAP].selected.any()


def balance(excess: Tensor) -> Tensor:
    """E times the sum of the share of tokens that select and the mean excess; (tokens, experts)."""
    tokens, experts = excess.shape
    value = excess.new_zeros(())
    for at in range(experts):
        share = sum(excess[token, at].item() >= 0 for token in range(tokens)) / tokens
        value = value + share * sum(excess[:, at]) / tokens
    return experts * value


def test_the_balance_is_the_authors_over_real_tokens(make_new: Make) -> None:
    other = MAP.replace("0", "1")
    mixture = make_new("adamole", {MAP: (4, 6), other: (4, 6)})
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    call = Call(GateTrace(mask=mask))
    for module in (MAP, other):
        mixture.weave(module, drawn(3, 4, 6), call)
    weight, value = mixture.losses(call.trace)["balance"]
    assert weight == 1e-2
    wanted = [balance(each.scores[mask.bool()]) for each in call.trace.gates.values()]
    assert_close(value, (wanted[0] + wanted[1]) / 2)
    value.backward()
    assert (linear(mixture).bias.grad != 0).all()
    assert router(mixture).grad is not None
    assert all(stack.B.grad is None for stack in mixture.stacks)
    off = make_new("adamole", {MAP: (4, 6)}, balance_weight=0)
    assert off.losses(call.trace) == {}


def test_uniform_scores_under_a_threshold_of_half_cost_half_an_e(make_new: Make) -> None:
    mixture = make_new("adamole", {MAP: (4, 6)}, num_experts=4)
    with torch.no_grad():
        for value in (router(mixture), linear(mixture).weight, linear(mixture).bias):
            value.zero_()
    call = Call()
    mixture.weave(MAP, drawn(2, 3, 6), call)
    # All four select with an excess of 1/4 - 1/8 each: 4 * 4 * 1/8.
    value = mixture.losses(call.trace)["balance"][1]
    assert_close(value, torch.tensor(2.0, dtype=torch.float64))


def test_rows_without_a_seq_all_count(make_new: Make) -> None:
    mixture = make_new("adamole", {MAP: (4, 6)}).eval()
    x = drawn(3, 6)
    flat, long = Call(GateTrace(mask=torch.ones(3, 4))), Call()
    assert_close(mixture.weave(MAP, x, flat), mixture.weave(MAP, x.unsqueeze(1), long)[:, 0])
    assert_close(mixture.losses(flat.trace), mixture.losses(long.trace))


def test_new_experts_start_as_nothing_and_are_counted_without_memory(make_new: Make) -> None:
    mixture = make_new("adamole", {MAP: (4, 6)})
    out = mixture.weave(MAP, drawn(2, 5, 6), Call())
    assert torch.equal(out, torch.zeros_like(out))
    spec, frame, generator = adamole.Spec(), Frame("bert", 768, 12), torch.Generator()
    weight = torch.empty(768, 768, device="meta")
    stacks = {MAP: adamole.AdaMoLE.from_nothing(MAP, weight, frame, spec, generator)}
    counted = adamole.AdaMoLE(["e"] * 8, stacks, frame, spec, generator)
    assert all(value.is_meta for value in counted.parameters())
    wanted = 8 * 8 * (768 + 768) + 8 * 768 + 768 + 1
    assert sum(value.numel() for value in counted.parameters()) == wanted


def test_half_precision_and_a_stored_state(make_new: Make) -> None:
    told = []
    first = make_new("adamole", {MAP: (4, 6)}, seed=0)
    for mixture in (first, make_new("adamole", {MAP: (4, 6)}, seed=9)):
        mixture.load_state_dict(first.state_dict())
        call = Call()
        mixture.eval().weave(MAP, drawn(2, 5, 6), call)
        told.append(call.trace.gates[MAP])
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))
    for path in ("dense", "grouped"):
        first.float().path = path
        call = Call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first.weave(MAP, drawn(2, 5, 6).float(), call)
        assert call.trace.gates[MAP].gates.dtype == torch.float32
