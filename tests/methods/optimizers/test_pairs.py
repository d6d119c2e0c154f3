"""Rules on pairs of factors: their equations in double precision, with the gradient of the whole weight at hand."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.optimizers.riemannian import create_riemannian_optimizer
from torch import Tensor

from tests.methods.adapters.oracle import LORA, Net, adapted, twins_of
from tests.methods.adapters.starts import draw, variant_on
from weft.config import RecipeSettings, validate
from weft.methods.adapters.contract import Adapter
from weft.methods.optimizers import optimizers
from weft.methods.optimizers.altlora import AltLoRA
from weft.methods.optimizers.contract import Optimizer, Pair
from weft.methods.optimizers.lora_pro import LoRAPro, sylvester
from weft.methods.optimizers.muon import orthogonalised
from weft.methods.recipes import resolve
from weft.training.adamw import AdamW

OUT, IN, RANK, ALPHA = 24, 16, 3, 12.0
S = ALPHA / RANK
NEAR = {"rtol": 1e-9, "atol": 1e-11}


def rule(name: str, **settings: object) -> Optimizer:
    kind = optimizers.load(name)
    return kind(validate(kind.settings_type, settings, "test"))


def moved(seed: int = 0, rank: int = RANK) -> Adapter:
    """A LoRA away from its start, where B is not 0."""
    adapter = variant_on("lora", draw(OUT, IN), seed=seed, rank=rank, alpha=S * rank)
    with torch.no_grad():
        adapter.get_parameter("B").copy_(draw(OUT, rank, seed=seed + 1))
    return adapter


def graded(adapter: Adapter, seed: int = 5) -> Tensor:
    """Gives A and B their gradients under a loss of the whole weight; returns the weight's own, G."""
    G = draw(OUT, IN, seed=seed)
    (adapter.delta(draw(OUT, IN)) * G).sum().backward()
    return G


def parts(adapter: Adapter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    A, B = adapter.get_parameter("A"), adapter.get_parameter("B")
    assert A.grad is not None
    assert B.grad is not None
    return A.detach().clone(), B.detach().clone(), A.grad.clone(), B.grad.clone()


def projector(columns: Tensor) -> Tensor:
    return columns @ torch.linalg.pinv(columns)


def equivalent(adapter: Adapter) -> Tensor:
    """The step of the weight that the gradients of A and B stand for."""
    A, B, g_A, g_B = parts(adapter)
    return S * (B @ g_A + g_B @ A)


def stepping(own: Optimizer, adapter: Adapter, rate: float) -> AdamW:
    """The trainer's optimizer without decay."""
    groups = own.param_groups({"map": adapter}, rate)
    return AdamW([{**group, "weight_decay": 0.0} for group in groups])


# LoRA-Pro


def test_lora_pros_step_of_the_weight_is_the_nearest_there_is() -> None:
    adapter = moved()
    G = graded(adapter)
    A, B, _, _ = parts(adapter)
    rule("lora_pro", damping=1e-300).transform({"map": adapter}, 0)
    P_B, P_A = projector(B), projector(A.T)
    eye = torch.eye(OUT, dtype=torch.float64)
    nearest = P_B @ G + (eye - P_B) @ G @ P_A
    torch.testing.assert_close(equivalent(adapter), nearest, **NEAR)
    # No other pair of directions is nearer: the residual is orthogonal to all that the pair can do.
    rest = nearest - G
    torch.testing.assert_close(B.T @ rest, torch.zeros(RANK, IN, dtype=torch.float64), **NEAR)
    torch.testing.assert_close(rest @ A.T, torch.zeros(OUT, RANK, dtype=torch.float64), **NEAR)


def test_lora_pro_descends_whatever_x_is() -> None:
    adapter = moved()
    graded(adapter)
    _, _, g_A, g_B = parts(adapter)
    pro = rule("lora_pro", damping=1e-300)
    assert isinstance(pro, LoRAPro)
    pair = Pair(adapter.get_parameter("A"), adapter.get_parameter("B"), S)
    found = []
    for balanced in (True, False):
        to_A, to_B = pro.adjusted(pair, g_A, g_B, balanced=balanced)
        A, B = pair.wide()
        step = S * (B @ to_A + to_B @ A)
        slope = (g_A * to_A).sum() + (g_B * to_B).sum()
        torch.testing.assert_close(slope, step.square().sum(), **NEAR)
        found.append((step, ((to_A - g_A).square().sum() + (to_B - g_B).square().sum()).item()))
    torch.testing.assert_close(found[0][0], found[1][0], **NEAR)
    # The Sylvester equation's X is the one nearest to the gradients themselves.
    assert found[0][1] < found[1][1]


def test_sylvesters_equation_is_solved() -> None:
    left, right = draw(5, 5), draw(5, 5, seed=1)
    left, right, wanted = left @ left.T, right @ right.T, draw(5, 5, seed=2)
    X = sylvester(left, right, wanted)
    torch.testing.assert_close(left @ X + X @ right, wanted, rtol=1e-10, atol=1e-10)


def test_with_full_rank_lora_pros_step_is_the_weights_own() -> None:
    adapter = moved(rank=IN)
    G = graded(adapter)
    rule("lora_pro", damping=1e-300).transform({"map": adapter}, 0)
    torch.testing.assert_close(equivalent(adapter), G, rtol=1e-6, atol=1e-8)


def test_lora_pros_first_step_is_finite_and_moves_b_alone() -> None:
    adapter = variant_on("lora", draw(OUT, IN), rank=RANK, alpha=ALPHA)
    G = graded(adapter)
    A, _, _, _ = parts(adapter)
    rule("lora_pro").transform({"map": adapter}, 0)
    _, _, to_A, to_B = parts(adapter)
    assert torch.equal(to_A, torch.zeros_like(to_A))
    damped = A @ A.T + 1e-8 * torch.eye(RANK, dtype=torch.float64)
    torch.testing.assert_close(to_B, G @ A.T @ torch.linalg.inv(damped) / S, **NEAR)


def test_lora_pros_adam_is_adam_on_the_equivalent_gradient() -> None:
    """Three steps against the equations written out, with explicit moments of the whole weight."""
    adapter, pro = moved(), rule("lora_pro", form="adam", damping=1e-300)
    twin = copy.deepcopy(adapter)
    optimizer = stepping(pro, adapter, 0.01)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    M = V = torch.zeros(OUT, IN, dtype=torch.float64)
    for step in range(1, 4):
        graded(adapter, seed=step)
        pro.transform({"map": adapter}, step)
        optimizer.step()
        optimizer.zero_grad()
        G = draw(OUT, IN, seed=step)
        A, B = (twin.get_parameter(name).detach() for name in "AB")
        P_B = projector(B)
        whole = P_B @ G + (torch.eye(OUT, dtype=torch.float64) - P_B) @ G @ projector(A.T)
        M, V = 0.9 * M + 0.1 * whole, 0.999 * V + 0.001 * whole**2
        whole = M / (1 - 0.9**step) / ((V / (1 - 0.999**step)).sqrt() + 1e-8)
        pair = Pair(twin.get_parameter("A"), twin.get_parameter("B"), S)
        assert isinstance(pro, LoRAPro)
        to_A, to_B = pro.adjusted(pair, S * B.T @ whole, S * whole @ A.T)
        with torch.no_grad():
            pair.A.mul_(1 - 0.001).sub_(0.01 * to_A)
            pair.B.mul_(1 - 0.001).sub_(0.01 * to_B)
    for name in "AB":
        found, wanted = adapter.get_parameter(name), twin.get_parameter(name)
        torch.testing.assert_close(found, wanted, **NEAR)


# AltLoRA


def test_altlora_projects_the_weights_gradient_on_one_factor_after_the_other() -> None:
    adapter, alt = moved(), rule("altlora", beta1=0, damping=0)
    G = graded(adapter)
    A, B, _, _ = parts(adapter)
    stepping(alt, adapter, 0.1).step()
    new_A, new_B = (adapter.get_parameter(name).detach() for name in "AB")
    torch.testing.assert_close(S * B @ (new_A - A), -0.1 * projector(B) @ G, **NEAR)
    # B's gradient is that of the one backward pass, through the old A; it is divided by the new A's Gram matrix.
    through = A.T @ torch.linalg.inv(new_A @ new_A.T) @ new_A
    torch.testing.assert_close(S * (new_B - B) @ new_A, -0.1 * G @ through, **NEAR)


def test_altlora_does_not_see_how_a_change_is_shared_out() -> None:
    """(B R, R^-1 A) is the same change, and takes the same steps, momentum and all."""
    R = draw(RANK, RANK, seed=9)
    one, other = moved(), moved()
    with torch.no_grad():
        other.get_parameter("B").copy_(one.get_parameter("B") @ R)
        other.get_parameter("A").copy_(torch.linalg.inv(R) @ one.get_parameter("A"))
    for adapter in (one, other):
        optimizer = stepping(rule("altlora", damping=0), adapter, 0.05)
        for step in range(5):
            graded(adapter, seed=step)
            optimizer.step()
            optimizer.zero_grad()
    W0 = draw(OUT, IN)
    torch.testing.assert_close(one.delta(W0), other.delta(W0), rtol=1e-8, atol=1e-8)


def test_momentum_is_carried_to_the_new_subspace_by_least_squares() -> None:
    adapter, alt = moved(), rule("altlora", damping=0)
    optimizer = stepping(alt, adapter, 0.05)
    graded(adapter)
    B0 = adapter.get_parameter("B").detach().clone()
    optimizer.step()
    A, B = adapter.get_parameter("A"), adapter.get_parameter("B")
    M = optimizer.state[A]["exp_avg"].clone()
    before, B1 = A.detach().clone(), B.detach().clone()
    optimizer.zero_grad()
    G = graded(adapter, seed=6)
    optimizer.step()
    fresh = torch.linalg.pinv(B1) @ G / S
    carried = torch.linalg.lstsq(B1, B0 @ M).solution
    wanted = before - 0.05 * (0.9 * carried + 0.1 * fresh) / (1 - 0.9**2)
    torch.testing.assert_close(A.detach(), wanted, **NEAR)


def test_altlora_plus_divides_by_the_root_of_the_second_moment() -> None:
    adapter, alt = moved(), rule("altlora", damping=0, second_moment=True, eps=1e-4)
    G = graded(adapter)
    A, B, _, _ = parts(adapter)
    optimizer = stepping(alt, adapter, 0.1)
    optimizer.step()
    gradient = torch.linalg.pinv(B) @ G / S
    wanted = A - 0.1 * gradient / (gradient.abs() + 1e-4)
    torch.testing.assert_close(adapter.get_parameter("A").detach(), wanted, **NEAR)


# Scaled descent, LoRA+, ALLoRA, Muon


@pytest.mark.parametrize("name", ["riemannian", "lora_plus"])
def test_ten_steps_equal_pefts_optimizer(name: str) -> None:
    """In double precision, with an epsilon that neither feels."""
    net = Net(IN, OUT, IN).double()
    made = {
        name: variant_on("lora", W0, seed=3, rank=RANK, alpha=ALPHA)
        for name, W0 in net.weights().items()
    }
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(made))
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    twins = twins_of(theirs, made, LORA)
    if name == "riemannian":
        peer = create_riemannian_optimizer(
            theirs, torch.optim.AdamW, lr=0.01, reg=0.3, weight_decay=0.0, eps=1e-30
        )
        own = rule(name, damping=0.3)
    else:
        peer = create_loraplus_optimizer(
            theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=4, eps=1e-30
        )
        own = rule(name, rate_ratio=4)
    mine = AdamW(own.param_groups(made, 0.01))
    for group in (*mine.param_groups, *peer.param_groups):
        group |= {"eps": 1e-30, "weight_decay": 0.0}
    x, y = draw(8, IN, seed=7), draw(8, IN, seed=8)
    for step in range(10):
        got, expected = adapted(net, made, x), theirs(x)
        torch.testing.assert_close(got, expected, **NEAR)
        for said in (got, expected):
            (said - y).square().mean().backward()
        own.transform(made, step)
        for optimizer in (mine, peer):
            optimizer.step()
            optimizer.zero_grad()
    for module, adapter in made.items():
        for factor in "AB":
            torch.testing.assert_close(
                adapter.get_parameter(factor), twins[f"{module}.{factor}"], **NEAR
            )


def test_alloras_coefficients_fall_with_the_norm_of_a_row() -> None:
    from weft.methods.optimizers.allora import ALLoRA

    adapter, own = moved(), rule("allora", eta=2.0)
    assert isinstance(own, ALLoRA)
    with torch.no_grad():
        adapter.get_parameter("B")[1:].zero_()
        adapter.get_parameter("B")[3] = 5 * adapter.get_parameter("B")[0]
    pair = Pair(adapter.get_parameter("A"), adapter.get_parameter("B"), S)
    found, norms = own.coefficients(pair), adapter.delta(draw(OUT, IN)).detach().norm(dim=1)
    torch.testing.assert_close(found, 1 / (norms + 0.25).sqrt(), **NEAR)
    assert found[3] < found[0] < found[1]
    torch.testing.assert_close(found[1], torch.tensor(2.0, dtype=torch.float64), **NEAR)
    assert not found.requires_grad


def test_allora_starts_as_adam_and_then_holds_large_rows_back() -> None:
    """At B = 0 every row's scale is 1; after that B's step is Adam's times c / eta, row by row."""
    one = variant_on("lora", draw(OUT, IN), rank=RANK, alpha=float(RANK))
    other = copy.deepcopy(one)
    own = rule("allora", eta=2.0)
    mine, adam = (
        stepping(own, one, 0.1),
        AdamW(Optimizer().param_groups({"map": other}, 0.1)),
    )
    for group in (*mine.param_groups, *adam.param_groups):
        group["weight_decay"] = 0.0
    for step in range(2):
        for adapter in (one, other):
            graded(adapter, seed=step)
        before = one.get_parameter("B").detach().clone()
        norms = one.delta(draw(OUT, IN)).detach().norm(dim=1)
        mine.step()
        adam.step()
        scale = 1 / (norms + 0.25).sqrt() / 2
        moved_by = one.get_parameter("B").detach() - before
        adams = other.get_parameter("B").detach() - before
        torch.testing.assert_close(moved_by, scale[:, None] * adams, rtol=1e-6, atol=1e-9)
        with torch.no_grad():
            for name in "AB":
                other.get_parameter(name).copy_(one.get_parameter(name))
        for optimizer in (mine, adam):
            optimizer.zero_grad()
    assert scale.max() < 1


def test_muons_step_has_the_singular_vectors_of_the_momentum() -> None:
    for rows, columns in ((OUT, RANK), (RANK, IN)):
        matrix = draw(rows, columns)
        found = orthogonalised(matrix, 5)
        U, _, V = torch.linalg.svd(matrix, full_matrices=False)
        core = U.T @ found @ V.T
        torch.testing.assert_close(core, torch.diag(core.diag()), rtol=0, atol=1e-8)
        assert 0.6 < core.diag().min() < core.diag().max() < 1.3


# The contract


@pytest.mark.parametrize("recipe", ["lora_pro", "altlora", "riemannian", "allora"])
def test_a_rule_of_pairs_is_refused_where_there_are_none(recipe: str) -> None:
    optimizer = resolve(RecipeSettings(name=recipe)).file.optimizer
    assert optimizer is not None
    kind = optimizers.load(optimizer)
    for name in ("lora", "pissa", "olora"):
        assert kind.refusal(type(variant_on(name, draw(OUT, IN), rank=2))) is None
    for name in ("lora_xs", "vera", "dora", "lora_fa"):
        reason = kind.refusal(type(variant_on(name, draw(OUT, IN), rank=2)))
        assert reason is not None
        assert "use it with lora, pissa or olora" in reason


@pytest.mark.parametrize("name", ["lora_pro", "altlora", "allora", "muon", "riemannian"])
def test_an_adapter_without_a_gradient_is_passed_over(name: str) -> None:
    settings = {"lora_pro": {"form": "sgd"}, "riemannian": {"adaptive": False}}.get(name, {})
    adapter, own = moved(), rule(name, **settings)
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    own.transform({"map": adapter}, 0)
    stepping(own, adapter, 0.1).step()
    assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


def test_gradients_are_there_after_a_step_for_who_looks_at_them() -> None:
    adapter, own = moved(), rule("altlora")
    graded(adapter)
    _, _, g_A, g_B = parts(adapter)
    stepping(own, adapter, 0.1).step()
    _, _, after_A, after_B = parts(adapter)
    assert torch.equal(after_A, g_A)
    assert torch.equal(after_B, g_B)
    assert isinstance(own, AltLoRA)
