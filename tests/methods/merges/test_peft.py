"""PEFT's add_weighted_adapter as the oracle, whole tensors, where it is right; and where it is not, what it does."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from tests.methods.adapters.oracle import Net
from tests.methods.merges.drawn import dense
from weft.lowrank.product import Pair
from weft.methods.merges import merges

RANK, ALPHA = 4, 16.0
MAPS = ("first", "second")
WEIGHTS = [0.25, -1.0, 2.25]
"""PEFT keeps weights, and their roots, in single precision; these, and times the scale, have exact ones."""


def peft_model(count: int, **config: Any) -> PeftModel:
    """PEFT's side: adapters `0`, `1`, ... with drawn factors, in double precision."""
    plain = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MAPS), **config)
    model = get_peft_model(Net().double(), plain, adapter_name="0")
    for number in range(1, count):
        model.add_adapter(str(number), plain)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=draw))
    return model.double()


def layer(model: PeftModel, module: str) -> Any:
    return model.base_model.model.get_submodule(module)


def factors(model: PeftModel, adapter: str) -> dict[str, Pair]:
    """Exact factors, the scale in B as ours."""
    found = {}
    for module in MAPS:
        own = layer(model, module)
        A, B = own.lora_A[adapter].weight.detach(), own.lora_B[adapter].weight.detach()
        found[module] = A, own.scaling[adapter] * B
    return found


def theirs(
    model: PeftModel, weights: Sequence[float], kind: str, **values: Any
) -> Mapping[str, Tensor]:
    names = [str(number) for number in range(len(weights))]
    with warnings.catch_warnings():
        # PEFT warns that a density of 1 prunes nothing.
        warnings.filterwarnings("ignore", message="The density")
        model.add_weighted_adapter(names, list(weights), "merged", kind, **values)
    return {module: layer(model, module).get_delta_weight("merged").detach() for module in MAPS}


def ours(
    model: PeftModel, weights: Sequence[float], name: str, rank: int | None = None, **values: Any
) -> Mapping[str, Tensor]:
    kind = merges.load(name)
    experts = [factors(model, str(number)) for number in range(len(weights))]
    merge = kind(kind.settings_type(**values))
    return dense(merge.merge(experts, weights, rank=rank).factors)


CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("cat", {}, "cat", {}),
    ("sum", {}, "cat", {}),
    ("task_arithmetic", {}, "cat", {}),
    ("svd", {}, "svd", {}),
    ("svd", {"rank": 6}, "svd", {"svd_rank": 6}),
    ("linear", {}, "linear", {}),
    ("ties", {"density": 0.3}, "ties_svd", {"density": 0.3}),
    (
        "ties",
        {"density": 0.3, "majority": "frequency"},
        "ties_svd",
        {"density": 0.3, "majority_sign_method": "frequency"},
    ),
    ("ties", {"density": 0.3, "on": "factors"}, "ties", {"density": 0.3}),
    ("magnitude_prune", {"density": 0.3}, "magnitude_prune_svd", {"density": 0.3}),
    (
        "magnitude_prune",
        {"density": 0.3, "on": "factors"},
        "magnitude_prune",
        {"density": 0.3},
    ),
    ("dare", {"density": 1.0}, "dare_linear_svd", {"density": 1.0}),
    ("dare", {"density": 1.0, "on": "factors"}, "dare_linear", {"density": 1.0}),
    ("dare", {"density": 1.0, "then": "ties"}, "dare_ties_svd", {"density": 1.0}),
    (
        "dare",
        {"density": 1.0, "then": "ties", "on": "factors"},
        "dare_ties",
        {"density": 1.0},
    ),
]


@pytest.mark.parametrize(("name", "settings", "kind", "values"), CASES)
def test_it_is_what_peft_makes_of_plain_lora(
    name: str, settings: dict[str, Any], kind: str, values: dict[str, Any]
) -> None:
    model = peft_model(3)
    found = ours(model, WEIGHTS, name, **settings)
    for module, delta in theirs(model, WEIGHTS, kind, **values).items():
        assert_close(found[module], delta)


@pytest.mark.parametrize(
    ("name", "kind", "times"),
    [("cat", "cat", 1.0), ("svd", "svd", 1.0), ("linear", "linear", 2.0), ("ties", "ties", 0.5)],
)
def test_two_equal_experts_with_weights_of_a_half(name: str, kind: str, times: float) -> None:
    """An average of two equal experts should be the expert; `linear` doubles it and `ties` halves it, here as there."""
    model = peft_model(2)
    for module in MAPS:
        own = layer(model, module)
        own.lora_A["1"].weight.data = own.lora_A["0"].weight.data.clone()
        own.lora_B["1"].weight.data = own.lora_B["0"].weight.data.clone()
    settings = {"density": 1.0} if name == "ties" else {}
    found = ours(model, [0.5, 0.5], name, **settings)
    peft = theirs(model, [0.5, 0.5], kind, **settings)
    alone = dense(factors(model, "0"))
    for module in MAPS:
        assert_close(found[module], times * alone[module])
        assert_close(peft[module], times * alone[module])


def test_linear_misses_the_sum_by_about_its_size_and_says_so() -> None:
    model = peft_model(2)
    experts = [factors(model, name) for name in ("0", "1")]
    found = merges.load("linear")().merge(experts, [0.7, -0.3])
    assert 0.5 < found.error < 1.5
    alone = merges.load("linear")().merge(experts[:1], [-0.3])
    assert alone.error == 0.0


def test_an_expert_less_itself_is_nothing() -> None:
    model = peft_model(1)
    own = factors(model, "0")
    for name in ("cat", "svd", "sum", "task_arithmetic", "linear"):
        found = merges.load(name)().merge([own, own], [1.0, -1.0])
        for delta in dense(found.factors).values():
            assert_close(delta, torch.zeros_like(delta))
    A, B = merges.load("linear")().merge([own, own], [1.0, -1.0]).factors["first"]
    # The sign is on A alone.
    assert not A.any()
    assert_close(B, 2 * own["first"][1])


@pytest.mark.parametrize(("name", "kind"), [("cat", "cat"), ("svd", "svd"), ("linear", "linear")])
def test_with_rslora_peft_is_off_by_the_root_of_the_rank_and_we_are_not(
    name: str, kind: str
) -> None:
    """PEFT's new adapter takes over rsLoRA with alpha set to its rank, so its scale is sqrt(rank) where 1 is right."""
    model, weights = peft_model(2, use_rslora=True), [0.5, 0.125]
    found = ours(model, weights, name)
    peft = theirs(model, weights, kind)
    rank = 2 * RANK if kind == "cat" else RANK
    for module in MAPS:
        assert_close(peft[module], rank**0.5 * found[module])
    if name == "cat":
        first, second = (dense(factors(model, adapter)) for adapter in ("0", "1"))
        assert_close(found["first"], 0.5 * first["first"] + 0.125 * second["first"])
