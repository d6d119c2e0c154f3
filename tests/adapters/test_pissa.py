"""PiSSA: the split of the weight, its exact form on the untouched base, and PEFT's own layers."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from weft.adapters.base import Adapter
from weft.adapters.pissa import PiSSA, randomised_svd
from weft.config import RecipeSettings
from weft.expert import make_adapters
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.recipes import resolve

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def draws(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(
    name: str, W0: Tensor, dtype: torch.dtype = torch.float64, seed: int = 0, **settings: object
) -> Adapter:
    """A recipe's adapter as an expert starts it on one map."""
    recipe = resolve(RecipeSettings.model_validate({"name": name, "rank": RANK, **settings}))
    generator = torch.Generator().manual_seed(seed)
    adapters, _ = make_adapters(recipe, {"map": W0}, {"map": RANK}, generator, dtype)
    return adapters["map"]


def start(W0: Tensor, dtype: torch.dtype = torch.float64, **settings: object) -> PiSSA:
    adapter = made("pissa", W0, dtype, **{"alpha": ALPHA, **settings})
    assert isinstance(adapter, PiSSA)
    return adapter


def move(adapter: Adapter, by: float = 0.2) -> None:
    """Away from its start, as after training."""
    with torch.no_grad():
        for number, value in enumerate(adapter.parameters()):
            value.add_(by * draws(*value.shape, seed=3 + number))


def residual(adapter: PiSSA, W0: Tensor) -> Tensor:
    """What the method freezes."""
    return W0 - SCALING * adapter.B0 @ adapter.A0


def test_it_starts_from_the_largest_singular_triplets() -> None:
    W0 = draws(OUT, IN)
    adapter = start(W0)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    A, B = adapter.A.detach(), adapter.B.detach()
    shares = torch.diag(S[:RANK] / SCALING)
    torch.testing.assert_close(A @ A.T, shares, **NEAR)
    torch.testing.assert_close(B.T @ B, shares, **NEAR)
    principal = U[:, :RANK] @ torch.diag(S[:RANK]) @ Vh[:RANK]
    torch.testing.assert_close(SCALING * B @ A, principal, **NEAR)
    rest = torch.linalg.svdvals(residual(adapter, W0))
    torch.testing.assert_close(rest[: IN - RANK], S[RANK:], **NEAR)
    torch.testing.assert_close(rest[IN - RANK :], torch.zeros(RANK).double(), **NEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("iterations", [None, 0, 2])
def test_it_starts_as_a_no_op_to_the_last_bit(dtype: torch.dtype, iterations: int | None) -> None:
    W0 = draws(OUT, IN).to(dtype)
    for kept in (torch.promote_types(dtype, torch.float32), torch.bfloat16):
        adapter = start(W0, kept, iterations=iterations)
        assert not adapter.delta(W0).any()
        assert not adapter(draws(2, 5, IN).to(dtype), W0).any()


def test_both_factors_learn_from_the_first_step() -> None:
    W0, x, G_y = draws(OUT, IN), draws(5, IN, seed=1), draws(5, OUT, seed=2)
    adapter = start(W0)
    G = G_y.T @ x
    (adapter(x, W0) * G_y).sum().backward()
    torch.testing.assert_close(adapter.A.grad, SCALING * adapter.B.detach().T @ G, **NEAR)
    torch.testing.assert_close(adapter.B.grad, SCALING * G @ adapter.A.detach().T, **NEAR)
    assert adapter.A.grad is not None
    assert (adapter.A.grad != 0).all()


def test_its_factors_of_twice_the_rank_stand_on_the_untouched_base() -> None:
    W0 = draws(OUT, IN)
    adapter = start(W0)
    move(adapter)
    A, B = adapter.factors(W0)
    assert A.shape == (2 * RANK, IN)
    trained = residual(adapter, W0) + SCALING * adapter.B @ adapter.A
    torch.testing.assert_close(W0 + B @ A, trained, **NEAR)


def test_a_small_change_is_exact_beside_a_large_principal_part() -> None:
    W0 = draws(OUT, IN)
    W0 += 1e4 * draws(OUT, 1, seed=1) @ draws(1, IN, seed=2)
    adapter = start(W0.float(), torch.float32)
    move(adapter, by=1e-3)
    single = adapter.delta(W0.float()).detach()
    double = adapter.double().delta(W0).detach()
    assert (single - double).norm() < 1e-6 * double.norm()


def test_its_customary_alpha_is_the_rank_of_each_map() -> None:
    W0 = draws(OUT, IN)
    adapter = start(W0, alpha=None)
    assert adapter.scaling == 1.0
    assert start(W0).scaling == SCALING
    torch.testing.assert_close(
        adapter.B @ adapter.A, SCALING * start(W0).B @ start(W0).A, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("iterations", [0, 2])
def test_the_randomised_decomposition_is_torchs_from_the_same_draw(iterations: int) -> None:
    W0 = draws(OUT, IN).float()
    torch.manual_seed(5)
    U, S, V = torch.svd_lowrank(W0, RANK, niter=iterations)
    own = randomised_svd(W0, RANK, iterations, torch.Generator().manual_seed(5))
    near = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(own[1], S, **near)
    torch.testing.assert_close(
        own[0] @ torch.diag(own[1]) @ own[2], U @ torch.diag(S) @ V.T, **near
    )


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT)])
def test_the_randomised_decomposition_comes_to_the_exact_one(shape: tuple[int, int]) -> None:
    W0 = draws(*shape)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    # Singular values that fall by halves, so that every iteration wins a factor of four or more.
    W0 = U @ torch.diag(0.5 ** torch.arange(len(S)).double()) @ Vh
    exact = start(W0)
    near = start(W0, iterations=25)
    torch.testing.assert_close(near.B @ near.A, exact.B @ exact.A, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(near.A.abs(), exact.A.abs(), rtol=1e-10, atol=1e-10)
    # Without iterations it is near, and no more.
    rough = start(W0, iterations=0)
    away = (rough.B @ rough.A - exact.B @ exact.A).norm() / (exact.B @ exact.A).norm()
    assert 1e-6 < away < 1


def test_its_start_is_part_of_its_state() -> None:
    W0 = draws(OUT, IN)
    adapter = start(W0, iterations=0)
    move(adapter)
    other = made("pissa", W0, seed=1, alpha=ALPHA, iterations=0)
    assert set(adapter.state_dict()) == {"A", "B", "A0", "B0"}
    assert (other.delta(W0) - adapter.delta(W0)).abs().max() > 0.1
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other.delta(W0), adapter.delta(W0))


@pytest.mark.parametrize("path", [None, "segments"])
def test_it_leaves_a_plain_lora_on_the_same_base_alone(path: str | None) -> None:
    base = nn.Linear(IN, OUT).double().requires_grad_(False)
    W0 = base.weight.clone()
    map_ = LowRankLinear(base)
    map_.pool.path = path
    plain = made("lora", base.weight, alpha=ALPHA)
    move(plain)
    map_.pool.add("plain", plain)
    x = draws(3, 5, IN, seed=1)
    routes = {
        "bare": (None, None),
        "everywhere": (Route.everywhere("plain"), Route.everywhere("plain")),
    }
    if path == "segments":
        routes["mixed"] = (
            Route.by_sequence(["plain", None, "plain"]),
            Route.by_sequence(["plain", "pissa", "plain"]),
        )

    def outputs(number: int) -> dict[str, Tensor]:
        found = {}
        for name, pair in routes.items():
            with routed(pair[number]), torch.no_grad():
                found[name] = map_(x)[[0, 2]]
        return found

    before = outputs(0)
    pissa = start(base.weight)
    map_.pool.add("pissa", pissa)
    optimizer = torch.optim.AdamW(pissa.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with routed(Route.everywhere("pissa")):
            map_(x).square().sum().backward()
        optimizer.step()
    assert pissa.delta(W0).abs().max() > 0.1
    assert torch.equal(base.weight, W0)
    after = outputs(1)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Net(nn.Module):
    """Two maps, each with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, OUT)
        self.second = nn.Linear(OUT, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def woven(net: nn.Module, adapters: dict[str, PiSSA]) -> nn.Module:
    found = copy.deepcopy(net)
    for name, adapter in adapters.items():
        map_ = LowRankLinear(getattr(found, name))
        map_.pool.add("x", adapter)
        setattr(found, name, map_)
    return found


def test_it_starts_where_pefts_does() -> None:
    torch.manual_seed(0)
    net = Net()
    weights = {name: layer.weight.detach().clone() for name, layer in net.named_children()}
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(weights), init_lora_weights="pissa"
    )
    theirs = get_peft_model(net, config)
    for name, W0 in weights.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        own = start(W0, torch.float32)
        near = {"rtol": 1e-5, "atol": 1e-6}
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(own.A.abs(), A.abs(), **near)
        torch.testing.assert_close(own.B.abs(), B.abs(), **near)
        torch.testing.assert_close(own.B @ own.A, B @ A, **near)
        torch.testing.assert_close(residual(own, W0), layer.base_layer.weight, **near)


def test_it_trains_as_pefts_does() -> None:
    torch.manual_seed(0)
    net = Net().requires_grad_(False)
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["first", "second"],
        init_lora_weights="pissa",
    )
    # PEFT refuses to start in double precision, so that comes after.
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    net = net.double()
    adapters = {name: start(layer.weight) for name, layer in net.named_children()}
    ours, own, twin = woven(net, adapters), {}, {}
    for name, adapter in adapters.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        own[name] = dict(adapter.named_parameters())
        twin[name] = {
            "A": layer.lora_A["default"].weight,
            "B": layer.lora_B["default"].weight,
        }
        with torch.no_grad():
            layer.base_layer.weight.copy_(residual(adapter, net.get_submodule(name).weight))
            for letter, value in twin[name].items():
                value.copy_(own[name][letter])
    x, target = draws(4, 5, IN, seed=1), draws(4, 5, 8, seed=2)
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


def test_its_factors_are_a_plain_lora_for_peft_on_the_untouched_base() -> None:
    torch.manual_seed(0)
    net = Net().double().requires_grad_(False)
    adapters = {name: start(layer.weight) for name, layer in net.named_children()}
    for adapter in adapters.values():
        move(adapter)
    config = LoraConfig(r=2 * RANK, lora_alpha=2 * RANK, target_modules=list(adapters))
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    for name, adapter in adapters.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        A, B = adapter.factors(net.get_submodule(name).weight)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(A)
            layer.lora_B["default"].weight.copy_(B)
    x = draws(4, 5, IN, seed=1)
    with routed(Route.everywhere("x")):
        got = woven(net, adapters)(x)
    torch.testing.assert_close(got, theirs(x), rtol=1e-10, atol=1e-10)
    assert (got - net(x)).abs().max() > 0.1
