"""Blocks of ranks: the growing sum, what growth changes, what trains when, and what comes back from disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import draw, variant_on
from tests.methods.adapters.stored import assert_same_adapters, card_of, expert_of
from weft.base.loading import load_base
from weft.lowrank.peft.reading import read_peft
from weft.methods.adapters.contract import Adapter
from weft.storage.experts import restore, save_expert
from weft.storage.tensors import linear_shapes

OUT, IN, ALPHA = 24, 16, 12.0
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def seeded(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(W0: Tensor, **spec: object) -> Adapter:
    return variant_on("blocks", W0, alpha=ALPHA, **spec)


def fill(adapter: Adapter) -> None:
    """Other values for all that is trained."""
    with torch.no_grad():
        for seed, value in enumerate(adapter.parameters()):
            if value.requires_grad:
                value.copy_(draw(*value.shape, seed=seed))


def blocks(adapter: Adapter, ranks: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """A, E and B of some ranks, or of all; the last `growth` are the reserve."""
    own = dict(adapter.named_parameters())
    count = sum(name.startswith("A.") for name in own)
    A, E, B = ([own[f"{letter}.{i}"].detach() for i in range(count)][ranks] for letter in "AEB")
    return torch.cat(A), torch.cat(E), torch.cat(B, dim=1)


def total(adapter: Adapter, ranks: slice = slice(None)) -> Tensor:
    """The sum before it is scaled."""
    A, E, B = blocks(adapter, ranks)
    return B @ torch.diag(E[:, 0]) @ A


def number(adapter: Adapter) -> int:
    return len(blocks(adapter)[0])


def frozen(adapter: Adapter) -> set[str]:
    return {name for name, value in adapter.named_parameters() if not value.requires_grad}


def test_it_starts_at_rank_one_as_the_base_but_for_the_reserve() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, growth=2)
    A, E, B = blocks(adapter)
    assert (adapter.rank, A.shape, B.shape) == (1, (1 + 2, IN), (OUT, 1 + 2))
    assert not E[0].any()
    # Adapters are built in single precision.
    torch.testing.assert_close(E[1:], torch.full((2, 1), 1e-5).double())
    scale = ALPHA / (1 + 1e-5)
    torch.testing.assert_close(adapter.delta(W0), scale * B[:, 1:] @ (E[1:] * A[1:]), **NEAR)
    assert adapter.delta(W0).any()
    assert adapter.delta(W0).abs().max() < 1e-6
    assert len({value.item() for value in A[:, 0]}) == 3
    large = blocks(start(torch.zeros(60, 50), rank=30, growth=30))
    for value in (large[0], large[2]):
        # 3000 draws: their standard deviation is within a tenth.
        assert value.std().item() == pytest.approx(0.02, rel=0.1)


def test_without_advance_learning_the_start_is_the_base_exactly() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, growth=2, advance=False)
    assert not adapter.delta(W0).any()
    assert {n for n, p in adapter.named_parameters() if p.requires_grad} == {"A.0", "E.0", "B.0"}


def test_it_is_the_papers_equation_with_the_rank_of_the_moment() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = start(W0, rank=3, growth=2)
    for rank in (3, 5, 7):
        fill(adapter)
        assert (adapter.rank, adapter.spec.rank) == (rank, rank)
        expected = ALPHA / (rank + 1e-5) * total(adapter)
        torch.testing.assert_close(adapter.delta(W0), expected, **NEAR)
        torch.testing.assert_close(adapter(x, W0), x @ expected.T, **NEAR)
        adapter.grow(seeded())


@pytest.mark.parametrize("advance", [True, False])
def test_growth_changes_the_output_by_the_scale_and_the_new_reserve_alone(advance: bool) -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, growth=2, advance=advance)
    fill(adapter)
    before = adapter.delta(W0).detach()
    adapter.grow(seeded())
    spare = total(adapter, slice(-2, None))
    scale = ALPHA / (3 + 1e-5)
    expected = before * (1 + 1e-5) / (3 + 1e-5) + scale * spare
    torch.testing.assert_close(adapter.delta(W0), expected, **NEAR)
    assert spare.any() == advance
    assert spare.abs().max() < 1e-6


def test_each_growth_adds_its_ranks_up_to_the_size_of_the_map() -> None:
    adapter = start(draw(OUT, IN), rank=3, growth=4)
    for rank in (7, 11, 15):
        adapter.grow(seeded(rank))
        assert adapter.rank == number(adapter) - 4 == rank
    with pytest.raises(ValueError, match="rank 15 cannot grow by 4: the map is 24 x 16"):
        adapter.grow(seeded())
    assert (adapter.rank, number(adapter)) == (15, 15 + 4)


@pytest.mark.parametrize("advance", [True, False])
def test_an_optimizer_that_takes_what_growth_returns_has_each_trained_tensor_once(
    advance: bool,
) -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = start(W0, growth=2, advance=advance)
    trained = [value for value in adapter.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for seed in range(3):
        adapter(x, W0).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        first = adapter.get_parameter("A.0")
        kept = optimizer.state[first]["exp_avg"]
        optimizer.add_param_group({"params": adapter.grow(seeded(seed))})
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len({id(p) for p in held})
        assert {id(p) for p in held} == {id(p) for p in adapter.parameters() if p.requires_grad}
        # What learned already goes on with its moments.
        assert optimizer.state[adapter.get_parameter("A.0")]["exp_avg"] is kept
    letters = "E" if advance else "AEB"
    assert adapter.rank == 7
    assert frozen(adapter) == {f"{letter}.{i}" for letter in letters for i in (7, 8)}
    expected = sum(p.numel() for p in held)
    assert adapter.parameter_count(OUT, IN, adapter.spec) == expected


def test_the_reserve_learns_in_advance_while_its_value_stands() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = start(W0, growth=2)
    fill(adapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01, weight_decay=0.1)
    before = blocks(adapter, slice(1, None))
    for _ in range(3):
        (adapter(x, W0) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    A, E, B = blocks(adapter, slice(1, None))
    assert torch.equal(E, before[1])
    assert not (before[0] == A).any()
    assert not (before[2] == B).any()


def test_new_ranks_come_from_the_given_generator_in_the_adapters_own_type() -> None:
    W0 = draw(OUT, IN)
    found = []
    for noise, seed in ((1, 4), (2, 4), (3, 5)):
        torch.manual_seed(noise)
        adapter = start(W0, growth=2)
        adapter.grow(seeded(seed))
        found.append(blocks(adapter, slice(-2, None)))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[2][0])
    assert {value.dtype for value in found[0]} == {torch.float64}


def test_when_finished_what_is_exported_is_the_ranks_in_use() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, growth=2)
    adapter.grow(seeded())
    fill(adapter)
    with torch.no_grad():
        assert len(adapter.factors(W0)[0]) == 3 + 2
    adapter.finish()
    assert frozen(adapter) == {f"{letter}.{i}" for letter in "AEB" for i in (3, 4)}
    with torch.no_grad():
        A, B = adapter.factors(W0)
        assert len(A) == adapter.rank == 3
        used = ALPHA / (3 + 1e-5) * total(adapter, slice(3))
        torch.testing.assert_close(B @ A, used, **NEAR)
        torch.testing.assert_close(adapter.delta(W0), used, **NEAR)


def test_a_map_whose_every_value_is_zero_exports_one_rank_of_zeros() -> None:
    W0 = draw(OUT, IN)
    with torch.no_grad():
        A, B = start(W0, growth=2, advance=False).factors(W0)
    assert (len(A), B.shape[1]) == (1, 1)
    assert not (B @ A).any()


def test_maps_that_grew_differently_are_stored_and_built_again(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")))
    expert, recipe = expert_of("blocks", base, growth=2)
    first, second = expert.adapters.values()
    for seed in range(2):
        first.grow(seeded(seed))
    for adapter in (first, second):
        fill(adapter)
    second.finish()
    card = card_of(expert, base)
    save_expert(expert, card, base, tmp_path / "e")
    stored = read_peft(tmp_path / "e", linear_shapes(base.trunk))
    assert [len(stored.factors[name][0]) for name in expert.adapters] == [5 + 2, 1]
    found = restore(tmp_path / "e", card, base, recipe)
    assert_same_adapters(found, expert, base)
    one, _ = found.adapters.values()
    assert frozen(one) == frozen(first) == {"E.5", "E.6"}
    # What was built again grows on.
    one.grow(seeded())
    assert (one.rank, number(one)) == (7, 7 + 2)
