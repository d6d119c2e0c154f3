"""Weights that are found: where, on which rows, and that the scored ones are never among them."""

import json
from collections.abc import Sequence

import pytest

import weft
from tests.merging.runs import Made
from weft.merging.record import read_record
from weft.merging.search import pattern_search


def test_it_climbs_to_the_best_weights_of_a_smooth_hill() -> None:
    def value(weights: Sequence[float]) -> float:
        return -((weights[0] - 0.8) ** 2) - 2 * (weights[1] + 0.2) ** 2

    tried = pattern_search(value, [[0.5, 0.5], [1.0, 1.0]], 60)
    best, _ = max(tried, key=lambda one: one[1])
    assert best == pytest.approx([0.8, -0.2], abs=0.06)
    assert len(tried) == len({tuple(weights) for weights, _ in tried}) <= 60


def test_it_asks_no_more_often_than_it_may_and_never_for_nothing() -> None:
    tried = pattern_search(lambda weights: -sum(map(abs, weights)), [[0.5, 0.5]], 7)
    assert len(tried) == 7
    assert all(any(weights) for weights, _ in tried)


def test_the_found_weights_are_the_best_tried_and_their_rows_are_not_those_scored(
    made: Made,
) -> None:
    runs = [made("topic"), made("tags")]
    out = weft.merge(runs, search=True, out=made.folder / "out")
    record = read_record(out.path)
    assert record is not None
    tried = record.learned["tried"]
    best = max(tried, key=lambda one: one["value"])
    assert [one.weight for one in record.experts] == best["weights"]
    assert out.run.merge is not None
    assert out.run.merge.weights == best["weights"]
    assert record.learned["rows"] == {"topic": 2, "tags": 2}
    assert sum("was trained on the rows that weights are found on" in n for n in record.notes) == 2
    lines = (out.path / "topic" / "predictions-validation.jsonl").read_text().splitlines()
    assert all(json.loads(line)["id"].startswith("validation-") for line in lines)
    assert [row.n for row in record.scores] == [10, 10]
