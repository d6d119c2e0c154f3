"""The SVD form is PEFT's AdaLoRA before pruning; pruned, its export is what is left."""

import copy

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor

from tests.methods.adapters.oracle import (
    Net,
    adapted,
    assert_ten_steps_agree,
    layer_of,
    parameters_of,
    twins_of,
)
from tests.methods.adapters.starts import draw, variant_on
from weft.methods.adapters.contract import Adapter

OUT, IN, RANK, ALPHA = 24, 16, 4, 12.0
NEAR = {"rtol": 1e-11, "atol": 1e-11}


def start(W0: Tensor, seed: int = 0, rank: int = RANK) -> Adapter:
    return variant_on("svd_form", W0, seed=seed, rank=rank, alpha=ALPHA)


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


def test_forward_gradients_and_ten_steps_equal_pefts() -> None:
    net = Net(IN, OUT, IN).double()
    made = {name: moved(W0, number) for number, (name, W0) in enumerate(net.weights().items())}
    config = AdaLoraConfig(
        init_r=RANK,
        target_r=2,
        tinit=50,
        tfinal=10,
        total_step=100,
        lora_alpha=int(ALPHA),
        target_modules=list(made),
    )
    # In double precision, or rank + 1e-5 would be rounded to seven digits. PEFT 0.21.2 then trains
    # the rank too: it casts the frozen parameter that holds it into a new one, which is not frozen.
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    twins = twins_of(theirs, made, {letter: f"lora_{letter}.default" for letter in "AEB"})
    for name in made:
        layer_of(theirs, name).get_parameter("ranknum.default").requires_grad_(False)
    assert {id(p) for p in theirs.parameters() if p.requires_grad} == {
        id(p) for p in twins.values()
    }
    assert_ten_steps_agree(
        lambda x: adapted(net, made, x),
        theirs,
        parameters_of(made),
        twins,
        (draw(8, IN, seed=7), draw(8, IN, seed=8)),
        decay=0.1,
        outputs=NEAR,
        gradients=NEAR,
        values=NEAR,
    )
    for name, W0 in net.weights().items():
        theirs_delta = layer_of(theirs, name).get_delta_weight("default")
        torch.testing.assert_close(made[name].delta(W0), theirs_delta, **NEAR)
