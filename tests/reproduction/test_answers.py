"""A share is a ratio of means, and its interval that of resampled rows."""

import numpy as np
import pytest

from weft.reproduction.answers import mean_share
from weft.tasks.contract import TaskSpec
from weft.tasks.kinds.multiple_choice import MultipleChoice

ROWS = 40
TASK = MultipleChoice(TaskSpec(name="pick", kind="multiple_choice", options={"choices": 4}))
EXAMPLES = [{"id": str(at), "label": at % 4} for at in range(ROWS)]


def answers(seed: int, right: float) -> list[dict[str, object]]:
    """Predictions that are right in about such a share of the rows."""
    hits = np.random.default_rng(seed).random(ROWS) < right
    return [
        {"id": e["id"], "label": e["label"] if hit else (int(e["label"]) + 1) % 4}
        for e, hit in zip(EXAMPLES, hits, strict=True)
    ]


def test_it_is_what_counting_rows_again_gives() -> None:
    ours, whole = [answers(0, 0.5), answers(1, 0.6)], [answers(2, 0.8), answers(3, 0.9)]
    found = mean_share(TASK, ours, whole, EXAMPLES, resamples=60, seed=5)["accuracy"]

    def share(rows: list[int]) -> float:
        means = [
            np.mean(
                [np.mean([said[r]["label"] == EXAMPLES[r]["label"] for r in rows]) for said in runs]
            )
            for runs in (ours, whole)
        ]
        return float(means[0] / means[1])

    samples = np.random.default_rng(5).integers(ROWS, size=(60, ROWS))
    drawn = [share(own.tolist()) for own in samples]
    assert found.value == pytest.approx(share(list(range(ROWS))))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_the_same_answers_are_all_of_each_other_in_every_sample() -> None:
    said = [answers(0, 0.5), answers(1, 0.5)]
    found = mean_share(TASK, said, said, EXAMPLES)["accuracy"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_share_of_nothing_is_left_out() -> None:
    assert mean_share(TASK, [answers(0, 0.5)], [answers(0, 0.0)], EXAMPLES) == {}
