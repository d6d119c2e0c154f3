"""The best rate of a search is the best by the score that the set is selected on."""

from pathlib import Path

import pytest

from weft.comparison.grid import Grid, cells_of
from weft.comparison.jobs import Job, best_rate
from weft.config import load_run
from weft.runs import RunFolder

SCORES = {1e-3: {"accuracy": 0.9, "pearson": 0.1, "spearman": 0.2}} | {
    1e-2: {"accuracy": 0.1, "pearson": 0.3, "spearman": 0.1}
}


@pytest.mark.parametrize(
    ("spec", "best"),
    [
        ("labels: [a, b]\n", 1e-3),
        ("options: {mode: regression}\n", 1e-2),
        ("options: {mode: regression}\nmetrics: [spearman]\n", 1e-3),
    ],
)
def test_the_best_rate_has_the_best_score_of_those_selected_on(
    spec: str, best: float, tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"kind: sequence_classification\n{spec}", encoding="utf-8")
    grid = Grid.model_validate(
        {
            "tasks": {"own": {"task": {"name": str(path)}}},
            "recipes": {"lora": {"recipe": {"name": "lora"}, "learning_rates": list(SCORES)}},
            "seeds": [0],
        }
    )
    jobs = {}
    for rate, scores in SCORES.items():
        run = load_run({"task": {"name": str(path)}})
        folder = RunFolder.create(tmp_path / str(rate), run)
        folder.write_metrics(
            [{"name": k, "value": v, "split": "validation"} for k, v in scores.items()]
        )
        jobs[rate] = Job(folder.path, run)
    (cell,) = cells_of(grid)
    assert best_rate(grid, cell, jobs)[0] == best
