"""Every path of a pool is equation (U): a loop over sequences and their experts, in float64."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from weft.lowrank.pool import DENSE_UP_TO, Factors, add_up, along
from weft.lowrank.route import Members, Route, current_rows, routed
from weft.lowrank.woven import Woven

PATHS = ("dense", "grouped", "segments")
IN, OUT, SEQ = 5, 7, 3
ROWS = ("a", None, "b", ("a", "c"), "c", ("c", "b"), None)
"""Each expert alone, two added, nobody; an uneven number."""
RANKS = {"a": 2, "b": 1, "c": 2, "silent": 3}
NEAR = {"rtol": 1e-12, "atol": 1e-12}


class Product(nn.Module):
    """A trained pair of factors, as an adapter hands itself to a pool."""

    low_rank = True

    def __init__(self, rank: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, IN, dtype=torch.float64))
        self.B = nn.Parameter(torch.randn(OUT, rank, dtype=torch.float64))
        self.rank, self.dropout = rank, dropout

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x.to(self.A.dtype) @ self.A.T @ self.B.T

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.B


class Doubled(Product):
    """Its exact factors have twice its rank, as where an initial product is subtracted."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return 1.5 * super().forward(x, weight)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.A, self.A]), torch.cat([self.B, 0.5 * self.B], dim=1)


class Bent(Product):
    """No factors: every output is rescaled by the frozen weight's row norms."""

    low_rank = False

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x, weight) * weight.norm(dim=1)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("no factors")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def products(ranks: dict[str, int] = RANKS, kind: type[Product] = Product) -> dict[str, Product]:
    return {name: kind(rank) for name, rank in ranks.items()}


class Pool(NamedTuple):
    """Terms of experts at one map, and the path that heterogeneous batches take."""

    terms: dict[str, Product]
    path: str | None = None

    def apply(self, y: Tensor, x: Tensor, weight: Tensor, route: Route, training: bool) -> Tensor:
        woven = {name: Woven({"map": term}) for name, term in self.terms.items()}
        # Experts that have no adapter at this map.
        woven |= {name: Woven() for name in route.experts if name not in woven}
        with along(self.path), routed(route, woven) as voices:
            assert voices is not None
            return add_up(y, x, weight, "map", voices, training=training)


def named(row: str | Members | None) -> Members:
    return () if row is None else (row,) if isinstance(row, str) else row


def naive(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    terms: dict[str, Product],
    rows: Sequence[str | Members | None],
) -> Tensor:
    """Sequence by sequence, expert by expert."""
    return torch.stack(
        [
            y[at]
            + sum((terms[name](x[at], weight) for name in named(row)), torch.zeros_like(y[at]))
            for at, row in enumerate(rows)
        ]
    )


def example(sequences: int = len(ROWS)) -> tuple[Tensor, Tensor, Tensor]:
    """y, x and W0 with y = x W0ᵀ; x asks for its gradient."""
    x = torch.randn(sequences, SEQ, IN, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(OUT, IN, dtype=torch.float64)
    return x @ weight.T, x, weight


def gradients(output: Tensor, x: Tensor, terms: dict[str, Product]) -> dict[str, Tensor]:
    """Of a loss in which every entry counts differently, by name; x's too."""
    named_values = {"x": x} | {
        f"{name}.{letter}": value
        for name, term in terms.items()
        for letter, value in term.named_parameters()
    }
    loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    found = torch.autograd.grad(
        loss, list(named_values.values()), allow_unused=True, retain_graph=True
    )
    return {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(named_values.items(), found, strict=True)
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [Product, Doubled])
def test_every_path_is_the_plain_loop_in_values_and_gradients(
    path: str, kind: type[Product]
) -> None:
    terms = products(kind=kind)
    y, x, weight = example()
    got = Pool(terms, path).apply(y, x, weight, Route.by_sequence(ROWS), training=False)
    expected = naive(y, x, weight, terms, ROWS)
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(
        gradients(got, x, terms), gradients(expected, x, terms), rtol=1e-12, atol=1e-11
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [["a", "c", "a", "c"], ["c", "a", "b"], ["a", "b", "c", None]])
def test_one_expert_for_each_sequence_is_the_plain_loop(
    path: str, rows: list[str | Members | None]
) -> None:
    terms = products()
    y, x, weight = example(len(rows))
    got = Pool(terms, path).apply(y, x, weight, Route.by_sequence(rows), training=False)
    expected = naive(y, x, weight, terms, rows)
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(
        gradients(got, x, terms), gradients(expected, x, terms), rtol=1e-12, atol=1e-11
    )


def test_what_a_call_keeps_for_the_next_is_used_for_the_same_terms_of_the_same_sequences_alone() -> (
    None
):
    def exact() -> dict[str, Factors]:
        return {name: Factors(own.A.detach(), own.B.detach()) for name, own in products().items()}

    first, other = exact(), exact()
    other["b"] = first["b"]
    y, x, weight = example(4)
    kept: dict[str, Any] = {}
    stacked = []
    asked = (
        (first, "abca"),
        (first, "abca"),
        (other, "abca"),  # names that mean others by now
        (other, "abcb"),  # the same terms for others
        (first, "abca"),
    )
    for terms, rows in asked:
        route = Route.by_sequence(list(rows))
        woven = {name: Woven({"map": term}) for name, term in terms.items()}
        with routed(route, woven, kept) as voices, along("grouped"), torch.no_grad():
            assert voices is not None
            got = add_up(y, x, weight, "map", voices, training=False)
        plain = torch.stack([y[at] + terms[own](x[at], weight) for at, own in enumerate(rows)])
        torch.testing.assert_close(got, plain, **NEAR)
        stacked.append([group.A for group in kept["map"][-1]])
    # The second call put nothing together, every later one did.
    same = [one[0] is two[0] for one, two in pairwise(stacked)]
    assert same == [True, False, False, False]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.one_of(
            st.none(),
            st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(tuple),
        ),
        min_size=1,
        max_size=6,
    ),
    ranks=st.tuples(*[st.integers(1, 5)] * 3),
    path=st.sampled_from([None, *PATHS]),
    seed=st.integers(0, 99),
)
def test_every_path_is_the_plain_loop_on_any_shape(
    rows: list[Members | None], ranks: tuple[int, ...], path: str | None, seed: int
) -> None:
    torch.manual_seed(seed)
    terms = products(dict(zip("abc", ranks, strict=True)))
    y, x, weight = example(len(rows))
    got = Pool(terms, path).apply(y, x, weight, Route.by_sequence(rows), training=False)
    torch.testing.assert_close(got, naive(y, x, weight, terms, rows), **NEAR)


def test_a_homogeneous_call_is_the_plain_loop_with_one_and_with_two_experts() -> None:
    terms = products()
    y, x, weight = example()
    for members in (("b",), ("a", "b", "c")):
        got = Pool(terms).apply(y, x, weight, Route.everywhere(*members), training=False)
        expected = naive(y, x, weight, terms, [members] * len(y))
        torch.testing.assert_close(got, expected, **NEAR)
        torch.testing.assert_close(
            gradients(got, x, terms), gradients(expected, x, terms), rtol=1e-12, atol=1e-11
        )


@pytest.mark.parametrize("rows", [ROWS, [("a", "bent")] * 4, ["bent"] * 3])
def test_adapters_without_factors_run_their_own_forward(
    rows: Sequence[str | Members | None],
) -> None:
    # Beside ordinary ones, and in the place of one.
    terms = {**products(), "b": Bent(2), "bent": Bent(1)}
    y, x, weight = example(len(rows))
    got = Pool(terms).apply(y, x, weight, Route.by_sequence(rows), training=False)
    expected = naive(y, x, weight, terms, rows)
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(
        gradients(got, x, terms), gradients(expected, x, terms), rtol=1e-12, atol=1e-11
    )


def test_a_term_is_told_which_sequences_it_is_given() -> None:
    class Told(Bent):
        """What it adds depends on the sequence's place in the call, as gates that were made for all of it do."""

        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            places = current_rows()
            assert places is not None
            return (1.0 + places).view(-1, 1, 1) * super().forward(x, weight)

    terms = {"a": Told(2), "b": Told(1), "c": Told(3)}
    y, x, weight = example()
    got = Pool(terms).apply(y, x, weight, Route.by_sequence(ROWS), training=False)
    expected = y.clone()
    for at, row in enumerate(ROWS):
        for name in named(row):
            expected[at] += (1 + at) * Bent.forward(terms[name], x[at], weight)
    torch.testing.assert_close(got, expected, **NEAR)
    assert current_rows() is None


@pytest.mark.parametrize("path", [None, *PATHS])
def test_experts_that_are_not_routed_change_no_bit(path: str | None) -> None:
    terms = products()
    y, x, weight = example()
    route = Route.by_sequence(ROWS)
    alone = Pool({name: terms[name] for name in "abc"}, path)
    before = alone.apply(y, x, weight, route, training=True)
    for value in terms["silent"].parameters():
        value.data.fill_(torch.nan)
    beside = Pool({"silent": terms["silent"]} | terms, path)
    assert torch.equal(beside.apply(y, x, weight, route, training=True), before)
    single = Route.everywhere("a")
    assert torch.equal(
        beside.apply(y, x, weight, single, training=True),
        alone.apply(y, x, weight, single, training=True),
    )


def test_an_expert_without_an_adapter_here_leaves_the_output_as_it_is() -> None:
    y, x, weight = example()
    pool = Pool(products())
    for route in (Route.everywhere("elsewhere"), Route.everywhere()):
        assert pool.apply(y, x, weight, route, training=True) is y
    mixed = Route.by_sequence(["elsewhere", "a", *[None] * 5])
    got = pool.apply(y, x, weight, mixed, training=False)
    assert torch.equal(got[[0, 2, 3, 4, 5, 6]], y[[0, 2, 3, 4, 5, 6]])
    assert not torch.equal(got[1], y[1])


@pytest.mark.parametrize("path", PATHS)
def test_the_order_of_experts_does_not_matter(path: str) -> None:
    terms = products()
    y, x, weight = example()
    backwards = dict(reversed(terms.items()))
    swapped = [row[::-1] if isinstance(row, tuple) else row for row in ROWS]
    first = Pool(terms, path).apply(y, x, weight, Route.by_sequence(ROWS), training=False)
    second = Pool(backwards, path).apply(y, x, weight, Route.by_sequence(swapped), training=False)
    torch.testing.assert_close(first, second, **NEAR)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rates", [(0.0, 0.0, 0.0), (0.5, 0.1, 0.9), (0.5, 0.5, 0.5)])
def test_dropout_is_off_in_eval_whatever_the_rates(
    path: str, rates: tuple[float, float, float]
) -> None:
    terms = {name: Product(2, rate) for name, rate in zip("abc", rates, strict=True)}
    y, x, weight = example()
    for rows in (ROWS, [("a", "b")] * len(ROWS)):
        got = Pool(terms, path).apply(y, x, weight, Route.by_sequence(rows), training=False)
        torch.testing.assert_close(got, naive(y, x, weight, terms, rows), **NEAR)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.25, 0.75), (0.0, 0.5)])
@pytest.mark.parametrize("rows", [["a", "b"], [("a", "b")] * 2, [("a", "b"), "b"]])
def test_dropout_zeroes_that_share_of_each_adapters_input(
    rates: tuple[float, float], rows: list[Members]
) -> None:
    width = 20_000

    class Shown(Product):
        """Passes its input on, into its own half of the output."""

        low_rank = False

        def __init__(self, half: int, dropout: float) -> None:
            super().__init__(1, dropout)
            self.half = half

        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            halves = [torch.zeros_like(x), torch.zeros_like(x)]
            halves[self.half] = x
            return torch.cat(halves, dim=-1)

    x, y = torch.ones(2, 1, width), torch.zeros(2, 1, 2 * width)
    weight = torch.zeros(2 * width, 1)
    pool = Pool({"a": Shown(0, rates[0]), "b": Shown(1, rates[1])})
    got = pool.apply(y, x, weight, Route.by_sequence(rows), training=True).view(2, 2, width)
    for at, row in enumerate(rows):
        for half, name in enumerate("ab"):
            rate = rates[half]
            values = got[at, half]
            if name not in row:
                assert not values.any()
                continue
            kept = values != 0
            # Four standard deviations of a share of 20,000 draws is under 0.015.
            assert abs(kept.float().mean().item() - (1 - rate)) < 0.015
            torch.testing.assert_close(values[kept], torch.full_like(values[kept], 1 / (1 - rate)))


def test_both_sides_of_the_committed_constant_agree() -> None:
    limit = DENSE_UP_TO["cpu"]
    for rank in (limit // 2, limit // 2 + 1):
        terms = {"a": Product(rank), "b": Product(rank)}
        y, x, weight = example(3)
        rows = ["a", "b", ("a", "b")]
        got = Pool(terms).apply(y, x, weight, Route.by_sequence(rows), training=False)
        torch.testing.assert_close(got, naive(y, x, weight, terms, rows), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("path", [None, *PATHS])
def test_another_number_of_sequences_is_refused(path: str | None) -> None:
    y, x, weight = example(3)
    with pytest.raises(ValueError, match=r"7 sequences.*\(3, 3, 5\).*sequences_per_row"):
        Pool(products(), path).apply(y, x, weight, Route.by_sequence(ROWS), training=False)


@pytest.mark.parametrize("path", [None, *PATHS])
@pytest.mark.parametrize("rows", [ROWS, ["a"] * 3, [("a", "b")] * 3])
def test_single_precision_factors_serve_a_half_precision_base(
    path: str | None, rows: Sequence[str | Members | None]
) -> None:
    terms = {name: term.float() for name, term in products().items()}
    y, x, weight = (value.detach().to(torch.bfloat16) for value in example(len(rows)))
    got = Pool(terms, path).apply(y, x, weight, Route.by_sequence(rows), training=False)
    assert got.dtype == torch.bfloat16
    exact = {name: term.double() for name, term in terms.items()}
    expected = naive(y.double(), x.double(), weight.double(), exact, rows)
    # Two roundings to 8 bits: of what an expert adds and of the sum.
    torch.testing.assert_close(got.double(), expected, rtol=2**-6, atol=2**-5)


def test_exact_factors_stand_for_their_adapter() -> None:
    adapter = Doubled(2)
    _, x, weight = example()
    frozen = Factors(*adapter.factors(weight))
    assert (frozen.rank, frozen.dropout, frozen.low_rank) == (4, 0.0, True)
    torch.testing.assert_close(frozen(x, weight), adapter(x, weight), **NEAR)
