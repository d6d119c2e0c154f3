"""Rows in words, and words as predictions: what is said of a row, read again, is the row's answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.config import TaskSettings
from weft.data.reading import load_task
from weft.prompting.templates import template_for, templates
from weft.prompting.templates.contract import Choosing, Template, Writing
from weft.tasks.contract import Example, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.scoring import score

SPECS: dict[str, dict[str, Any]] = {
    "multiple_choice": {"options": {"choices": 3}},
    "sequence_classification": {"labels": ["animal", "thing"]},
    "span_extraction": {},
    "token_classification": {
        "labels": ["O", "B-person", "I-person", "B-creative-work", "I-creative-work"]
    },
}
WORDS = ("Ann", "Lee", "read", "Dune", "and", "Dune", "'s", "end", "to", "Ann")
TAGS = (
    "B-person", "I-person", "O", "B-creative-work", "O", "B-creative-work", "I-creative-work", "O", "O", "B-person",
)  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [
        {"context": "The dog ran.", "prefix": "It", "choices": ["sang.", "stopped. ", "fell."], "label": 1},
        {"context": "One.", "choices": ["Two.", "Three.", "Four."], "label": 0},
    ],
    "sequence_classification": [
        {"text": "a dog", "label": "animal"},
        {"text": "a house", "text_pair": "of stone", "label": "thing"},
    ],
    "span_extraction": [
        {"question": "Who?", "context": "Ann Lee came. Bob left.", "answers": [{"text": "Ann Lee", "start": 0}]},
    ],
    "token_classification": [
        {"tokens": list(WORDS),
         "tags": list(TAGS)},
        {"tokens": ["nothing", "here"], "tags": ["O", "O"]},
        {"text": "Ann Lee read Dune.", "tokens": ["Ann", "Lee", "read", "Dune", "."],
         "offsets": [[0, 3], [4, 7], [8, 12], [13, 17], [17, 18]],
         "tags": ["B-person", "I-person", "O", "B-creative-work", "O"]},
    ],
}  # fmt: skip


def task_of(kind: str, **changes: Any) -> tuple[Task, list[Example]]:
    spec = TaskSpec(name="own", kind=kind, **{**SPECS[kind], **changes})
    task = kinds.load(kind)(spec, spec.labels or [])
    rows = ROWS[kind]
    return task, [task.check({"id": str(at), **row}, f"row {at}") for at, row in enumerate(rows)]


def answered(template: Template, rows: Sequence[Example], said: Sequence[str]) -> list[dict]:
    """What comes of answers in words."""
    found = []
    for row, words in zip(rows, said, strict=True):
        if isinstance(template, Choosing):
            options = list(template.options(row))
            found.append(
                template.decided(
                    row, np.where(np.arange(len(options)) == options.index(words), 0.0, -9.0)
                )
            )
        else:
            assert isinstance(template, Writing)
            found.append(template.read(row, f" {words}"))
    return found


@pytest.mark.parametrize("kind", templates.names())
def test_the_right_answer_in_words_is_a_right_prediction(kind: str) -> None:
    task, rows = task_of(kind)
    template = template_for(task.spec)(task)
    said = [template.answer(row) for row in rows]
    found = answered(template, rows, said)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert score(task, found, rows)[task.metric].value == 1.0
    json.dumps(found, allow_nan=False)
    for row in rows:
        question = template.question(row)
        assert question == question.rstrip()
        assert template.answer(row) == template.answer(row).strip()


def test_a_kind_without_a_template_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match=r"no template named 'embedding'.*Known: multiple_choice"):
        template_for(TaskSpec(name="own", kind="embedding"))


def test_several_classes_of_a_row_are_refused() -> None:
    spec = TaskSpec(name="own", kind="sequence_classification", options={"mode": "multi_label"})
    task = kinds.load(spec.kind)(spec, ["animal", "thing"])
    with pytest.raises(ValueError, match="mode is multi_label; train an expert"):
        template_for(task.spec)(task)


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ("person: ann lee; creative-work: dune's", "B-person I-person O O O B-creative-work I-creative-work O O O"),
        ("Person: Ann; person: Ann", "B-person O O O O O O O O B-person"),
        ("person: Ann; person: Ann Lee", "B-person O O O O O O O O O"),
        ("person: Bob; city: Ann; Lee; ;", "O O O O O O O O O O"),
        ("creative-work: un", "O O O O O O O O O O"),
        ("none.", "O O O O O O O O O O"),
    ],
)  # fmt: skip
def test_written_entities_are_found_where_tokens_begin_and_end(said: str, tags: str) -> None:
    task, rows = task_of("token_classification")
    template = template_for(task.spec)(task)
    assert isinstance(template, Writing)
    assert template.read(rows[0], said)["tags"] == tags.split()


def test_what_is_no_entity_of_the_text_is_told() -> None:
    task, rows = task_of("token_classification")
    template = template_for(task.spec)(task)
    assert isinstance(template, Writing)
    found = template.read(rows[2], "person: Bob; creative-work: Dune; or so; none")
    assert found["unplaced"] == ["person: Bob", "or so"]
    assert found["entities"] == [
        {"type": "creative-work", "text": "Dune", "score": 1.0, "start": 13, "end": 17}
    ]


@pytest.mark.parametrize(
    ("said", "place", "f1"),
    [("Ann Lee.", (0, 7), 1.0), ("Bob left.", (14, 23), 0.0), ("ann LEE", (None, None), 1.0), ("", (None, None), 0.0)],
)  # fmt: skip
def test_a_written_answer_is_scored_by_its_words(said: str, place: tuple, f1: float) -> None:
    task, rows = task_of("span_extraction")
    template = template_for(task.spec)(task)
    assert isinstance(template, Writing)
    found = template.read(rows[0], said)
    assert (found["start"], found["end"]) == place
    assert score(task, [found], rows)["f1"].value == f1


def test_no_answer_is_said_by_a_word() -> None:
    task, _ = task_of("span_extraction", options={"no_answer": True})
    template = template_for(task.spec)(task)
    assert isinstance(template, Writing)
    row = task.check(
        {"id": "0", "question": "Who?", "context": "Ann came.", "answers": []}, "row 0"
    )
    assert template.answer(row) == "unanswerable"
    said = [template.read(row, words) for words in ("Unanswerable.", "", "Ann")]
    assert [own["text"] for own in said] == ["", "", "Ann"]
    assert [task.statistics(own, row)[0] for own in said] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "folder"), [("wnut17", "wnut17"), ("squad", "squad"), ("swag", "swag")]
)
def test_right_answers_of_real_rows_survive_the_way_through_words(
    name: str, folder: str, shared_data: Path
) -> None:
    """All but entities of which the text holds the same words twice, the first of them none: they land on the first."""
    settings = TaskSettings(name=name, data=str(shared_data / folder), max_examples=300)
    loaded = load_task(settings, splits=["validation"], seed=0)
    template = template_for(loaded.task.spec)(loaded.task)
    rows = loaded.splits["validation"]
    found = answered(template, rows, [template.answer(row) for row in rows])
    value = score(loaded.task, found, rows)[loaded.task.metric].value
    assert value > 0.99 if name == "wnut17" else value == 1.0
