"""A column of weights: taken where it is named, for every kind, and checked by file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from weft.config import TaskSettings
from weft.data.encoding import encode_examples
from weft.data.reading import example_from_user, load_task

SPEC = "kind: sequence_classification\nlabels: [a, b]\n"
NAMED = SPEC + "columns: {weight: w}\n"
ROWS = "text,label,w\none,a,2\ntwo,b,0\nthree,a,0.5\n"


def settings(folder: Path, spec: str, **files: str) -> TaskSettings:
    for name, content in {"mine_yaml": spec, **files}.items():
        stem, ending = name.rsplit("_", 1)
        (folder / f"{stem}.{ending}").write_text(content, encoding="utf-8")
    return TaskSettings(name=str(folder / "mine.yaml"))


def test_named_weights_come_with_the_training_rows_and_their_records(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    own = settings(tmp_path, NAMED, train_csv=ROWS, validation_csv="text,label\nfour,b\n")
    loaded = load_task(own, splits=["train", "validation"], seed=0)
    assert [row["weight"] for row in loaded.splits["train"]] == [2.0, 0.0, 0.5]
    assert "weight" not in loaded.splits["validation"][0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert"))
    for _ in range(2):  # made, and read back
        records = encode_examples(loaded.task, loaded.splits["train"], tokenizer, cache=tmp_path)
        assert [record["weight"] for record in records] == [2.0, 0.0, 0.5]
    found = example_from_user(loaded.task, {"text": "five", "w": "none of your business"}, "row")
    assert found == {"id": "row", "text": "five"}


def test_a_column_that_only_happens_to_be_called_weight_is_let_be(tmp_path: Path) -> None:
    own = settings(tmp_path, SPEC, train_csv="text,label,weight\none,a,heavy\ntwo,b,light\n")
    rows = load_task(own, splits=["train"], seed=0).splits["train"]
    assert all("weight" not in row for row in rows)
    own = settings(tmp_path, SPEC + "columns: {weight: weight}\n")
    with pytest.raises(ValueError, match=r"train\.csv:2: column 'weight' must be a finite number"):
        load_task(own, splits=["train"], seed=0)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "", "two"])
def test_a_weight_that_is_no_number_from_0_is_refused_by_line(tmp_path: Path, value: str) -> None:
    own = settings(tmp_path, NAMED, train_csv=f"text,label,w\none,a,2\ntwo,b,{value}\n")
    with pytest.raises(ValueError, match=rf"train\.csv:3: column 'w' must be .*got '{value}'"):
        load_task(own, splits=["train"], seed=0)


@pytest.mark.parametrize(
    ("value", "said"),
    [("true", "column 'w' must be"), ("[1]", "column 'w' must be"), ("null", "'weight' is needed")],
)
def test_a_weight_in_json_is_a_number(tmp_path: Path, value: str, said: str) -> None:
    rows = (
        f'{{"text": "one", "label": "a", "w": 1}}\n{{"text": "two", "label": "b", "w": {value}}}\n'
    )
    with pytest.raises(ValueError, match=rf"train\.jsonl:2: {said}"):
        load_task(settings(tmp_path, NAMED, train_jsonl=rows), splits=["train"], seed=0)


def test_a_file_without_the_named_column_and_weights_that_are_all_0_are_refused(
    tmp_path: Path,
) -> None:
    own = settings(tmp_path, NAMED, train_csv="text,label\none,a\n")
    with pytest.raises(ValueError, match=r"train\.csv:2: no column named 'w'"):
        load_task(own, splits=["train"], seed=0)
    own = settings(tmp_path, NAMED, train_csv="text,label,w\none,a,0\ntwo,b,0.0\n")
    with pytest.raises(ValueError, match=r"train\.csv:2: column 'w' is 0 here and in every other"):
        load_task(own, splits=["train"], seed=0)
