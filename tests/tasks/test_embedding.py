"""Rows of an embedding in their three forms, what is said of them, and its scores against scipy and plain loops."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from transformers import PreTrainedTokenizerFast

from weft.config import TaskSettings
from weft.data.reading import find_kind, find_spec, load_task
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds.embedding import LOSSES, Embedding
from weft.tasks.scoring import score

ROWS: dict[str, dict[str, Any]] = {
    "scored": {"id": "1", "text_a": "a good film", "text_b": "a book", "score": 0.25},
    "pairs": {"id": "1", "anchor": "a good film", "positive": "a big film"},
    "triples": {"id": "1", "anchor": "a good film", "positive": "a big film", "negative": "no"},
}


def made(form: str | None = None, **values: Any) -> Embedding:
    options = {"form": form, **values.pop("options", {})}
    return Embedding(
        TaskSpec.model_validate(
            {"name": "tried", "kind": "embedding", "options": options, **values}
        )
    )


def loaded(rows: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None) -> Task:
    settings = TaskSettings.model_validate({"name": "mine", "spec": {"kind": "embedding"}})
    given: Any = {"train": rows, "validation": rows if validation is None else validation}
    return load_task(settings, splits=["train", "validation"], seed=0, given=given).task


@pytest.mark.parametrize("form", ROWS)
def test_the_form_of_the_rows_is_read_off_their_columns(form: str) -> None:
    row = {name: value for name, value in ROWS[form].items() if name != "id"}
    task = loaded([row, row])
    assert task.spec.options["form"] == form
    assert task.metric == ("spearman" if form == "scored" else "retrieval_accuracy")
    assert task.loss == ("cosent" if form == "scored" else "multiple_negatives_ranking")


@pytest.mark.parametrize(
    ("first", "other"),
    [("pairs", "triples"), ("triples", "pairs"), ("pairs", "scored"), ("scored", "pairs")],
)
def test_rows_of_another_form_are_refused_where_they_stand(first: str, other: str) -> None:
    columns = ", ".join(name for name in ROWS[first] if name != "id")
    message = rf"^data\['validation'\]: row 0: .*the rows of this task have {columns}; give all rows one form"
    rows = [{**row, "id": name} for name, row in ROWS.items()]
    by_name = dict(zip(ROWS, rows, strict=True))
    with pytest.raises(ValueError, match=message):
        loaded([by_name[first]], [by_name[other]])


@pytest.mark.parametrize("value", ["", "often", -0.1, 1.5, True, float("nan")])
def test_a_score_is_a_number_from_nothing_to_the_highest(value: object) -> None:
    with pytest.raises(ValueError, match=r"^r:1: column 'score' must be a number from 0 to 1, got"):
        made().check({**ROWS["scored"], "score": value}, "r:1")
    assert (
        made(options={"highest": 5}).check({**ROWS["scored"], "score": "4.5"}, "")["score"] == 4.5
    )


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        ("pairs", {"options": {"loss": "cosent"}}, "take multiple_negatives_ranking"),
        ("scored", {"options": {"loss": LOSSES[-1]}}, "take cosent or cosine_similarity"),
        ("pairs", {"metrics": ["spearman"]}, "spearman"),
        ("scored", {"columns": {"weight": "w"}}, "no weight"),
        ("scored", {"options": {"scale": 0}}, "scale"),
    ],
)
def test_what_does_not_go_together_is_refused(
    form: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^task tried.*{message}"):
        made(form, **values)


def test_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="has no classes"):
        Embedding.collect_labels(TaskSpec(name="t", kind="embedding", labels=["a"]), [])


def test_every_text_is_a_sequence_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    task = made("triples", options={"scale": 10.0})
    record = task.encode(task.check(ROWS["triples"], ""), tokenizer)
    for name, ids in zip(("anchor", "positive", "negative"), record["input_ids"], strict=True):
        assert ids == tokenizer(ROWS["triples"][name])["input_ids"]
        assert not any(record["token_type_ids"][0])
    assert record["labels"] == [[2.0, 10.0, 0.0]] * 3
    scored = made("scored", options={"highest": 5})
    record = scored.encode(scored.check({**ROWS["scored"], "score": 4}, ""), tokenizer)
    assert record["labels"] == [[0.0, 20.0, 0.8]] * 2
    alone = scored.check({"id": "1", "text": " a good film "}, "")
    assert "labels" not in scored.encode(alone, tokenizer)


def test_one_text_gets_a_vector_and_two_a_similarity() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    text = {"id": "1", "text": "a"}
    unit = made().decode(text, {}, [a])["vector"]
    np.testing.assert_allclose(unit, a / np.linalg.norm(a), rtol=1e-6)
    plain = made(options={"normalize": False}).decode(text, {}, [a])["vector"]
    assert np.array_equal(np.float32(plain), a)
    assert all(len(repr(value)) < 14 for value in plain)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    pair = made().decode(ROWS["scored"], {}, [a, b])
    assert pair == {"id": "1", "similarity": pytest.approx(float(expected), rel=1e-6)}


def test_scores_of_scored_rows_are_scipys() -> None:
    draw = np.random.default_rng(1)
    task = made("scored", options={"highest": 5})
    right = draw.integers(0, 6, 60)
    said = np.round(0.1 * right + 0.2 * draw.standard_normal(60), 1)  # with ties
    rows = [{**ROWS["scored"], "id": str(at), "score": float(y)} for at, y in enumerate(right)]
    predictions = [{"id": str(at), "similarity": float(x)} for at, x in enumerate(said)]
    found = score(task, predictions, rows, resamples=200)
    assert set(found) == {"spearman", "pearson"}
    assert found["spearman"].value == pytest.approx(
        stats.spearmanr(said, right).statistic, abs=1e-12
    )
    assert found["pearson"].value == pytest.approx(stats.pearsonr(said, right).statistic, abs=1e-12)
    assert found["spearman"].low < found["spearman"].value < found["spearman"].high


def plainly(rows: list[dict[str, Any]], vectors: np.ndarray) -> tuple[float, float]:
    """Shares of anchors that find their own positive, and that are nearer to it than to their negative."""
    found = nearer = 0
    for at, row in enumerate(rows):
        same = {row["anchor"], *(r["positive"] for r in rows if r["anchor"] == row["anchor"])}
        own = vectors[at, 0] @ vectors[at, 1]
        rivals = [
            vectors[at, 0] @ vectors[other, place]
            for other, candidate in enumerate(rows)
            for place, name in ((1, "positive"), (2, "negative"))
            if name in row and candidate[name] not in same
        ]
        found += own > max(rivals)
        nearer += own > vectors[at, 0] @ vectors[at, -1]
    return found / len(rows), nearer / len(rows)


@pytest.mark.parametrize("form", ["pairs", "triples"])
def test_retrieval_is_what_plain_loops_find(form: str) -> None:
    draw = np.random.default_rng(2)
    names = ["anchor", "positive", "negative"][: 2 + (form == "triples")]
    # Few texts, so that many are the same: an anchor's own, another positive of it.
    texts = draw.integers(0, 9, (40, len(names)))
    texts[:, 1] = texts[:, 0] + 7
    texts[::5, 1] += 1
    by_text = draw.standard_normal((40, 6))
    by_text[7:14] += 2 * by_text[:7]
    by_text /= np.linalg.norm(by_text, axis=1, keepdims=True)
    vectors = by_text[texts]
    rows = [
        {"id": str(at), **dict(zip(names, map(str, own), strict=True))}
        for at, own in enumerate(texts)
    ]
    predictions = [
        {"id": row["id"], "similarity": 0.0, "vectors": own.tolist()}
        for row, own in zip(rows, vectors, strict=True)
    ]
    found = score(made(form), predictions, rows, resamples=100)
    retrieval, nearer = plainly(rows, vectors)
    assert found["retrieval_accuracy"].value == pytest.approx(retrieval)
    assert 0.1 < retrieval < 0.95
    assert found["retrieval_accuracy"].low < retrieval < found["retrieval_accuracy"].high
    if form == "triples":
        assert found["triplet_accuracy"].value == pytest.approx(nearer)


def test_vectors_that_are_all_the_same_find_nothing() -> None:
    rows = [{"id": str(at), "anchor": f"a{at}", "positive": f"p{at}"} for at in range(5)]
    said = [{"id": row["id"], "vectors": [[1.0, 0.0]] * 2} for row in rows]
    assert score(made("pairs"), said, rows, resamples=0)["retrieval_accuracy"].value == 0


def test_pairs_predicted_without_vectors_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="predict it as anchor, positive"):
        score(made("pairs"), [{"id": "1", "similarity": 1.0}], [ROWS["pairs"]])


def test_the_named_set_reads_the_benchmark(shared_data: Any) -> None:
    settings = TaskSettings(name="stsb_embedding", data=str(shared_data / "stsb"))
    found = load_task(settings, splits=["train", "validation"], seed=0)
    assert {split: len(rows) for split, rows in found.splits.items()} == {
        "train": 5749,
        "validation": 1500,
    }
    assert found.splits["train"][0] == {
        "id": "train-0",
        "text_a": "A plane is taking off.",
        "text_b": "An air plane is taking off.",
        "score": 5.0,
    }
    assert find_kind(find_spec("stsb_embedding")) is Embedding
