"""A woven map is its frozen map without a route; the call's own route decides what is added."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from weft.lowrank.attach import attach, frozen_linear
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.pool import Factors, along
from weft.lowrank.roles import resolve
from weft.lowrank.route import Members, Route, routed
from weft.lowrank.woven import Woven

ROUTES: tuple[Sequence[str | Members | None], ...] = (
    ("a", "b", None, "c"),
    ("c", "c", "a", ("a", "b")),
    (None, None, None, None),
    ("b", "b", "b", "b"),
)


def tiny_bert() -> BertModel:
    """A frozen MiniLM in small: 2 layers of 32."""
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return BertModel(config, add_pooling_layer=False).requires_grad_(False).eval()


def factors(trunk: nn.Module, rank: int) -> Mapping[str, Factors]:
    found = {}
    for name in resolve(trunk, "all-linear"):
        out, inner = frozen_linear(trunk, name).weight.shape
        found[name] = Factors(torch.randn(rank, inner) / 6, torch.randn(out, rank) / 6)
    return found


class Trunk(NamedTuple):
    """A trunk, and what experts have woven in."""

    bert: BertModel
    experts: Mapping[str, Woven]


@pytest.fixture(scope="module")
def woven() -> Trunk:
    bert = tiny_bert()
    experts = {name: Woven(factors(bert, rank)) for name, rank in {"a": 2, "b": 3, "c": 2}.items()}
    for own in experts.values():
        attach(bert, own)
    return Trunk(bert, experts)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(0, 60, (4, 9)), "attention_mask": mask}


def states(trunk: Trunk, inputs: dict[str, Tensor], route: Route | None) -> Tensor:
    with torch.inference_mode(), routed(route, trunk.experts):
        return trunk.bert(**inputs).last_hidden_state


def test_without_a_route_the_base_answers_bit_for_bit(
    woven: Trunk, inputs: dict[str, Tensor]
) -> None:
    expected = states(Trunk(tiny_bert(), {}), inputs, None)
    for route in (None, Route.everywhere(), Route.by_sequence([None] * 4)):
        assert torch.equal(states(woven, inputs, route), expected)


def test_a_woven_map_looks_like_the_map_it_wraps() -> None:
    base = nn.Linear(5, 7)
    map_ = LowRankLinear(base, "map")
    assert (map_.in_features, map_.out_features) == (5, 7)
    assert map_.weight is base.weight
    assert map_.bias is base.bias
    assert [id(value) for value in map_.parameters()] == [id(base.weight), id(base.bias)]
    assert LowRankLinear(nn.Linear(5, 7, bias=False), "map").bias is None


def test_a_route_adds_the_experts_product() -> None:
    base = nn.Linear(5, 7).double()
    A, B, x = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 5), (7, 2), (3, 4, 5)))
    map_, own = LowRankLinear(base, "map"), {"a": Woven({"map": Factors(A, B)})}
    with routed(Route.by_sequence(["a", None, "a"]), own):
        got = map_(x)
    expected = base(x)
    expected[[0, 2]] += x[[0, 2]] @ (B @ A).T
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_training_never_writes_to_the_frozen_map() -> None:
    base = nn.Linear(5, 7).requires_grad_(False)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    A, B = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(7, 2))
    map_, own = LowRankLinear(base, "map"), {"a": Woven({"map": Factors(A, B)})}
    start = A.detach().clone()
    optimizer = torch.optim.AdamW([A, B], lr=0.1)
    for _ in range(3):
        for rows in (["a", None], ["a", "a"]):
            with routed(Route.by_sequence(rows), own):
                map_(torch.randn(2, 3, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(A, start)
    assert base.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("path", [None, "dense", "grouped", "segments"])
def test_threads_with_other_routes_change_no_bit(
    woven: Trunk, inputs: dict[str, Tensor], path: str | None
) -> None:
    routes = [Route.by_sequence(rows) for rows in ROUTES]

    def along_path(number: int) -> Tensor:
        with along(path):
            return states(woven, inputs, routes[number])

    expected = [along_path(number) for number in range(4)]
    assert not any(torch.equal(one, two) for one, two in combinations(expected, 2))

    def differing(number: int) -> int:
        same = [torch.equal(along_path(number), expected[number]) for _ in range(40)]
        return same.count(False)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(differing, range(4))) == [0] * 4


def test_paths_agree_through_a_whole_trunk(woven: Trunk, inputs: dict[str, Tensor]) -> None:
    for rows in ROUTES:
        found = []
        for path in ("dense", "grouped", "segments"):
            with along(path):
                found.append(states(woven, inputs, Route.by_sequence(rows)))
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-5)


def test_each_row_of_a_mixed_batch_equals_its_own_call(
    woven: Trunk, inputs: dict[str, Tensor]
) -> None:
    for rows in ROUTES:
        mixed = states(woven, inputs, Route.by_sequence(rows))
        for at, row in enumerate(rows):
            own = {name: value[at : at + 1] for name, value in inputs.items()}
            alone = states(woven, own, Route.by_sequence([row]))
            torch.testing.assert_close(mixed[at : at + 1], alone, rtol=1e-5, atol=1e-5)


def test_an_expert_that_the_call_does_not_bring_is_refused(woven: Trunk) -> None:
    with pytest.raises(KeyError, match=r"no expert named 'aa'\. Did you mean 'a'"):
        routed(Route.by_sequence(["a", "aa"]), woven.experts)


def test_a_call_under_way_goes_on_with_what_it_began_with() -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    versions = [Woven({"map": Factors(torch.randn(2, 5), torch.randn(7, 2))}) for _ in range(2)]
    resident, map_ = {"a": versions[0]}, LowRankLinear(base, "map")
    with torch.no_grad(), routed(Route.everywhere("a"), resident):
        first = map_(x)
        resident["a"] = versions[1]
        assert torch.equal(map_(x), first)
    with torch.no_grad(), routed(Route.everywhere("a"), resident):
        assert not torch.equal(map_(x), first)
