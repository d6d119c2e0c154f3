"""The SVD form is PEFT's AdaLoRA before pruning; pruned, its export is what is left."""

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor, nn

from weft.adapters import adapters
from weft.adapters.base import Adapter
from weft.config import validate

OUT, IN, RANK, ALPHA = 24, 16, 4, 12.0
NEAR = {"rtol": 1e-11, "atol": 1e-11}
SHAPES = {"one": (24, 16), "two": (16, 24)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def start(W0: Tensor, seed: int = 0, rank: int = RANK) -> Adapter:
    variant = adapters.load("svd_form")
    spec = validate(variant.spec_type, {"rank": rank, "alpha": ALPHA}, "test")
    return variant(W0, spec, torch.Generator().manual_seed(seed)).to(torch.float64)


def moved(W0: Tensor, seed: int = 0) -> Adapter:
    adapter = start(W0, seed)
    with torch.no_grad():
        for number, value in enumerate(adapter.parameters()):
            value.copy_(draw(*value.shape, seed=10 * seed + number))
    return adapter


def naive(adapter: Adapter) -> Tensor:
    A, B, E = (adapter.get_parameter(name) for name in ("A", "B", "E"))
    return ALPHA / (RANK + 1e-5) * B @ torch.diag(E[:, 0]) @ A


def test_it_starts_as_a_no_op_with_the_authors_laws() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    assert not adapter(draw(5, IN), W0).any()
    assert not adapter.get_parameter("E").any()
    large = start(torch.zeros(60, 50), rank=30)
    for name in ("A", "B"):
        # 1500 draws: their standard deviation is within a tenth.
        assert large.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.1)
        assert abs(large.get_parameter(name).mean()) < 0.002
    assert adapter.parameter_count(OUT, IN, adapter.spec) == RANK * (OUT + IN) + RANK


def test_it_is_the_papers_equation() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = moved(W0)
    torch.testing.assert_close(adapter.delta(W0), naive(adapter), **NEAR)
    torch.testing.assert_close(adapter(x, W0), x @ naive(adapter).T, **NEAR)


def test_pruned_triplets_are_not_exported_and_the_scale_stays() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = moved(W0)
    E = adapter.get_parameter("E")
    with torch.no_grad():
        E[[0, 2]] = 0
        A, B = adapter.factors(W0)
        assert (len(A), B.shape[1]) == (2, 2)
        assert torch.equal(A, adapter.get_parameter("A")[[1, 3]])
        # Divided by the rank before pruning, 4, not by what is left.
        kept = adapter.get_parameter("B")[:, [1, 3]] * E[[1, 3], 0]
        torch.testing.assert_close(B, ALPHA / (RANK + 1e-5) * kept, **NEAR)
        torch.testing.assert_close(B @ A, naive(adapter), **NEAR)
        torch.testing.assert_close((x @ A.T) @ B.T, adapter(x, W0), **NEAR)
        E.zero_()
        A, B = adapter.factors(W0)
        assert (len(A), B.shape[1]) == (1, 1)
        assert not (B @ A).any()


def test_a_pruned_value_still_has_its_gradient() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = moved(W0)
    with torch.no_grad():
        adapter.get_parameter("E")[[0, 2]] = 0
    weights = draw(5, OUT, seed=8)
    A, B = adapter.factors(W0)
    by_factors = torch.autograd.grad(((x @ A.T) @ B.T * weights).sum(), [*adapter.parameters()])
    by_forward = torch.autograd.grad((adapter(x, W0) * weights).sum(), [*adapter.parameters()])
    torch.testing.assert_close(by_factors, by_forward, **NEAR)
    E = dict(zip(dict(adapter.named_parameters()), by_forward, strict=True))["E"]
    assert E.shape == (RANK, 1)
    assert E.all()


class Net(nn.Module):
    """Two maps with a bend between them."""

    def __init__(self) -> None:
        super().__init__()
        for number, (name, (out, inner)) in enumerate(SHAPES.items()):
            layer = nn.Linear(inner, out).double()
            with torch.no_grad():
                layer.weight.copy_(draw(out, inner, seed=number) / 4)
                layer.bias.copy_(draw(out, seed=number + 2))
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("two")(torch.tanh(self.get_submodule("one")(x)))


def test_forward_gradients_and_ten_steps_equal_pefts() -> None:
    net = Net()
    layers = {name: net.get_submodule(name) for name in SHAPES}
    weights = {name: layer.get_parameter("weight").detach() for name, layer in layers.items()}
    made = {name: moved(weight, number) for number, (name, weight) in enumerate(weights.items())}
    config = AdaLoraConfig(
        init_r=RANK,
        target_r=2,
        tinit=50,
        tfinal=10,
        total_step=100,
        lora_alpha=int(ALPHA),
        target_modules=list(SHAPES),
    )
    # In double precision, or rank + 1e-5 would be rounded to seven digits. PEFT 0.21.2 then trains
    # the rank too: it casts the frozen parameter that holds it into a new one, which is not frozen.
    theirs = get_peft_model(Net(), config).double()
    twins: dict[str, nn.Parameter] = {}
    with torch.no_grad():
        for name, adapter in made.items():
            layer = theirs.get_submodule(f"base_model.model.{name}")
            for letter, value in adapter.named_parameters():
                twins[f"{name}.{letter}"] = layer.get_parameter(f"lora_{letter}.default")
                twins[f"{name}.{letter}"].copy_(value)
            layer.get_parameter("ranknum.default").requires_grad_(False)
    own = {
        f"{name}.{n}": p for name, adapter in made.items() for n, p in adapter.named_parameters()
    }
    assert {id(p) for p in theirs.parameters() if p.requires_grad} == {
        id(p) for p in twins.values()
    }
    optimizers = [
        torch.optim.AdamW(list(group.values()), lr=0.01, weight_decay=0.1) for group in (own, twins)
    ]
    x, y = draw(8, IN, seed=7), draw(8, IN, seed=8)
    for _ in range(10):
        hidden = torch.tanh(layers["one"](x) + made["one"](x, weights["one"]))
        got = layers["two"](hidden) + made["two"](hidden, weights["two"])
        expected = theirs(x)
        torch.testing.assert_close(got, expected, **NEAR)
        (got - y).square().mean().backward()
        (expected - y).square().mean().backward()
        for name, value in own.items():
            torch.testing.assert_close(value.grad, twins[name].grad, **NEAR)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, value in own.items():
        torch.testing.assert_close(value, twins[name], **NEAR)
    for name, adapter in made.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        theirs_delta = layer.get_delta_weight("default")
        torch.testing.assert_close(adapter.delta(weights[name]), theirs_delta, **NEAR)
