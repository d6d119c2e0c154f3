"""What is nearest, by the sentence encoder as its own library runs it; what is shown of it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weft
from weft.answering.texts.vectors import vectors_of
from weft.base.loading import Base
from weft.config import TaskSettings
from weft.data.reading import LoadedTask, load_task
from weft.prompting.evidence import evidence_for, paragraphs
from weft.prompting.nearest import Index
from weft.prompting.settings import Prompting
from weft.prompting.templates import template_for

TEXTS = [
    "A cat sleeps on the mat.",
    "The stock market fell sharply today.",
    "Kittens like to nap.",
    "Paris is the capital of France.",
    "Shares lost much of their value.",
    "cat " * 400,
]


def test_vectors_are_those_of_the_encoder_s_own_library(minilm: Base) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = str(minilm.files[0].parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = Transformer(folder, max_seq_length=256)
        modules = [own, Pooling(own.get_embedding_dimension(), "mean"), Normalize()]
        model = SentenceTransformer(modules=modules, device="cpu")
        expected = model.encode(TEXTS, convert_to_numpy=True, show_progress_bar=False)
    np.testing.assert_allclose(vectors_of(minilm, TEXTS), expected, atol=2e-6)


def test_the_index_finds_the_highest_cosines_and_keeps_vectors(
    minilm: Base, tmp_path: Path
) -> None:
    queries = ["A cat naps.", "Markets and shares", "Where is Paris?"]
    similarity = vectors_of(minilm, queries) @ vectors_of(minilm, TEXTS).T
    expected = np.argsort(-similarity, axis=1)[:, :2].tolist()
    assert Index(TEXTS, cache=tmp_path).nearest(queries, 2) == expected
    (kept,) = (tmp_path / "vectors").iterdir()
    written = kept.stat().st_mtime_ns
    assert Index(TEXTS, cache=tmp_path).nearest(queries, 2) == expected
    assert kept.stat().st_mtime_ns == written
    assert len(Index(TEXTS, cache=None).nearest(queries, 9)[0]) == len(TEXTS)


def test_paragraphs_are_parted_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one\ntwo\n\n \nthree\n\none\ntwo\n")
    assert paragraphs(path) == ["one two", "three"]
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match="no text in it"):
        paragraphs(path)


def loaded(rows: dict[str, list[dict[str, Any]]]) -> LoadedTask:
    spec = {"kind": "sequence_classification", "labels": ["animal", "money"]}
    settings = TaskSettings(name="own", spec=spec)
    return load_task(settings, splits=["train", "validation"], seed=0, given=rows)


def test_the_nearest_rows_are_shown_the_nearest_last_and_never_the_row_itself() -> None:
    labels = ["animal", "money", "animal", "animal", "money"]
    train = [
        {"id": at, "text": text, "label": label}
        for at, (text, label) in enumerate(zip(TEXTS, labels, strict=False))
    ]
    found = loaded({"train": train, "validation": [{"id": 0, "text": TEXTS[0], "label": "animal"}]})
    template = template_for(found.task.spec)(found.task)
    rows, shown = found.splits["validation"], found.splits["train"]
    settings = Prompting(shots=2, nearest=True, retrieve=1)
    (own,) = evidence_for(rows, shown, template, settings, among=True)
    (other,) = evidence_for(rows, shown, template, settings)
    assert other.shots[-1][0] == template.question(shown[0])
    assert [text for text, _ in own.shots][-1] == template.question(shown[2])
    assert [answer for _, answer in own.shots][-1] == "animal"
    assert len(own.shots) == 2
    assert template.question(shown[0]) not in [text for text, _ in own.shots]


def test_passages_of_a_corpus_stand_before_the_question(
    real_words: Path, tasks_folder: Path, tmp_path: Path, minilm: Base
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS[:5]))
    task = str(tasks_folder / "topic" / "topic.yaml")
    usual: dict[str, Any] = {"base": str(real_words), "device": "cpu", "max_examples": 3}
    bare = weft.prompt(task, **usual)
    shown = weft.prompt(task, retrieve=2, corpus=str(corpus), **usual)
    more = weft.prompt(task, retrieve=2, **usual)
    for one, two, three in zip(bare.answers, shown.answers, more.answers, strict=True):
        assert one.tokens_read < two.tokens_read
        assert one.tokens_read < three.tokens_read
    assert _passages(task, corpus, 2)[0] == tuple(_by_hand(task, minilm, 2))


def _rows(task: str) -> LoadedTask:
    settings = TaskSettings(name=task, max_examples=3)
    return load_task(settings, splits=["validation"], seed=0)


def _passages(task: str, corpus: Path, count: int) -> list[tuple[str, ...]]:
    found = _rows(task)
    template = template_for(found.task.spec)(found.task)
    settings = Prompting(retrieve=count, corpus=str(corpus))
    return [
        own.passages for own in evidence_for(found.splits["validation"], [], template, settings)
    ]


def _by_hand(task: str, base: Base, count: int) -> list[str]:
    row = _rows(task).splits["validation"][0]
    similarity = torch.from_numpy(vectors_of(base, TEXTS[:5]) @ vectors_of(base, [row["text"]])[0])
    return [TEXTS[at] for at in similarity.argsort(descending=True).tolist()[:count]][::-1]
