"""A route says who speaks where, for this call and this thread only."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.lowrank.route import Members, Route, current_route, routed
from weft.lowrank.woven import Woven

NAMES = ("a", "b", "c")
ROWS = st.one_of(
    st.none(),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(NAMES), max_size=3, unique=True).map(tuple),
)


def named(row: str | Members | None) -> Members:
    """What a row of a route means, said plainly."""
    if row is None:
        return ()
    return (row,) if isinstance(row, str) else row


@given(st.lists(st.tuples(ROWS, st.integers(1, 4)), min_size=1, max_size=6))
def test_a_row_lends_its_experts_to_every_sequence_it_owns(
    rows: list[tuple[str | Members | None, int]],
) -> None:
    route = Route.by_row([row for row, _ in rows], [count for _, count in rows])
    expected = [named(row) for row, count in rows for _ in range(count)]
    choice = (0,) * len(expected) if route.choice is None else route.choice
    assert [route.members[number] for number in choice] == expected
    assert len(set(route.members)) == len(route.members)


@given(st.lists(ROWS, min_size=2, max_size=8))
def test_pairs_and_mask_name_the_same_sequences(rows: list[str | Members | None]) -> None:
    route = Route.by_sequence(rows)
    if route.choice is None:
        return
    ranks = dict(zip(route.experts, (2, 1, 3), strict=False))
    expected = [
        [float(name in named(row)) for name in ranks for _ in range(ranks[name])] for row in rows
    ]
    like = torch.zeros(1, dtype=torch.float64)
    mask = route.mask(ranks, like)
    assert mask.dtype == torch.float64
    assert mask.squeeze(1).tolist() == expected
    assert route.pairs == {
        name: [at for at, row in enumerate(rows) if name in named(row)] for name in route.experts
    }


def test_choices_and_windows_share_one_batch() -> None:
    # A row of four choices, a row of three windows, a plain row on the bare base.
    route = Route.by_row(["swag", ("squad", "style"), None], [4, 3, 1])
    assert route.members == (("swag",), ("squad", "style"), ())
    assert route.choice == (0, 0, 0, 0, 1, 1, 1, 2)
    assert route.experts == ("swag", "squad", "style")


def test_one_set_for_all_needs_no_choice() -> None:
    assert Route.by_row(["a", "a"], [2, 3]) == Route.everywhere("a")
    assert Route.everywhere("a", "b").experts == ("a", "b")
    assert Route.by_sequence([None, None]).experts == ()


def test_an_expert_named_twice_for_a_row_speaks_once() -> None:
    assert Route.by_sequence([("a", "a"), "b"]) == Route.by_sequence(["a", "b"])
    assert Route.everywhere("a", "a") == Route.everywhere("a")


def test_a_row_without_its_count_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 names for 2 rows"):
        Route.by_row(["a", "b", None], [1, 1])


def test_the_outer_route_returns_after_the_block_even_if_it_fails() -> None:
    outer, inner = Route.everywhere("outer"), Route.everywhere("inner")
    woven = {"outer": Woven(), "inner": Woven()}
    assert current_route() is None
    with routed(outer, woven):
        with routed(inner, woven):
            assert current_route() is inner
        with pytest.raises(RuntimeError), routed(inner, woven):
            raise RuntimeError(str(current_route()))
        assert current_route() is outer
        with routed(None):
            assert current_route() is None
    assert current_route() is None


def test_a_thread_sees_its_own_route_alone() -> None:
    together = Barrier(4)

    def seen(name: str) -> list[Members]:
        found = []
        for _ in range(20):
            with routed(Route.everywhere(name), {name: Woven()}):
                together.wait(timeout=30)
                route = current_route()
                together.wait(timeout=30)
                found.append(route.experts if route else ())
        return found

    with ThreadPoolExecutor(4) as pool:
        for name, found in zip("abcd", pool.map(seen, "abcd"), strict=True):
            assert found == [(name,)] * 20
