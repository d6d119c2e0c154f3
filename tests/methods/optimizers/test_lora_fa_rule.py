"""LoRA-FA's rule: B's gradient becomes the least-squares step of the whole weight, as in PEFT's optimizer."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from torch import Tensor

from tests.methods.adapters.oracle import LORA, Net, adapted, twins_of
from tests.methods.adapters.starts import draw, variant_on
from weft.config import validate
from weft.methods.adapters.contract import Adapter
from weft.methods.optimizers import optimizers
from weft.methods.optimizers.contract import Optimizer

OUT, IN, RANK, ALPHA = 24, 16, 3, 12.0
NEAR = {"rtol": 1e-11, "atol": 1e-11}


def start(W0: Tensor, seed: int = 0, alpha: float = ALPHA) -> Adapter:
    return variant_on("lora_fa", W0, seed=seed, rank=RANK, alpha=alpha)


def rule(**settings: object) -> Optimizer:
    kind = optimizers.load("lora_fa")
    return kind(validate(kind.settings_type, settings, "test"))


def graded(adapter: Adapter, W0: Tensor) -> Tensor:
    """Gives B its gradient under a loss of the whole weight; returns the weight's own, G."""
    G = draw(OUT, IN, seed=5)
    (adapter.delta(W0) * G).sum().backward()
    return G


def test_the_step_of_the_weight_is_the_projected_gradient() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    B, A, s = adapter.get_parameter("B"), adapter.get_buffer("A"), ALPHA / RANK
    G = graded(adapter, W0)
    torch.testing.assert_close(B.grad, s * G @ A.T, **NEAR)
    rule(damping=0).transform({"map": adapter}, 0)
    projector = A.T @ torch.linalg.inv(A @ A.T) @ A
    torch.testing.assert_close(s * B.grad @ A, G @ projector, **NEAR)
    # Least squares: no direction of B is nearer to G.
    nearest = torch.linalg.lstsq(s * A.T, G.T).solution.T
    torch.testing.assert_close(B.grad, nearest, **NEAR)


def test_one_step_of_gradient_descent_moves_the_weight_by_it() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    with torch.no_grad():
        adapter.get_parameter("B").copy_(draw(OUT, RANK, seed=1))
    before = adapter.delta(W0).detach()
    G = graded(adapter, W0)
    rule(damping=0).transform({"map": adapter}, 0)
    torch.optim.SGD(adapter.parameters(), lr=0.1).step()
    A = adapter.get_buffer("A")
    step = -0.1 * G @ torch.linalg.pinv(A) @ A
    torch.testing.assert_close(adapter.delta(W0) - before, step, **NEAR)


def test_with_orthonormal_rows_and_scale_one_it_is_loras_own_gradient() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, alpha=float(RANK))
    adapter.get_buffer("A").copy_(torch.linalg.qr(draw(IN, RANK)).Q.T)
    graded(adapter, W0)
    B = adapter.get_parameter("B")
    assert B.grad is not None
    own = B.grad.clone()
    rule(damping=0).transform({"map": adapter}, 0)
    torch.testing.assert_close(B.grad, own, **NEAR)


def test_damping_is_added_to_the_gram_matrix() -> None:
    W0 = draw(OUT, IN)
    for settings, damping in (({}, 1e-8), ({"damping": 0.5}, 0.5)):
        adapter = start(W0)
        A, s = adapter.get_buffer("A"), ALPHA / RANK
        own = s * graded(adapter, W0) @ A.T
        rule(**settings).transform({"map": adapter}, 0)
        inverse = torch.linalg.inv(A @ A.T + damping * torch.eye(RANK))
        torch.testing.assert_close(adapter.get_parameter("B").grad, own @ inverse / s**2, **NEAR)
    with pytest.raises(ValueError, match=r"damping: .*got -1"):
        rule(damping=-1)


def test_the_first_form_leaves_the_gradient_alone() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    own = ALPHA / RANK * graded(adapter, W0) @ adapter.get_buffer("A").T
    rule(projected=False).transform({"map": adapter}, 0)
    torch.testing.assert_close(adapter.get_parameter("B").grad, own, **NEAR)


def test_an_adapter_without_a_gradient_is_passed_over() -> None:
    adapter = start(draw(OUT, IN))
    rule().transform({"map": adapter}, 0)
    assert adapter.get_parameter("B").grad is None


def test_ten_steps_equal_pefts_optimizer() -> None:
    """In double precision, which PEFT's autocast leaves alone, and with an epsilon that neither feels."""
    net = Net(IN, OUT, IN).double()
    made = {name: start(W0, seed=3) for name, W0 in net.weights().items()}
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(made))
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    twins = twins_of(theirs, made, LORA)
    peft_optimizer = create_lorafa_optimizer(theirs, r=RANK, lora_alpha=int(ALPHA), lr=0.01)
    own_rule = rule()
    own_optimizer = torch.optim.AdamW(
        own_rule.param_groups(made, 0.01), lr=0.01, eps=1e-30, weight_decay=0.0
    )
    for group in peft_optimizer.param_groups:
        group["eps"] = 1e-30
    x, y = draw(8, IN, seed=7), draw(8, IN, seed=8)
    for step in range(10):
        got = adapted(net, made, x)
        expected = theirs(x)
        torch.testing.assert_close(got, expected, **NEAR)
        (got - y).square().mean().backward()
        (expected - y).square().mean().backward()
        own_rule.transform(made, step)
        own_optimizer.step()
        peft_optimizer.step()
        own_optimizer.zero_grad()
        peft_optimizer.zero_grad()
    for name, adapter in made.items():
        own = adapter.get_parameter("B")
        torch.testing.assert_close(own, twins[f"{name}.B"], **NEAR)
        assert torch.equal(adapter.get_buffer("A"), twins[f"{name}.A"])
        assert own.abs().min() > 0


def test_single_precision_keeps_its_digits_where_peft_rounds_to_eight_bits() -> None:
    W0 = draw(OUT, IN)
    exact, single = start(W0), start(W0).float()
    gradient = ALPHA / RANK * graded(exact, W0) @ exact.get_buffer("A").T
    rule().transform({"map": exact}, 0)
    single.get_parameter("B").grad = gradient.float()
    rule().transform({"map": single}, 0)
    wanted, got = exact.get_parameter("B").grad, single.get_parameter("B").grad
    assert wanted is not None
    assert got is not None
    near = (got.double() - wanted).norm() / wanted.norm()
    A = exact.get_buffer("A").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = gradient.float() @ torch.linalg.inv(A @ A.T) / (ALPHA / RANK) ** 2
    far = (theirs.double() - wanted).norm() / wanted.norm()
    # Seven digits times the Gram matrix's condition, which is about ten here, against two digits.
    assert near < 1e-5
    assert far > 1e-3
