"""Scores that a set asks for are scipy's and scikit-learn's, with intervals like the others."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from weft.data.reading import find_kind, find_spec
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.ranks import roc_auc
from weft.tasks.scoring import COUNTS_AT_ONCE, Score, paired_difference, score

ROWS = 70
Row = dict[str, Any]


def task_of(labels: Sequence[str] | None, mode: str, *metrics: str) -> Task:
    spec = TaskSpec.model_validate(
        {
            "name": "tried",
            "kind": "sequence_classification",
            "labels": labels,
            "options": {"mode": mode},
            "metrics": metrics,
        }
    )
    return kinds.load("sequence_classification")(spec, labels or [])


def classified(classes: int, seed: int = 0) -> tuple[list[str], list[Row], list[Row], np.ndarray]:
    """Labels, what was said with probabilities, what is right, the probabilities."""
    generator = np.random.default_rng(seed)
    labels = list("abcd"[:classes])
    gold = generator.integers(classes, size=ROWS)
    logits = generator.normal(size=(ROWS, classes)).round(1) + np.eye(classes)[gold]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    said = [
        {
            "label": labels[row.argmax()],
            "probabilities": dict(zip(labels, row.tolist(), strict=True)),
        }
        for row in p
    ]
    return labels, said, [{"id": str(i), "label": labels[g]} for i, g in enumerate(gold)], p


def assert_bootstrapped(
    found: Score, oracle: Callable[[np.ndarray], float], seed: int = 3, resamples: int = 30
) -> None:
    """The score is the oracle's of all rows, the interval that of the rows of each resample."""
    drawn = np.random.default_rng(seed).integers(ROWS, size=(resamples, ROWS))
    low, high = np.quantile([oracle(rows) for rows in drawn], [0.025, 0.975])
    expected = [oracle(np.arange(ROWS)), low, high]
    np.testing.assert_allclose([found.value, found.low, found.high], expected, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_matthews_correlation_is_scikit_learn_s(classes: int) -> None:
    labels, said, right, _ = classified(classes)
    task = task_of(labels, "single", "matthews_corrcoef")
    found = score(task, said, right, resamples=30, seed=3)["matthews_corrcoef"]
    a, b = (np.array([row["label"] for row in rows]) for rows in (right, said))
    assert_bootstrapped(found, lambda rows: matthews_corrcoef(a[rows], b[rows]))
    assert task.metric == "matthews_corrcoef"


@pytest.mark.parametrize("classes", [2, 4])
def test_the_area_under_the_curve_of_exclusive_classes_is_scikit_learn_s(classes: int) -> None:
    labels, said, right, p = classified(classes)
    found = score(task_of(labels, "single", "roc_auc"), said, right, resamples=30, seed=3)
    gold = np.array([row["label"] for row in right])

    def oracle(rows: np.ndarray) -> float:
        if classes == 2:
            return float(roc_auc_score(gold[rows], p[rows, 1]))
        return float(roc_auc_score(gold[rows], p[rows], multi_class="ovr"))

    assert_bootstrapped(found["roc_auc"], oracle)
    assert {"accuracy", "f1_macro"} < set(found)


def test_the_area_under_the_curve_of_several_classes_a_row_is_scikit_learn_s() -> None:
    generator = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    gold = generator.random((ROWS, 3)) < 0.4
    p = (generator.random((ROWS, 3)) + gold).round(1) / 2
    said = [
        {"label": [], "probabilities": dict(zip(labels, row.tolist(), strict=True))} for row in p
    ]
    right = [
        {"id": "-", "label": [n for n, yes in zip(labels, row, strict=True) if yes]} for row in gold
    ]
    task = task_of(labels, "multi_label", "roc_auc")
    found = score(task, said, right, resamples=30, seed=3)["roc_auc"]
    assert_bootstrapped(found, lambda rows: float(roc_auc_score(gold[rows], p[rows])))


def test_correlations_of_numbers_are_scipy_s_and_differences_are_paired() -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(6, size=ROWS).astype(float)
    systems = [(gold + generator.normal(size=ROWS) * noise).round() for noise in (1, 3)]
    right = [{"id": "-", "label": value} for value in gold]
    said = [[{"label": value} for value in own] for own in systems]
    task = task_of(None, "regression", "spearman", "pearson")
    assert task.metric == "spearman"
    found = score(task, said[0], right, resamples=30, seed=3)
    for name, oracle in (("spearman", spearmanr), ("pearson", pearsonr)):
        assert_bootstrapped(
            found[name], lambda rows, of=oracle: of(systems[0][rows], gold[rows]).statistic
        )
    gap = paired_difference(task, *said, right, resamples=30, seed=3)["spearman"]
    assert_bootstrapped(
        gap,
        lambda rows: float(
            spearmanr(systems[0][rows], gold[rows]).statistic
            - spearmanr(systems[1][rows], gold[rows]).statistic
        ),
    )


def test_many_rows_are_ranked_in_parts_without_a_seam() -> None:
    rows, resamples = 9000, 600
    assert rows * resamples > COUNTS_AT_ONCE
    generator = np.random.default_rng(1)
    gold = generator.integers(2, size=rows)
    p = generator.random(rows)
    said = [{"label": "a", "probabilities": {"a": 1 - own, "b": own}} for own in p.tolist()]
    right = [{"id": "-", "label": "ab"[own]} for own in gold]
    task = task_of(["a", "b"], "single", "roc_auc")
    found = score(task, said, right, resamples=resamples, seed=3)["roc_auc"]
    drawn = np.random.default_rng(3).integers(rows, size=(resamples, rows))
    counts = np.stack([np.bincount(own, minlength=rows) for own in drawn]).astype(float)
    expected = np.quantile(roc_auc(p, gold == 1, counts), [0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    one = score(task, said, right, resamples=0)["roc_auc"]
    assert one == Score(found.value, found.value, found.value)


@pytest.mark.parametrize(
    ("task", "name", "stands"),
    [
        (task_of(["a", "b"], "single", "roc_auc"), "roc_auc", 0.5),
        (task_of(["a", "b"], "single", "matthews_corrcoef"), "matthews_corrcoef", 0.0),
        (task_of(None, "regression", "spearman"), "spearman", 0.0),
    ],
)
def test_what_one_class_or_one_value_leaves_undefined_is_said(
    task: Task, name: str, stands: float
) -> None:
    label = 1.0 if task.mode == "regression" else "a"  # type: ignore[attr-defined]
    said = [{"label": label, "probabilities": {"a": 0.9, "b": 0.1}}] * 3
    with pytest.warns(UserWarning, match="is undefined for these 3 rows") as told:
        found = score(task, said, [{"id": "-", "label": label}] * 3)
    assert found[name] == Score(stands, stands, stands)
    sentence = f"tried: {name} is undefined for these 3 rows"
    assert any(str(own.message).startswith(sentence) for own in told)


def test_a_class_that_no_row_has_is_left_out_of_the_mean() -> None:
    labels, said, right, p = classified(3)
    gone = [at for at, row in enumerate(right) if row["label"] != "c"]
    task = task_of(labels, "single", "roc_auc")
    found = score(task, [said[i] for i in gone], [right[i] for i in gone], resamples=0)["roc_auc"]
    areas = [
        roc_auc_score([right[i]["label"] == name for i in gone], p[gone, at])
        for at, name in enumerate("ab")
    ]
    assert found.value == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(
    ("kind", "options", "metrics", "said"),
    [
        ("sequence_classification", {}, ["spearman"], "no score named 'spearman'"),
        ("sequence_classification", {}, ["mathews_corrcoef"], "Did you mean 'matthews_corrcoef'"),
        ("sequence_classification", {"mode": "regression"}, ["roc_auc"], "no score named"),
        ("sequence_classification", {"mode": "regression"}, ["mse"], "no score named 'mse'"),
        ("multiple_choice", {}, ["f1"], "no score named 'f1'"),
        ("token_classification", {}, ["roc_auc"], "no score named 'roc_auc'"),
        ("causal_lm", {}, ["accuracy"], "no score named 'accuracy'"),
        ("masked_lm", {}, ["accuracy"], "no score named 'accuracy'"),
    ],
)
def test_scores_that_a_kind_does_not_have_are_refused_by_name(
    kind: str, options: dict[str, Any], metrics: list[str], said: str
) -> None:
    spec = TaskSpec(name="tried", kind=kind, options=options, metrics=metrics)
    with pytest.raises(ValueError, match=f"task tried: metrics: .*{said}"):
        kinds.load(kind)(spec, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "metric"),
    [("cola", "matthews_corrcoef"), ("stsb", "pearson"), ("squad", "f1"), ("squad_v2", "f1")],
)
def test_named_sets_are_selected_on_what_their_authors_report(name: str, metric: str) -> None:
    spec = find_spec(name)
    assert find_kind(spec)(spec, spec.labels or []).metric == metric
