"""Every recipe resolves to parts that exist, and says no to what its method does not have."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.methods.adapters.contract import Adapter
from weft.methods.controllers.contract import Controller
from weft.methods.optimizers.contract import Optimizer
from weft.methods.penalties.contract import Penalty
from weft.methods.plans.contract import Plan
from weft.methods.recipes import Recipe, recipe_file, recipes, resolve, settings_types
from weft.model.expert import Expert, build, plan_ranks

NAMES = tuple(recipes.names())
WOVEN = tuple(name for name in NAMES if recipe_file(name).trains == "adapters")
QV = ["query", "value"]
BARE = tuple(name for name in NAMES if recipe_file(name).trains != "adapters")


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


def recipe(name: str, **settings: object) -> Recipe:
    return resolve(RecipeSettings.model_validate({"name": name, **settings}))


def expert(base: Base, name: str = "lora", **settings: object) -> Expert:
    return build("x", base, recipe(name, **settings), None, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_with_nothing_said(name: str) -> None:
    found = recipe(name)
    assert found.name == name
    assert found.learning_rate > 0
    assert isinstance(found.optimizer, Optimizer)
    assert isinstance(found.controller, Controller)
    assert isinstance(found.plan, Plan)
    assert all(isinstance(part, Penalty) for part in found.penalties)
    assert (found.adapter is not None) == (name in WOVEN) == bool(found.settings.targets)
    if found.adapter is not None:
        assert issubclass(found.adapter, Adapter)
        assert isinstance(found.spec, found.adapter.spec_type)


@pytest.mark.parametrize("name", NAMES)
def test_its_file_says_what_it_is_and_whose(name: str) -> None:
    file = recipe_file(name)
    assert file.summary.endswith(".")
    assert re.search(r"\b(19|20)\d\d\b", file.paper)
    assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|doi:10\..+|https?://.+", file.citation)


@pytest.mark.parametrize("name", NAMES)
def test_its_files_settings_all_belong_to_a_part(name: str) -> None:
    file = recipe_file(name)
    known = {field for kind in settings_types(file) for field in kind.model_fields}
    assert set(file.settings) <= known


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_written_out_resolve_to_the_same_recipe(name: str) -> None:
    found = recipe(name)
    again = resolve(found.describe()) if name in WOVEN else recipe(name)
    assert again.spec == found.spec
    assert again.settings.targets == found.settings.targets
    if name in WOVEN:
        assert again.describe() == found.describe()


@pytest.mark.parametrize("name", WOVEN)
def test_it_builds_an_expert_whose_every_number_is_trained_or_frozen_on_purpose(
    name: str, bert: Base
) -> None:
    built = expert(bert, name)
    assert built.adapters
    trained = built.trained()
    assert sum(value.numel() for value in trained.values()) == built.adapter_parameters() > 0
    assert {value.dtype for value in trained.values()} == {torch.float32}


@pytest.mark.parametrize("name", WOVEN)
def test_an_unknown_setting_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"recipe {name}: no setting named 'rnak'\. Did you mean 'rank'"
    ):
        recipe(name, rnak=4)


def test_names_nobody_has_are_refused_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"no recipe named 'lorra'\. Did you mean 'lora'"):
        recipe("lorra")
    with pytest.raises(ValueError, match=r"recipe lora: alpha: .*greater than 0.*got -1"):
        recipe("lora", alpha=-1)


def test_a_target_or_a_rank_that_the_base_does_not_have_is_refused(bert: Base) -> None:
    with pytest.raises(ValueError, match=r"no target named 'qeury'\. Did you mean 'query'"):
        expert(bert, targets=["qeury"])
    with pytest.raises(
        ValueError,
        match=r"rank 33 is larger than the layer: \S+query is 32 x 32, so its rank is at most 32",
    ):
        expert(bert, rank=33)
    with pytest.raises(ValueError, match="is 64 x 32, so its rank is at most 32"):
        expert(bert, targets="ffn_in", rank=40)
    with pytest.raises(ValueError, match=r"rank 40 is larger than .*value"):
        expert(bert, ranks={"value": 40})
    assert {adapter.rank for adapter in expert(bert, rank=32).adapters.values()} == {32}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 8},
        {"targets": ["query"]},
        {"layers": [0]},
        {"ranks": {"query": 2}},
        {"train_also": ["norms"]},
        {"alpha": 1.0},
    ],
)
def test_a_recipe_without_adapters_has_none_of_their_settings(
    name: str, settings: dict[str, object]
) -> None:
    (setting,) = settings
    with pytest.raises(ValueError, match=f"recipe {name}: .* no setting {setting}; remove it"):
        recipe(name, **settings)


def ranks(built: Expert) -> dict[str, int]:
    return {module: adapter.rank for module, adapter in built.adapters.items()}


def test_ranks_by_role_by_name_and_by_expression(bert: Base) -> None:
    layer = "encoder.layer.{}.attention.self.{}"
    found = expert(bert, targets=QV, rank=3, ranks={"query": 2, layer.format(1, "query"): 5})
    assert ranks(found) == {
        layer.format(0, "query"): 2,
        layer.format(0, "value"): 3,
        layer.format(1, "query"): 5,
        layer.format(1, "value"): 3,
    }
    # The most particular key has the last word, wherever it stands.
    turned = expert(bert, targets=QV, rank=3, ranks={layer.format(1, "query"): 5, "query": 2})
    assert ranks(turned) == ranks(found)
    ends = {"attention.self.query": 2, r"re:.*\.1\..*query": 5}
    by_end = expert(bert, targets=QV, rank=3, ranks=ends)
    assert ranks(by_end) == ranks(found)


@pytest.mark.parametrize("role", ["query", "key", "value"])
def test_a_fused_map_takes_the_rank_of_any_role_it_plays(
    role: str, tiny_folder: Callable[[str], Path]
) -> None:
    for model_type in ("gpt2", "modernbert"):
        base = load_base(str(tiny_folder(model_type)))
        found = expert(base, rank=3, targets=[role, "ffn_in"], ranks={role: 2})
        assert sorted(ranks(found).values()) == [2, 2, 3, 3]


def test_a_rank_for_what_is_no_target_is_refused(bert: Base) -> None:
    with pytest.raises(ValueError, match="ranks: no target of this expert named 'ffn_in'"):
        expert(bert, targets=QV, ranks={"ffn_in": 2})
    with pytest.raises(ValueError, match=r"ranks: .*no target named 'valeu'. Did you mean 'value'"):
        expert(bert, ranks={"valeu": 2})
    with pytest.raises(ValueError, match="ranks: no target of this expert"):
        expert(bert, layers=[0], ranks={"encoder.layer.1.attention.self.query": 2})


def test_alpha_is_divided_by_each_maps_own_rank(bert: Base) -> None:
    built = expert(bert, targets=QV, rank=4, alpha=12, ranks={"query": 2})
    scales = {}
    for module, adapter in built.adapters.items():
        with torch.no_grad():
            adapter.get_parameter("B").fill_(1.0)
        _, B = adapter.factors(bert.trunk.get_submodule(module).get_parameter("weight"))
        scales[module.rpartition(".")[2]] = B.unique().item()
    assert scales == {"query": 6.0, "value": 3.0}


def test_targets_by_layer(bert: Base) -> None:
    one = expert(bert, targets="all-linear", layers=[1])
    assert one.adapters
    assert all(module.startswith("encoder.layer.1.") for module in one.adapters)
    both = expert(bert, targets="all-linear")
    assert len(both.adapters) == 2 * len(one.adapters)
    with pytest.raises(ValueError, match=r"layers \[2\]: expected some of the layers 0 to 1"):
        expert(bert, layers=[2])


class HalfPlan(Plan):
    """Half the rank on query maps, none on value maps."""

    def plan(self, base: dict[str, torch.Tensor], spec: dict[str, int]) -> dict[str, int | None]:
        return {name: rank // 2 if "query" in name else None for name, rank in spec.items()}


def test_a_plan_has_the_last_word_on_ranks(bert: Base) -> None:
    settings = recipe("lora", rank=4)
    planned = Recipe(**{**vars(settings), "plan": HalfPlan()})
    found = plan_ranks(bert.trunk, planned)
    assert found == {f"encoder.layer.{layer}.attention.self.query": 2 for layer in (0, 1)}


def test_parts_of_the_base_are_trained_as_private_copies(
    model_type: str, tiny_folder: Callable[[str], Path]
) -> None:
    base = load_base(str(tiny_folder(model_type)))
    built = expert(base, train_also=["norms", "embeddings"])
    kinds = {type(base.trunk.get_submodule(name)) for name in built.copies}
    wanted = {
        name: module
        for name, module in base.trunk.named_modules()
        if isinstance(module, nn.Embedding) or "Norm" in type(module).__name__
    }
    assert set(built.copies) == set(wanted)
    assert nn.Embedding in kinds
    for name, twin in built.copies.items():
        own = wanted[name]
        for value, original in zip(twin.parameters(), own.parameters(), strict=True):
            assert value.requires_grad
            assert not original.requires_grad
            assert value.data_ptr() != original.data_ptr()
            assert torch.equal(value, original)


def test_parts_of_the_base_by_name_and_the_nearest_for_a_wrong_one(bert: Base) -> None:
    built = expert(bert, train_also=["embeddings.LayerNorm", r"re:encoder\.layer\.0\.output\..*"])
    assert list(built.copies) == [
        "embeddings.LayerNorm",
        "encoder.layer.0.output.dense",
        "encoder.layer.0.output.LayerNorm",
    ]
    with pytest.raises(
        ValueError, match=r"train_also: no module of the base named 'norm'\. Did you mean 'norms'"
    ):
        expert(bert, train_also=["norm"])


def test_the_same_seed_starts_the_same_expert_and_another_seed_another(bert: Base) -> None:
    def start(seed: int) -> list[torch.Tensor]:
        built = build("x", bert, recipe("lora"), None, seed=seed)
        return list(built.trained().values())

    torch.manual_seed(1)
    first = start(0)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, start(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, start(1), strict=True))
