"""A profile's plan lists exactly what it should, with the study's settings and the right rows."""

from pathlib import Path

import pytest

from weft.comparison.grid import Cell
from weft.comparison.jobs import final_jobs
from weft.config import load_run
from weft.data.generated import write_demo_data
from weft.data.reading import load_task
from weft.methods.recipes import resolve
from weft.model.mixing import method_of
from weft.reproduction.plan import OWN, STUDY, Plan, make_plan
from weft.reproduction.profiles import MergeRow, profile, profiles
from weft.reproduction.work import work

ROOT = Path(__file__).parents[2]
TASKS = ("wnut17", "squad", "swag")
BASES = {
    "paper": ("distilbert", "bert-base", "bert-large"),
    "small": ("minilm",),
    "demo": ("minilm",),
}


def plan_of(name: str, seeds: int | None = None) -> Plan:
    return make_plan(name, "out", data="data" if name == "small" else None, seeds=seeds)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_plan_runs_exactly_what_it_should(name: str, seeds: int) -> None:
    assert profiles.names() == sorted(BASES)
    plan = plan_of(name, seeds)
    found = [
        (run.base, run.stage, run.part, run.what, run.tasks, run.learning_rate, run.seed)
        for run in work(plan)
    ]
    expected: set[tuple[object, ...]] = set()
    for base in BASES[name]:
        for seed in range(seeds):
            for task in TASKS:
                for recipe in ("full", "lora"):
                    expected.add((base, STUDY, "final", recipe, (task,), 5e-5, seed))
                for recipe in ("full", "lora", "lora-all-linear"):
                    expected.add((base, OWN, "final", recipe, (task,), None, seed))
            for mixture in ("xlora", "single_pass", "early_pass"):
                expected.add((base, "mixtures", "final", mixture, TASKS, None, seed))
        for recipe, row in plan.profile.recipes.items():
            for rate in row.learning_rates:
                for task in TASKS:
                    expected.add((base, OWN, "search", recipe, (task,), rate, 0))
    assert len(found) == len(set(found))
    assert set(found) == expected
    budgets = {len(row.learning_rates) for row in plan.profile.recipes.values()}
    assert len(budgets) == 1
    assert budgets.pop() > 1


def test_a_profile_has_one_seed_unless_asked() -> None:
    assert [plan_of(name).seeds for name in BASES] == [(0,)] * 3
    assert plan_of("small", 3).seeds == (0, 1, 2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("recipe", ["full", "lora"])
def test_the_paper_s_runs_are_those_of_the_configs(task: str, recipe: str) -> None:
    stage = plan_of("paper").stage(STUDY, "bert-base")
    job = final_jobs(stage.grid, stage.folder, Cell("bert-base", task, recipe), 5e-5)[0]
    config = load_run(ROOT / "configs" / "paper" / f"{task}.yaml")
    if recipe == "full":
        config = load_run(config.model_copy(update={"recipe": job.run.recipe}))
    assert job.run == config


def test_recipes_are_full_query_value_and_all_linear() -> None:
    for name in BASES:
        grid = plan_of(name).stage(OWN, BASES[name][0]).grid
        found = {key: resolve(row.recipe).settings.targets for key, row in grid.recipes.items()}
        expected = {"full": [], "lora": ["query", "value"], "lora-all-linear": ["all-linear"]}
        assert found == expected


def test_a_searched_rate_never_sees_validation_before_the_end() -> None:
    for name, bases in BASES.items():
        plan = plan_of(name)
        for base in bases:
            for entry in plan.stage(OWN, base).grid.tasks.values():
                assert "select_on" not in entry.training
                assert "early_stopping" not in entry.training


def test_a_mixture_takes_the_experts_of_its_seed() -> None:
    plan = plan_of("paper", 2)
    assert {(run.base, run.name, run.seed) for run in plan.mixtures} == {
        (base, name, seed)
        for base in BASES["paper"]
        for name in ("xlora", "single_pass", "early_pass")
        for seed in (0, 1)
    }
    for one in plan.mixtures:
        run = one.run([Path("a"), Path("b")], plan.profile.training, plan.profile.device)
        assert run.mixture is not None
        assert (run.base, run.seed, run.mixture.runs) == (one.base, one.seed, ["a", "b"])
        method_of(run.mixture)
        assert one.row.experts in plan.stage(OWN, one.base).grid.recipes


def test_the_small_profile_s_rows_are_those_at_hand(shared_data: Path) -> None:
    plan = make_plan("small", "out", data=shared_data)
    for task, entry in plan.stage(STUDY, "minilm").grid.tasks.items():
        own = plan.profile.tasks[task]
        loaded = load_task(entry.task, splits=["train", "validation"], seed=0)
        assert (len(loaded.splits["train"]), len(loaded.splits["validation"])) == (
            own.rows,
            own.validation,
        )
        whole = entry.task.model_copy(update={"max_examples": None})
        assert len(load_task(whole, splits=["train"], seed=0).splits["train"]) == own.train
    assert plan.profile.tasks["squad"].rows == 1500


def test_the_demo_s_sets_are_generated_where_its_runs_look(tmp_path: Path) -> None:
    plan = make_plan("demo", tmp_path)
    sizes = {own.generated: (own.train, own.validation) for own in plan.profile.tasks.values()}
    write_demo_data(tmp_path / "data", sizes={str(name): size for name, size in sizes.items()})
    for task, entry in plan.stage(STUDY, "minilm").grid.tasks.items():
        loaded = load_task(entry.task, splits=["train", "validation"], seed=0)
        own = plan.profile.tasks[task]
        assert len(loaded.splits["train"]) == own.rows
        assert len(loaded.splits["validation"]) == own.validation


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(KeyError, match="Did you mean 'small'"):
        make_plan("smal", "out")
    with pytest.raises(ValueError, match="give --data with squad, swag, wnut17 in it"):
        make_plan("small", "out")
    with pytest.raises(ValueError, match="makes its own sets; remove --data"):
        make_plan("demo", "out", data="data")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_plan("demo", "out", seeds=0)
    own = profile("demo")
    wrong = own.mixtures["xlora"].model_copy(update={"training": {"epoch": 1}})
    changed = own.model_copy(update={"mixtures": {"xlora": wrong}})
    with pytest.raises(ValueError, match=r"mixture xlora: epoch: .*Did you mean 'epochs'"):
        make_plan("demo", "out", own=changed)
    ties = MergeRow(experts="lora", settings={"densty": 0.5})
    with pytest.raises(ValueError, match=r"merge ties: densty: .*Did you mean 'density'"):
        make_plan("demo", "out", own=own.model_copy(update={"merges": {"ties": ties}}))


def test_the_paper_s_sets_come_from_a_folder_where_one_is_given() -> None:
    folders = {
        entry.task.name: entry.task.data
        for entry in make_plan("paper", "out", data="d")
        .stage(OWN, "distilbert")
        .grid.tasks.values()
    }
    assert folders == {task: str(Path("d") / task) for task in TASKS}
