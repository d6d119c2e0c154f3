"""VeRA: PEFT's, given the same tensors, and what its equation says."""

import copy
import math

import pytest
import torch
from peft import VeraConfig, get_peft_model
from torch import Tensor, nn

from weft.adapters.vera import Projections, VeRA
from weft.config import RecipeSettings
from weft.expert import make_adapters
from weft.recipes import resolve

RANK = 6
NEAR = {"rtol": 1e-10, "atol": 1e-10}


class Net(nn.Module):
    """Two maps of which neither is the larger on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 24)
        self.second = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def net() -> Net:
    draw = torch.Generator().manual_seed(7)
    made = Net().double().requires_grad_(False)
    for value in made.parameters():
        value.copy_(torch.randn(value.shape, generator=draw) / 3)
    return made


def start(
    made: Net, seed: int = 0, ranks: tuple[int, int] | None = None, **spec: object
) -> tuple[dict[str, VeRA], Projections]:
    settings = {"name": "vera", "rank": RANK, "projection_seed": 5, **spec}
    weights = {"first": made.first.weight, "second": made.second.weight}
    adapters, shared = make_adapters(
        resolve(RecipeSettings.model_validate(settings)),
        weights,
        dict(zip(weights, ranks or (settings["rank"],) * 2, strict=True)),
        torch.Generator().manual_seed(seed),
        torch.float64,
    )
    assert isinstance(shared, Projections)
    return adapters, shared


def move(adapters: dict[str, VeRA]) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for adapter in adapters.values():
            for value in adapter.parameters():
                value.add_(0.3 * torch.randn(value.shape, generator=draw))


def ours(made: Net, adapters: dict[str, VeRA], x: Tensor) -> Tensor:
    hidden = torch.tanh(made.first(x) + adapters["first"](x, made.first.weight))
    return made.second(hidden) + adapters["second"](hidden, made.second.weight)


def theirs(made: Net, adapters: dict[str, VeRA]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    config = VeraConfig(r=RANK, target_modules=["first", "second"], projection_prng_key=5)
    model = get_peft_model(copy.deepcopy(made), config).double()
    layers = dict(model.named_modules())
    values = {}
    for name, adapter in adapters.items():
        layer = layers[f"base_model.model.{name}"]
        for own in ("b", "d"):
            value = getattr(layer, f"vera_lambda_{own}")["default"]
            with torch.no_grad():
                value.copy_(adapter.get_parameter(own))
            values[f"{name}.{own}"] = value
    return model, values


def own(adapters: dict[str, VeRA]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{letter}": adapter.get_parameter(letter)
        for name, adapter in adapters.items()
        for letter in ("b", "d")
    }


def tokens(seed: int = 1) -> Tensor:
    return torch.randn(9, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    move(adapters)
    peft, twins = theirs(made, adapters)
    buffers = peft.get_submodule("base_model")
    with torch.no_grad():
        for name in ("A", "B"):
            buffers.get_submodule(f"vera_{name}")["default"].copy_(shared.get_buffer(name))
    got, expected = ours(made, adapters, x), peft(x)
    torch.testing.assert_close(got, expected, **NEAR)
    assert (got - made(x)).abs().max() > 0.1
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    mine = own(adapters)
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
    mine = own(adapters)
    one = torch.optim.AdamW(mine.values(), lr=0.05)
    two = torch.optim.AdamW([value for value in peft.parameters() if value.requires_grad], lr=0.05)
    goal = tokens(2) @ torch.ones(16, 12, dtype=torch.float64) / 4
    for step in range(10):
        x = tokens(3 + step)
        for optimizer, y in ((one, ours(made, adapters, x)), (two, peft(x))):
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
    move(adapters)
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
    y = ours(made, adapters, x)
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
        move(adapters)
        found.append(ours(made, adapters, x))
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
