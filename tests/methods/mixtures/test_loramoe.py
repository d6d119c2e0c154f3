"""LoRAMoE's dense gates and its localised balance beside both written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.gate import Gate
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import loramoe
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.intermediate.dense"
Make = Callable[..., Mixture]
Woven = Callable[..., Tensor]


def naive(x: Tensor, router: Tensor, parts: list[Part | None]) -> Tensor:
    """What the experts add, `(tokens, in)` to `(tokens, out)`."""
    outputs = []
    for token in x:
        gates = (router @ token).softmax(0)
        outputs.append(
            sum(
                gate * part.scale * (part.B @ (part.A @ token))
                for gate, part in zip(gates, parts, strict=True)
                if part is not None
            )
        )
    return torch.stack(outputs)  # type: ignore[arg-type]


def balance(
    gates: Tensor, mask: Tensor, types: list[int] | None, experts: list[int], delta: float
) -> Tensor:
    """The loss entry by entry: `types` of the sequences, `experts` their types."""
    entries = []
    for at, sequence in enumerate(gates):
        real = sequence[mask[at].bool()]
        for expert, kind in enumerate(experts):
            important = 1 + delta if types is None or kind == types[at] else 1 - delta
            entries.append(important * real[:, expert].sum() if len(real) else None)
    kept = torch.stack([entry for entry in entries if entry is not None])
    mean = kept.sum() / len(kept)
    return (kept - mean).square().sum() / (len(kept) - 1) / mean.square()


def said(gates: Tensor, **call: Tensor) -> GateTrace:
    """A trace in which one map's gates are these."""
    found = Gate(gates, gates, torch.ones_like(gates, dtype=torch.bool))
    return GateTrace(gates={MAP: found}, **call)  # type: ignore[arg-type]


def random_gates(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    ).softmax(-1)


def value_of(mixture: Mixture, trace: GateTrace) -> Tensor:
    return mixture.losses(trace)["balance"][1]


def with_router(mixture: Mixture, router: Tensor) -> Mixture:
    with torch.no_grad():
        mixture.routers.weight(mixture.modules_woven[0]).copy_(router)  # type: ignore[union-attr, operator]
    return mixture


def test_dense_softmax_of_the_fixture(
    make: Make, parts: list[Part], x: Tensor, router: Tensor, woven: Woven, base_output: Tensor
) -> None:
    mixture = with_router(make("loramoe", parts, start="experts", maps=[MAP]), router)
    trace = GateTrace()
    found = base_output + woven(mixture, x, MAP, trace=trace)
    wanted = [[[3.308678, 5.478106], [1.868598, -3.078212]]]
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)
    gates = [[[0.589648, 0.145406, 0.264946], [0.419229, 0.254275, 0.326496]]]
    known = torch.tensor(gates, dtype=torch.float64)
    assert_close(trace.gates[MAP].gates, known, rtol=0, atol=1e-6)
    weight, value = mixture.losses(trace)["balance"]
    assert weight == 0.1
    assert_close(value, torch.tensor(0.218304, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 3), (5, 3)])
@pytest.mark.parametrize("kept", [[0], [0, 1, 2], [0, None, 2]])
def test_it_is_the_equation_in_values_and_gradients(
    make: Make, parts: list[Part], woven: Woven, shape: tuple[int, ...], kept: list[int | None]
) -> None:
    some = [None if at is None else parts[at] for at in kept]
    mixture = make("loramoe", some, start="experts", maps=[MAP])
    router = mixture.routers.weight(MAP)  # type: ignore[union-attr, operator]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    own, other = (x.clone().requires_grad_(True) for _ in range(2))
    copy = router.detach().clone().requires_grad_(True)
    found = woven(mixture, own, MAP)
    wanted = naive(other.reshape(-1, 3), copy, some).view(*shape[:-1], 2)
    assert_close(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert_close((own.grad, router.grad), (other.grad, copy.grad))
    assert all(value.grad is not None for value in mixture.parameters())


def test_new_experts_start_as_nothing_at_the_feed_forward_maps(
    make_new: Make, woven: Woven
) -> None:
    spec = loramoe.Spec()
    assert (spec.targets, spec.num_experts) == (["ffn_in", "ffn_out"], 8)
    mixture = make_new("loramoe", {MAP: (4, 6)})
    out = woven(mixture, torch.randn(2, 5, 6, dtype=torch.float64), MAP)
    assert torch.equal(out, torch.zeros_like(out))
    assert mixture.gates_wide(MAP) == 8


def test_equal_gates_and_lengths_cost_nothing(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4)
    even = torch.full((3, 5, 4), 0.25, dtype=torch.float64)
    assert value_of(mixture, said(even)) == 0
    masked = said(even, mask=torch.tensor([[1, 1, 1, 0, 0]] * 3))
    assert value_of(mixture, masked) == 0


def test_one_sequence_with_one_expert_of_four_costs_four(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4)
    hard = torch.zeros(1, 5, 4, dtype=torch.float64)
    hard[..., 2] = 1
    assert_close(value_of(mixture, said(hard)), torch.tensor(4.0, dtype=torch.float64))
    alone = make_new("loramoe", {MAP: (4, 6)}, num_experts=1)
    assert value_of(alone, said(torch.ones(1, 5, 1, dtype=torch.float64))) == 0


def test_the_scale_of_usage_has_no_say(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4)
    gates = random_gates(3, 5, 4)
    assert_close(value_of(mixture, said(7 * gates)), value_of(mixture, said(gates)))


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("start", "kinds"), [("nothing", [1, 1, 0, 0]), ("experts", [0, 1, 0, 1])])
def test_the_localised_balance_is_the_paper_s(
    make_new: Make, delta: float, start: str, kinds: list[int]
) -> None:
    mixture = make_new(
        "loramoe", {MAP: (4, 6)}, num_experts=4, start=start, knowledge=[1, 3], delta=delta
    )
    gates, labels = random_gates(4, 5, 4), torch.tensor([3, 0, 1, 2])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0] * 5])
    found = value_of(mixture, said(gates, mask=mask, labels=labels))
    assert_close(found, balance(gates, mask, [1, 0, 1, 0], kinds, delta), rtol=1e-8, atol=0)
    one = value_of(mixture, said(gates, mask=mask, labels=torch.tensor([1])))
    assert_close(one, balance(gates, mask, [1] * 4, kinds, delta), rtol=1e-8, atol=0)
    plain = make_new("loramoe", {MAP: (4, 6)}, num_experts=4, start=start, delta=delta)
    untyped = value_of(plain, said(gates, mask=mask, labels=labels))
    assert_close(untyped, balance(gates, mask, None, kinds, delta), rtol=1e-8, atol=0)


def test_of_an_odd_number_of_new_experts_the_smaller_half_is_for_knowledge(make_new: Make) -> None:
    gates, labels = random_gates(4, 5, 5), torch.tensor([3, 0, 1, 2])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1] * 5])
    for count, kinds in ((5, [1, 1, 0, 0, 0]), (3, [1, 0, 0]), (1, [0])):
        mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=count, knowledge=[1, 3], delta=0.5)
        own = gates[..., :count]
        found = value_of(mixture, said(own, mask=mask, labels=labels))
        assert_close(found, balance(own, mask, [1, 0, 1, 0], kinds, 0.5), rtol=1e-8, atol=0)


def test_it_is_least_where_usage_is_one_over_importance(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4, knowledge=[0], delta=0.5)
    usage = torch.tensor([[[1 / 1.5, 1 / 1.5, 2, 2]]], dtype=torch.float64, requires_grad=True)
    value = value_of(mixture, said(usage, labels=torch.tensor([0])))
    value.backward()
    zero = torch.zeros_like(usage)
    assert_close((value, usage.grad), (zero.sum(), zero), rtol=0, atol=1e-9)


def test_padding_and_rows_without_a_seq(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4)
    gates = random_gates(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    before = value_of(mixture, said(gates, mask=mask))
    other = torch.where(mask.bool().unsqueeze(-1), gates, 100.0)
    assert_close(value_of(mixture, said(other, mask=mask)), before)
    flat = said(gates[:, 0], mask=mask)
    assert_close(value_of(mixture, flat), value_of(mixture, said(gates[:2, :1])))


def test_it_is_a_mean_over_maps_and_can_be_off(make_new: Make) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4, balance_weight=0.7)
    trace = said(random_gates(3, 5, 4))
    first = value_of(mixture, trace)
    even = torch.full((3, 5, 4), 0.25, dtype=torch.float64)
    trace.gates["other"] = Gate(even, even, even > 0)
    weight, value = mixture.losses(trace)["balance"]
    assert weight == 0.7
    assert_close(value, first / 2)
    assert make_new("loramoe", {MAP: (4, 6)}, balance_weight=0).losses(trace) == {}


def test_what_it_refuses(make: Make, make_new: Make, parts: list[Part]) -> None:
    mixture = make_new("loramoe", {MAP: (4, 6)}, num_experts=4, knowledge=[1])
    for labels in (None, torch.tensor([0, -1, 1])):
        with pytest.raises(ValueError, match="does not say the task"):
            mixture.losses(GateTrace(gates=said(random_gates(3, 5, 4)).gates, labels=labels))
    with pytest.raises(ValueError, match="0 to 2 for 3 experts"):
        make("loramoe", parts, start="experts", knowledge=[3])
    with pytest.raises(ValueError, match="numbers of tasks"):
        make_new("loramoe", {MAP: (4, 6)}, knowledge=[-1])


def test_it_is_counted_without_memory() -> None:
    spec, frame = loramoe.Spec(), Frame("bert", 768, 12)
    generator, weight = torch.Generator(), torch.empty(3072, 768, device="meta")
    stacks = {MAP: loramoe.LoRAMoE.from_nothing(MAP, weight, frame, spec, generator)}
    mixture = loramoe.LoRAMoE(["e"] * 8, stacks, frame, spec, generator)
    assert all(value.is_meta for value in mixture.parameters())
    wanted = 8 * 8 * (768 + 3072) + 8 * 768
    assert sum(value.numel() for value in mixture.parameters()) == wanted


def test_half_precision_and_a_stored_state(make_new: Make) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    told = []
    first = make_new("loramoe", {MAP: (4, 6)}, seed=0)
    for mixture in (first, make_new("loramoe", {MAP: (4, 6)}, seed=9)):
        mixture.load_state_dict(first.state_dict())
        call = Call()
        mixture.eval().weave(MAP, x, call)
        told.append(call.trace.gates[MAP])
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))
    call = Call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first.float().weave(MAP, x.float(), call)
    assert call.trace.gates[MAP].gates.dtype == torch.float32
