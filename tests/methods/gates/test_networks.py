"""The networks of gates beside torch's own."""

import math

import pytest
import torch
from torch import Tensor, nn

from weft.methods.gates.networks import LEAST, GateHead, Routers, Standard
from weft.methods.gates.settings import HeadSpec

LIKE = torch.empty(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head_of(inner: int, out: int, **settings: object) -> GateHead:
    return GateHead(inner, out, HeadSpec.model_validate(settings), generator(), LIKE)


def uniform_law(values: Tensor, bound: float) -> None:
    """Some thousand draws from U(±bound): the ends are nearly reached, the variance is bound² / 3."""
    assert values.numel() >= 2000
    assert -bound <= values.min() < -0.99 * bound
    assert 0.99 * bound < values.max() <= bound
    # Four deviations of a variance of 2,000 draws.
    assert values.var().item() == pytest.approx(bound**2 / 3, rel=4 * math.sqrt(0.8 / 2000))


def test_a_head_starts_as_torch_starts_linear_maps_weight_and_bias() -> None:
    head = head_of(16, 2500, depth=2, width=2000)
    assert [tuple(value.shape) for value in head.parameters()] == [
        (2000, 16),
        (2000,),
        (2500, 2000),
        (2500,),
    ]
    for layer in head.maps:
        assert isinstance(layer, nn.Linear)
        for value in (layer.weight, layer.bias):
            assert value.requires_grad
            uniform_law(value.detach(), 1 / math.sqrt(layer.in_features))
    twin = head_of(16, 2500, depth=2, width=2000)
    for own, other in zip(head.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("is_training", [True, False])
def test_a_head_is_torch_s_own_layers_one_after_the_other(depth: int, is_training: bool) -> None:
    head = head_of(6, 5, depth=depth, width=40, head_dropout=0.5).train(is_training)
    layers: list[nn.Module] = []
    for layer in head.maps:
        layers += [nn.ReLU(), nn.Dropout(0.5), layer] if layers else [layer]
    wanted = nn.Sequential(*layers).train(is_training)
    x = torch.randn(3, 7, 6, generator=generator(1))
    torch.manual_seed(3)
    found = head(x)
    torch.manual_seed(3)
    assert torch.equal(found, wanted(x))
    torch.manual_seed(4)
    assert torch.equal(head(x), found) == (depth == 1 or not is_training)


def test_a_head_answers_half_precision_in_its_own() -> None:
    head, x = head_of(6, 5), torch.randn(2, 6, generator=generator(1)).bfloat16()
    assert torch.equal(head(x), head(x.float()))


def test_routers_start_by_their_law_and_answer_for_their_own_map() -> None:
    shapes = {"a": (60, 50), "b": (50, 90)}
    routers = Routers(shapes, generator(), LIKE)
    for name, (_, inner) in shapes.items():
        uniform_law(routers.weight(name).detach(), 1 / math.sqrt(inner))
        x = torch.randn(4, inner, generator=generator(1))
        assert torch.equal(routers(name, x), x @ routers.weight(name).T)
    for std in (0.02, 1.0):
        drawn = Routers(shapes, generator(), LIKE, std).weight("b").detach()
        assert drawn.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(4500))
        assert drawn.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * 4500))
        assert drawn.abs().max() > 3 * std


def test_features_keep_their_scale_until_seen_and_a_constant_one_stays_finite() -> None:
    standard = Standard(2, LIKE)
    x = torch.tensor([[1.0, 5], [3, 5]])
    assert torch.equal(standard(x), x)
    standard.look(x)
    standard.look(x.bfloat16())
    assert torch.equal(standard(x), x)
    standard.settle()
    assert standard.scale[1].item() == pytest.approx(LEAST**-0.5)
    torch.testing.assert_close(standard(x), torch.tensor([[-1.0, 0], [1, 0]]))
    # What was taken in once counts once: of 1, 3, 1, 3 and 7 the mean is 3.
    standard.look(torch.tensor([[7.0, 5]]))
    standard.settle()
    assert standard.mean.tolist() == [3, 5]
    assert standard.scale[0].item() == pytest.approx((24 / 5) ** -0.5)
    assert standard(x.bfloat16()).dtype == torch.bfloat16
