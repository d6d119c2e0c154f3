"""An expert's private copy stands for the base's module where it speaks, and nowhere else."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from weft.lowrank.replaced import Replaced
from weft.lowrank.route import Route, Voices, routed
from weft.lowrank.woven import Woven

ROWS = ("a", None, "b", ("a", "adapter only"), "adapter only", "b")


def changed(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(torch.randn_like(value))
    return twin


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def replaced(base: nn.Module) -> tuple[Replaced, dict[str | None, nn.Module]]:
    """`base` with a place for copies; and by row's name the module that must answer."""
    return Replaced(base, "it"), {None: base, "a": changed(base), "b": changed(base)}


def speaking(
    route: Route, own: Mapping[str | None, nn.Module]
) -> AbstractContextManager[Voices | None]:
    """A call in which experts have their copies, and `adapter only` has none."""
    woven = {name: Woven(copies={"it": module}) for name, module in own.items() if name}
    return routed(route, {"adapter only": Woven(), **woven})


def answering(row: str | tuple[str, ...] | None) -> str | None:
    name = row[0] if isinstance(row, tuple) else row
    return None if name == "adapter only" else name


def test_each_sequence_meets_its_own_experts_module_in_values_and_gradients() -> None:
    module, own = replaced(nn.LayerNorm(5).double())
    x = torch.randn(len(ROWS), 3, 5, dtype=torch.float64, requires_grad=True)
    with speaking(Route.by_sequence(ROWS), own):
        got = module(x)
    expected = torch.stack([own[answering(row)](x[at]) for at, row in enumerate(ROWS)])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    values = [x, *(value for part in own.values() for value in part.parameters())]
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    first = torch.autograd.grad((got * weights).sum(), values, retain_graph=True)
    second = torch.autograd.grad((expected * weights).sum(), values)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_a_homogeneous_call_meets_one_module() -> None:
    module, own = replaced(nn.LayerNorm(5))
    x = torch.randn(4, 3, 5)
    for row in (None, "a", "b", ("a", "adapter only")):
        with speaking(Route.by_sequence([row] * 4), own):
            assert torch.equal(module(x), own[answering(row)](x))
    assert torch.equal(module(x), own[None](x))


def test_positions_given_once_for_the_batch_are_embedded_by_each_sequences_module() -> None:
    module, own = replaced(nn.Embedding(7, 4))
    positions = torch.arange(5).unsqueeze(0)
    with speaking(Route.by_sequence(["b", None, "a"]), own):
        got = module(positions)
    expected = torch.cat([own[name](positions) for name in ("b", None, "a")])
    assert torch.equal(got, expected)


def test_two_copies_for_one_sequence_are_refused() -> None:
    module, own = replaced(nn.LayerNorm(5))
    x = torch.randn(2, 3, 5)
    for route in (Route.everywhere("a", "b"), Route.by_sequence(["a", ("b", "a")])):
        with speaking(route, own), pytest.raises(ValueError, match="each replace the same module"):
            module(x)


def test_another_number_of_sequences_is_refused() -> None:
    module, own = replaced(nn.LayerNorm(5))
    with (
        speaking(Route.by_sequence(["a", "b", None]), own),
        pytest.raises(ValueError, match=r"3 sequences.*\(2, 3, 5\)"),
    ):
        module(torch.randn(2, 3, 5))


def test_experts_without_a_copy_and_resident_ones_change_no_bit() -> None:
    base = nn.LayerNorm(5)
    module, own = replaced(base)
    x = torch.randn(2, 3, 5)
    nothing = nn.LayerNorm(5)
    nn.init.constant_(nothing.weight, torch.nan)
    beside = own | {"silent": nothing}
    with speaking(Route.by_sequence(["adapter only", None]), beside):
        assert torch.equal(module(x), base(x))
    with speaking(Route.by_sequence(["a", None]), beside):
        assert torch.equal(module(x), torch.stack([own["a"](x[0]), base(x[1])]))


@pytest.mark.parametrize("rows", [["a", None], ["a", "a"]])
@pytest.mark.parametrize("kind", [nn.LayerNorm, lambda size: nn.Linear(size, size)])
def test_a_single_precision_copy_serves_a_half_precision_base(
    rows: list[str | None], kind: Callable[[int], nn.Module]
) -> None:
    module, own = replaced(kind(5))
    x = torch.randn(2, 3, 5)
    exact = torch.stack([own[row](x[at]) for at, row in enumerate(rows)])
    module.base = module.base.to(torch.bfloat16)
    with speaking(Route.by_sequence(rows), own):
        got: Tensor = module(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    assert own["a"].weight.dtype == torch.float32
    torch.testing.assert_close(got.float(), exact, rtol=2**-6, atol=2**-5)


def test_what_others_read_off_the_module_is_the_bases() -> None:
    module, own = replaced(nn.Embedding(7, 4, padding_idx=3))
    assert module.weight is own[None].weight
    assert module.padding_idx == 3
    assert [id(value) for value in module.parameters()] == [id(own[None].weight)]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense
