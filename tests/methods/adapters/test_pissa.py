"""PiSSA: the split of the weight and where it stands alone; what it has in common with OLoRA is in test_olora_pissa."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.oracle import Net, layer_of, woven
from tests.methods.adapters.starts import adapter_of, draw, move
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.pool import along
from weft.lowrank.route import Route, routed
from weft.lowrank.woven import Woven
from weft.methods.adapters.pissa import PiSSA, randomised_svd

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, seed: int = 0, **settings: object) -> PiSSA:
    adapter = adapter_of("pissa", W0, seed=seed, **{"rank": RANK, "alpha": ALPHA} | settings)
    assert isinstance(adapter, PiSSA)
    return adapter


def test_it_starts_from_the_largest_singular_triplets() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    A, B = adapter.A.detach(), adapter.B.detach()
    shares = torch.diag(S[:RANK] / SCALING)
    torch.testing.assert_close(A @ A.T, shares, **NEAR)
    torch.testing.assert_close(B.T @ B, shares, **NEAR)
    principal = U[:, :RANK] @ torch.diag(S[:RANK]) @ Vh[:RANK]
    torch.testing.assert_close(SCALING * B @ A, principal, **NEAR)
    rest = torch.linalg.svdvals(W0 - SCALING * adapter.B0 @ adapter.A0)
    torch.testing.assert_close(rest[: IN - RANK], S[RANK:], **NEAR)
    torch.testing.assert_close(rest[IN - RANK :], torch.zeros(RANK).double(), **NEAR)


def test_its_customary_alpha_is_the_rank_of_each_map() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, alpha=None)
    assert adapter.scaling == 1.0
    assert start(W0).scaling == SCALING
    torch.testing.assert_close(
        adapter.B @ adapter.A, SCALING * start(W0).B @ start(W0).A, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("iterations", [0, 2])
def test_the_randomised_decomposition_is_torchs_from_the_same_draw(iterations: int) -> None:
    W0 = draw(OUT, IN).float()
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
    W0 = draw(*shape)
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
    W0 = draw(OUT, IN)
    adapter = start(W0, iterations=0)
    move(adapter.parameters())
    other = start(W0, seed=1, iterations=0)
    assert set(adapter.state_dict()) == {"A", "B", "A0", "B0"}
    assert (other.delta(W0) - adapter.delta(W0)).abs().max() > 0.1
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other.delta(W0), adapter.delta(W0))


@pytest.mark.parametrize("path", [None, "segments"])
def test_it_leaves_a_plain_lora_on_the_same_base_alone(path: str | None) -> None:
    base = nn.Linear(IN, OUT).double().requires_grad_(False)
    W0 = base.weight.clone()
    map_ = LowRankLinear(base, "map")
    plain = adapter_of("lora", base.weight, rank=RANK, alpha=ALPHA)
    move(plain.parameters())
    woven = {"plain": Woven({"map": plain})}
    x = draw(3, 5, IN, seed=1)
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
            with routed(pair[number], woven), along(path), torch.no_grad():
                found[name] = map_(x)[[0, 2]]
        return found

    before = outputs(0)
    pissa = start(base.weight)
    woven["pissa"] = Woven({"map": pissa})
    optimizer = torch.optim.AdamW(pissa.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with routed(Route.everywhere("pissa"), woven):
            map_(x).square().sum().backward()
        optimizer.step()
    assert pissa.delta(W0).abs().max() > 0.1
    assert torch.equal(base.weight, W0)
    after = outputs(1)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_its_factors_are_a_plain_lora_for_peft_on_the_untouched_base() -> None:
    net = Net().double()
    adapters = {name: start(W0) for name, W0 in net.weights().items()}
    for adapter in adapters.values():
        move(adapter.parameters())
    config = LoraConfig(r=2 * RANK, lora_alpha=2 * RANK, target_modules=list(adapters))
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    for name, adapter in adapters.items():
        layer = layer_of(theirs, name)
        A, B = adapter.factors(net.weights()[name])
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(A)
            layer.lora_B["default"].weight.copy_(B)
    x = draw(4, 5, IN, seed=1)
    got = woven(net, adapters)(x)
    torch.testing.assert_close(got, theirs(x), rtol=1e-10, atol=1e-10)
    assert (got - net(x)).abs().max() > 0.1
