"""LaMDA's freezing: when each column stops, that it stays where it stopped, and that a resumed run goes on the same."""

import copy

import pytest
import torch
from torch import Tensor

from weft.methods.adapters.lamda import LaMDA, Spec
from weft.methods.controllers.lamda import LaMDAController, LaMDASettings, frozen_columns

OUT, IN, TOTAL = 12, 10, 20
RANKS = {"one": 4, "two": 6}


def weight(seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(OUT, IN, generator=draw, dtype=torch.float64) / 4


class Training:
    """Two maps of different rank, AdamW with momentum and decay, and the controller."""

    def __init__(self, freezing: float | None) -> None:
        draw = torch.Generator().manual_seed(0)
        self.adapters = {
            name: LaMDA(weight(), Spec(rank=rank), draw).double() for name, rank in RANKS.items()
        }
        values = [p for adapter in self.adapters.values() for p in adapter.parameters()]
        self.optimizer = torch.optim.AdamW(values, lr=0.02, weight_decay=0.1)
        self.controller = None if freezing is None else controller(freezing)

    def step(self, step: int) -> None:
        draw = torch.Generator().manual_seed(100 + step)
        x = torch.randn(6, IN, generator=draw, dtype=torch.float64)
        y = torch.randn(6, OUT, generator=draw, dtype=torch.float64)
        self.optimizer.zero_grad()
        got = sum(adapter(x, weight()) for adapter in self.adapters.values())
        (got - y).square().sum().backward()
        self.optimizer.step()
        if self.controller is not None:
            self.controller.after_step(self.adapters, self.optimizer, step, TOTAL)

    def values(self) -> dict[str, Tensor]:
        return {
            f"{name}.{letter}": value.detach().clone()
            for name, adapter in self.adapters.items()
            for letter, value in adapter.named_parameters()
        }


def controller(freezing: float) -> LaMDAController:
    return LaMDAController(LaMDASettings(freezing=freezing))


def columns_that_moved(before: Tensor, after: Tensor) -> list[bool]:
    return (before != after).any(dim=0).tolist()


def test_none_half_and_all_are_frozen_at_the_start_half_way_and_the_end() -> None:
    # A fifth of 100 steps, rank 8.
    assert [frozen_columns(t, 100, 8, 0.2) for t in (0, 10, 20)] == [0, 4, 8]
    assert {frozen_columns(t, 100, 8, 0.2) for t in range(20, 100)} == {8}
    assert [frozen_columns(t, 10, 4, 1.0) for t in range(10)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("rank", [1, 7, 64])
@pytest.mark.parametrize("hundredths", [7, 29, 30, 57, 100])
def test_the_count_is_the_floor_of_the_exact_fraction(rank: int, hundredths: int) -> None:
    for step in range(100):
        exact = min(rank, rank * step // hundredths)
        assert frozen_columns(step, 100, rank, hundredths / 100) == exact


def test_a_frozen_column_stays_as_it_was_when_it_froze_and_no_other_does() -> None:
    training = Training(0.5)
    for step in range(TOTAL):
        before = training.values()
        training.step(step)
        after = training.values()
        for name, rank in RANKS.items():
            frozen = min(rank, rank * step // 10)
            wanted = [column >= frozen for column in range(rank)]
            assert columns_that_moved(before[f"{name}.B"], after[f"{name}.B"]) == wanted
            assert (before[f"{name}.S"] != after[f"{name}.S"]).all()
            # Every column still has a gradient: it is the update that is masked.
            gradient = training.adapters[name].B.grad
            assert gradient is not None
            assert gradient.any(dim=0).all()


def test_before_anything_is_frozen_it_changes_nothing() -> None:
    free, held = Training(None), Training(1.0)
    # Rank 6 over 20 steps: the first column is held from step 4 on.
    for step in range(4):
        free.step(step)
        held.step(step)
    assert all(torch.equal(value, held.values()[name]) for name, value in free.values().items())
    free.step(4)
    held.step(4)
    moved = columns_that_moved(free.values()["two.B"], held.values()["two.B"])
    assert moved == [True, False, False, False, False, False]


def test_in_the_end_only_the_square_matrix_is_trained() -> None:
    training = Training(0.3)
    for step in range(TOTAL - 1):
        training.step(step)
    before = training.values()
    training.step(TOTAL - 1)
    changed = sum(int((before[name] != value).sum()) for name, value in training.values().items())
    assert changed == sum(rank**2 for rank in RANKS.values())


@pytest.mark.parametrize("stop", [1, 4, 9, 15])
def test_a_resumed_run_goes_on_bit_for_bit(stop: int) -> None:
    whole = Training(0.5)
    for step in range(stop):
        whole.step(step)
    assert whole.controller is not None
    again = Training(0.5)
    for name, adapter in again.adapters.items():
        adapter.load_state_dict(whole.adapters[name].state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    again.controller = controller(0.5)
    again.controller.load_state_dict(
        {name: value.clone() for name, value in whole.controller.state_dict().items()}
    )
    for step in range(stop, TOTAL):
        whole.step(step)
        again.step(step)
    found = again.values()
    assert all(torch.equal(value, found[name]) for name, value in whole.values().items())


def test_what_it_remembers_does_not_move_with_the_adapter() -> None:
    training = Training(0.5)
    for step in range(5):
        training.step(step)
    assert training.controller is not None
    kept = training.controller.state_dict()
    assert {name: value.shape[1] for name, value in kept.items()} == {"one": 2, "two": 3}
    before = {name: value.clone() for name, value in kept.items()}
    with torch.no_grad():
        for adapter in training.adapters.values():
            adapter.B.zero_()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())


@pytest.mark.parametrize("freezing", [0.0, 1.1])
def test_a_fraction_out_of_range_is_refused(freezing: float) -> None:
    with pytest.raises(ValueError, match="freezing"):
        LaMDASettings(freezing=freezing)
