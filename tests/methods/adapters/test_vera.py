"""VeRA: PEFT's, given the same tensors, and what its equation says."""

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from peft import VeraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.oracle import Net, adapted, parameters_of, twins_of
from tests.methods.adapters.starts import adapters_of, draw, move
from weft.methods.adapters.contract import Adapter
from weft.methods.adapters.vera import Projections, VeRA

RANK = 6
NEAR = {"rtol": 1e-10, "atol": 1e-10}


def net() -> Net:
    """Two maps of which neither is the larger on both sides."""
    return Net(16, 24, 12).double()


def start(
    made: Net, seed: int = 0, ranks: tuple[int, int] | None = None, **spec: object
) -> tuple[dict[str, Adapter], Projections]:
    W0 = made.weights()
    own = dict(zip(W0, ranks, strict=True)) if ranks else None
    settings = {"rank": RANK, "projection_seed": 5, **spec}
    adapters, shared = adapters_of("vera", W0, own, seed=seed, **settings)
    assert all(isinstance(adapter, VeRA) for adapter in adapters.values())
    assert isinstance(shared, Projections)
    return adapters, shared


def move_all(adapters: Mapping[str, Adapter]) -> None:
    move([value for adapter in adapters.values() for value in adapter.parameters()], by=0.3)


def theirs(made: Net, adapters: Mapping[str, Adapter]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    config = VeraConfig(r=RANK, target_modules=["first", "second"], projection_prng_key=5)
    model = get_peft_model(copy.deepcopy(made), config).double()
    paths = {letter: f"vera_lambda_{letter}.default" for letter in "bd"}
    return model, twins_of(model, adapters, paths)


def tokens(seed: int = 1) -> Tensor:
    return draw(9, 16, seed=seed)


def test_a_seed_gives_pefts_projections() -> None:
    made = net()
    adapters, shared = start(made)
    peft, _ = theirs(made, adapters)
    for name in ("A", "B"):
        value = peft.get_submodule("base_model").get_submodule(f"vera_{name}")["default"]
        torch.testing.assert_close(shared.get_buffer(name), value, rtol=1e-7, atol=0.0)
    # Their rows and columns are those of the largest sides, which are of different maps.
    assert (shared.A.shape, shared.B.shape) == ((RANK, 24), (24, RANK))


def test_outputs_and_gradients_equal_pefts() -> None:
    made, x = net(), tokens()
    adapters, shared = start(made)
    move_all(adapters)
    peft, twins = theirs(made, adapters)
    buffers = peft.get_submodule("base_model")
    with torch.no_grad():
        for name in ("A", "B"):
            buffers.get_submodule(f"vera_{name}")["default"].copy_(shared.get_buffer(name))
    got, expected = adapted(made, adapters, x), peft(x)
    torch.testing.assert_close(got, expected, **NEAR)
    assert (got - made(x)).abs().max() > 0.1
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    mine = parameters_of(adapters)
    found = torch.autograd.grad((got * weights).sum(), list(mine.values()))
    wanted = torch.autograd.grad((expected * weights).sum(), [twins[name] for name in mine])
    torch.testing.assert_close(found, wanted, **NEAR)


def test_ten_steps_train_as_pefts_do_and_leave_the_projections_alone() -> None:
    made = net()
    adapters, shared = start(made)
    before = {name: value.clone() for name, value in shared.named_buffers()}
    peft, twins = theirs(made, adapters)
    with torch.no_grad():
        for name, value in before.items():
            peft.get_submodule("base_model").get_submodule(f"vera_{name}")["default"].copy_(value)
    mine = parameters_of(adapters)
    one = torch.optim.AdamW(mine.values(), lr=0.05)
    two = torch.optim.AdamW([value for value in peft.parameters() if value.requires_grad], lr=0.05)
    goal = tokens(2) @ torch.ones(16, 12, dtype=torch.float64) / 4
    for step in range(10):
        x = tokens(3 + step)
        for optimizer, y in ((one, adapted(made, adapters, x)), (two, peft(x))):
            optimizer.zero_grad()
            (y - goal).square().mean().backward()
            optimizer.step()
    assert mine["first.b"].abs().min() > 1e-3
    torch.testing.assert_close(mine, {name: twins[name] for name in mine}, rtol=1e-8, atol=1e-8)
    assert not list(shared.parameters())
    assert all(torch.equal(value, before[name]) for name, value in shared.named_buffers())


def test_its_change_is_the_papers_product_of_the_first_rows_and_columns() -> None:
    made = net()
    adapters, shared = start(made)
    move_all(adapters)
    for name, (out, in_) in {"first": (24, 16), "second": (12, 24)}.items():
        adapter = adapters[name]
        expected = (
            torch.diag(adapter.b) @ shared.B[:out] @ torch.diag(adapter.d) @ shared.A[:, :in_]
        )
        delta = adapter.delta(made.get_submodule(name).get_parameter("weight"))
        torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-12)


def test_it_starts_as_a_no_op_in_which_b_alone_has_a_gradient() -> None:
    made, x = net(), tokens()
    adapters, _ = start(made)
    y = adapted(made, adapters, x)
    assert torch.equal(y, made(x))
    y.square().sum().backward()
    for adapter in adapters.values():
        assert torch.equal(adapter.d, torch.full((RANK,), 0.1).double())
        assert not adapter.b.any()
        assert adapter.d.grad is not None
        assert not adapter.d.grad.any()
        assert adapter.b.grad is not None
        assert adapter.b.grad.all()


def test_projections_are_uniform_by_their_own_fan_in() -> None:
    _, shared = start(net(), rank=64)
    for value, fan_in in ((shared.A, 24), (shared.B, 64)):
        bound = math.sqrt(6 / fan_in)
        assert value.abs().max() <= bound
        # Uniform: the variance is bound^2 / 3; 1536 draws are within a tenth of it.
        assert value.var().item() == pytest.approx(bound**2 / 3, rel=0.1)


def test_the_same_projection_seed_gives_the_same_outputs_whatever_the_runs_seed() -> None:
    made, x = net(), tokens()
    found = []
    for seed, projection_seed in ((0, 5), (1, 5), (0, 6)):
        torch.manual_seed(seed)
        adapters, _ = start(made, seed, projection_seed=projection_seed)
        move_all(adapters)
        found.append(adapted(made, adapters, x))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_out_plus_rank_numbers_are_trained_a_map_even_where_the_rank_exceeds_it() -> None:
    for rank in (RANK, 40):
        adapters, _ = start(net(), rank=rank)
        counts = {n: sum(p.numel() for p in a.parameters()) for n, a in adapters.items()}
        assert counts == {"first": 24 + rank, "second": 12 + rank}


def test_a_rank_of_a_maps_own_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError,
        match=r"ranks: .* share projections of rank 6, so a map \(12 x 24\) cannot have rank 4; set `rank`",
    ):
        start(net(), ranks=(RANK, 4))
