"""An estimate is tokens over tokens per second, and says how rough it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from weft.reproduction.forecast import calibrate, estimate, in_words
from weft.reproduction.plan import OWN, STUDY, make_plan
from weft.reproduction.work import Planned, work


def only(runs: list[Planned], stage: str, part: str, what: str, task: str) -> list[Planned]:
    return [
        run
        for run in runs
        if (run.stage, run.part, run.what, run.tasks) == (stage, part, what, (task,))
    ]


def test_a_run_s_tokens_are_its_rows_epochs_and_scored_rows() -> None:
    runs = work(make_plan("small", "out", data="data"))
    (final,) = only(runs, OWN, "final", "lora", "wnut17")
    assert final.tokens == pytest.approx(31.3 * (3 * 3394 + 0.5 * 1009))
    (full,) = only(runs, OWN, "final", "full", "squad")
    assert full.tokens == pytest.approx(180.6 * (1.6 * 2 * 1500 + 0.5 * 985))
    searched = only(runs, OWN, "search", "lora-all-linear", "swag")
    assert len(searched) == 4
    assert searched[0].tokens == pytest.approx(87.2 * (1.2 * 2 * 0.9 + 0.5 * 0.1) * 1876)
    (stopping,) = only(runs, STUDY, "final", "lora", "wnut17")
    assert stopping.tokens == pytest.approx(31.3 * (10 * 3394 + 0.5 * 11 * 1009))
    assert stopping.may_stop
    paper = work(make_plan("paper", "out"))
    part = only(paper, OWN, "search", "lora", "swag")[0]
    assert part.tokens == pytest.approx(110 * (0.9 + 0.5 * 0.1) * 10_000)


def test_the_small_profile_takes_about_two_hours_at_a_measured_speed() -> None:
    runs = work(make_plan("small", "out", data="data"))
    # results/throughput-cpu.json: LoRA in bf16 on one thread, 3,400 to 4,100 tokens a second.
    assert 1.5 * 3600 < estimate(runs, {"minilm": 3750}).seconds < 2.5 * 3600
    demo = work(make_plan("demo", "out"))
    assert estimate(demo, {"minilm": 3750}).seconds < 15 * 60


def test_an_estimate_adds_up_by_base_and_says_how_rough_it_is() -> None:
    runs = work(make_plan("paper", "out"))
    speeds = {"distilbert": 4000.0, "bert-base": 2000.0, "bert-large": 500.0}
    found = estimate(runs, speeds)
    for base, speed in speeds.items():
        tokens = sum(run.tokens for run in runs if run.base == base)
        assert found.by_base[base] == pytest.approx(tokens / speed)
    assert found.seconds == pytest.approx(sum(found.by_base.values()))
    assert (found.runs, found.may_stop) == (len(runs), 6)
    assert "half or double is possible" in found.says
    assert "6 may stop early" in found.says
    assert estimate([], speeds).seconds == 0
    with pytest.raises(KeyError, match="distilbert"):
        estimate(runs, {"minilm": 1.0})


def test_speed_is_measured_from_a_config_and_leaves_the_random_state_alone(
    tiny_folder: Callable[[str], Path],
) -> None:
    before = torch.get_rng_state()
    for precision in ("fp32", "bf16"):
        speed = calibrate(str(tiny_folder("bert")), torch.device("cpu"), precision, seconds=0.0)
        assert speed > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_times_have_few_digits() -> None:
    seconds = (0.2, 45, 600, 7200, 200_000)
    assert [in_words(s) for s in seconds] == ["1 s", "45 s", "10 min", "2.0 h", "2.3 days"]
