"""DoRA: the paper's equation, its gradient with constant norms, and PEFT's own layers."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.oracle import (
    LORA,
    Net,
    assert_ten_steps_agree,
    layer_of,
    parameters_of,
    twins_of,
    woven,
)
from tests.methods.adapters.starts import adapter_of, draw, move
from weft.base.dropout import dropout
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.lowrank.woven import Woven
from weft.methods.adapters.contract import NotLowRank
from weft.methods.adapters.dora import DoRA

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, dtype: torch.dtype = torch.float64) -> DoRA:
    adapter = adapter_of("dora", W0, dtype=dtype, rank=RANK, alpha=ALPHA)
    assert isinstance(adapter, DoRA)
    return adapter


def moved(W0: Tensor) -> DoRA:
    adapter = start(W0)
    move(adapter.parameters())
    return adapter


def parts(adapter: DoRA, W0: Tensor) -> tuple[Tensor, Tensor]:
    """V and its row norms c, element by element as the paper has them."""
    V = W0 + SCALING * adapter.B.detach() @ adapter.A.detach()
    return V, torch.stack([(row * row).sum().sqrt() for row in V])


def test_its_delta_is_the_papers_equation_five() -> None:
    W0 = draw(OUT, IN)
    adapter = moved(W0)
    V, c = parts(adapter, W0)
    m = adapter.m.detach()
    expected = torch.stack([m[row] * V[row] / c[row] for row in range(OUT)])
    torch.testing.assert_close(W0 + adapter.delta(W0), expected, **NEAR)
    torch.testing.assert_close((W0 + adapter.delta(W0)).norm(dim=1), m.abs(), **NEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
def test_it_starts_as_a_no_op_to_the_last_bit(dtype: torch.dtype, turned: bool) -> None:
    W0 = (draw(IN, OUT).T if turned else draw(OUT, IN)).to(dtype)
    adapter = start(W0, torch.promote_types(dtype, torch.float32))
    assert not adapter.delta(W0).any()
    assert not adapter(draw(2, 5, IN).to(dtype), W0).any()
    torch.testing.assert_close(adapter.m.double(), W0.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("build", [start, moved])
def test_its_gradients_treat_the_norms_as_constant(build: Callable[[Tensor], DoRA]) -> None:
    W0, x, G_y = draw(OUT, IN), draw(5, IN, seed=1), draw(5, OUT, seed=2)
    adapter = build(W0)
    V, c = parts(adapter, W0)
    G = G_y.T @ x
    rescaled = (adapter.m.detach() / c)[:, None] * G
    expected = {
        "A": SCALING * adapter.B.detach().T @ rescaled,
        "B": SCALING * rescaled @ adapter.A.detach().T,
        "m": (G * V).sum(dim=1) / c,
    }
    values = dict(adapter.named_parameters())
    for y in (adapter(x, W0), x @ adapter.delta(W0).T):
        found = torch.autograd.grad((y * G_y).sum(), list(values.values()))
        torch.testing.assert_close(dict(zip(values, found, strict=True)), expected, **NEAR)


def test_the_inputs_gradient_is_through_the_whole_change() -> None:
    W0, x, G_y = draw(OUT, IN), draw(5, IN, seed=1).requires_grad_(), draw(5, OUT, seed=2)
    adapter = moved(W0)
    (found,) = torch.autograd.grad((adapter(x, W0) * G_y).sum(), x)
    torch.testing.assert_close(found, G_y @ adapter.delta(W0).detach(), **NEAR)


def test_scaling_the_weight_and_its_magnitudes_scales_the_output() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=1)
    adapter = moved(W0)
    before = x @ W0.T + adapter(x, W0)
    with torch.no_grad():
        adapter.B.mul_(3.0)
        adapter.m.mul_(3.0)
    torch.testing.assert_close(3 * x @ W0.T + adapter(x, 3 * W0), 3 * before, **NEAR)


def test_forward_keeps_no_dense_matrix_for_backward() -> None:
    W0 = draw(OUT, IN)
    adapter, kept = moved(W0), list[Tensor]()

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        adapter(draw(2, 5, IN).requires_grad_(), W0)
    dense = [value for value in kept if value.numel() == W0.numel()]
    assert dense
    assert {value.data_ptr() for value in dense} == {W0.data_ptr()}


def test_a_row_of_zeros_stays_one() -> None:
    W0 = draw(OUT, IN)
    W0[2] = 0
    adapter = start(W0)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for _ in range(3):
        (adapter(draw(5, IN, seed=1), W0) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    delta = adapter.delta(W0)
    assert not delta[2].any()
    assert delta.isfinite().all()
    assert all(row.any() for number, row in enumerate(delta) if number != 2)


def test_its_change_has_full_rank_so_it_says_what_to_do_instead_of_factors() -> None:
    W0 = draw(OUT, IN)
    adapter = moved(W0)
    assert torch.linalg.matrix_rank(adapter.delta(W0)) == IN
    with pytest.raises(NotLowRank, match=r"merge the expert .* at which rank a plain LoRA"):
        adapter.factors(W0)


def test_its_state_is_pefts_form() -> None:
    adapter = start(draw(OUT, IN))
    assert set(adapter.state_dict()) == {"A", "B", "m"}
    assert adapter.peft_magnitude() is adapter.m
    assert adapter.peft_alpha() == ALPHA
    assert adapter.scaling == SCALING


def test_the_frozen_part_of_its_term_sees_the_dropped_input() -> None:
    base = nn.Linear(IN, OUT).double()
    W0, x = base.weight.detach(), draw(2, 5, IN, seed=1)
    adapter = moved(W0)
    adapter.dropout = 0.5
    map_ = LowRankLinear(base, "map").train()
    torch.manual_seed(4)
    with routed(Route.everywhere("x"), {"x": Woven({"map": adapter})}):
        got = map_(x)
    torch.manual_seed(4)
    dropped = dropout(x, 0.5)
    V, c = parts(adapter, W0)
    ratio = adapter.m / c
    expected = base(x) + (ratio - 1) * (dropped @ W0.T) + ratio * (dropped @ (V - W0).T)
    torch.testing.assert_close(got, expected, **NEAR)
    assert (dropped == 0).any()


def twins() -> tuple[Net, dict[str, DoRA], nn.Module, dict[str, nn.Parameter]]:
    """A net, our adapters on it, PEFT's twin of the two from the same tensors, and its parameters."""
    net = Net().double()
    adapters = {name: moved(W0) for name, W0 in net.weights().items()}
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(adapters), use_dora=True)
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    for name, W0 in net.weights().items():
        begun = layer_of(theirs, name).lora_magnitude_vector["default"].weight
        assert torch.equal(begun, start(W0).m)
    paths = {**LORA, "m": "lora_magnitude_vector.default.weight"}
    return net, adapters, theirs, twins_of(theirs, adapters, paths)


def test_it_trains_as_pefts_does() -> None:
    net, adapters, theirs, twin = twins()
    batch = draw(4, 5, IN, seed=1), draw(4, 5, 8, seed=2)
    assert_ten_steps_agree(woven(net, adapters), theirs, parameters_of(adapters), twin, batch)


def test_its_merged_weights_are_pefts() -> None:
    net, adapters, theirs, _ = twins()
    merged = theirs.merge_and_unload().state_dict()
    for name, W0 in net.weights().items():
        delta = adapters[name].delta(W0)
        torch.testing.assert_close(W0 + delta, merged[f"{name}.weight"], **NEAR)
