"""MoLA's top-2 gates over a number of experts that grows with the layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import mola
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]
Woven = Callable[..., Tensor]


def maps_of(layers: int) -> list[str]:
    return [f"layer.{layer}.attention.self.query" for layer in range(layers)]


def counts(layers: int, **settings: object) -> list[int]:
    """Experts by layer of a mixture that is only counted."""
    spec, frame = mola.Spec(**settings), Frame("bert", 6, layers)  # type: ignore[arg-type]
    weight = torch.empty(4, 6, device="meta")
    stacks = {
        module: mola.MoLA.from_nothing(module, weight, frame, spec, torch.Generator())
        for module in maps_of(layers)
    }
    names = [f"expert{at}" for at in range(spec.num_experts)]
    mixture = mola.MoLA(names, stacks, frame, spec, torch.Generator())
    assert all(value.is_meta for value in mixture.parameters())
    return [mixture.gates_wide(module) for module in maps_of(layers)]


def naive(x: Tensor, router: Tensor, parts: list[Part | None], k: int) -> tuple[Tensor, Tensor]:
    """Gates `(tokens, experts)` and what the experts add, `(tokens, out)`."""
    gates, outputs = [], []
    for token in x:
        p = (router @ token).softmax(0)
        chosen = sorted(range(len(parts)), key=lambda at: (-p[at].item(), at))[:k]
        total = sum(p[at] for at in chosen)
        own = [p[at] / total if at in chosen else p[at] * 0 for at in range(len(parts))]
        added = [
            gate * part.scale * (part.B @ (part.A @ token))
            for gate, part in zip(own, parts, strict=True)
            if part is not None
        ]
        gates.append(torch.stack(own))
        outputs.append(sum(added))
    return torch.stack(gates), torch.stack(outputs)  # type: ignore[arg-type]


def set_router(mixture: Mixture, router: Tensor) -> None:
    with torch.no_grad():
        mixture.routers.weight(MAP).copy_(router)  # type: ignore[union-attr, operator]


def test_top_two_of_the_fixture(
    make: Make, parts: list[Part], x: Tensor, router: Tensor, woven: Woven, base_output: Tensor
) -> None:
    mixture = make("mola", parts, start="experts")
    set_router(mixture, router)
    trace = GateTrace()
    found = base_output + woven(mixture, x, trace=trace)
    gates = [[[0.689974, 0, 0.310026], [0.562177, 0, 0.437823]]]
    wanted = [[[2.170179, 5.899745], [1.141838, -2.422926]]]
    told = trace.gates[MAP].gates
    assert_close(told, torch.tensor(gates, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)
    weight, value = mixture.losses(trace)["balance"]
    assert weight == 1e-3
    assert_close(value, torch.tensor(1.200239, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", ["dense", "grouped"])
@pytest.mark.parametrize(
    ("kept", "k"), [([0, 1, 2], 1), ([0, 1, 2], 3), ([0, None, 2], 2), ([1], 1)]
)
def test_it_is_the_equation_on_both_paths(
    make: Make, parts: list[Part], path: str, kept: list[int | None], k: int
) -> None:
    some = [None if at is None else parts[at] for at in kept]
    mixture = make("mola", some, start="experts", top_k=k)
    mixture.path = path
    router = mixture.routers.weight(MAP)  # type: ignore[union-attr, operator]
    copy = router.detach().clone().requires_grad_(True)
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    own, other = (x.clone().requires_grad_(True) for _ in range(2))
    call = Call()
    found = mixture.weave(MAP, own, call)
    gates, wanted = naive(other.reshape(-1, 3), copy, some, k)
    assert_close(call.trace.gates[MAP].gates, gates.view(2, 5, -1))
    assert_close(found, wanted.view(2, 5, 2))
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert_close((own.grad, router.grad), (other.grad, copy.grad))


def test_equal_scores_go_to_the_earlier_experts(make: Make, parts: list[Part], x: Tensor) -> None:
    mixture = make("mola", parts, start="experts")
    set_router(mixture, torch.zeros(3, 3, dtype=torch.float64))
    call = Call()
    mixture.weave(MAP, x, call)
    half = torch.tensor([0.5, 0.5, 0], dtype=torch.float64).expand(1, 2, 3)
    assert_close(call.trace.gates[MAP].gates, half)


@pytest.mark.parametrize(
    ("layers", "settings", "wanted"),
    [
        (32, {}, [2] * 8 + [4] * 8 + [6] * 8 + [8] * 8),
        (12, {}, [2] * 3 + [4] * 3 + [6] * 3 + [8] * 3),
        (6, {"num_experts": 4}, [2, 2, 2, 3, 4, 4]),
        (4, {"num_experts": 4, "top_k": 1}, [1, 2, 3, 4]),
        (2, {}, [4, 8]),
        (1, {"num_experts": 2}, [2]),
        (12, {"experts_by_layer": [8, 2, 8]}, [8] * 4 + [2] * 4 + [8] * 4),
        (5, {"experts_by_layer": [2, 3, 4, 5], "num_experts": 5}, [2, 3, 4, 5, 5]),
        (3, {"experts_by_layer": [2, 5, 3], "num_experts": 5}, [2, 5, 3]),
        (3, {"experts_by_layer": [5], "num_experts": 5}, [5, 5, 5]),
    ],
)
def test_experts_by_layer(layers: int, settings: dict[str, object], wanted: list[int]) -> None:
    assert counts(layers, **settings) == wanted


def test_what_it_refuses(make: Make, parts: list[Part]) -> None:
    with pytest.raises(ValueError, match="4 groups for 3 layers"):
        counts(3, experts_by_layer=[2, 4, 6, 8])
    with pytest.raises(ValueError, match="set num_experts to 6"):
        counts(4, experts_by_layer=[2, 4, 6])
    with pytest.raises(ValueError, match="top_k 2 is more than the 1 experts"):
        counts(4, experts_by_layer=[1, 8])
    with pytest.raises(ValueError, match="top_k 2 is more than the 1 experts"):
        counts(4, num_experts=1)
    with pytest.raises(ValueError, match="top_k 4 is more than the 3 experts"):
        make("mola", parts, start="experts", top_k=4)
    with pytest.raises(ValueError, match="nothing says which"):
        make("mola", parts, start="experts", experts_by_layer=[2, 3])
    equal = make("mola", parts, start="experts", experts_by_layer=[3, 3])
    assert equal.gates_wide(MAP) == 3


def test_a_map_outside_the_layers_has_the_most() -> None:
    weight, frame = torch.empty(4, 6, device="meta"), Frame("bert", 6, 4)
    stack = mola.MoLA.from_nothing("pooler.dense", weight, frame, mola.Spec(), torch.Generator())
    assert stack.ranks == (8,) * 8


def test_balanced_gates_cost_one_at_every_map(make_new: Make) -> None:
    shapes = dict.fromkeys(maps_of(4), (4, 6))
    mixture = make_new("mola", shapes, layers=4, dropout=0.0)
    with torch.no_grad():
        for module in shapes:
            mixture.routers.weight(module).zero_()  # type: ignore[union-attr, operator]
    call = Call()
    for module in shapes:
        out = mixture.weave(module, torch.randn(2, 5, 6, dtype=torch.float64), call)
        assert torch.equal(out, torch.zeros_like(out))
    assert [each.gates.shape[-1] for each in call.trace.gates.values()] == [2, 4, 6, 8]
    value = mixture.losses(call.trace)["balance"][1]
    assert_close(len(shapes) * value, torch.tensor(4.0, dtype=torch.float64))


def balance(p: Tensor, chosen: Tensor) -> Tensor:
    """E times the sum over experts of the share of all selections and the mean score; (tokens, experts)."""
    f = [float(chosen[:, at].sum()) / float(chosen.sum()) for at in range(p.shape[1])]
    return p.shape[1] * sum(share * p[:, at].mean() for at, share in enumerate(f))  # type: ignore[return-value]


def test_the_balance_is_over_real_tokens_map_by_map(make_new: Make) -> None:
    shapes = dict.fromkeys(maps_of(2), (4, 6))
    mixture = make_new("mola", shapes, layers=2)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    call = Call(GateTrace(mask=mask))
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(3, 4, 6, dtype=torch.float64, generator=generator)
    for module in shapes:
        mixture.weave(module, x, call)
    value = mixture.losses(call.trace)["balance"][1]
    wanted = [
        balance(each.scores[mask.bool()], each.selected[mask.bool()])
        for each in call.trace.gates.values()
    ]
    assert_close(value, (wanted[0] + wanted[1]) / 2)
    value.backward()
    assert all(weight.grad is not None for weight in mixture.routers.parameters())  # type: ignore[union-attr]
    assert make_new("mola", shapes, layers=2, balance_weight=0).losses(call.trace) == {}


def test_rows_without_a_seq_all_count(make_new: Make) -> None:
    mixture = make_new("mola", {MAP: (4, 6)}).eval()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flat = Call(GateTrace(mask=torch.ones(3, 4)))
    long = Call()
    assert_close(mixture.weave(MAP, x, flat), mixture.weave(MAP, x.unsqueeze(1), long)[:, 0])
    assert_close(mixture.losses(flat.trace), mixture.losses(long.trace))


def test_half_precision_and_a_stored_state(make_new: Make) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    told = []
    first = make_new("mola", {MAP: (4, 6)}, seed=0)
    for mixture in (first, make_new("mola", {MAP: (4, 6)}, seed=9)):
        mixture.load_state_dict(first.state_dict())
        call = Call()
        mixture.eval().weave(MAP, x, call)
        told.append(call.trace.gates[MAP])
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))
    for path in ("dense", "grouped"):
        first.float().path = path
        call = Call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first.weave(MAP, x.float(), call)
        assert call.trace.gates[MAP].gates.dtype == torch.float32
