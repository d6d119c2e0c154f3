"""Runs that differ in their seed alone are told as one: numbers, lines, pages; one seed is told as before."""

import math
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.merging.runs import Made
from weft.analysis.figures import Line
from weft.analysis.intervals import Number
from weft.analysis.seeds import Seeds
from weft.analysis.subjects import find
from weft.config import load_run, to_yaml
from weft.merging.merge import merge
from weft.runs import RunFolder
from weft.tasks.scoring import Score

TOGETHER = "topic lora (3 seeds)"


@pytest.fixture
def runs(made: Made) -> list[Path]:
    """Three seeds of one method, and another task."""
    found = [made("topic", called=f"topic-{seed}") for seed in range(3)]
    for seed, run in enumerate(found):
        values = load_run(run / "run.yaml").model_copy(update={"seed": seed})
        RunFolder(run).write_config(values)
    return [*found, made("tags")]


def number(of: str, value: float, what: str = "x", chance: float | None = None) -> Number:
    return Number(of, what, Score(value, value - 1, value + 1), chance)


def test_only_the_seed_may_differ(runs: list[Path], made: Made) -> None:
    more = made("topic", called="topic-wide", rank=4)
    seeds = Seeds(find([*runs, more]))
    assert seeds.several == {TOGETHER: ("topic-0", "topic-1", "topic-2")}
    assert seeds.together("topic-0", "topic-2")
    assert not seeds.together("topic-0", "topic-wide")
    assert not seeds.together("topic-0", "tags")


def test_runs_of_one_method_are_told_apart_by_what_differs(made: Made) -> None:
    def seeded(called: str, **recipe: Any) -> list[Path]:
        runs = [made("topic", called=f"{called}-{seed}", **recipe) for seed in range(2)]
        for seed, run in enumerate(runs):
            values = load_run(run / "run.yaml").model_copy(update={"seed": seed})
            RunFolder(run).write_config(values)
        return runs

    few, wide = seeded("few"), seeded("wide", rank=4, targets=["query", "key"])
    assert Seeds(find([*few, *wide])).several == {
        "topic lora, targets query + value, rank 2 (2 seeds)": ("few-0", "few-1"),
        "topic lora, targets query + key, rank 4 (2 seeds)": ("wide-0", "wide-1"),
    }


def test_merges_of_seeds_belong_together(runs: list[Path], tmp_path: Path) -> None:
    """One seed of one task with the other task each; a merge with other weights is another."""
    paths = [
        merge([runs[seed], runs[3]], "cat", out=tmp_path / f"merge-{seed}").path for seed in (0, 1)
    ]
    other = merge([runs[2], runs[3]], "cat", weights=[1.0, 0.2], out=tmp_path / "merge-2").path
    parts = [part for path in (*paths, other) for part in sorted(path.glob("*/")) if part.name]
    found = find([part for part in parts if (part / "run.yaml").is_file()])
    several = Seeds(found).several
    assert len(several) == 2
    assert all(len(own) == 2 and "merge-2" not in " ".join(own) for own in several.values())


def test_numbers_are_means_with_deviation_and_student_s_interval(runs: list[Path]) -> None:
    seeds = Seeds(find(runs))
    numbers = [number(f"topic-{at}", v, chance=at) for at, v in enumerate((1.0, 2.0, 6.0))]
    found = {one.of: one for one in seeds.numbers([*numbers, number("tags", 4)])}
    mean = found[TOGETHER]
    assert (mean.score.value, mean.deviation, mean.chance) == (3, pytest.approx(math.sqrt(7)), 1)
    # scipy.stats.t.ppf(0.975, 2) is 4.3027.
    assert mean.score.high - 3 == pytest.approx(4.3027 * math.sqrt(7 / 3), rel=1e-3)
    assert found["tags"] == number("tags", 4)


def test_pairs_are_told_once_and_without_an_interval(runs: list[Path]) -> None:
    seeds = Seeds(find(runs))
    pairs = [number("topic-0 and tags", 1), number("tags and topic-1", 3)]
    within = [number("topic-0 and topic-1", 5), number("topic-0 and topic-2", 7)]
    found = {one.of: one for one in seeds.numbers([*pairs, *within])}
    assert found[f"tags and {TOGETHER}"].score.value == 2
    assert math.isnan(found[f"tags and {TOGETHER}"].score.low)
    assert found[f"{TOGETHER}, two of them"].score.value == 6
    directed = seeds.numbers([number("topic-0 on tags", 1), number("tags on topic-0", 3)])
    assert [one.of for one in directed] == [f"{TOGETHER} on tags", f"tags on {TOGETHER}"]


def test_lines_of_seeds_are_one_with_a_band(runs: list[Path]) -> None:
    seeds = Seeds(find(runs))
    drawn = [
        Line("topic-0", ((0.0, 1.0), (1.0, 2.0))),
        Line("chance", ((0.0, 9.0),), chance=True),
        Line("topic-1", ((0.0, 3.0), (1.0, 2.0))),
        Line("tags", ((0.0, 5.0),)),
        Line("chance", ((0.0, 8.0),), chance=True),
    ]
    found = seeds.lines(drawn)
    assert found[0] == Line(TOGETHER, ((0.0, 2.0), (1.0, 2.0)), spread=(math.sqrt(2), 0.0))
    assert [line.name for line in found] == [TOGETHER, "chance", "tags", "chance"]
    assert Seeds(find(runs[2:])).lines(drawn) == drawn


def test_a_report_has_one_line_for_seeds(runs: list[Path], tmp_path: Path) -> None:
    found = weft.analyze(runs, ["spectra", "interference"], out=tmp_path / "out")
    values = found.values["questions"]["spectra"]
    own = [row["value"] for row in values["numbers"] if row["of"].startswith("topic-")][::3]
    assert len(own) == 3
    mean = next(row for row in values["over_seeds"] if row["what"].startswith("effective"))
    assert (mean["of"], mean["value"]) == (TOGETHER, pytest.approx(sum(own) / 3))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "± seeds" in text
    assert f"{TOGETHER}: topic-0, topic-1, topic-2" in text
    assert "standard deviation over seeds" in text
    alone = weft.analyze(runs[2:], ["spectra"], out=tmp_path / "alone")
    assert alone.values["questions"]["spectra"]["over_seeds"] == []
    assert "± seeds" not in (tmp_path / "alone" / "report.md").read_text()


def test_mixtures_of_experts_of_several_seeds_belong_together(
    runs: list[Path], made: Made, tmp_path: Path
) -> None:
    """Their settings name other runs, which differ in their seed alone."""
    settings = load_run(runs[3] / "run.yaml")
    named = []
    for seed in range(2):
        mixture = {"name": "xlora", "runs": [str(runs[seed]), str(runs[3])]}
        values = settings.model_dump() | {"mixture": mixture, "seed": seed}
        folder = tmp_path / f"mix-{seed}"
        (folder / "mixture").mkdir(parents=True)
        (folder / "run.yaml").write_text(to_yaml(type(settings).model_validate(values)))
        named.append(folder)
    from weft.analysis.subjects import Found
    from weft.storage.card import read_card

    card = read_card(runs[3] / "expert")
    found = [Found(folder.name, RunFolder(folder), card) for folder in named]
    assert Seeds(found).several == {"tags xlora (2 seeds)": ("mix-0", "mix-1")}
