"""A split's files are found under their published names and the hub's, or refused."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from weft.config import Split
from weft.data.reading import find_spec
from weft.data.sources import find_files, split_rows
from weft.tasks.contract import Hub, TaskSpec


def _spec(**values: object) -> TaskSpec:
    return TaskSpec.model_validate({"name": "mine", "kind": "sequence_classification", **values})


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def _error(spec: TaskSpec, folder: Path, split: Split = "train") -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        find_files(spec, split, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("swag", ["train.csv", "val.csv", "test.csv"]),
        ("swag", ["train.csv", "dev.csv", "test.csv"]),
        ("squad", ["train-v1.1.json", "dev-v1.1.json", "test-v1.1.json"]),
        ("squad", ["train-v1.1.json", "validation-v1.1.json", "test.json"]),
        ("wnut17", ["wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"]),
        ("wnut17", ["train.conll", "validation.conll", "test.conll"]),
    ],
)
def test_published_names_are_found(tmp_path: Path, name: str, files: list[str]) -> None:
    _touch(tmp_path, *files, "README.md", "retrain.csv", "contest.json")
    spec = find_spec(name)
    splits: list[Split] = ["train", "validation", "test"]
    found = [find_files(spec, split, tmp_path) for split in splits]
    assert found == [(spec.format, [tmp_path / file]) for file in files]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("swag", ["regular/train-00000-of-00001.parquet"]),
        ("squad", [f"plain_text/train-0000{n}-of-00002.parquet" for n in range(2)]),
        ("squad", ["data/train-00000-of-00001.parquet"]),
        ("wnut17", ["wnut_17/train/0000.parquet", "wnut_17/train/0001.parquet"]),
        ("wnut17", ["train-00000-of-00001.parquet"]),
        ("wnut17", ["train.parquet"]),
    ],
)
def test_the_hubs_layouts_are_found(tmp_path: Path, name: str, files: list[str]) -> None:
    _touch(tmp_path, *files, "validation-00000-of-00001.parquet", "full/README.md")
    found = find_files(find_spec(name), "train", tmp_path)
    assert found == ("parquet", [tmp_path / file for file in files])


def test_the_hubs_config_chooses_among_folders(tmp_path: Path) -> None:
    names = [f"{config}/train-00000-of-00001.parquet" for config in ("full", "regular")]
    _touch(tmp_path, *names)
    assert find_files(find_spec("swag"), "train", tmp_path)[1] == [tmp_path / names[1]]
    assert "more than one file could be the train split: full/" in _error(_spec(), tmp_path)


def test_missing_parts_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "train-00000-of-00003.parquet", "train-00002-of-00003.parquet")
    assert "parts are missing: 2 of 3 are here" in _error(_spec(), tmp_path)
    _touch(tmp_path / "b", "train/0000.parquet", "train/0002.parquet")
    assert "parts are missing: 2 of 3 are here" in _error(_spec(), tmp_path / "b")


def test_files_named_in_the_spec_decide(tmp_path: Path) -> None:
    _touch(tmp_path, "train.csv", "part/all.tsv")
    spec = _spec(files={"train": "part/all.tsv", "test": "gone.csv"})
    assert find_files(spec, "train", tmp_path) == ("tsv", [tmp_path / "part/all.tsv"])
    said = "no file 'gone.csv' for the test split; the folder holds: part/, train.csv"
    assert _error(spec, tmp_path, "test") == f"{tmp_path}: {said}"


def test_a_missing_split_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    _touch(tmp_path, "train.csv", "notes.txt")
    said = _error(_spec(format="csv"), tmp_path, "validation")
    assert said.startswith(f"{tmp_path}: no file for the validation split; looked for ")
    assert "for validation or val or dev with .csv, .parquet; the folder holds" in said
    assert "the folder holds: notes.txt, train.csv." in said
    assert "training.evaluate_on: holdout" in said
    assert "holdout" not in _error(_spec(format="csv"), tmp_path, "test")


def test_two_candidates_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "train.csv", "train.jsonl", "val.csv", "dev.csv")
    assert "could be the train split: train.csv, train.jsonl" in _error(_spec(), tmp_path)
    said = _error(_spec(format="csv"), tmp_path, "validation")
    assert "could be the validation split: dev.csv, val.csv" in said


def test_the_splits_own_name_goes_before_longer_ones(tmp_path: Path) -> None:
    _touch(tmp_path, "old.train.csv", "train.csv")
    assert find_files(_spec(), "train", tmp_path) == ("csv", [tmp_path / "train.csv"])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert _error(_spec(), tmp_path / "gone").startswith(f"{tmp_path / 'gone'}: no such folder")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    assert "Did you mean 'csv'" in _error(_spec(format="cvs"), tmp_path)


def _hub_like(folder: Path) -> Path:
    features = datasets.Features(
        {"id": datasets.Value("string"), "tokens": datasets.List(datasets.Value("string"))}
        | {"ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-person"]))}
    )
    columns = {"id": ["0", "1"], "tokens": [["Ada", "ran"], ["so"]], "ner_tags": [[1, 0], [0]]}
    path = folder / "set" / "train" / "0000.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return folder


def test_the_hub_and_its_local_copy_give_the_same_rows(tmp_path: Path) -> None:
    folder = _hub_like(tmp_path / "wnut")
    spec = find_spec("wnut17").model_copy(
        update={"hub": Hub(path=str(folder), columns={"tags": "ner_tags"})}
    )
    remote, remote_columns = split_rows(spec, "train", None)
    local, local_columns = split_rows(spec, "train", folder)
    rows = [
        {"id": "0", "tokens": ["Ada", "ran"], "ner_tags": ["B-person", "O"]},
        {"id": "1", "tokens": ["so"], "ner_tags": ["O"]},
    ]
    assert list(remote) == [(row, f"{folder} train: row {n}") for n, row in enumerate(rows)]
    file = folder / "set" / "train" / "0000.parquet"
    assert list(local) == [(row, f"{file}: row {n}") for n, row in enumerate(rows)]
    assert remote_columns == local_columns == {"tags": "ner_tags"}


def test_a_split_that_the_hub_lacks_is_refused(tmp_path: Path) -> None:
    spec = _spec(hub={"path": str(_hub_like(tmp_path / "wnut"))})
    with pytest.raises(ValueError, match=r"the hub gave no test split .* Unknown split"):
        list(split_rows(spec, "test", None)[0])


def test_a_set_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mine: not on the hub; give `data: FOLDER`"):
        list(split_rows(_spec(), "train", None)[0])


def test_without_network_the_error_names_the_set_and_the_way_out() -> None:
    code = (
        "from weft.config import TaskSettings; from weft.data.reading import load_task\n"
        "load_task(TaskSettings(name='squad'), splits=['train'], seed=0)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["HF_HOME"] = os.devnull
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    said = "ValueError: squad: the hub could not be reached for 'rajpurkar/squad'"
    assert said in done.stderr
    assert done.stderr.rstrip().endswith("give `data: FOLDER` with the set's files")
