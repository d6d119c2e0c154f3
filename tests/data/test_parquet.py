"""Parquet is weighed before it is unpacked, and what it says of itself is not trusted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from weft.data.formats import read_rows

COUNT = 20_000
SHARED = pa.DictionaryArray.from_arrays(pa.array([0] * COUNT, pa.int32()), ["x" * 1_000_000])
BOMBS = {
    "a text that all rows share": SHARED,
    "in lists": pa.ListArray.from_arrays(pa.array(range(COUNT + 1), pa.int32()), SHARED),
    "in structures": pa.StructArray.from_arrays([SHARED], ["a"]),
    "a list of nothing": pa.ListArray.from_arrays(
        pa.array([0, 10**8], pa.int32()), pa.nulls(10**8)
    ),
    "one number": pa.array([0], pa.int64()).take(pa.array([0] * 10**7, pa.int8())),
}

ROOT = Path(__file__).parents[2]
READ = """
import sys
from pathlib import Path
from tests.data.mutated import peak_mb
from weft.data.formats import read_rows
try:
    list(read_rows(Path(sys.argv[1])))
except ValueError as error:
    print(error)
print(int(peak_mb()))
"""


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before(
    what: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"text": BOMBS[what]}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    process = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, held = process.stdout.splitlines()
    assert said.startswith(f"{path}: unpacks to more than 268435456 bytes, too much")
    assert int(held) < 300


def _written(folder: Path, columns: dict[str, Any], metadata: bytes | None = None) -> Path:
    path = folder / "train.parquet"
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, path)
    return path


def _classes(**features: Any) -> bytes:
    return json.dumps({"info": {"features": features}}).encode()


LABEL = {"names": ["no", "yes"], "_type": "ClassLabel"}


def test_class_numbers_become_names_alone_and_in_lists_of_every_spelling(tmp_path: Path) -> None:
    numbers = [[0, 1], [-1], [None]]
    columns = {
        "label": [1, -1, None],
        "new": numbers,
        "old": numbers,
        "oldest": numbers,
        "plain": [5, 6, 7],
    }
    said = _classes(
        label=LABEL,
        new={"feature": LABEL, "_type": "List"},
        old={"feature": LABEL, "_type": "Sequence", "length": -1},
        oldest=[LABEL],
        plain={"dtype": "int64", "_type": "Value"},
        absent=LABEL,
    )
    tags = [["no", "yes"], [None], [None]]
    assert [row for row, _ in read_rows(_written(tmp_path, columns, said))] == [
        {"label": label, "new": tag, "old": tag, "oldest": tag, "plain": plain}
        for label, tag, plain in zip(["yes", None, None], tags, [5, 6, 7], strict=True)
    ]


def test_columns_that_the_hub_has_no_type_for_are_read(tmp_path: Path) -> None:
    # A data frame's categories.
    columns = {"label": pa.array(["a", "b", "a"]).dictionary_encode()}
    assert [row["label"] for row, _ in read_rows(_written(tmp_path, columns))] == ["a", "b", "a"]


@pytest.mark.parametrize("value", [2, -2, "yes", True, 1.0])
def test_a_class_that_is_none_is_refused_by_its_row(tmp_path: Path, value: Any) -> None:
    path = _written(tmp_path, {"label": [value]}, _classes(label=LABEL))
    said = f"train.parquet: row 0: column 'label': expected the number of a class, 0 to 1, got {value!r}$"
    with pytest.raises(ValueError, match=said):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"{", "its metadata 'huggingface':1: not JSON"),
        (b"[1]", "its metadata 'huggingface': expected a mapping with info.features"),
        (
            b'{"info": {"features": [1]}}',
            "its metadata 'huggingface': expected a mapping with info",
        ),
        (_classes(label={**LABEL, "names": 7}), "column 'label': expected class names, got 7"),
        (b"[" * 100_000, "lists and mappings nested deeper than 64"),
    ],
)
def test_metadata_that_is_broken_is_a_sentence(tmp_path: Path, metadata: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=r"train.parquet: ") as caught:
        list(read_rows(_written(tmp_path, {"label": [0]}, metadata)))
    assert said in str(caught.value)


def test_text_that_is_not_utf8_and_pages_that_are_cut_are_sentences(tmp_path: Path) -> None:
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    with pytest.raises(ValueError, match=r"train.parquet: holds text that is not UTF-8$"):
        list(read_rows(_written(tmp_path, {"text": wrong})))
    path = _written(tmp_path, {"text": ["a" * 1000] * 10})
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"train.parquet: damaged: "):
        list(read_rows(path))
