"""However a reproduction is stopped, the same call ends in the same tables; what fails is named, the rest is done."""

import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from weft.comparison.jobs import Job, run_job
from weft.reporting.writers import PAGE, TEXT
from weft.reproduction.plan import make_plan
from weft.reproduction.profiles import Profile
from weft.reproduction.report import VALUES, Reproduction, gather
from weft.reproduction.reproducing import reproduce
from weft.reproduction.running import run, without_places
from weft.training.loop import Event
from weft.training.stopping import Interrupted

CLOCKS = ("seconds", "usd", "ratio", "epoch", "whole", "memory", "disk", "forward", "machines")
"""What no two runs have in common."""


def bare(value: Any) -> Any:
    """JSON values without what a clock, and this machine's state, have a say in."""
    if isinstance(value, dict):
        timed = str(value.get("metric", "")).startswith("seconds")
        return {
            key: bare(own)
            for key, own in value.items()
            if not any(word in key for word in CLOCKS)
            and not (timed and key in ("measured", "deviation"))
        }
    return [bare(own) for own in value] if isinstance(value, list) else value


@dataclass
class Stops:
    """Does so many runs, and is asked to stop in the middle of the next."""

    left: int

    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.is_complete:
                continue
            run_job(job, self.ask if self.left == 0 else None)
            self.left -= 1

    def ask(self, event: Event) -> None:
        signal.raise_signal(signal.SIGINT)


class GoesOn:
    """Leaves what fails, and goes on."""

    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not job.is_complete:
                try:
                    run_job(job)
                except ValueError:
                    assert job.failure is not None


@pytest.mark.slow
def test_stopped_anywhere_it_ends_in_the_same_tables(
    done: Reproduction, tiny_profile: Profile, tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere"
    # In the study's runs, in the search and in the mixtures; each call goes on where the last one stopped.
    for runs in (2, 9, 9):
        with pytest.raises(Interrupted):
            reproduce("demo", out, own=tiny_profile, runner=Stops(runs), price=2.0)
    again = reproduce("demo", out, own=tiny_profile, runner=Stops(-1), price=2.0)
    assert bare(again.as_json()) == bare(done.as_json())
    assert again.outcome.failed == ()


def test_finished_runs_are_not_repeated(
    done: Reproduction, tiny_profile: Profile, tmp_path: Path
) -> None:
    out = shutil.copytree(done.outcome.plan.out, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("training.json")}
    plan = make_plan("demo", out, seeds=1, own=tiny_profile)
    found = gather(run(plan), price=2.0)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("training.json")} == stamps
    # Fewer seeds: the same runs, fewer of them in the tables.
    assert {row.seeds for row in found.gap} == {(0,)}
    assert sum(total.runs for total in found.totals) == 13


def test_what_failed_is_named_and_the_rest_is_done(tiny_profile: Profile, tmp_path: Path) -> None:
    lora = tiny_profile.recipes["lora"]
    bad = lora.recipe.model_copy(update={"targets": ["no_such_module"]})
    update = {
        "recipes": {
            **tiny_profile.recipes,
            "lora": lora.model_copy(update={"recipe": bad, "learning_rates": [1e-3]}),
        },
        "tasks": {"wnut17": tiny_profile.tasks["wnut17"]},
    }
    own = tiny_profile.model_copy(update=update)
    found = reproduce("demo", tmp_path / "out", own=own, seeds=1, runner=GoesOn())
    failed = {failure.run.split("/", 1)[1]: failure.error for failure in found.outcome.failed}
    combined = {"mixtures/xlora-seed0", "merges/ties-seed0"}
    assert set(failed) == {"own/final/wnut17/lora/0.001-seed0", *combined}
    assert "no_such_module" in failed["own/final/wnut17/lora/0.001-seed0"]
    assert {failed[name] for name in combined} == {"its experts are not finished"}
    assert [(row.stage, row.recipe) for row in found.gap] == [
        ("study", "full"),
        ("study", "lora"),
        ("own", "full"),
    ]
    assert found.blends == ()
    assert found.goals[0].recipe is None
    assert sum(cell.measured is not None for cell in found.cells) > 10
    for name in (PAGE, TEXT, VALUES):
        text = (tmp_path / "out" / name).read_text()
        assert "no_such_module" in text.replace("\\", "")
        assert str(tmp_path) not in text


def test_a_mixture_of_other_experts_is_not_taken_for_ours(
    done: Reproduction, tiny_profile: Profile, tmp_path: Path
) -> None:
    out = shutil.copytree(done.outcome.plan.out, tmp_path / "out")
    (config,) = out.glob("*/mixtures/xlora-seed1/run.yaml")
    config.write_text(config.read_text().replace("-seed1\n", "-seed7\n"))
    outcome = run(make_plan("demo", out, own=tiny_profile))
    assert [mixture.seed for mixture in outcome.mixtures] == [0]
    (failure,) = outcome.failed
    assert failure.run.endswith("mixtures/xlora-seed1")
    assert "remove that folder" in failure.error


def test_a_merge_of_other_experts_is_not_taken_for_ours(
    done: Reproduction, tiny_profile: Profile, tmp_path: Path
) -> None:
    out = shutil.copytree(done.outcome.plan.out, tmp_path / "out")
    (record,) = out.glob("*/merges/ties-seed1/merge.json")
    record.write_text(record.read_text().replace('-seed1"', '-seed7"'))
    outcome = run(make_plan("demo", out, own=tiny_profile))
    assert [merged.seed for merged in outcome.merges] == [0]
    (failure,) = outcome.failed
    assert failure.run.endswith("merges/ties-seed1")
    assert "remove that folder" in failure.error


def test_failures_name_no_folders() -> None:
    said = without_places(
        "ValueError: /home/me/runs/a-b/x.yaml: no such file, see https://a.org/b/c"
    )
    assert said == "ValueError: .../x.yaml: no such file, see https://a.org/b/c"
