"""A recipe that keeps enough with few enough parameters reaches the goal; LoRA as the study has it comes first."""

from dataclasses import replace

import pytest

from weft.reproduction.gap import GapRow, goal
from weft.tasks.scoring import Score


def row(recipe: str, share: float, trained: int, stage: str = "own") -> GapRow:
    """A recipe's row on a base of ten thousand parameters."""
    return GapRow(
        base="tiny",
        task="squad",
        stage=stage,
        recipe=recipe,
        metric="f1",
        score=Score(share / 2, 0.0, 1.0),
        deviation=0.0,
        seeds=(0,),
        n=10,
        share=Score(share, share - 0.03, share + 0.02),
        trained=trained,
        adapters=trained,
        of=10_000,
        learning_rate=1e-3,
        on_edge=False,
    )


FULL = row("full", 1.0, 10_000)


def test_lora_alone_reaches_it() -> None:
    found = goal([FULL, row("lora", 0.98, 100), row("lora-all-linear", 1.02, 150)], "tiny", "squad")
    assert (found.reached, found.recipe) == (True, "lora")
    assert found.says.startswith("reached by lora with 98.0 % (95.0 to 100.0)")
    assert "1.00 % of the base's parameters" in found.says


def test_another_recipe_closes_what_lora_leaves() -> None:
    found = goal([FULL, row("lora", 0.9, 100), row("lora-all-linear", 0.99, 150)], "tiny", "squad")
    assert (found.reached, found.recipe) == (True, "lora-all-linear")
    assert "reached by lora-all-linear with 99.0 %" in found.says
    assert "lora with 90.0 % (87.0 to 92.0)" in found.says
    assert found.says.endswith("falls short")


@pytest.mark.parametrize("rows", [[row("lora", 0.96, 100)], [row("lora", 1.0, 200)]])
def test_too_little_or_with_too_much_is_not_reaching_it(rows: list[GapRow]) -> None:
    found = goal([FULL, *rows], "tiny", "squad")
    assert (found.reached, found.recipe) == (False, "lora")
    assert found.says.startswith("not reached")


def test_neither_full_fine_tuning_nor_the_study_s_rate_reaches_it() -> None:
    found = goal([FULL, row("lora", 1.0, 100, stage="study")], "tiny", "squad")
    assert (found.reached, found.recipe) == (False, None)
    unknown = goal([FULL, replace(row("lora", 1.0, 100), share=None)], "tiny", "squad")
    assert "not known" in unknown.says
