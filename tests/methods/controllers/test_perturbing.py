"""Steps on other weights than those they change: GGPO's noise, MGPO's look ahead, ALLoRA's scaled backward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.methods.adapters.oracle import Net, adapted, woven
from tests.methods.adapters.starts import draw, move, variant_on
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.product import row_squares
from weft.lowrank.route import Route, routed
from weft.lowrank.woven import Woven
from weft.methods.adapters.contract import Adapter
from weft.methods.controllers.allora import ALLoRA, ALLoRASettings
from weft.methods.controllers.contract import Controller, Product
from weft.methods.controllers.ggpo import GGPO, GGPOSettings
from weft.methods.controllers.mgpo import MGPO, MGPOSettings
from weft.training.adamw import AdamW

OUT, IN, RANK = 12, 10, 3
CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "ggpo": lambda: GGPO(GGPOSettings(noise=0.3, beta=1.0)),
    "mgpo": lambda: MGPO(MGPOSettings(rho=0.5, beta=0.5)),
    "allora": lambda: ALLoRA(ALLoRASettings(eta=2.0, scale="backward")),
}


def lora(weight: Tensor, seed: int = 0, **spec: Any) -> Adapter:
    made = variant_on("lora", weight, rank=RANK, alpha=6.0, seed=seed, **spec).train()
    move(made.parameters(), seed=seed)
    return made


class Training:
    """A net with an adapter at each map, AdamW with momentum and decay, and a controller."""

    def __init__(self, controller: Controller) -> None:
        self.net = Net(IN, OUT, IN).double()
        weights = self.net.weights()
        self.made = {name: lora(W0, at) for at, (name, W0) in enumerate(weights.items())}
        values = [p for adapter in self.made.values() for p in adapter.parameters()]
        self.optimizer = AdamW([{"params": values, "lr": 0.02, "weight_decay": 0.1}])
        self.controller = controller

    def begin(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        self.controller.before_step(self.made, self.optimizer, step, 100, generator)

    def backward(self, step: int) -> Tensor:
        said = adapted(self.net, self.made, draw(6, IN, seed=100 + step))
        (said - draw(6, IN, seed=200 + step)).square().sum().backward()
        return said.detach()

    def step(self, step: int) -> None:
        self.begin(step)
        self.backward(step)
        self.optimizer.step()
        self.controller.after_step(self.made, self.optimizer, step, 100)
        self.optimizer.zero_grad()


def pair_of(training: Training, name: str = "first") -> Product:
    adapter = training.made[name]
    assert isinstance(adapter, Product)
    return adapter


@pytest.mark.parametrize("name", CONTROLLERS)
def test_outside_of_a_step_nothing_is_perturbed_and_nothing_drifts(name: str) -> None:
    training = Training(CONTROLLERS[name]())
    base = {n: p.clone() for n, p in training.net.named_parameters()}
    for step in range(3):
        held = [p.detach().clone() for a in training.made.values() for p in a.parameters()]
        training.begin(step)
        assert not all(adapter.low_rank for adapter in training.made.values()) or step == 0
        training.backward(step)
        # Forward and backward write to no tensor.
        now = [p for a in training.made.values() for p in a.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(held, now, strict=True))
        training.optimizer.step()
        training.controller.after_step(training.made, training.optimizer, step, 100)
        training.optimizer.zero_grad()
        assert all(torch.equal(p, base[n]) for n, p in training.net.named_parameters())
        assert all(adapter.low_rank for adapter in training.made.values())
        W0, x = training.net.first.weight, draw(4, IN, seed=9)
        first = training.made["first"]
        torch.testing.assert_close(first(x, W0), x @ first.delta(W0).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_resumed_training_goes_on_to_the_same_bits(name: str) -> None:
    whole = Training(CONTROLLERS[name]())
    for step in range(6):
        whole.step(step)
    half = Training(CONTROLLERS[name]())
    for step in range(3):
        half.step(step)
    rest = Training(CONTROLLERS[name]())
    for mine, theirs in zip(rest.made.values(), half.made.values(), strict=True):
        mine.load_state_dict(theirs.state_dict())
    rest.optimizer.load_state_dict(half.optimizer.state_dict())
    rest.controller.load_state_dict(half.controller.state_dict())
    for step in range(3, 6):
        rest.step(step)
    for mine, theirs in zip(rest.made.values(), whole.made.values(), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
        )


@pytest.mark.parametrize(
    "still",
    [GGPO(GGPOSettings(noise=0)), MGPO(MGPOSettings(rho=0)), ALLoRA(ALLoRASettings(eta=2.0))],
)
def test_without_its_size_it_is_lora(still: Controller) -> None:
    trainings = Training(still), Training(Controller())
    for step in range(4):
        for training in trainings:
            training.step(step)
    for mine, theirs in zip(*(t.made.values() for t in trainings), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
        )


@pytest.mark.parametrize("name", CONTROLLERS)
def test_side_by_side_each_expert_sees_its_own(name: str) -> None:
    """In a batch of two experts' rows, as each alone."""
    trainings = [Training(CONTROLLERS[name]()) for _ in range(2)]
    for at, training in enumerate(trainings):
        for step in range(2):
            training.step(10 * at + step)
        training.begin(50 + at)
    net, x = trainings[0].net, draw(4, 3, IN, seed=5)
    alone = [woven(net, training.made)(x) for training in trainings]
    for part in ("first", "second"):
        setattr(net, part, LowRankLinear(net.get_submodule(part), part))  # type: ignore[arg-type]
    experts = {str(at): Woven(training.made) for at, training in enumerate(trainings)}
    with routed(Route.by_sequence(["0", "1", "1", "0"]), experts):
        said = net(x)
    for row, at in enumerate((0, 1, 1, 0)):
        torch.testing.assert_close(said[row], alone[at][row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_is_no_product_is_refused(name: str) -> None:
    made: dict[str, nn.Module] = {"map": nn.Linear(2, 2)}
    training = Training(CONTROLLERS[name]())
    with pytest.raises(TypeError, match="the Linear on map is no product of two trained factors"):
        training.controller.before_step(made, training.optimizer, 0, 1, torch.Generator())


def gradient_of(pair: Product) -> Tensor:
    assert pair.A.grad is not None
    assert pair.B.grad is not None
    return pair.scaling * (pair.B.grad @ pair.A.detach() + pair.B.detach() @ pair.A.grad)


def test_ggpo_s_noise_has_the_paper_s_size_in_every_row() -> None:
    training = Training(GGPO(GGPOSettings(noise=0.2, beta=0.5)))
    own, W0 = training.controller, training.net.first.weight
    assert isinstance(own, GGPO)
    pair = pair_of(training)
    training.begin(0)
    training.backward(0)
    G, W = gradient_of(pair), W0 + training.made["first"].delta(W0).detach()
    wanted = 0.2 * (W.square().sum(1) / IN).sqrt()
    torch.testing.assert_close(own.deviations("first", pair, W0), wanted, rtol=1e-12, atol=0)
    training.optimizer.step()
    own.after_step(training.made, training.optimizer, 0, 100)
    W = W0 + training.made["first"].delta(W0).detach()
    wanted = 0.2 * ((W.square().sum(1) + 0.5 * G.square().sum(1)) / IN).sqrt()
    torch.testing.assert_close(own.deviations("first", pair, W0), wanted, rtol=1e-12, atol=0)
    # 1,000 steps' noise at ten columns a row: a deviation is known to 0.7 %, four of which are 3 %.
    eye, squares = torch.eye(IN, dtype=torch.float64), torch.zeros(OUT, dtype=torch.float64)
    first = training.made["first"]
    for step in range(1000):
        training.begin(step)
        seen = first(eye, W0).detach().T
        squares += (seen - first.delta(W0).detach()).square().sum(1)
    found = (squares / (1000 * IN)).sqrt()
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0)


def test_ggpo_draws_once_a_step_and_maps_apart() -> None:
    training = Training(CONTROLLERS["ggpo"]())
    first, second = training.made["first"], training.made["second"]
    x = draw(3, IN, seed=4)
    training.begin(0)
    seen = first(x, training.net.first.weight)
    assert torch.equal(seen, first(x, training.net.first.weight))
    training.begin(0)
    assert torch.equal(seen, first(x, training.net.first.weight))
    training.begin(1)
    assert not torch.allclose(seen, first(x, training.net.first.weight))
    noise = [
        (a(torch.eye(W.shape[1], dtype=W.dtype), W).T - a.delta(W)).flatten()[: 10 * IN]
        for a, W in ((first, training.net.first.weight), (second, training.net.second.weight))
    ]
    assert torch.corrcoef(torch.stack(noise))[0, 1].abs() < 0.4


def test_mgpo_looks_ahead_by_the_paper_s_length() -> None:
    rho, beta = 0.3, 0.6
    training = Training(MGPO(MGPOSettings(rho=rho, beta=beta)))
    mean: Tensor | None = None
    eye = torch.eye(IN, dtype=torch.float64)
    first, W0, pair = training.made["first"], training.net.first.weight, pair_of(training)
    for step in range(5):
        training.begin(step)
        e = (first(eye, W0).T - first.delta(W0)).detach()
        if mean is None:
            assert not e.any()
        else:
            M = [training.optimizer.state[value]["exp_avg"] for value in (pair.A, pair.B)]
            v = pair.scaling * (M[1] @ pair.A + pair.B @ M[0]).detach()
            wanted = -rho * v / torch.linalg.norm(v) * (1 / mean).clamp(max=10)
            torch.testing.assert_close(e, wanted, rtol=1e-10, atol=1e-12)
        training.backward(step)
        size = torch.linalg.norm(gradient_of(pair))
        mean = size if mean is None else beta * mean + (1 - beta) * size
        training.optimizer.step()
        training.controller.after_step(training.made, training.optimizer, step, 100)
        training.optimizer.zero_grad()


def test_mgpo_s_step_is_bounded_where_gradients_vanish() -> None:
    own = MGPO(MGPOSettings(rho=0.3))
    training = Training(own)
    training.step(0)
    own.remembered["first"] = torch.tensor(1e-6, dtype=torch.float64)
    ahead = own.ahead("first", pair_of(training), training.optimizer)
    assert ahead is not None
    assert row_squares(*ahead).sum().sqrt().item() == pytest.approx(0.3 * 10, rel=1e-9)


def test_allora_scales_the_backward_pass_by_row_and_nothing_else() -> None:
    own = ALLoRA(ALLoRASettings(eta=2.0, scale="backward"))
    W0, x, G = draw(OUT, IN), draw(6, IN, seed=3), draw(6, OUT, seed=4)
    adapter = lora(W0)
    training = Training(own)
    before = adapter(x, W0)
    own.before_step({"map": adapter}, training.optimizer, 0, 1, torch.Generator())
    at = x.clone().requires_grad_(True)
    said = adapter(at, W0)
    assert torch.equal(said, before)
    (said * G).sum().backward()
    A, B = (adapter.get_parameter(name).detach() for name in "AB")
    s = 2.0
    c = 1 / (torch.linalg.norm(s * B @ A, dim=1) + 1 / 4).sqrt()
    assert ((c > 0) & (c < 2)).all()
    full = G.T @ x
    B_grad, A_grad = adapter.get_parameter("B").grad, adapter.get_parameter("A").grad
    torch.testing.assert_close(B_grad, s * c[:, None] * full @ A.T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(A_grad, s * B.T @ (c[:, None] * full), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(at.grad, s * (G * c) @ B @ A, rtol=1e-10, atol=1e-12)
    assert isinstance(adapter, Product)
    # While B is 0, c is eta; and rows apart from one that has grown keep it.
    with torch.no_grad():
        adapter.B.zero_()
        torch.testing.assert_close(own.coefficients(adapter), torch.full((OUT,), 2.0).double())
        adapter.B[0] = 1
        found = own.coefficients(adapter)
    assert found[0] < 2
    assert (found[1:] == 2).all()
