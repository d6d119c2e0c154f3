"""Halving finds the best of a curve, goes on from whatever was tried, and costs what it says."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.training.search.halving import BEYOND, KEPT, Halving, Outcome, Trial

Curve = Callable[[Trial], Outcome]


def peaked(best: float) -> Curve:
    """The nearer to `best`, in factors, the better."""
    return lambda trial: Outcome(-abs(math.log2(trial.rate / best)), 0.0)


def searched(plan: Halving, curve: Curve) -> dict[Trial, Outcome]:
    tried: dict[Trial, Outcome] = {}
    while (trial := plan.next(tried)) is not None:
        assert trial not in tried
        tried[trial] = curve(trial)
    return tried


def test_the_rounds_are_as_the_page_says() -> None:
    plan = Halving(1e-3, 800)
    tried = list(searched(plan, peaked(1e-3)))
    assert [trial.rate for trial in tried if trial.round == 0] == [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]
    assert [trial.rate for trial in tried if trial.round == 1] == [5e-4, 1e-3, 2e-3]
    # Of the two that are as near the lower went on, and it is no end that the best lies at.
    assert [trial.rate for trial in tried if trial.round == 2] == [5e-4, 1e-3]
    assert [plan.budget(number) for number in range(3)] == [100, 200, 400]
    assert plan.cost == sum(plan.budget(trial.round) for trial in tried) == 5 * 100 + 3 * 200 + 800
    assert plan.trials == len(tried)


@given(st.integers(-4, 4))
def test_a_best_rate_within_reach_is_found_wherever_it_is(power: int) -> None:
    best = float(f"{1e-3 * 2.0**power:.3g}")
    plan = Halving(1e-3, 800)
    tried = searched(plan, peaked(best))
    assert plan.best(tried) == pytest.approx(best, rel=0.01)


def test_an_end_is_passed_so_often_and_no_more() -> None:
    plan = Halving(1e-3, 800)
    first = [trial.rate for trial in searched(plan, peaked(1.0)) if trial.round == 0]
    assert max(first) == pytest.approx(4e-3 * 2**BEYOND)
    lowest = [trial.rate for trial in searched(plan, peaked(1e-9)) if trial.round == 0]
    assert min(lowest) == pytest.approx(2.5e-4 / 2**BEYOND, rel=0.01)
    # Nor in all rounds together, where what is best is chance.
    every = searched(plan, lambda trial: Outcome(0.0, trial.rate))
    assert min(trial.rate for trial in every) == min(lowest)


def test_what_is_best_after_more_steps_is_taken_though_it_was_not_at_first() -> None:
    def curve(trial: Trial) -> Outcome:
        return peaked(2e-3 if trial.round == 0 else 2.5e-4)(trial)

    plan = Halving(1e-3, 800)
    tried = searched(plan, curve)
    # It was dropped after the first round, and is reached again from above.
    assert Trial(1, 2.5e-4) in tried
    assert plan.best(tried) == 2.5e-4


def test_loss_decides_between_scores_that_are_equal_and_what_diverged_is_last() -> None:
    plan = Halving(1e-3, 800)
    tried = searched(plan, lambda trial: Outcome(0.0, abs(math.log2(trial.rate / 5e-4))))
    assert plan.best(tried) == 5e-4
    tried = searched(
        plan, lambda trial: Outcome(0.0, math.nan if trial.rate > 5e-4 else 1 / trial.rate)
    )
    assert plan.best(tried) == 5e-4


@given(st.floats(-12, 12), st.integers(0, 12))
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(power: float, at: int) -> None:
    plan, curve = Halving(1e-3, 800), peaked(1e-3 * 2**power)
    whole = searched(plan, curve)
    tried = dict(list(whole.items())[:at])
    while (trial := plan.next(tried)) is not None:
        tried[trial] = curve(trial)
    assert tried == whole


def test_a_trial_has_no_more_steps_than_the_training() -> None:
    assert [Halving(1e-3, 4).budget(number) for number in range(1 + len(KEPT))] == [4, 4, 4]
    assert [Halving(1e-3, 30).budget(number) for number in range(1 + len(KEPT))] == [10, 10, 15]
