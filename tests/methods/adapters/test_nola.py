"""NOLA: mixtures of random matrices that a seed determines."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.methods.adapters.starts import adapters_of
from tests.methods.adapters.stored import card_of
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters import adapters
from weft.methods.adapters.nola import NOLA, Spec
from weft.methods.recipes import resolve
from weft.model.expert import build, factors_of
from weft.model.head import Head
from weft.storage.experts import load_expert, save_expert

OUT, IN, RANK, COUNT = 24, 16, 3, 7


def start(
    W0: dict[str, Tensor], seed: int = 0, dtype: torch.dtype = torch.float64, **spec: object
) -> dict[str, NOLA]:
    settings = {"rank": RANK, "num_bases": COUNT, "alpha": 6.0, **spec}
    made, shared = adapters_of("nola", W0, seed=seed, dtype=dtype, **settings)
    assert shared is None
    return made


def weight(out_features: int = OUT, in_features: int = IN) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(out_features, in_features, generator=draw, dtype=torch.float64)


def one(seed: int = 0, **spec: object) -> NOLA:
    return start({"map": weight()}, seed, **spec)["map"]


def moved(adapter: NOLA) -> NOLA:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in adapter.parameters():
            value.copy_(torch.randn(value.shape, generator=draw))
    return adapter


def by_the_paper(adapter: NOLA) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """A, B, A0, E and F, drawn and added up one by one."""
    draw = torch.Generator().manual_seed(int(adapter.seed))
    count, rank = len(adapter.a), adapter.rank
    A0 = torch.empty(rank, IN).uniform_(-1 / math.sqrt(IN), 1 / math.sqrt(IN), generator=draw)
    bound = 1 / math.sqrt(count)
    E = [torch.empty(rank, IN).uniform_(-bound, bound, generator=draw) for _ in range(count)]
    F = [torch.empty(OUT, rank).uniform_(-bound, bound, generator=draw) for _ in range(count)]
    E, F = [item.double() for item in E], [item.double() for item in F]
    with torch.no_grad():
        A = A0.double() + sum(a * item for a, item in zip(adapter.a, E, strict=True))
        B = sum(b * item for b, item in zip(adapter.b, F, strict=True))
    return A, torch.as_tensor(B), A0.double(), E, F


def test_it_starts_as_a_no_op_with_a_as_lora_does() -> None:
    adapter, W0 = one(), weight()
    assert not adapter.delta(W0).any()
    A, B = adapter.factors(W0)
    assert not B.any()
    assert torch.equal(A, by_the_paper(adapter)[2])
    assert A.abs().max() <= 1 / math.sqrt(IN)
    assert not adapter.a.any()
    assert not adapter.b.any()


def test_its_change_is_the_papers_sum() -> None:
    adapter, W0 = moved(one()), weight()
    A, B, *_ = by_the_paper(adapter)
    torch.testing.assert_close(adapter.delta(W0), 6.0 / RANK * B @ A, rtol=1e-12, atol=1e-12)
    own_A, own_B = adapter.factors(W0)
    torch.testing.assert_close(own_A, A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own_B, 6.0 / RANK * B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fresh", [True, False])
def test_each_gradient_is_the_inner_product_with_its_basis(fresh: bool) -> None:
    adapter, W0 = one() if fresh else moved(one()), weight()
    G = torch.linspace(-1, 1, W0.numel(), dtype=torch.float64).view_as(W0)
    x = torch.randn(9, IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = torch.randn(9, OUT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    A, B, _, E, F = by_the_paper(adapter)
    scaling = 6.0 / RANK
    for loss, grad in (
        ((adapter.delta(W0) * G).sum(), G),
        ((adapter(x, W0) * upstream).sum(), upstream.T @ x),
    ):
        got_a, got_b = torch.autograd.grad(loss, [adapter.a, adapter.b])
        want_a = torch.stack([(scaling * B.T @ grad * item).sum() for item in E])
        want_b = torch.stack([(scaling * grad @ A.T * item).sum() for item in F])
        torch.testing.assert_close(got_a, want_a, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(got_b, want_b, rtol=1e-11, atol=1e-11)
        assert got_a.any() != fresh
        assert got_b.any()


def test_two_num_bases_numbers_are_trained_whatever_the_shape() -> None:
    for shape in ((OUT, IN), (8, 40)):
        adapter = start({"map": weight(*shape)})["map"]
        assert sum(value.numel() for value in adapter.parameters()) == 2 * COUNT
        assert NOLA.parameter_count(*shape, Spec(rank=RANK, num_bases=COUNT)) == 2 * COUNT


def test_the_state_is_coefficients_and_one_integer() -> None:
    state = one().state_dict()
    assert {name: (value.numel(), value.dtype) for name, value in state.items()} == {
        "a": (COUNT, torch.float64),
        "b": (COUNT, torch.float64),
        "seed": (1, torch.int64),
    }


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_loaded_seed_brings_the_same_factors_back(by_hand: bool) -> None:
    W0 = weight()
    saved, other = moved(one(seed=0)), moved(one(seed=1))
    # Both have their bases in memory by now.
    assert not torch.allclose(saved.delta(W0), other.delta(W0))
    if by_hand:
        with torch.no_grad():
            for name, value in other.state_dict(keep_vars=True).items():
                value.copy_(saved.state_dict()[name])
    else:
        other.load_state_dict(saved.state_dict())
    for got, expected in zip(other.factors(W0), saved.factors(W0), strict=True):
        assert torch.equal(got, expected)


def test_a_saved_expert_comes_back_with_the_same_factors(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")))
    recipe = resolve(RecipeSettings.model_validate({"name": "nola", "num_bases": COUNT}))
    head = Head("sequence_classification", base, 2, seed=1)
    expert = build("mine", base, recipe, head, seed=2)
    for adapter in expert.adapters.values():
        assert isinstance(adapter, NOLA)
        moved(adapter)
    labels = ("no", "yes")
    card = card_of(
        expert,
        base,
        task={"name": "mine", "kind": "sequence_classification", "labels": list(labels)},
        labels=labels,
        head="sequence_classification",
        recipe=recipe.describe().model_dump(mode="json"),
    )
    save_expert(expert, card, base, tmp_path / "expert")
    torch.manual_seed(5)
    again, _ = load_expert(tmp_path / "expert", base)
    expected, found = factors_of(expert, base.trunk), factors_of(again, base.trunk)
    assert len(expected) == 4
    for name, pair in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(found[name], pair, strict=True))
    stored = load_file(tmp_path / "expert" / "native.safetensors")
    assert sum(value.numel() for value in stored.values()) == 4 * (2 * COUNT + 1)


def test_maps_differ_and_the_experts_seed_determines_them() -> None:
    W0 = {"one": weight(), "two": weight()}
    first, again, other = start(W0), start(W0), start(W0, seed=1)
    assert len({int(made[name].seed) for made in (first, other) for name in W0}) == 4
    assert [int(first[name].seed) for name in W0] == [int(again[name].seed) for name in W0]
    assert not torch.equal(first["one"].bases().E, first["two"].bases().E)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    moved(one()).delta(weight()).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_bases_stay_in_memory_in_training_alone() -> None:
    served, trained, W0 = moved(one()), moved(one()), weight()
    with torch.no_grad():
        first = served.bases()
        assert served.bases().E is not first.E
        assert torch.equal(served.bases().E, first.E)
    kept = trained.bases()
    trained.delta(W0).sum().backward()
    assert trained.bases().E is kept.E
    with torch.no_grad():
        assert trained.bases().E is kept.E
    assert not any(value.requires_grad for value in kept)
    size = sum(value.nbytes for value in kept)
    assert size == 8 * (COUNT * RANK * (IN + OUT) + RANK * IN)


def test_bases_follow_the_type_of_the_coefficients_and_the_seed_stays_as_it_is() -> None:
    adapter, W0 = moved(one()), weight()
    before, seed = adapter.bases(), adapter.seed
    adapter.to(torch.float32)
    assert adapter.bases().E.dtype == torch.float32
    assert torch.equal(adapter.bases().E.double(), before.E)
    assert adapter.seed is seed
    assert adapter.delta(W0).dtype == torch.float32
    assert dict(adapter.named_buffers())["seed"] is seed


def test_mixing_stays_in_single_precision_under_autocast() -> None:
    adapter, W0 = moved(start({"map": weight()}, dtype=torch.float32)["map"]), weight()
    expected = adapter.factors(W0)
    with torch.autocast("cpu", torch.bfloat16):
        found = adapter.factors(W0)
    for got, value in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, value)


def test_mixed_at_random_the_entries_have_the_size_of_one_basis_entry() -> None:
    """Var = sum a_i^2 / (3 k): 1 / 3 for standard normal coefficients, whatever k."""
    for count in (64, 1024):
        adapter = moved(one(num_bases=count, rank=8))
        mixed = adapter.factors(weight())[0] - adapter.bases().A0
        # k coefficients: the std of the mean of their squares is sqrt(2 / k), 18 % for 64.
        assert mixed.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.25)


def tokens() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(11)
    while True:
        yield torch.randn(5, IN, generator=draw, dtype=torch.float64)


def test_ten_steps_train_as_the_papers_equation_does() -> None:
    W0 = weight()
    adapter = one()
    _, _, A0, E, F = by_the_paper(adapter)
    a, b = (nn.Parameter(torch.zeros(COUNT, dtype=torch.float64)) for _ in range(2))
    ours = torch.optim.AdamW(adapter.parameters(), lr=0.05)
    theirs = torch.optim.AdamW([a, b], lr=0.05)
    for _, x in zip(range(10), tokens(), strict=False):
        A = A0 + torch.einsum("k,kri->ri", a, torch.stack(E))
        B = torch.einsum("k,kor->or", b, torch.stack(F))
        for optimizer, y in (
            (ours, adapter(x, W0)),
            (theirs, 6.0 / RANK * x @ A.T @ B.T),
        ):
            optimizer.zero_grad()
            (y - x @ W0.T).square().mean().backward()
            optimizer.step()
    assert a.abs().min() > 1e-3
    torch.testing.assert_close(adapter.a, a, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(adapter.b, b, rtol=1e-9, atol=1e-9)


def test_the_folder_has_it() -> None:
    assert adapters.load("nola") is NOLA
