"""Means over runs, and tasks whose score is better the lower it is."""

from typing import Any

import numpy as np
import pytest

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.scoring import Score, mean_score, score, share


def task_of(kind: str, **settings: Any) -> Task:
    spec = TaskSpec.model_validate({"name": "t", "kind": kind, **settings})
    loaded = kinds.load(kind)
    return loaded(spec, loaded.collect_labels(spec, []))


def labelled(labels: list[str]) -> list[dict[str, Any]]:
    return [{"id": str(at), "label": label} for at, label in enumerate(labels)]


def test_the_mean_of_one_run_is_that_run_and_of_several_the_mean_of_each_resample() -> None:
    task = task_of("sequence_classification", labels=["a", "b"])
    draw = np.random.default_rng(0)
    gold = draw.choice(["a", "b"], size=30)
    runs = [np.where(draw.random(30) < right, gold, "a").tolist() for right in (0.2, 0.6, 0.9)]
    said, examples = [labelled(run) for run in runs], labelled(gold.tolist())
    common: dict[str, Any] = {"resamples": 40, "level": 0.9, "seed": 3}
    alone = mean_score(task, said[:1], examples, **common)
    assert alone == score(task, said[0], examples, **common)
    found = mean_score(task, said, examples, **common)["accuracy"]
    right = np.array([[one == other for one, other in zip(run, gold, strict=True)] for run in runs])
    rows = np.random.default_rng(3).integers(30, size=(40, 30))
    plain = right[:, rows].mean(axis=(0, 2))
    low, high = np.quantile(plain, [0.05, 0.95])
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [right.mean(), low, high], rtol=1e-12
    )


def test_a_perplexity_is_scored_where_a_token_counts_and_refused_where_none_does() -> None:
    task = task_of("causal_lm")
    rows = [
        {"id": "0", "nll": 6.0, "tokens": 3, "bytes": 9},
        {"id": "1", "nll": 1.0, "tokens": 4, "bytes": 8},
    ]
    examples = [{"id": "0"}, {"id": "1"}]
    found = score(task, rows, examples, resamples=20)
    assert found["perplexity"].value == pytest.approx(np.exp(7 / 7))
    with pytest.raises(ValueError, match="no row has a token that counts"):
        score(task, [{**row, "tokens": 0, "nll": 0.0} for row in rows], examples)


@pytest.mark.parametrize(("hits", "of"), [(0, 9), (1, 9), (5, 9), (9, 9), (700, 1000)])
@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959963984540054), (0.9, 1.6448536269514722)])
def test_a_share_s_ends_are_where_its_own_normal_interval_reaches_it(
    hits: int, of: int, level: float, z: float
) -> None:
    found, p = share(hits, of, level=level), hits / of
    assert found.value == p
    for end, side in ((found.low, -1), (found.high, 1)):
        assert side * (end - p) == pytest.approx(z * np.sqrt(end * (1 - end) / of), abs=1e-9)
    assert isinstance(found, Score)
    with pytest.raises(ValueError, match="a share of no rows"):
        share(0, 0)
