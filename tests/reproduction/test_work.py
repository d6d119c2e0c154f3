"""Runs as jobs, what is left of them, and how long that takes."""

import shutil
from pathlib import Path

import pytest

from weft.comparison.grid import label_of
from weft.comparison.jobs import FAILED
from weft.comparison.workers import Standing
from weft.data.generated import SIZES, write_demo_data
from weft.reproduction.forecast import estimate, forecast, reproduction_shown, show_forecast
from weft.reproduction.needs import ready
from weft.reproduction.plan import OWN, Plan, make_plan
from weft.reproduction.profiles import Profile
from weft.reproduction.report import Reproduction
from weft.reproduction.running import refuse_other
from weft.reproduction.work import place_of, steps, work

LABELS = {"wnut17": "demo_entities", "swag": "demo_choices"}
SPEED = 100.0


def fresh(own: Profile, out: Path, seeds: int | None = None) -> Plan:
    return make_plan("demo", out, seeds=seeds, own=own)


@pytest.fixture
def copy(done: Reproduction, tmp_path: Path) -> Path:
    return shutil.copytree(done.outcome.plan.out, tmp_path / "copy")


def test_every_run_is_the_job_that_is_planned(done: Reproduction) -> None:
    found = steps(done.outcome.plan)
    assert len({step.job.folder for step in found if step.job}) == len(found) == 22
    for step in found:
        run, job = step.planned, step.job
        assert job is not None
        assert (step.state, job.run.seed) == ("done", run.seed)
        assert place_of(done.outcome.plan, run) in (job.folder, job.folder.parent)
        if run.stage == "mixtures":
            assert job.run.mixture is not None
            experts = [Path(path).parts for path in job.run.mixture.runs]
            assert {parts[-1].rsplit("-", 1)[1] for parts in experts} == {f"seed{run.seed}"}
            assert [parts[-3] for parts in experts] == list(run.tasks)
            continue
        assert job.run.task is not None
        assert job.run.task.label == LABELS[run.tasks[0]]
        assert job.run.recipe.name == run.what
        assert run.learning_rate in (job.run.training.learning_rate, None)
        held = "holdout" if run.part == "search" else "validation"
        assert job.run.training.evaluate_on == held


def test_what_hangs_on_a_search_is_unknown_before_it_ends(
    tiny_profile: Profile, tmp_path: Path
) -> None:
    found = steps(fresh(tiny_profile, tmp_path / "out"))
    unknown = {(s.planned.stage, s.planned.what) for s in found if s.job is None}
    assert unknown == {(OWN, "lora"), ("mixtures", "xlora")}
    assert {step.state for step in found} == {"open"}


def test_an_estimate_leaves_out_what_is_done(tiny_profile: Profile, copy: Path) -> None:
    plan = fresh(tiny_profile, copy.with_name("out"))
    (base,) = tiny_profile.bases
    whole = forecast(plan, speed=lambda base: SPEED)
    assert whole.left == estimate(work(plan), {base: SPEED})
    assert sum(line.seconds for line in whole.lines) == pytest.approx(whole.left.seconds)
    assert (whole.runs, whole.done) == (22, 0)
    place = copy / label_of(base) / "study" / "final" / "wnut17" / "lora"
    shutil.rmtree(place / "5e-05-seed1")
    (place / "5e-05-seed0" / "training.json").unlink()
    (place / "5e-05-seed0" / FAILED).write_text("ValueError: too bad\n\n")
    left = forecast(fresh(tiny_profile, copy), speed=lambda base: SPEED, at_once=2)
    assert (left.runs, left.done, left.left.runs) == (22, 20, 2)
    (line,) = [line for line in left.lines if line.done < line.runs]
    assert (line.stage, line.what, line.runs, line.done, line.failed) == ("study", "lora", 4, 2, 1)
    tokens = [
        run.tokens
        for run in work(plan)
        if (run.stage, run.what, run.tasks) == ("study", "lora", ("wnut17",))
    ]
    assert left.left.seconds == pytest.approx(sum(tokens) / SPEED)
    assert left.as_json()["seconds_left"] == pytest.approx(sum(tokens) / SPEED / 2)


def test_sets_of_other_sizes_correct_the_estimate(tiny_profile: Profile, tmp_path: Path) -> None:
    plan = fresh(tiny_profile, tmp_path / "out")
    write_demo_data(tmp_path / "out" / "data", sizes=dict.fromkeys(SIZES, (20, 16)))
    found, notes = ready(plan)
    assert [note.split(":")[0] for note in notes] == ["wnut17", "swag"]
    assert "20 rows to train on and 16 to score here" in notes[0]
    assert "made for 10 and 8" in notes[0]
    for before, after in zip(work(plan), work(found), strict=True):
        assert after.tokens == pytest.approx(2 * before.tokens)
    same, silent = ready(fresh(tiny_profile, tmp_path / "other"))
    assert (same.profile, silent) == (tiny_profile, [])


def test_other_seeds_and_recipes_go_on_and_other_settings_are_refused(
    tiny_profile: Profile, copy: Path
) -> None:
    refuse_other(fresh(tiny_profile, copy))
    refuse_other(fresh(tiny_profile, copy, seeds=5))
    lora = tiny_profile.recipes["lora"]
    for recipes in ({**tiny_profile.recipes, "wider": lora}, {"lora": lora}):
        refuse_other(fresh(tiny_profile.model_copy(update={"recipes": recipes}), copy))
    lora = lora.model_copy(update={"learning_rates": [1e-3, 5e-3]})
    recipes = {**tiny_profile.recipes, "lora": lora}
    other = tiny_profile.model_copy(update={"recipes": recipes})
    with pytest.raises(ValueError, match=r"recipes\.lora\.learning_rates is \[0\.001, 0\.01\]"):
        refuse_other(fresh(other, copy))


def test_what_is_ahead_and_how_far_it_is_are_shown(
    done: Reproduction, tiny_profile: Profile, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = forecast(fresh(tiny_profile, copy.with_name("out")), speed=lambda base: SPEED)
    show_forecast(ahead)
    said = capsys.readouterr()
    assert said.out == ""
    assert "22 runs, 0 done, 22 to run" in said.err
    assert "half or double is possible" in said.err
    # The runs of another folder that are done stand for those of this one as they end.
    jobs = [step.job for step in steps(fresh(tiny_profile, copy)) if step.job]
    away, here = ahead.out, copy
    ahead.seconds.update({here / k.relative_to(away): v for k, v in list(ahead.seconds.items())})
    with reproduction_shown(ahead, quiet=False) as watch:
        assert watch is not None
        for number, job in enumerate(jobs):
            watch(Standing(number, 0, [job]))
        watch(Standing(len(jobs), 0, []))
    lines = capsys.readouterr().err.splitlines()
    assert 3 < len(lines) <= 10
    assert all("/22 runs  about " in line for line in lines)
    assert "22/22 runs  about 1 s left" in lines[-1]
    with reproduction_shown(ahead, quiet=True) as watch:
        assert watch is None
