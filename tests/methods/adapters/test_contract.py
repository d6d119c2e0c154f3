"""What every variant promises, applied to each file of the folder, and to two from outside it."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.methods.adapters.starts import move
from tests.methods.adapters.toys import Scaled, Shared
from weft.base.loading import load_base
from weft.config import RecipeSettings, validate
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.lowrank.start import zero_product
from weft.lowrank.woven import Woven
from weft.methods.adapters import adapters, contract
from weft.methods.adapters.contract import Adapter, NotLowRank
from weft.methods.controllers.contract import Controller
from weft.methods.optimizers.contract import Optimizer
from weft.methods.plans.contract import Plan
from weft.methods.recipes import Recipe, RecipeFile
from weft.model.expert import build, make_adapters
from weft.model.model import Model
from weft.registry import Registry

OUT, IN = 24, 16
NAMES = tuple(adapters.names())
ROWS = ("x", None, "x")
TOYS: dict[str, type[Adapter]] = {"toy_shared": Shared, "toy_scaled": Scaled}


@pytest.fixture(scope="module", autouse=True)
def registry() -> Registry[Adapter]:
    """The folder with two third-party variants, as a user would add them."""
    registry: Registry[Adapter] = Registry("weft.methods.adapters", Adapter)
    for name, variant in TOYS.items():
        registry.add(name, variant)
    return registry


@pytest.fixture(params=[*NAMES, *TOYS])
def variant(request: pytest.FixtureRequest, registry: Registry[Adapter]) -> type[Adapter]:
    return registry.load(request.param)


@pytest.fixture(params=NAMES)
def own_variant(request: pytest.FixtureRequest, registry: Registry[Adapter]) -> type[Adapter]:
    return registry.load(request.param)


def weight(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(7)).to(dtype) / 4


def recipe(variant: type[Adapter], **spec: object) -> Recipe:
    """The variant alone: no optimizer, penalty, controller or plan."""
    return Recipe(
        name="alone",
        file=RecipeFile(summary="", paper="", citation="", training={"learning_rate": 1e-3}),
        settings=RecipeSettings(targets=["query", "ffn_in"]),
        adapter=variant,
        spec=validate(variant.spec_type, {"rank": 3, **spec}, "test"),
        optimizer=Optimizer(),
        penalties=(),
        controller=Controller(),
        plan=Plan(),
    )


def start(
    variant: type[Adapter], W0: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Adapter, nn.Module | None]:
    """As an expert starts it on one map."""
    generator = torch.Generator().manual_seed(seed)
    made, shared = make_adapters(recipe(variant), {"map": W0}, {"map": 3}, generator, dtype)
    return made["map"], shared


def owned(adapter: Adapter, shared: nn.Module | None) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of the adapter and of what it shares."""
    yield from adapter.named_parameters()
    if shared is not None:
        yield from ((f"shared.{name}", value) for name, value in shared.named_parameters())


def moved(variant: type[Adapter], W0: Tensor, dtype: torch.dtype = torch.float64) -> Adapter:
    """Anywhere but at its start, as after training."""
    adapter, shared = start(variant, W0, dtype=dtype)
    move(value for _, value in owned(adapter, shared))
    return adapter


def test_forward_is_its_delta(variant: type[Adapter]) -> None:
    W0 = weight()
    for adapter in (start(variant, W0)[0], moved(variant, W0)):
        x = torch.randn(2, 5, IN, dtype=torch.float64)
        delta = adapter.delta(W0)
        assert delta.shape == W0.shape
        torch.testing.assert_close(adapter(x, W0), x @ delta.T, rtol=1e-12, atol=1e-12)


def test_factors_are_its_delta_exactly_or_refused_with_the_reason(variant: type[Adapter]) -> None:
    W0 = weight()
    adapter = moved(variant, W0)
    if not variant.low_rank:
        with pytest.raises(NotLowRank, match=r"\w+ \w+"):
            adapter.factors(W0)
        return
    A, B = adapter.factors(W0)
    assert (A.shape[1], B.shape[0], A.shape[0]) == (IN, OUT, B.shape[1])
    torch.testing.assert_close(B @ A, adapter.delta(W0), rtol=1e-12, atol=1e-12)


def test_factors_carry_the_gradient_of_delta(variant: type[Adapter]) -> None:
    if not variant.low_rank:
        pytest.skip("it has no factors")
    W0 = weight()
    adapter = moved(variant, W0)
    values = [value for _, value in owned(adapter, adapter.shared) if value.requires_grad]
    A, B = adapter.factors(W0)
    weights = torch.linspace(-1, 1, W0.numel(), dtype=torch.float64).view_as(W0)
    by_factors = torch.autograd.grad(((B @ A) * weights).sum(), values)
    by_delta = torch.autograd.grad((adapter.delta(W0) * weights).sum(), values)
    torch.testing.assert_close(by_factors, by_delta, rtol=1e-10, atol=1e-10)


def test_every_parameter_gets_a_gradient(variant: type[Adapter]) -> None:
    W0 = weight()
    adapter = moved(variant, W0)
    adapter(torch.randn(2, 5, IN, dtype=torch.float64), W0).square().sum().backward()
    trained = {n: v for n, v in owned(adapter, adapter.shared) if v.requires_grad}
    assert trained
    without = [n for n, v in trained.items() if v.grad is None or not v.grad.any()]
    assert without == []


def test_an_optimizer_sees_each_parameter_once(variant: type[Adapter]) -> None:
    W0 = {"one": weight(), "two": weight()}
    made, shared = make_adapters(
        recipe(variant), W0, dict.fromkeys(W0, 3), torch.Generator().manual_seed(0), torch.float64
    )
    groups = Optimizer().param_groups(made, 1e-3)
    ids = [id(value) for group in groups for value in group["params"]]
    assert len(ids) == len(set(ids))
    apart = {id(value) for value in shared.parameters()} if shared else set()
    assert not apart & set(ids)


@pytest.mark.parametrize("shape", [(OUT, IN), (8, 40)])
def test_the_parameter_count_is_the_built_modules(
    variant: type[Adapter], shape: tuple[int, int]
) -> None:
    W0 = torch.zeros(shape) + 0.5
    spec = validate(variant.spec_type, {"rank": 3}, "test")
    made, _ = make_adapters(
        recipe(variant), {"map": W0}, {"map": 3}, torch.Generator(), torch.float32
    )
    count = sum(value.numel() for value in made["map"].parameters() if value.requires_grad)
    assert variant.parameter_count(*shape, spec) == count


def test_the_same_seed_starts_the_same_and_nothing_else_matters(variant: type[Adapter]) -> None:
    W0 = weight()

    def values(seed: int) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in owned(*start(variant, W0, seed))}

    torch.manual_seed(1)
    first = values(5)
    torch.manual_seed(2)
    second = values(5)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_frozen_weight_is_never_written_to(variant: type[Adapter]) -> None:
    W0 = weight(torch.float32)
    before = W0.clone()
    adapter, shared = start(variant, W0, dtype=torch.float32)
    values = [value for _, value in owned(adapter, shared)]
    optimizer = torch.optim.AdamW(values, lr=0.1)
    for _ in range(3):
        adapter(torch.randn(4, IN), W0).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter.delta(W0)
    assert torch.equal(W0, before)
    assert W0.grad is None


def test_it_serves_a_half_precision_base_in_single_precision(variant: type[Adapter]) -> None:
    W0 = weight(torch.bfloat16)
    adapter = moved(variant, W0, torch.float32)
    assert {value.dtype for _, value in owned(adapter, adapter.shared)} == {torch.float32}
    base = nn.Linear(IN, OUT, bias=False).to(torch.bfloat16)
    base.weight = nn.Parameter(W0, requires_grad=False)
    map_ = LowRankLinear(base, "map")
    x = torch.randn(3, 4, IN, dtype=torch.bfloat16)
    for route in (Route.everywhere("x"), Route.by_sequence(ROWS)):
        with routed(route, {"x": Woven({"map": adapter})}):
            got = map_(x)
        assert got.dtype == torch.bfloat16
        expected = base(x).float()
        rows = [0, 2] if route.choice else [0, 1, 2]
        expected[rows] += x[rows].float() @ adapter.delta(W0).T.float()
        # Two roundings to 8 bits: of the adapter's part and of the sum.
        torch.testing.assert_close(got.float(), expected, rtol=2**-6, atol=2**-5)


def test_settings_that_it_does_not_have_are_refused_by_name(variant: type[Adapter]) -> None:
    with pytest.raises(ValueError, match=r"no setting named 'rnak'\. Did you mean 'rank'"):
        validate(variant.spec_type, {"rnak": 4}, "recipe")
    for name, value in (("rank", 0), ("dropout", 1.0)):
        with pytest.raises(ValueError, match=rf"recipe: {name}: .*got {value}"):
            validate(variant.spec_type, {name: value}, "recipe")


def test_every_setting_says_what_it_means(own_variant: type[Adapter]) -> None:
    fields = own_variant.spec_type.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_its_page_states_the_equation_and_cites(own_variant: type[Adapter]) -> None:
    page = inspect.getmodule(own_variant).__doc__ or ""
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", page)
    assert re.search(r"^    .*=", page, re.MULTILINE)


def test_its_file_is_short(own_variant: type[Adapter]) -> None:
    assert len(Path(inspect.getfile(own_variant)).read_text("utf-8").splitlines()) <= 150


def test_third_party_variants_train_and_are_served_in_a_model(
    variant: type[Adapter], tiny_folder: Callable[[str], Path]
) -> None:
    """From `share` to a mixed batch: in training form, as exact factors, beside another variant."""
    base = load_base(str(tiny_folder("bert")), dtype=torch.float64)
    experts = {
        "x": build("x", base, recipe(variant), None, seed=1),
        "y": build("y", base, recipe(adapters.load("lora")), None, seed=2),
    }
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for expert in experts.values():
            for value in expert.trained().values():
                assert value.dtype == torch.float64
                value.add_(0.2 * torch.randn(value.shape, generator=draw))
    route = Route.by_sequence(["x", "y", None, ("x", "y")])
    ids = torch.arange(5, 29).view(4, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = Model(base)
    found = []
    for trainable in (True, False):
        for expert in experts.values():
            model.add(expert, trainable=trainable)
        with torch.no_grad():
            found.append(model.states(inputs, route))
        for name in experts:
            model.remove(name)
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)
    merged = []
    for name in ("x", "y"):
        model.add(experts[name])
        with torch.no_grad():
            merged.append(model.merged(name)(**inputs).last_hidden_state)
    torch.testing.assert_close(found[0][0], merged[0][0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found[0][1], merged[1][1], rtol=1e-11, atol=1e-11)


def test_what_adapters_share_is_the_experts_own_and_counted_once(
    tiny_folder: Callable[[str], Path],
) -> None:
    base = load_base(str(tiny_folder("bert")))
    expert = build("x", base, recipe(Shared), None, seed=1)
    names = list(expert.trained())
    assert [name for name in names if name.startswith("shared.")] == ["shared.gain"]
    assert all(adapter.shared is expert.shared for adapter in expert.adapters.values())
    # Two layers of a query map (32) and a feed-forward map (64), each with d and b.
    assert expert.adapter_parameters() == 2 * (3 + 32 + 3 + 64) + 3


def test_the_example_for_newcomers_is_a_whole_adapter() -> None:
    """What CONTRIBUTING.md shows, run as it stands there, is LoRA."""
    page = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    own = adapters.load("lora")
    names = {
        "contract": contract,
        "ClassVar": ClassVar,
        "Spec": own.spec_type,
        "torch": torch,
        "nn": nn,
        "Tensor": Tensor,
        "zero_product": zero_product,
    }
    exec(compile(example, "CONTRIBUTING.md", "exec"), names)
    shown, expected = (start(variant, weight())[0] for variant in (names["LoRA"], own))
    for adapter in (shown, expected):
        move(adapter.parameters())
    assert shown.state_dict().keys() == expected.state_dict().keys()
    torch.testing.assert_close(shown.state_dict(), expected.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        shown.delta(weight()), expected.delta(weight()), rtol=1e-12, atol=1e-12
    )


def test_a_name_is_taken_once(registry: Registry[Adapter]) -> None:
    with pytest.raises(ValueError, match="'lora' is registered already"):
        registry.add("lora", Shared)
    with pytest.raises(KeyError, match=r"no adapter named 'loar'\. Did you mean 'lora'"):
        registry.load("loar")
    assert set(TOYS) <= set(registry.names())
