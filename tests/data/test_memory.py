"""Rows in memory and sets saved to disk are read like files, and never kept as settings."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from weft.config import Split, TaskSettings
from weft.data.memory import digest_of, given_by_task, given_rows
from weft.data.reading import LoadedTask, load_task

CLASSES = {"kind": "sequence_classification"}
ROWS = [{"id": 1, "text": "a", "label": "x"}, {"id": 2, "text": "b", "label": "y"}]
EXPECTED = [{"id": "1", "text": "a", "label": "x"}, {"id": "2", "text": "b", "label": "y"}]


def _load(given: Any, spec: dict[str, Any] | None = None, **settings: Any) -> LoadedTask:
    task = TaskSettings.model_validate({"name": "mine", "spec": spec or CLASSES, **settings})
    return load_task(task, splits=["train"], seed=0, given=given)


def _error(kind: type[Exception], given: Any, **settings: Any) -> str:
    with pytest.raises(kind, match=r".") as caught:
        _load(given, **settings)
    return str(caught.value)


def _dataset() -> datasets.Dataset:
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["x", "y"]),
        }
    )
    return datasets.Dataset.from_dict({"id": [1, 2], "text": ["a", "b"], "label": [0, 1]}, features)


@pytest.mark.parametrize(
    "rows",
    [ROWS, tuple(ROWS), pd.DataFrame(ROWS), _dataset()],
    ids=["list", "tuple", "frame", "dataset"],
)
def test_lists_frames_and_datasets_give_the_same_rows_and_digest(rows: Any) -> None:
    loaded = _load({"train": rows})
    assert loaded.splits == {"train": EXPECTED}
    assert loaded.settings.in_memory == {"train": digest_of(given_rows({"train": ROWS}, "train"))}
    assert loaded.task.labels == ["x", "y"]


def test_a_dataset_dict_is_rows_by_split() -> None:
    assert _load(datasets.DatasetDict({"train": _dataset()})).splits == {"train": EXPECTED}


def test_what_a_frame_holds_nothing_in_is_nothing_and_its_arrays_are_lists() -> None:
    frame = pd.DataFrame(
        {"id": [1, 2], "text": ["a", None], "n": [1, np.nan], "l": [np.array([1, 2]), None]}
    )
    rows = [row for row, _ in given_rows({"train": frame}, "train")]
    assert rows == [
        {"id": 1, "text": "a", "n": 1.0, "l": [1, 2]},
        {"id": 2, "text": None, "n": None, "l": None},
    ]
    assert json.loads(json.dumps(rows)) == rows


def test_whole_numbers_that_a_gap_made_fractions_are_ids_and_classes_as_before() -> None:
    frame = pd.DataFrame({"id": [7.0, 8.0], "text": ["a", "b"], "label": [1.0, 0.0]})
    assert _load({"train": frame}).splits["train"] == [
        {"id": "7", "text": "a", "label": "1"},
        {"id": "8", "text": "b", "label": "0"},
    ]


@pytest.mark.parametrize("value", [1.5, float("nan"), True, [1], {"a": 1}], ids=repr)
def test_ids_that_are_neither_text_nor_whole_numbers_are_refused(value: Any) -> None:
    said = _error(ValueError, {"train": [{"id": value, "text": "a", "label": "x"}]})
    assert said == (
        f"data['train']: row 0: column 'id' must hold text or whole numbers, got {value!r}"
    )


def test_a_row_that_is_wrong_is_named_by_its_number() -> None:
    rows = [*ROWS, {"id": 3, "text": "c", "label": None}]
    said = "data['train']: row 2: 'label' is needed, but its column holds nothing"
    assert _error(ValueError, {"train": rows}) == said
    assert _error(TypeError, {"train": [*ROWS, "c"]}).startswith(
        "data['train']: row 2: expected a mapping"
    )
    assert "expected a list of mappings, a pandas data frame" in _error(TypeError, {"train": "a,b"})
    assert "no rows for the train split; given are test" in _error(ValueError, {"test": ROWS})
    assert "choose one" in _error(ValueError, {"train": ROWS}, data="folder")


def test_rows_that_were_given_once_have_to_be_given_again(tmp_path: Path) -> None:
    settings = _load({"train": ROWS}).settings
    with pytest.raises(
        ValueError, match=r"task mine: its rows were given in Python and are kept nowhere"
    ):
        load_task(settings, splits=["train"], seed=0)
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    elsewhere = settings.model_copy(update={"data": str(tmp_path)})
    assert load_task(elsewhere, splits=["train"], seed=0).splits == {"train": EXPECTED}
    assert "where are its rows?" in _error(ValueError, None)


def test_rows_belong_to_the_one_task_or_are_named_by_task() -> None:
    assert given_by_task(None, ["a"]) == {}
    assert given_by_task({"train": 1, "test": 2}, ["a"]) == {"a": {"train": 1, "test": 2}}
    both = {"a": {"train": 1}, "b": {"train": 2}}
    assert given_by_task(both, ["a", "b"]) == both
    with pytest.raises(ValueError, match="several tasks; give rows for each"):
        given_by_task({"train": 1}, ["a", "b"])
    with pytest.raises(ValueError, match=r"got \['dev'\]"):
        given_by_task({"dev": 1}, ["a"])
    with pytest.raises(TypeError, match="got DataFrame"):
        given_by_task(pd.DataFrame(), ["a"])  # type: ignore[arg-type]


def _saved(folder: Path, *splits: Split) -> TaskSettings:
    (folder / "mine.yaml").write_text("kind: sequence_classification\n")
    return TaskSettings(name=str(folder / "mine.yaml"), data=str(folder / "set"))


def test_a_saved_dataset_dict_is_read_by_split(tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": _dataset(), "dev": _dataset().select([0])})
    parts.save_to_disk(tmp_path / "set")
    found = load_task(_saved(tmp_path), splits=["train", "validation"], seed=0).splits
    assert found == {"train": EXPECTED, "validation": EXPECTED[:1]}
    with pytest.raises(ValueError, match="has no test split; it has dev, train"):
        load_task(_saved(tmp_path), splits=["test"], seed=0)


def test_a_saved_dataset_is_the_split_that_is_named(tmp_path: Path) -> None:
    _dataset().save_to_disk(tmp_path / "set")
    settings = _saved(tmp_path)
    with pytest.raises(
        ValueError, match=r"one saved Dataset; name the split it is: `files: \{train: \.\}`"
    ):
        load_task(settings, splits=["train"], seed=0)
    (tmp_path / "mine.yaml").write_text("kind: sequence_classification\nfiles: {train: .}\n")
    assert load_task(settings, splits=["train"], seed=0).splits == {"train": EXPECTED}


def test_saved_sets_in_a_folder_each_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    _dataset().save_to_disk(tmp_path / "set" / "train")
    assert load_task(_saved(tmp_path), splits=["train"], seed=0).splits == {"train": EXPECTED}
    (tmp_path / "set" / "train" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="train: not a set that `datasets` saved"):
        load_task(_saved(tmp_path), splits=["train"], seed=0)
