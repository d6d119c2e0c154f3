"""Every published cell has ours beside it or says why not; counts are made from the architectures."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.comparison.grid import Cell as Place
from weft.comparison.jobs import final_jobs
from weft.data.generated import SIZES, write_demo_data
from weft.reporting.document import raised
from weft.reproduction.cells import Cell, cells, fillings, folders, mixture_count, trained
from weft.reproduction.plan import STUDY, Plan, make_plan
from weft.reproduction.profiles import BaseEntry, profile
from weft.reproduction.published import Address, published
from weft.reproduction.six_tables import tables_section
from weft.reproduction.work import work
from weft.runs import RunFolder
from weft.training.loop import train

NAMES = ("paper", "small", "demo")


def plan_of(name: str) -> Plan:
    return make_plan(name, "nowhere", data="data" if name == "small" else None)


def by_address(found: list[Cell]) -> dict[Address, Cell]:
    return {cell.figure.address: cell for cell in found}


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_filled_by_one_run_a_seed_or_says_why_not(name: str) -> None:
    plan = plan_of(name)
    found = fillings(plan)
    assert list(found) == [figure.address for figure in plan.study.figures()]
    runs = [
        (run.base, run.what, run.tasks, run.seed)
        for run in work(plan)
        if (run.stage, run.part) == (STUDY, "final")
    ]
    for address, filling in found.items():
        assert (filling.how == "nothing") == bool(filling.why)
        if filling.how == "runs":
            matching = [
                run
                for run in runs
                if run == (filling.base, address.method, (address.task,), plan.seeds[0])
            ]
            assert len(matching) == 1
        elif filling.how == "settings":
            assert address.table == 1
        elif filling.how == "count":
            assert address.metric in ("parameters", "trainable_parameters")
    nothing = {a.base for a, filling in found.items() if filling.how == "nothing"}
    assert nothing == (set() if name == "paper" else {"bert-base", "bert-large"})


def test_stand_ins_are_named() -> None:
    found = fillings(plan_of("small"))
    swag = found[Address(5, "distilbert", "lora", "swag", "accuracy")]
    squad = found[Address(2, "distilbert", "full", "squad", "seconds")]
    wnut17 = found[Address(5, "distilbert", "lora", "wnut17", "f1")]
    assert any("CODAH" in said and "not SWAG" in said for said in swag.differences)
    assert any("1,500 seeded questions" in said for said in squad.differences)
    assert all(any("not DistilBERT" in s for s in own.differences) for own in (swag, squad, wnut17))
    assert len(wnut17.differences) == 1
    large = found[Address(5, "bert-large", "lora", "wnut17", "f1")]
    assert "does not train BERT-large, only minilm" in large.why
    paper = fillings(plan_of("paper"))
    assert not any(filling.differences or filling.why for filling in paper.values())


def test_mixtures_are_counted_once_and_the_published_counts_twice() -> None:
    base, large = mixture_count("bert-base"), mixture_count("bert-large")
    assert (base.trained, base.of) == (26_900_552, 137_267_528)
    assert (large.trained, large.of) == (29_931_664, 365_073_552)
    study = published()
    for name, count in {"bert-base": base, "bert-large": large}.items():
        metrics = ("parameters", "trainable_parameters")
        said = [study.figure(Address(6, name, "xlora", None, metric)).value for metric in metrics]
        assert [number // 10**6 for number in count.printed] == said


def test_lora_trains_its_factors_and_full_fine_tuning_the_trunk() -> None:
    for base, layers, hidden in (("distilbert", 6, 768), ("bert-base", 12, 768)):
        assert trained(base, "lora") == layers * 2 * 8 * (hidden + hidden)
    assert trained("bert-large", "lora") == 24 * 2 * 8 * (1024 + 1024)
    assert trained("distilbert", "full") == 66_362_880


def test_a_cell_without_a_run_is_empty_and_says_so() -> None:
    plan = plan_of("small")
    found = by_address(cells(plan))
    for address, cell in found.items():
        runs = cell.filling.how in ("runs", "nothing")
        assert (cell.measured is None) == runs
        assert any("not measured" in remark for remark in cell.remarks) == runs
        if address.metric == "epochs" and address.table == 1:
            assert cell.measured == {"squad": 2, "swag": 5, "wnut17": 10}[str(address.task)]
    tables = tables_section(plan.study, list(found.values())).tables
    text = "\n".join(
        line
        for table in tables
        for line in (*(cell for row in table.rows for cell in row), *table.notes, *table.remarks)
    )
    assert "164 / 137 ²" in text
    assert "53,801,104 with the head twice" in text
    assert "People on SQuAD (Rajpurkar et al. 2016): EM 80.3 %, F1 90.5 %" in text
    assert "10493.03 s in 3 epochs are 3497.68 s per epoch" in text
    assert [len(table.headers) for table in tables] == [5, 4, 4, 4, 7, 3]
    published = [cell.split(" / ")[0] for t in tables for row in t.rows for cell in row[1:]]
    assert published == [figure.printed for figure in plan.study.figures()]
    # Every raised number has its note.
    for table in tables:
        marks = {
            mark for row in table.rows for cell in row for mark in re.findall("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", cell)
        }
        assert {raised((at,)).strip() for at in range(1, len(table.notes) + 1)} == marks


def test_finished_runs_fill_their_cells(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    own = profile("demo")
    stop = {"epochs": 5, "early_stopping": 1, "early_stopping_on": "score", "batch_size": 4}
    task = own.tasks["wnut17"].model_copy(update={"study": stop})
    base = str(tiny_folder("bert"))
    tiny = own.model_copy(
        update={
            "tasks": {"wnut17": task},
            "bases": {base: BaseEntry(stands_for="distilbert", difference="tiny")},
        }
    )
    plan = make_plan("demo", tmp_path, seeds=2, own=tiny)
    # A base may be a path, and nothing is written into it.
    assert all(stage.folder.is_relative_to(tmp_path) for stage in plan.stages)
    write_demo_data(tmp_path / "data", sizes=dict.fromkeys(SIZES, (8, 6)))
    stage = plan.stage(STUDY, base)
    runs = []
    place = Place(base, "wnut17", "lora")
    for seed, job in enumerate(final_jobs(stage.grid, stage.folder, place, 5e-5)):
        runs.append(train(job.run, out=job.folder))
        half = by_address(cells(plan))[Address(5, "distilbert", "lora", "wnut17", "f1")]
        assert half.seeds == seed + 1
        assert any("1 of 2 seeds are finished" in said for said in half.remarks) == (seed == 0)
    assert [run.path for run in runs] == folders(plan, base, "wnut17", "lora")
    found = by_address(cells(plan))

    def cell(table: int, metric: str, method: str = "lora") -> Cell:
        return found[Address(table, "distilbert", method, "wnut17", metric)]

    accuracies = [100 * _score(run, "accuracy") for run in runs]
    assert cell(5, "accuracy").measured == pytest.approx(sum(accuracies) / 2)
    assert cell(5, "accuracy").deviation == pytest.approx(
        abs(accuracies[0] - accuracies[1]) / 2**0.5
    )
    # Two steps an epoch; nothing is learned at this rate, so patience ends with the second look or a later one.
    epochs = [(run.training or {})["steps"] / 2 for run in runs]
    assert all(2 <= number < 5 for number in epochs)
    assert cell(4, "epochs").measured == sum(epochs) / 2
    seconds = [(run.training or {})["seconds"] for run in runs]
    each = [whole / number for whole, number in zip(seconds, epochs, strict=True)]
    assert cell(4, "seconds").measured == pytest.approx(sum(seconds) / 2)
    assert cell(4, "seconds_per_epoch").measured == pytest.approx(sum(each) / 2)
    assert "published on L4, measured on cpu" in cell(4, "seconds").remarks
    assert "tiny" in cell(4, "epochs").remarks
    assert cell(5, "f1", "full").measured is None
    swag = found[Address(5, "distilbert", "lora", "swag", "accuracy")]
    assert swag.remarks == ("not measured: profile demo has nothing in the place of SWAG",)


def _score(run: RunFolder, metric: str) -> float:
    return next(row["value"] for row in run.metrics if row["name"] == metric)
