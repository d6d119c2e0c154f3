"""IncreLoRA's growth: scores against their definition, the budget, groups of what is new, and the way back."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tests.methods.adapters.oracle import Net, adapted
from tests.methods.adapters.starts import draw, move, variant_on
from weft.config import load_run
from weft.methods.adapters.blocks import Blocks
from weft.methods.controllers.increlora import IncreLoRA, IncreLoRASettings
from weft.methods.penalties.orthogonality import Orthogonality, OrthogonalitySettings
from weft.training import checkpointing
from weft.training.adamw import AdamW
from weft.training.assembly import Session, assemble
from weft.training.learning import Learner
from weft.training.settings import completed
from weft.training.stepping import Stepper

Settings = Callable[..., dict[str, Any]]
IN, OUT, TOTAL = 16, 24, 40


class Training:
    """A net with growing adapters at both maps, AdamW, and the controller."""

    def __init__(self, growth: int = 1, *, advance: bool = True, **settings: Any) -> None:
        self.net = Net(IN, OUT, IN).double()
        self.made: dict[str, Blocks] = {}
        for at, (name, W0) in enumerate(self.net.weights().items()):
            made = variant_on("blocks", W0, seed=at, growth=growth, advance=advance).train()
            assert isinstance(made, Blocks)
            self.made[name] = made
        trained = [p for a in self.made.values() for p in a.parameters() if p.requires_grad]
        self.optimizer = AdamW([{"params": trained, "lr": 0.02, "weight_decay": 0.1}])
        self.controller = IncreLoRA(IncreLoRASettings.model_validate(settings))

    def step(self, step: int, total: int = TOTAL) -> None:
        generator = torch.Generator().manual_seed(step)
        self.controller.before_step(self.made, self.optimizer, step, total, generator)
        self.backward(step)
        self.optimizer.step()
        self.controller.after_step(self.made, self.optimizer, step, total)
        self.optimizer.zero_grad()

    def backward(self, step: int) -> None:
        said = adapted(self.net, self.made, draw(2, 3, IN, seed=100 + step))
        (said - draw(2, 3, IN, seed=200 + step)).square().sum().backward()

    def ranks(self) -> list[int]:
        return [adapter.rank for adapter in self.made.values()]


def test_the_score_is_the_authors_with_the_gradient_of_the_whole_change() -> None:
    training = Training(target_rank=8, beta1=0.6, beta2=0.7)
    sensitivity, uncertainty = dict.fromkeys(training.made, 0.0), dict.fromkeys(training.made, 0.0)
    for seed, adapter in enumerate(training.made.values()):
        move(adapter.parameters(), seed=seed)
    for step in range(3):
        # Every change written out as a leaf, so that autograd itself says its gradient.
        net, x = training.net, draw(2, 3, IN, seed=100 + step)
        whole = {
            n: a.delta(W).detach().requires_grad_(True)
            for (n, a), W in zip(training.made.items(), net.weights().values(), strict=True)
        }
        hidden = torch.tanh(net.first(x) + x @ whole["first"].T)
        said = net.second(hidden) + hidden @ whole["second"].T
        (said - draw(2, 3, IN, seed=200 + step)).square().sum().backward()
        training.step(step, 1000)
        for name, change in whole.items():
            assert change.grad is not None
            S = (change * change.grad).abs().sum().item() / math.sqrt(change.numel())
            sensitivity[name] = 0.6 * sensitivity[name] + 0.4 * S
            uncertainty[name] = 0.7 * uncertainty[name] + 0.3 * abs(S - sensitivity[name])
            wanted = sensitivity[name] * uncertainty[name]
            assert training.controller.score(name) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("advance", [True, False])
def test_the_budget_is_never_passed_and_met_as_far_as_growths_go(
    growth: int, advance: bool
) -> None:
    training = Training(growth, advance=advance, target_rank=4, initial=0.1, final=0.5)
    start, target, before = 2, 8, [1, 1]
    for step in range(TOTAL):
        training.step(step)
        now = training.ranks()
        allowed = start + max(0, (target - start) * (step - 4) / (20 - 4))
        assert sum(now) <= min(allowed if step < 20 else target, target)
        # At most one growth a map and choice.
        assert all(b - a in (0, growth) for a, b in zip(before, now, strict=True))
        before = now
    assert target - sum(before) < growth
    # Nothing is left in reserve.
    for name, adapter in training.made.items():
        with torch.no_grad():
            assert len(adapter.factors(training.net.weights()[name])[0]) == adapter.rank


def test_the_map_that_matters_grows() -> None:
    training = Training(target_rank=3, initial=0.1, final=0.5)
    for step in range(8):
        training.step(step)
    own = training.controller
    for name in training.made:
        own.remembered[f"{name}/uncertainty"] = torch.tensor(1.0)
        own.remembered[f"{name}/sensitivity"] = torch.tensor(float(name == "second"))
    before = training.ranks()
    for step in range(8, 12):
        own.before_step(
            training.made, training.optimizer, step, TOTAL, torch.Generator().manual_seed(step)
        )
    assert training.ranks()[0] == before[0]
    assert training.ranks()[1] > before[1]


def test_what_is_new_is_in_a_group_of_its_own_and_everything_in_one() -> None:
    training = Training(2, target_rank=6, initial=0.1, final=0.5, rise=0.2)
    for step in range(TOTAL):
        training.step(step)
        groups = training.optimizer.param_groups
        held = [id(p) for group in groups for p in group["params"]]
        assert len(held) == len(set(held))
        trained = {id(p) for a in training.made.values() for p in a.parameters() if p.requires_grad}
        # The learner lets go of what is trained no more.
        assert trained <= set(held)
    born = [group["born"] for group in groups[1:]]
    assert born == sorted({step for step, _, _ in training.controller.events})
    assert {group["rise"] for group in groups[1:]} == {8}
    assert {group["weight_decay"] for group in groups} == {0.1}


def test_growth_changes_the_output_by_scale_and_reserve_alone() -> None:
    training = Training(target_rank=8, initial=0.1, final=0.5)
    for step in range(12):
        training.step(step)
    weights = training.net.weights()
    before = {name: (a.rank, a.delta(weights[name])) for name, a in training.made.items()}
    for step in range(12, 16):
        training.controller.before_step(
            training.made, training.optimizer, step, TOTAL, torch.Generator().manual_seed(step)
        )
    assert training.ranks() != [rank for rank, _ in before.values()]
    for name, adapter in training.made.items():
        rank, change = before[name]
        apart = adapter.delta(weights[name]) * (adapter.rank + 1e-5) / (rank + 1e-5) - change
        # E of a reserve is 1e-5, alpha is 16, and the product of two new numbers less than 0.01.
        assert apart.abs().max() < 1e-5 * 16 * 0.01 * (adapter.rank - rank + 1)


def test_a_map_grows_no_further_than_its_smaller_side() -> None:
    training = Training(7, target_rank=16, initial=0.0, final=0.5)
    for step in range(TOTAL):
        training.step(step)
    assert training.ranks() == [15, 15]
    assert training.controller.is_over


def test_what_cannot_grow_is_refused() -> None:
    made: dict[str, nn.Module] = {"map": variant_on("lora", draw(OUT, IN), rank=2)}
    optimizer = Training().optimizer
    with pytest.raises(TypeError, match="the LoRA on map cannot grow; use it with adapter blocks"):
        IncreLoRA().before_step(made, optimizer, 0, 1, torch.Generator())


def test_the_penalty_sees_all_trained_ranks_of_a_map_together() -> None:
    made = variant_on("blocks", draw(OUT, IN), rank=3, growth=2, advance=False)
    move(made.parameters())
    assert isinstance(made, Blocks)
    A, B = torch.cat([*made.A][:3]), torch.cat([*made.B][:3], dim=1)
    eye = torch.eye(3, dtype=A.dtype)
    wanted = 0.3 * (torch.linalg.norm(A @ A.T - eye) + torch.linalg.norm(B.T @ B - eye)) / 2
    own = Orthogonality(OrthogonalitySettings(orthogonality=0.3)).loss(None, None, {"map": made})
    torch.testing.assert_close(torch.as_tensor(own), wanted, rtol=1e-12, atol=0)


def session_of(run_of: Settings, **training: Any) -> Session:
    recipe = {"name": "increlora", "target_rank": 6, "growth": 2, "initial": 0.1, "final": 0.3}
    run = run_of("tags", recipe=recipe, training={"max_steps": 12, **training})
    return assemble(completed(load_run(run)), torch.device("cpu"))


def changes(session: Session) -> Mapping[str, Tensor]:
    expert, _ = session.learners[0].experts[0]
    return {
        name: adapter.delta(torch.empty(0)).detach().clone()
        for name, adapter in expert.adapters.items()
    }


def total_rank(learner: Learner) -> int:
    return sum(adapter.rank for adapter in learner.experts[0][0].adapters.values())


def test_the_best_weights_come_back_with_the_ranks_they_had(
    run_of: Settings, tmp_path: Path
) -> None:
    session = session_of(run_of)
    (learner,), stepper = session.learners, Stepper(session, Accelerator())
    for step in range(5):
        stepper.step([learner], step)
    learner.keep_best()
    best, rank = changes(session), total_rank(learner)
    for step in range(5, 12):
        stepper.step([learner], step)
    assert total_rank(learner) > rank
    learner.restore_best()
    assert total_rank(learner) == rank
    found = changes(session)
    assert all(torch.equal(found[name], change) for name, change in best.items())
    # What there is no more has left the optimizer too, so that the state can be saved.
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held <= {id(p) for p in learner.parameters.values()}
    assert {id(p) for p in learner.optimizer.state} <= held
    checkpointing.save(tmp_path, [learner], [], step=12, keep=1, seconds=0.0, tokens=0)


def test_the_rate_of_what_is_new_rises_to_that_of_the_others(run_of: Settings) -> None:
    recipe = {"name": "increlora", "rank": 1, "target_rank": 4, "growth": 1, "rise": 0.2}
    settings = {"max_steps": 20, "schedule": "constant", "warmup": 0.0, "learning_rate": 1e-3}
    run = load_run(run_of("tags", recipe=recipe, training=settings))
    session = assemble(completed(run), torch.device("cpu"))
    (learner,), stepper = session.learners, Stepper(session, Accelerator())
    seen: dict[int, list[float]] = {}
    for step in range(20):
        stepper.step([learner], step)
        for group in learner.optimizer.param_groups:
            if group.get("born") is not None:
                seen.setdefault(group["born"], []).append(group["lr"])
    assert len(seen) > 2
    for rates in seen.values():
        assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3][: len(rates)])
        assert rates[4:] == pytest.approx([1e-3] * (len(rates) - 4))
