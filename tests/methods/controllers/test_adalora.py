"""AdaLoRA's budget: PEFT's own allocator as the oracle, and what holds at the end."""

import copy

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor

from tests.methods.adapters.oracle import Net, adapted
from tests.methods.adapters.starts import draw, variant_on
from weft.methods.adapters.contract import Adapter
from weft.methods.controllers.adalora import AdaLoRAController, AdaLoRASettings
from weft.methods.penalties.orthogonality import Orthogonality, OrthogonalitySettings
from weft.training.adamw import AdamW

IN, OUT, RANK, TARGET, TOTAL = 16, 24, 6, 2, 20


def controller(**settings: object) -> AdaLoRAController:
    return AdaLoRAController(AdaLoRASettings.model_validate({"target_rank": TARGET, **settings}))


def values(made: dict[str, Adapter]) -> list[torch.nn.Parameter]:
    return [adapter.get_parameter("E") for adapter in made.values()]


def test_the_budget_is_the_paper_s_at_named_steps() -> None:
    own, two = controller(initial=0.1, final=0.3), [torch.nn.Parameter(torch.zeros(RANK, 1))] * 2
    assert own.budget(2, TOTAL, two) is None
    # Half way between step 2 and step 14: an eighth of what is to go is still there.
    assert own.budget(8, TOTAL, two) == int((12 - 4) / 8 + 4)
    assert [own.budget(step, TOTAL, two) for step in (14, 15, 20)] == [4, 4, 4]
    falling = [own.budget(step, TOTAL, two) for step in range(3, 15)]
    assert falling == sorted(falling, reverse=True)


def test_every_step_equals_pefts_allocator() -> None:
    """Scores, budget and masks, with AdamW and decay between them, to the last step in which the budget falls."""
    net = Net(IN, OUT, IN).double()
    made = {
        name: variant_on("svd_form", W0, seed=3, rank=RANK, alpha=16)
        for name, W0 in net.weights().items()
    }
    config = AdaLoraConfig(
        init_r=RANK, target_r=TARGET, tinit=2, tfinal=6, deltaT=2, total_step=TOTAL, lora_alpha=16,
        target_modules=list(made), orth_reg_weight=0.5,
    )  # fmt: skip
    theirs = get_peft_model(copy.deepcopy(net), config).double()
    twins: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            for module, adapter in made.items():
                for part in "ABE":
                    if f"{module}.lora_{part}." in name:
                        # All different, so that no two scores are equal.
                        adapter.get_parameter(part).add_(0.1 * draw(*value.shape, seed=len(twins)))
                        value.copy_(adapter.get_parameter(part))
                        twins[f"{module}.{part}"] = value
                if f"{module}.ranknum" in name:
                    value.fill_(RANK)
    assert len(twins) == 3 * len(made)
    own = controller(initial=0.1, final=0.3, interval=2)
    mine = AdamW([{"params": [p for a in made.values() for p in a.parameters()], "lr": 0.02}])
    peer = torch.optim.AdamW(
        list(twins.values()), lr=0.02
    )  # without the rank, which PEFT trains too
    x, y = draw(8, IN, seed=7), draw(8, IN, seed=8)
    for step in range(14):
        for said in (adapted(net, made, x), theirs(x)):
            (said - y).square().mean().backward()
        mine.step()
        peer.step()
        own.after_step(made, mine, step, TOTAL)
        theirs.base_model.update_and_allocate(step + 1)
        for name, twin in twins.items():
            module, _, part = name.rpartition(".")
            torch.testing.assert_close(
                made[module].get_parameter(part), twin, rtol=1e-9, atol=1e-12, msg=f"{name} {step}"
            )
        mine.zero_grad()
        peer.zero_grad()
    assert sum(int((value != 0).sum()) for value in values(made)) == TARGET * len(made)


def test_what_is_dropped_at_last_stays_dropped() -> None:
    net = Net(IN, OUT, IN).double()
    made = {name: variant_on("svd_form", W0, rank=RANK) for name, W0 in net.weights().items()}
    own = controller(initial=0.1, final=0.3)
    mine = AdamW([{"params": [p for a in made.values() for p in a.parameters()], "lr": 0.02}])
    masks = []
    for step in range(TOTAL):
        adapted(net, made, draw(8, IN, seed=step)).square().mean().backward()
        mine.step()
        own.after_step(made, mine, step, TOTAL)
        masks.append([(value != 0).flatten().tolist() for value in values(made)])
        mine.zero_grad()
    assert masks[13] == masks[-1] == masks[15]
    assert sum(map(sum, masks[-1])) == TARGET * len(made)
    # What is stored has those ranks alone.
    with torch.no_grad():
        for (name, adapter), kept in zip(made.items(), masks[-1], strict=True):
            A, _ = adapter.factors(net.weights()[name])
            assert len(A) == max(1, sum(kept))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_penalty_is_the_mean_distance_from_orthonormal(weight: float) -> None:
    made = {"one": variant_on("svd_form", draw(OUT, IN), rank=3)}
    own = Orthogonality(OrthogonalitySettings(orthogonality=weight))
    A, B = made["one"].get_parameter("A"), made["one"].get_parameter("B")
    eye = torch.eye(3, dtype=torch.float64)
    wanted = weight * (torch.linalg.norm(A @ A.T - eye) + torch.linalg.norm(B.T @ B - eye)) / 2
    found = torch.as_tensor(own.loss(None, None, made), dtype=torch.float64)
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=0)
