"""DyLoRA's draw: one number of ranks a step for all maps, and a step at b that is the step of a LoRA of b ranks."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.adapters.starts import draw, move, variant_on
from weft.methods.adapters.contract import Adapter
from weft.methods.adapters.nested import Nested
from weft.methods.controllers.dylora import DyLoRAController, DyLoRASettings
from weft.training.adamw import AdamW

OUT, IN, RANK, ALPHA = 12, 10, 4, 8.0


class Drawn:
    """Two nested maps, AdamW with momentum and decay, and the controller."""

    def __init__(self, *, hold: bool = False, **spec: Any) -> None:
        self.weights = {"one": draw(OUT, IN, seed=1), "two": draw(OUT, IN, seed=2)}
        self.adapters = {
            name: variant_on("nested", W0, rank=RANK, alpha=ALPHA, **spec).train()
            for name, W0 in self.weights.items()
        }
        for at, adapter in enumerate(self.adapters.values()):
            move(adapter.parameters(), seed=at)
        values = [p for adapter in self.adapters.values() for p in adapter.parameters()]
        self.optimizer = AdamW([{"params": values, "lr": 0.02, "weight_decay": 0.1}])
        self.controller = DyLoRAController(DyLoRASettings(hold=hold))

    def step(self, step: int) -> int:
        """One step; how many ranks it had."""
        generator = torch.Generator().manual_seed(step)
        self.controller.before_step(self.adapters, self.optimizer, step, 100, generator)
        ranks = drawn(self.adapters)
        assert len(set(ranks)) == 1
        backward(self.adapters, self.weights, step)
        self.optimizer.step()
        self.controller.after_step(self.adapters, self.optimizer, step, 100)
        self.optimizer.zero_grad()
        return ranks[0]


def drawn(adapters: dict[str, Adapter]) -> tuple[int, ...]:
    """How many ranks each map has in this step."""
    found = [adapter.drawn for adapter in adapters.values() if isinstance(adapter, Nested)]
    return tuple(ranks for ranks in found if ranks is not None)


def backward(adapters: dict[str, Adapter], weights: dict[str, torch.Tensor], step: int) -> None:
    x, y = draw(6, IN, seed=100 + step), draw(6, OUT, seed=200 + step)
    got = torch.stack([adapter(x, weights[name]) for name, adapter in adapters.items()]).sum(0)
    (got - y).square().sum().backward()


def test_every_rank_is_drawn_equally_often_and_one_for_all_maps() -> None:
    made, counts = Drawn(), dict.fromkeys(range(1, RANK + 1), 0)
    for step in range(800):
        made.controller.before_step(
            made.adapters, made.optimizer, step, 800, torch.Generator().manual_seed(step)
        )
        one, two = drawn(made.adapters)
        assert one == two
        counts[one] += 1
    # 200 of each expected; four standard deviations are 49.
    assert all(abs(count - 200) < 49 for count in counts.values())


def test_a_smaller_map_has_all_of_its_ranks() -> None:
    made = Drawn()
    made.adapters["two"] = variant_on("nested", made.weights["two"], rank=2, alpha=ALPHA).train()
    found = set()
    for step in range(40):
        made.controller.before_step(
            made.adapters, made.optimizer, step, 40, torch.Generator().manual_seed(step)
        )
        found.add(drawn(made.adapters))
    assert found == {(1, 1), (2, 2), (3, 2), (4, 2)}


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_a_step_at_b_is_the_step_of_a_lora_of_b_ranks(mode: str) -> None:
    """With its own optimizer; of `frozen` mode the last rank alone."""
    for seed in range(12):
        made = Drawn(mode=mode)
        before = {
            name: [p.detach().clone() for p in own.parameters()]
            for name, own in made.adapters.items()
        }
        ranks = made.step(seed)
        twins = {}
        for name, (A, B) in before.items():
            twins[name] = variant_on("lora", made.weights[name], rank=ranks, alpha=ALPHA)
            twins[name].load_state_dict({"A": A[:ranks], "B": B[:, :ranks]})
        values = [p for twin in twins.values() for p in twin.parameters()]
        peer = torch.optim.AdamW(values, lr=0.02, weight_decay=0.1)
        backward(twins, made.weights, seed)
        peer.step()
        first = ranks - 1 if mode == "frozen" else 0
        for name, adapter in made.adapters.items():
            A, B = adapter.get_parameter("A"), adapter.get_parameter("B")
            wanted = twins[name].get_parameter("A"), twins[name].get_parameter("B")
            torch.testing.assert_close(A[first:ranks], wanted[0][first:], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(
                B[:, first:ranks], wanted[1][:, first:], rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_what_does_not_learn_moves_by_momentum_and_decay_unless_it_is_held(mode: str) -> None:
    for hold in (False, True):
        made, moved = Drawn(hold=hold, mode=mode), False
        for step in range(12):
            before = {name: own.get_parameter("A").clone() for name, own in made.adapters.items()}
            ranks = made.step(step)
            first = ranks - 1 if mode == "frozen" else 0
            for name, adapter in made.adapters.items():
                A = adapter.get_parameter("A")
                assert not torch.equal(A[first:ranks], before[name][first:ranks])
                still = torch.equal(A[:first], before[name][:first])
                still = still and torch.equal(A[ranks:], before[name][ranks:])
                moved = moved or not still
        assert moved == (not hold)


def test_what_has_no_nested_ranks_is_refused() -> None:
    adapters: dict[str, nn.Module] = {"map": variant_on("lora", draw(OUT, IN), rank=2)}
    with pytest.raises(TypeError, match="LoRA on map has no nested ranks; use it with adapter nes"):
        DyLoRAController().before_step(adapters, Drawn().optimizer, 0, 1, torch.Generator())
