"""The demo on a tiny base: it trains what it says, compares with an honest guess, and tells how far it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

import weft
from weft.config import TaskSettings
from weft.data.generated import SIZES, write_demo_data
from weft.data.reading import load_task
from weft.demo.demonstration import RECIPES, Stage, demonstrate, guess_score
from weft.runs import RunFolder

TINY = dict.fromkeys(SIZES, (8, 6))


def test_every_recipe_on_every_set_is_trained_and_told(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    stages: list[Stage] = []
    out = tmp_path / "demo"
    training = {"epochs": 1, "batch_size": 4}
    results = demonstrate(
        out, base=str(tiny_folder("bert")), sizes=TINY, training=training, report=stages.append
    )
    pairs = [(name, recipe) for name in SIZES for recipe in RECIPES]
    assert [(result.task, result.recipe) for result in results] == pairs
    for result in results:
        folder = RunFolder.open(result.run)
        assert folder.is_complete
        said = weft.evaluate(folder.path, device="cpu", save=False)
        assert not isinstance(said, list)
        assert said.n == 6
        assert said.scores[result.metric].value == pytest.approx(result.score.value, abs=1e-9)
    parameters = {
        recipe: [r.trainable_parameters for r in results if r.recipe == recipe]
        for recipe in RECIPES
    }
    assert all(
        a < b < c
        for a, b, c in zip(*(parameters[r] for r in ("head", "lora", "full")), strict=True)
    )
    # Two steps a run.
    assert [stage.number for stage in stages] == [n for n in range(1, 10) for _ in range(2)]
    fractions = [stage.fraction for stage in stages]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert stages[-1].seconds_left == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="exists; choose another --out"):
        demonstrate(out)


@pytest.mark.parametrize("name", SIZES)
def test_a_guess_scores_what_its_answers_are_worth(name: str, tmp_path: Path) -> None:
    write_demo_data(tmp_path, sizes=dict.fromkeys(SIZES, (12, 40)))
    task = {"name": str(tmp_path / f"demo_{name}.yaml"), "data": str(tmp_path / name)}
    loaded = load_task(TaskSettings.model_validate(task), splits=["train", "validation"], seed=0)
    rows = loaded.splits["validation"]
    found = guess_score(loaded).value
    if name == "choices":
        labels = [row["label"] for row in loaded.splits["train"]]
        commonest = max(sorted(set(labels)), key=labels.count)
        assert found == sum(row["label"] == commonest for row in rows) / len(rows)
    elif name == "entities":
        assert found == 0.0
    else:
        assert 0 <= found < 0.5
