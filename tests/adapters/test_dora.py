"""DoRA: the paper's equation, its gradient with constant norms, and PEFT's own layers."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from weft.adapters.base import NotLowRank
from weft.adapters.dora import DoRA
from weft.config import RecipeSettings
from weft.dropout import dropout
from weft.expert import make_adapters
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.recipes import resolve

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def draws(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(W0: Tensor, dtype: torch.dtype = torch.float64, **settings: object) -> DoRA:
    """As an expert starts it on one map."""
    asked = {"name": "dora", "rank": RANK, "alpha": ALPHA, **settings}
    recipe = resolve(RecipeSettings.model_validate(asked))
    generator = torch.Generator().manual_seed(0)
    made, _ = make_adapters(recipe, {"map": W0}, {"map": RANK}, generator, dtype)
    adapter = made["map"]
    assert isinstance(adapter, DoRA)
    return adapter


def moved(W0: Tensor, seed: int = 3) -> DoRA:
    """Anywhere but at its start, as after training."""
    adapter = start(W0)
    with torch.no_grad():
        for number, value in enumerate(adapter.parameters()):
            value.add_(0.2 * draws(*value.shape, seed=seed + number))
    return adapter


def parts(adapter: DoRA, W0: Tensor) -> tuple[Tensor, Tensor]:
    """V and its row norms c, element by element as the paper has them."""
    V = W0 + SCALING * adapter.B.detach() @ adapter.A.detach()
    return V, torch.stack([(row * row).sum().sqrt() for row in V])


def test_its_delta_is_the_papers_equation_five() -> None:
    W0 = draws(OUT, IN)
    adapter = moved(W0)
    V, c = parts(adapter, W0)
    m = adapter.m.detach()
    expected = torch.stack([m[row] * V[row] / c[row] for row in range(OUT)])
    torch.testing.assert_close(W0 + adapter.delta(W0), expected, **NEAR)
    torch.testing.assert_close((W0 + adapter.delta(W0)).norm(dim=1), m.abs(), **NEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
def test_it_starts_as_a_no_op_to_the_last_bit(dtype: torch.dtype, turned: bool) -> None:
    W0 = (draws(IN, OUT).T if turned else draws(OUT, IN)).to(dtype)
    adapter = start(W0, torch.promote_types(dtype, torch.float32))
    assert not adapter.delta(W0).any()
    assert not adapter(draws(2, 5, IN).to(dtype), W0).any()
    torch.testing.assert_close(adapter.m.double(), W0.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("build", [start, moved])
def test_its_gradients_treat_the_norms_as_constant(build: Callable[[Tensor], DoRA]) -> None:
    W0, x, G_y = draws(OUT, IN), draws(5, IN, seed=1), draws(5, OUT, seed=2)
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
    W0, x, G_y = draws(OUT, IN), draws(5, IN, seed=1).requires_grad_(), draws(5, OUT, seed=2)
    adapter = moved(W0)
    (found,) = torch.autograd.grad((adapter(x, W0) * G_y).sum(), x)
    torch.testing.assert_close(found, G_y @ adapter.delta(W0).detach(), **NEAR)


def test_scaling_the_weight_and_its_magnitudes_scales_the_output() -> None:
    W0, x = draws(OUT, IN), draws(5, IN, seed=1)
    adapter = moved(W0)
    before = x @ W0.T + adapter(x, W0)
    with torch.no_grad():
        adapter.B.mul_(3.0)
        adapter.m.mul_(3.0)
    torch.testing.assert_close(3 * x @ W0.T + adapter(x, 3 * W0), 3 * before, **NEAR)


def test_forward_keeps_no_dense_matrix_for_backward() -> None:
    W0 = draws(OUT, IN)
    adapter, kept = moved(W0), list[Tensor]()

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        adapter(draws(2, 5, IN).requires_grad_(), W0)
    dense = [value for value in kept if value.numel() == W0.numel()]
    assert dense
    assert {value.data_ptr() for value in dense} == {W0.data_ptr()}


def test_a_row_of_zeros_stays_one() -> None:
    W0 = draws(OUT, IN)
    W0[2] = 0
    adapter = start(W0)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for _ in range(3):
        (adapter(draws(5, IN, seed=1), W0) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    delta = adapter.delta(W0)
    assert not delta[2].any()
    assert delta.isfinite().all()
    assert all(row.any() for number, row in enumerate(delta) if number != 2)


def test_its_change_has_full_rank_so_it_says_what_to_do_instead_of_factors() -> None:
    W0 = draws(OUT, IN)
    adapter = moved(W0)
    assert torch.linalg.matrix_rank(adapter.delta(W0)) == IN
    with pytest.raises(NotLowRank, match=r"merge the expert .* at which rank a plain LoRA"):
        adapter.factors(W0)


def test_its_state_is_pefts_form() -> None:
    adapter = start(draws(OUT, IN))
    assert set(adapter.state_dict()) == {"A", "B", "m"}
    assert adapter.peft_magnitude() is adapter.m
    assert adapter.peft_alpha() == ALPHA
    assert adapter.scaling == SCALING


def test_the_frozen_part_of_its_term_sees_the_dropped_input() -> None:
    base = nn.Linear(IN, OUT).double()
    W0, x = base.weight.detach(), draws(2, 5, IN, seed=1)
    adapter = moved(W0)
    adapter.dropout = 0.5
    map_ = LowRankLinear(base).train()
    map_.pool.add("x", adapter)
    torch.manual_seed(4)
    with routed(Route.everywhere("x")):
        got = map_(x)
    torch.manual_seed(4)
    dropped = dropout(x, 0.5)
    V, c = parts(adapter, W0)
    ratio = adapter.m / c
    expected = base(x) + (ratio - 1) * (dropped @ W0.T) + ratio * (dropped @ (V - W0).T)
    torch.testing.assert_close(got, expected, **NEAR)
    assert (dropped == 0).any()


class Net(nn.Module):
    """Two maps, each with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, OUT)
        self.second = nn.Linear(OUT, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def twins() -> tuple[nn.Module, dict[str, DoRA], nn.Module, dict[str, dict[str, nn.Parameter]]]:
    """The same net, adapted here and by PEFT from the same tensors; each with its parameters."""
    torch.manual_seed(0)
    net = Net().double().requires_grad_(False)
    adapters = {name: moved(layer.weight, seed=3) for name, layer in net.named_children()}
    ours = copy.deepcopy(net)
    for name, adapter in adapters.items():
        map_ = LowRankLinear(getattr(ours, name))
        map_.pool.add("x", adapter)
        setattr(ours, name, map_)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(adapters), use_dora=True)
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    values = {}
    for name, adapter in adapters.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        assert torch.equal(layer.lora_magnitude_vector["default"].weight, start_m(net, name))
        values[name] = {
            "A": layer.lora_A["default"].weight,
            "B": layer.lora_B["default"].weight,
            "m": layer.lora_magnitude_vector["default"].weight,
        }
        with torch.no_grad():
            for letter, value in values[name].items():
                value.copy_(adapter.get_parameter(letter))
    return ours, adapters, theirs, values


def start_m(net: nn.Module, name: str) -> Tensor:
    return start(net.get_submodule(name).get_parameter("weight")).m


def test_it_trains_as_pefts_does() -> None:
    ours, adapters, theirs, twin = twins()
    x, target = draws(4, 5, IN, seed=1), draws(4, 5, 8, seed=2)
    own = {name: dict(adapter.named_parameters()) for name, adapter in adapters.items()}
    optimizers = [
        torch.optim.AdamW([v for part in side.values() for v in part.values()], lr=1e-2)
        for side in (own, twin)
    ]
    for _ in range(10):
        with routed(Route.everywhere("x")):
            got = ours(x)
        expected = theirs(x)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        for optimizer, y in zip(optimizers, (got, expected), strict=True):
            optimizer.zero_grad()
            (y - target).square().mean().backward()
        for name, part in own.items():
            for letter, value in part.items():
                assert value.grad is not None
                other = twin[name][letter].grad
                torch.testing.assert_close(value.grad, other, rtol=1e-9, atol=1e-12)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(own, twin, rtol=1e-9, atol=1e-9)


def test_its_merged_weights_are_pefts() -> None:
    ours, adapters, theirs, _ = twins()
    merged = theirs.merge_and_unload().state_dict()
    for name, adapter in adapters.items():
        W0 = ours.get_submodule(name).weight
        torch.testing.assert_close(W0 + adapter.delta(W0), merged[f"{name}.weight"], **NEAR)
