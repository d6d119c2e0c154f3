"""Parquet files: what one unpacks to is weighed before a row is made of it.

A dictionary or a run of equal values takes some bytes in the file and any amount in memory, so neither the file's size
nor the sizes that it states say how much that is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.guard import RECORDS, check_file, parse_json

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

_ALWAYS = 256 << 20
"""Bytes that any file may unpack to,"""
_TIMES = 64
"""and how often its own size, up to `RECORDS`."""
_VALUE = 32
"""Bytes that a value takes at least, once it is one of Python's."""
_ROWS = 1024
"""Rows unpacked at a time, where they are not heavy."""
_BATCH = 32 << 20
"""Bytes unpacked at a time, as far as whole rows allow."""
_MOST_CLASSES = 100_000
_LISTS = [
    "List",
    "LargeList",
    "Sequence",
]  # compared with what a file says, which may be of any type
_HUB = b"huggingface"
"""Where `datasets` keeps what it knows of the columns."""


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, class numbers replaced by their names where the file has them.

    Raises:
        ValueError: If it is missing, damaged, or unpacks to too much; while iterating.
    """
    most = min(RECORDS, max(_ALWAYS, _TIMES * check_file(path)))
    file = _open(path)
    columns = file.schema_arrow.names
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path}: names a column twice: {columns!s:.200}")
    names = _class_names(file.schema_arrow.metadata, path)
    heaviest = max(1, _weigh(file, path, most))
    at_once = min(_ROWS, max(1, _ROWS * _BATCH // heaviest))
    rows = (row for batch in _batches(file, path, at_once) for row in _plain(batch, path))
    yield from named(rows, {key: names[key] for key in columns if key in names}, str(path))


def named(
    rows: Iterable[Mapping[str, Any]], names: Mapping[str, Sequence[str]], source: str
) -> Iterator[dict[str, Any]]:
    """`rows` with every class number replaced by its name; -1, the hub's "no answer", by None.

    Args:
        rows: With class numbers, or lists of them, in the columns of `names`.
        names: Class names in class order by column.
        source: What errors call it.

    Raises:
        ValueError: If a value is no number of a class; while iterating.
    """

    def name(value: Any, column: str, number: int) -> Any:
        if isinstance(value, list):
            return [name(item, column, number) for item in value]
        known = names[column]
        if value is None or value == -1:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(known):
            raise ValueError(
                f"{source}: row {number}: column {column!r}: expected the number of a class, 0 to "
                f"{len(known) - 1}, got {value!r:.60}"
            )
        return known[value]

    for number, row in enumerate(rows):
        yield {**row, **{column: name(row[column], column, number) for column in names}}


def _open(path: Path, dictionaries: Sequence[str] = ()) -> "parquet.ParquetFile":
    import pyarrow as pa  # heavy, and only this format wants it
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, read_dictionary=list(dictionaries))
    except (pa.ArrowException, *_DAMAGE) as error:
        raise ValueError(f"{path}: not a parquet file: {_said(error)}") from None


_DAMAGE = (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, AttributeError)
"""What the package raises, beside its own, where a file is not what it says."""


def _batches(file: "parquet.ParquetFile", path: Path, at_once: int) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=at_once)
    except (pa.ArrowException, *_DAMAGE) as error:
        raise ValueError(f"{path}: damaged: {_said(error)}") from None


def _plain(batch: "pa.RecordBatch", path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: holds text that is not UTF-8") from None
    except (pa.ArrowException, *_DAMAGE) as error:
        raise ValueError(f"{path}: holds a value that cannot be read: {_said(error)}") from None


def _weigh(file: "parquet.ParquetFile", path: Path, most: int) -> int:
    """The most bytes that `_ROWS` rows unpack to.

    Raises:
        ValueError: If the file unpacks to more than `most`: by what it states, then by what is in it.
    """
    stated = file.metadata
    groups = [stated.row_group(number) for number in range(stated.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    weight = sum(chunk.total_uncompressed_size + _VALUE * chunk.num_values for chunk in chunks)
    _refuse_heavy(weight, most, path)
    texts = [
        column.path
        for column in map(file.schema.column, range(len(file.schema)))
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _TEXT
    ]
    # Dictionaries stay dictionaries here: a text that a million rows share is in memory once.
    weight = heaviest = 0
    for batch in _batches(_open(path, texts), path, _ROWS):
        own = sum(map(_weight, batch.columns))
        weight, heaviest = weight + own, max(heaviest, own)
        _refuse_heavy(weight, most, path)
    return heaviest


_TEXT = {"STRING", "NONE", "JSON", "ENUM", "BSON"}


def _refuse_heavy(weight: int, most: int, path: Path) -> None:
    if weight > most:
        raise ValueError(
            f"{path}: unpacks to more than {most} bytes, too much for rows in memory or for a file of "
            "its size; cut it into smaller sets"
        )


def _weight(array: "pa.Array") -> int:
    """Bytes that the values of an array take, each counted as often as it is there."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(array.type):
        sizes = compute.call_function("binary_length", [array.dictionary])
        used = sizes.take(array.indices)
        return (compute.call_function("sum", [used]).as_py() or 0) + _VALUE * len(array)
    if isinstance(array, pa.MapArray):
        return _VALUE * len(array) + _weight(array.keys) + _weight(array.items)
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _VALUE * len(array) + _weight(array.flatten())
    if isinstance(array, pa.StructArray):
        return sum(map(_weight, array.flatten()))
    return array.nbytes + _VALUE * len(array)


def _class_names(metadata: Mapping[bytes, bytes] | None, path: Path) -> dict[str, list[str]]:
    """Class names by column, from what `datasets` wrote into the file."""
    said = (metadata or {}).get(_HUB)
    if said is None:
        return {}
    where = f"{path}: its metadata {_HUB.decode()!r}"
    value = parse_json(said.decode(errors="replace"), where)
    for key in ("info", "features"):
        value = (value.get(key) or {}) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a mapping with info.features")
    found: dict[str, list[str]] = {}
    for column, feature in value.items():
        label = feature[0] if isinstance(feature, list) and feature else feature
        if isinstance(label, dict) and label.get("_type") in _LISTS:
            label = label.get("feature")
        if not isinstance(label, dict) or label.get("_type") != "ClassLabel":
            continue
        names, count = label.get("names"), label.get("num_classes")
        if names is None and isinstance(count, int) and 0 < count <= _MOST_CLASSES:
            names = list(map(str, range(count)))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{where}: column {column!r}: expected class names, got {names!r:.60}")
        if names:
            found[column] = names
    return found


def _said(error: BaseException) -> str:
    return f"{error}".splitlines()[0][:200] if str(error) else type(error).__name__
