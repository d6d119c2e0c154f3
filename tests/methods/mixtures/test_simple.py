"""Uniform gates, switching by task, X-LoRA and its single pass, at one map."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.merges.cat import Cat
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]


def cat(parts: list[Part], weights: list[float], x: Tensor) -> Tensor:
    factors = [{MAP: (part.A, part.scale * part.B)} for part in parts]
    A, B = Cat().merge(factors, weights).factors[MAP]
    return x @ A.T @ B.T


def test_uniform_is_the_mean_of_the_experts(
    make: Make, parts: list[Part], x: Tensor, woven: Callable[..., Tensor]
) -> None:
    assert_close(woven(make("uniform", parts), x), cat(parts, [1 / 3] * 3, x))


def test_switch_is_each_rows_own_expert(
    make: Make, parts: list[Part], x: Tensor, woven: Callable[..., Tensor]
) -> None:
    rows = x.expand(3, -1, -1)
    found = woven(make("switch", parts), rows, trace=GateTrace(labels=torch.tensor([2, 0, 1])))
    wanted = [parts[at].scale * (x[0] @ parts[at].A.T @ parts[at].B.T) for at in (2, 0, 1)]
    assert_close(found, torch.stack(wanted))
    with pytest.raises(ValueError, match="names none"):
        woven(make("switch", parts), rows)


@pytest.mark.parametrize("settings", [{"depth": 1}, {"depth": 3, "width": 5, "layerwise": True}])
def test_xlora_with_a_zero_head_is_the_uniform_merge(
    make: Make,
    parts: list[Part],
    x: Tensor,
    woven: Callable[..., Tensor],
    settings: dict[str, object],
) -> None:
    mixture = make("xlora", parts, **settings)
    for value in mixture.head.parameters():  # type: ignore[union-attr]
        torch.nn.init.zeros_(value)
    hidden = torch.randn(1, 2, 3, dtype=torch.float64)
    assert_close(woven(mixture, x, hidden=hidden), cat(parts, [1 / 3] * 3, x))


def test_xlora_with_one_expert_is_that_expert(
    make: Make, parts: list[Part], x: Tensor, woven: Callable[..., Tensor]
) -> None:
    mixture = make("xlora", parts[:1])
    found = woven(mixture, x, hidden=torch.randn(1, 2, 3, dtype=torch.float64))
    assert_close(found, cat(parts[:1], [1.0], x))


def test_xlora_sums_of_gates(make: Make, parts: list[Part], x: Tensor) -> None:
    hidden = torch.randn(1, 2, 3, dtype=torch.float64)

    def gates(**settings: object) -> tuple[Tensor, Tensor]:
        call, mixture = Call(hidden=hidden), make("xlora", parts, **settings)
        mixture.begin(call)
        mixture.weave(MAP, x, call)
        found = call.trace.gates[MAP]
        return found.gates, found.selected

    dense, _ = gates()
    assert_close(dense.sum(-1), torch.ones(1, 2, dtype=torch.float64))
    masked, selected = gates(top_k=2)
    assert_close(masked, dense * selected)
    assert (selected.sum(-1) == 2).all()
    assert (masked.sum(-1) < 1).all()
    renewed, _ = gates(top_k=2, softmax_top_k=True)
    assert_close(renewed.sum(-1), torch.ones(1, 2, dtype=torch.float64))
    # Without a selection there is nothing that a softmax of its own could be over.
    for settings in ({}, {"softmax": False}):
        plain, _ = gates(**settings)
        assert_close(gates(softmax_top_k=True, **settings)[0], plain)
    raw, _ = gates(softmax=False)
    assert_close(raw.softmax(-1), dense)
    assert (raw.sum(-1) - 1).abs().min() > 1e-3
    doubled, _ = gates(global_weight=2.0)
    assert_close(doubled, 2 * dense)
    with pytest.raises(ValueError, match="more than the 3 experts"):
        make("xlora", parts, top_k=4)


def count(mixture: Mixture) -> int:
    return sum(value.numel() for value in mixture.parameters() if value.requires_grad)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"depth": 8, "width": 2048, "layerwise": True}, 26_900_552),
        ({"depth": 8, "width": 2048, "layerwise": False}, 26_759_171),
        ({"depth": 1}, 2_307),
    ],
)
def test_the_head_of_the_study_counts_what_it_says(
    make: Make, settings: dict[str, object], parameters: int
) -> None:
    part = Part(torch.empty(1, 1, device="meta"), torch.empty(1, 1, device="meta"))
    maps = [f"layer.{layer}.{role}" for layer in range(12) for role in ("query", "value")]
    mixture = make("xlora", [part] * 3, hidden=768, maps=maps, layers=12, **settings)
    assert count(mixture) == parameters


def test_a_layers_reader_has_constant_gates_below_it(
    make: Make, parts: list[Part], x: Tensor, woven: Callable[..., Tensor]
) -> None:
    above = MAP.replace("0", "1")
    mixture = make("single_pass", parts, reader="layer", layer=1, maps=[MAP, above])
    assert mixture.reads_layer == 1
    assert_close(woven(mixture, x), cat(parts, [1 / 3] * 3, x))
    hidden = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    woven(mixture, x, above, hidden=hidden).sum().backward()
    assert hidden.grad is None
    assert mixture.head.maps[0].weight.grad is not None  # type: ignore[union-attr]


def test_maps_outside_of_the_layers_are_served_by_what_is_known_when_they_run(
    make: Make, parts: list[Part], x: Tensor, woven: Callable[..., Tensor]
) -> None:
    before, after, above = "embeddings_project", "pooler.dense", MAP.replace("0", "1")
    maps = [before, MAP, above, after]
    for settings, constant in (
        ({"reader": "embedding"}, [before]),
        ({"reader": "layer", "layer": 1}, [before, MAP]),
    ):
        mixture = make("single_pass", parts, maps=maps, **settings)
        hidden = torch.randn(1, 2, 3, dtype=torch.float64)
        uniform = cat(parts, [1 / 3] * 3, x)
        for module in maps:
            found = woven(mixture, x, module, hidden=hidden)
            # The same with nobody who looks at the gates.
            assert_close(woven(mixture, x, module, hidden=hidden, watched=False), found)
            if module in constant:
                assert_close(found, uniform)
            else:
                assert (found - uniform).abs().max() > 1e-3
            if module in constant:
                assert_close(woven(mixture, x, module), uniform)


def test_a_layer_that_is_not_there_is_refused_where_one_is_read(
    make: Make, parts: list[Part]
) -> None:
    with pytest.raises(ValueError, match="layer 2: the base has layers 0 to 1"):
        make("single_pass", parts, reader="layer", layer=2)
    for reader in ("embedding", "local"):
        assert make("single_pass", parts, reader=reader, layer=2).experts


def test_the_grouped_path_is_the_dense_one_in_values_and_gradients(
    make: Make, parts: list[Part], x: Tensor
) -> None:
    hidden = torch.randn(1, 2, 3, dtype=torch.float64)
    results = []
    for path in ("dense", "grouped"):
        mixture = make("xlora", parts, top_k=1, train_experts=True)
        mixture.path = path
        own = x.clone().requires_grad_(True)
        call = Call(hidden=hidden)
        mixture.begin(call)
        out = mixture.weave(MAP, own, call)
        out.square().sum().backward()
        grads = {name: value.grad for name, value in mixture.named_parameters()}
        results.append((out, own.grad, grads))
    assert_close(results[0], results[1])
