"""What annotation tools export is read as text with spans or classes, in each tool's documented forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from weft.config import TaskSettings
from weft.data.formats import read_rows
from weft.data.reading import LoadedTask, load_task

TEXT = "Ada met Bob in Rome"
PER, LOC = [0, 3, "PER"], [15, 19, "LOC"]
SPANS = [{"start": start, "end": end, "label": label} for start, end, label in (PER, LOC)]
TAGS = ["B-PER", "O", "O", "O", "B-LOC"]


def region(span: list[Any]) -> dict[str, Any]:
    start, end, label = span
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": [label]}
    return {"id": "x1", "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def choice(*names: str) -> dict[str, Any]:
    value = {"choices": list(names)}
    return {"id": "x2", "from_name": "kind", "to_name": "text", "type": "choices", "value": value}


def task(number: int, *annotations: dict[str, Any], **data: str) -> dict[str, Any]:
    return {
        "id": number,
        "data": data or {"text": TEXT},
        "annotations": list(annotations),
        "project": 1,
    }


def done(*result: dict[str, Any], **more: bool) -> dict[str, Any]:
    return {"id": 7, "completed_by": 1, "result": list(result), "was_cancelled": False, **more}


LABEL_STUDIO = [
    task(1, done(region(PER), region(LOC))),
    task(2, done()),
    task(3, done(was_cancelled=True)),
]
JSON_MIN = [
    {
        "text": TEXT,
        "id": 1,
        "label": [region(span)["value"] for span in (PER, LOC)],
        "annotation_id": 7,
    },
    {"text": "nothing here", "id": 2, "annotation_id": 8, "annotator": 1},
]
DOCCANO = [
    {"id": 1, "text": TEXT, "label": [PER, LOC], "Comments": []},
    {"id": 2, "text": "none", "label": []},
]
DOCCANO_DATA = [
    {"id": 1, "data": TEXT, "label": [PER, LOC]},
    {"id": 2, "data": "none", "label": []},
]
DOCCANO_RELATIONS = [
    {
        "id": 1,
        "text": TEXT,
        "entities": [
            {"id": 4, "label": label, "start_offset": start, "end_offset": end}
            for start, end, label in (PER, LOC)
        ],
        "relations": [],
        "Comments": [],
    },
    {"id": 2, "text": "none", "entities": [], "relations": [], "Comments": []},
]


def hashed(**row: Any) -> dict[str, Any]:
    return {
        "_input_hash": 11,
        "_task_hash": 12,
        "_view_id": "ner_manual",
        "answer": "accept",
        **row,
    }


WORDS = [
    {"text": word, "start": 0, "end": 1, "id": at, "ws": True}
    for at, word in enumerate(TEXT.split())
]
PRODIGY = [
    hashed(
        text=TEXT,
        tokens=WORDS,
        spans=[{**span, "token_start": 0, "token_end": 0} for span in SPANS],
    ),
    hashed(text="none", tokens=[]),
    hashed(text="left out", answer="reject"),
    hashed(text="left out", answer="ignore"),
]


def _load(folder: Path, rows: list[Any], spec: str, ending: str = "json") -> LoadedTask:
    lines = ending == "jsonl"
    content = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    (folder / f"train.{ending}").write_text(content, encoding="utf-8")
    (folder / "mine.yaml").write_text(spec, encoding="utf-8")
    return load_task(TaskSettings(name=str(folder / "mine.yaml")), splits=["train"], seed=0)


def _error(folder: Path, rows: list[Any], spec: str, ending: str = "json") -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        _load(folder, rows, spec, ending)
    return str(caught.value)


@pytest.mark.parametrize(
    ("rows", "tool"),
    [
        (LABEL_STUDIO, "label_studio"),
        (JSON_MIN, "label_studio"),
        (DOCCANO, "doccano"),
        (DOCCANO_DATA, "doccano"),
        (DOCCANO_RELATIONS, "doccano"),
        (PRODIGY, "prodigy"),
    ],
    ids=["label_studio", "json_min", "doccano", "doccano_data", "doccano_relations", "prodigy"],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("named", [False, True])
def test_entities_become_tags(
    tmp_path: Path, rows: list[Any], tool: str, ending: str, named: bool
) -> None:
    spec = "kind: token_classification\n" + (f"format: {tool}\n" if named else "")
    loaded = _load(tmp_path, rows, spec, ending)
    first, second = loaded.splits["train"]
    assert (first["tokens"], first["tags"], first["text"]) == (TEXT.split(), TAGS, TEXT)
    assert set(second["tags"]) == {"O"}
    assert loaded.task.labels == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]


LABELLED = {
    "label_studio": [task(1, done(choice("good"))), task(2, done(choice("bad"))), task(3)],
    "json_min": [
        {"text": TEXT, "label": {"choices": ["good"]}, "annotation_id": 1},
        {"text": TEXT, "label": "bad", "annotation_id": 2},
    ],
    "doccano": [
        {"id": 1, "text": TEXT, "label": ["good"]},
        {"id": 2, "data": TEXT, "label": ["bad"]},
    ],
    "prodigy": [
        hashed(text=TEXT, options=[{"id": "good", "text": "Good"}], accept=["good"]),
        hashed(text=TEXT, label="bad"),
        hashed(text=TEXT, label="good", answer="reject"),
    ],
}


@pytest.mark.parametrize("tool", LABELLED)
def test_choices_become_classes(tmp_path: Path, tool: str) -> None:
    loaded = _load(tmp_path, LABELLED[tool], "kind: sequence_classification\n")
    assert [(row["text"], row["label"]) for row in loaded.splits["train"]] == [
        (TEXT, "good"),
        (TEXT, "bad"),
    ]


def test_several_choices_are_classes_of_a_row(tmp_path: Path) -> None:
    rows = [task(1, done(choice("good", "long"))), task(2, done(choice("bad")))]
    spec = "kind: sequence_classification\noptions: {mode: multi_label}\n"
    loaded = _load(tmp_path, rows, spec)
    assert [row["label"] for row in loaded.splits["train"]] == [["good", "long"], ["bad"]]
    assert "has 2 classes" in _error(tmp_path, rows, "kind: sequence_classification\n")


def test_annotations_that_differ_are_refused_unless_one_is_the_truth(tmp_path: Path) -> None:
    spec = "kind: token_classification\n"
    differing = [task(1, done(region(PER)), done(region(LOC)))]
    said = f"{tmp_path / 'train.json'}: [0]: 2 annotations that differ; keep one, or mark one"
    assert _error(tmp_path, differing, spec).startswith(said)
    agreed = [task(1, done(region(PER)), done(region(PER)))]
    assert _load(tmp_path, agreed, spec).splits["train"][0]["tags"][0] == "B-PER"
    true = [task(1, done(region(LOC)), done(region(PER), ground_truth=True))]
    assert _load(tmp_path, true, spec).splits["train"][0]["tags"][0] == "B-PER"


@pytest.mark.parametrize(
    ("rows", "tool", "said"),
    [
        ([{"text": "a", "label": "b"}], "label_studio", "[0]: no row that label_studio writes"),
        ([{"text": "a"}], "prodigy", "[0]: no row that prodigy writes: it has ['text']"),
        ([task(1, done(), a="x", b="y")], "label_studio", "[0]: which of ['a', 'b'] is the text?"),
        ([task(1, {"id": 1})], "label_studio", "[0]: expected Label Studio's form, an annotation"),
        (
            [
                task(
                    1,
                    done({"type": "labels", "value": {"start": 0, "end": 1, "labels": ["a", "b"]}}),
                )
            ],
            "label_studio",
            "[0]: a region must have one label, got ['a', 'b']",
        ),
        (
            [task(1, done({"value": {"start": "/p", "end": "/p", "hypertextlabels": ["a"]}}))],
            "label_studio",
            "[0]: only regions of plain text are read, got ['end', 'hypertextlabels', 'start']",
        ),
        (
            [{"id": 1, "text": "ab", "label": [[0, 9, "x"]]}],
            "doccano",
            "[0]: the span 0 to 9 is none",
        ),
    ],
    ids=str,
)
def test_malformed_exports_are_refused_by_place(
    tmp_path: Path, rows: list[Any], tool: str, said: str
) -> None:
    found = _error(tmp_path, rows, f"kind: token_classification\nformat: {tool}\n")
    assert found.startswith(f"{tmp_path / 'train.json'}: {said}")


def test_rows_of_no_tool_stay_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "x", "answer": "accept"},
        {"tokens": ["a"], "tags": ["O"], "data": {"text": "b"}},
        {"context": "c", "entities": 3, "annotations": None},
        {"text": "a", "labels": [1.5, 2]},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [row for row, _ in read_rows(path)] == rows
