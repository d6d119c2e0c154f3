"""Damaged and hostile files, and what reading them comes to: a process of its own, so that memory and time are its own.

python -m tests.data.mutated write FORM FIRST COUNT FOLDER     writes them, a folder each
python -m tests.data.mutated read FORM FIRST COUNT FOLDER      prints faults as JSON lines, then the most memory held
"""

import contextlib
import json
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import parquet

from weft.config import TaskSettings, load_run
from weft.data.formats import FORMATS
from weft.data.reading import find_kind, find_spec, load_task

LONGEST_S = 5.0
"""Processor time, so that a busy machine is no fault."""
LONGEST_MESSAGE = 3000
MOST_ADDRESSES = 8 << 30
"""Against a fault that would take the machine down before it is told."""

ROWS = [{"text": f'a good film {n}, "quoted"\tand so on', "label": "ab"[n % 2]} for n in range(8)]
TAGS = ["O", "B-a", "I-a", "O"]


def _separated(delimiter: str) -> str:
    quoted = [[f'"{value.replace(chr(34), 2 * chr(34))}"' for value in r.values()] for r in ROWS]
    return "\n".join(delimiter.join(fields) for fields in [["text", "label"], *quoted]) + "\n"


def _table() -> pa.Table:
    columns = {name: [row[name] for row in ROWS] for name in ("id", "text", "tokens", "tags")}
    return pa.table({**columns, "label": [n % 2 for n in range(8)]}).replace_schema_metadata(
        {"huggingface": json.dumps(FEATURES)}
    )


FEATURES = {
    "info": {
        "features": {
            "label": {"names": ["a", "b"], "_type": "ClassLabel"},
            "tags": {
                "feature": {"names": ["O", "B-a", "I-a"], "_type": "ClassLabel"},
                "_type": "List",
            },
            "text": {"dtype": "string", "_type": "Value"},
        }
    }
}
for number, row in enumerate(ROWS):
    row |= {"id": str(number)}
PARQUET_ROWS = [{**row, "tokens": ["a", "good", "film", "x"], "tags": [0, 1, 2, 0]} for row in ROWS]
QAS = [
    {"id": str(n), "question": "who?", "answers": [{"text": "good", "answer_start": 2}]}
    for n in range(8)
]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "a good film", "qas": QAS}]}]}
SENTENCE = "\n".join(f"{word}\t{tag}" for word, tag in zip("abcd", TAGS, strict=True))

EXAMPLES = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "jsonl": "\n".join(map(json.dumps, ROWS)) + "\n",
    "json": json.dumps(ROWS),
    "conll": "\n\n".join([SENTENCE] * 8) + "\n",
    "squad": json.dumps(SQUAD),
    "text": "\n\n".join("a good film\nof two lines" for _ in ROWS),
}
KINDS = {"conll": "token_classification", "squad": "span_extraction", "text": "causal_lm"}
SETTINGS: dict[str, dict[str, Any]] = {
    "run": {
        "base": "minilm",
        "task": {"name": "squad", "max_examples": {"train": 5}},
        "recipe": {"name": "lora", "rank": 4, "targets": ["query", "value"], "modules": ["a"]},
        "training": {"epochs": 2, "learning_rate": 0.001, "schedule": "linear"},
        "mixture": {"name": "xlora", "runs": ["a", "b"]},
        "seed": 3,
    },
    "task": {
        "kind": "sequence_classification",
        "format": "csv",
        "files": {"train": "train.csv"},
        "columns": {"text": "sentence"},
        "hub": {"path": "a/b", "columns": {"text": "t"}},
        "labels": ["a", "b"],
        "options": {"mode": "multi_label"},
        "max_length": 64,
    },
    "grid": {
        "bases": ["minilm", "other"],
        "tasks": {"squad": {"task": {"name": "squad"}, "training": {"epochs": 1}}},
        "recipes": {"lora": {"recipe": {"name": "lora"}, "learning_rates": [0.1, 0.2]}},
        "seeds": [0, 1],
    },
}
FORMS = [*FORMATS, *SETTINGS]

ODD: list[Any] = [
    None, True, -1, 0, 10**30, 1e300, float("nan"), float("inf"), "", " ", "x" * 5000, "\u2028", "\0", "é",
    [], {}, [[]], [None], {"": ""}, {"a": [1]}, [1, "a"], "../../../etc/passwd", "/dev/zero", "*" * 50, "\ud83d",
    -(2**63), 1.5, "O", ["O"] * 300,
]  # fmt: skip
SCRAPS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"'", b",", b"\t", b"\n", b"\r", b"\r\n\r\n", b"{",
    b"}", b"[", b"]", b":", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ", b"---\n", b"? ", b"- ", b"# ",
    b"!!int ", b"\\", b"\\ud83d", b"[" * 3000, b'{"a":' * 3000, b"9" * 6000, b"x" * 200_000,
    b" " * 1000, b"\xe2\x80\xa8", b"-DOCSTART- -X- O\n\n", b"1e999", b"NaN", b"\x1a", b"\x85", b"a\tb\tc\td\te\n",
]  # fmt: skip


def _in_bytes(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, lost, doubled, cut off, moved, or something odd put between."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
        at = chance.randrange(len(made) + 1)
        until = min(len(made), at + chance.choice([1, 2, 8, 64, 512]))
        how = chance.randrange(6)
        if how == 0 and at < len(made):
            made[at] = chance.randrange(256)
        elif how == 1:
            del made[at:until]
        elif how == 2:
            made[at:at] = made[at:until] * chance.choice([1, 2, 100])
        elif how == 3 and chance.random() < 0.3:
            del made[at:]
        elif how == 4:
            lines = bytes(made).split(b"\n")
            chance.shuffle(lines)
            made = bytearray(b"\n".join(lines))
        else:
            made[at:at] = chance.choice(SCRAPS)
    return bytes(made)


def _in_values(value: Any, chance: random.Random) -> Any:
    """One value somewhere inside replaced by something odd, taken away, or under another name."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(ODD)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        if chance.random() < 0.1:
            return [*value[:at], *value[at + 1 :]]
        return [*value[:at], _in_values(value[at], chance), *value[at + 1 :]]
    key = chance.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    if chance.random() < 0.1:
        return rest
    if chance.random() < 0.1:
        return {**rest, chance.choice([1, "x", "", None, 2.5]): value[key]}
    return {**value, key: _in_values(value[key], chance)}


def _parquet(chance: random.Random, path: Path, *, heavy: bool) -> None:
    table = _parquet_table(chance, heavy=heavy)
    packing = "zstd" if heavy else chance.choice(["none", "snappy", "zstd", "gzip"])
    parquet.write_table(table, path, compression=packing)
    if chance.random() < 0.6:
        path.write_bytes(_flipped(path.read_bytes(), chance))


def _flipped(data: bytes, chance: random.Random) -> bytes:
    # Mostly in the footer: what says how to read the rest.
    made = bytearray(data)
    for _ in range(chance.choice([1, 2, 4])):
        first = int.from_bytes(data[-8:-4], "little") if chance.random() < 0.7 else len(data)
        made[-chance.randrange(1, first + 9 if first + 9 < len(made) else len(made))] = (
            chance.randrange(256)
        )
    return bytes(made[: chance.randrange(len(made))] if chance.random() < 0.1 else made)


def _parquet_table(chance: random.Random, *, heavy: bool) -> pa.Table:
    columns = {
        name: [row[name] for row in PARQUET_ROWS] for name in ("id", "text", "tokens", "tags")
    }
    table = pa.table({**columns, "label": [n % 2 for n in range(8)]})
    odd: dict[str, Callable[[], pa.Array]] = {
        "numbers": lambda: pa.array([0, 1, 2, -5, 99, None, 0, 1]),
        "strings": lambda: pa.array(list("abababab")),
        "floats": lambda: pa.array([float("nan"), 1.5, 0, 1, 0, 1, 0, 1]),
        "bytes": lambda: pa.array([b"\xff\xfe"] * 8),
        "not UTF-8": lambda: pa.Array.from_buffers(
            pa.string(),
            8,
            [None, pa.array(range(9), pa.int32()).buffers()[1], pa.py_buffer(b"\xff" * 8)],
        ),
        "classes": lambda: pa.array(list("abababab")).dictionary_encode(),
        "times": lambda: pa.array([2**62 + 1] * 8, pa.timestamp("ns", "Mars/Olympus")),
        "days": lambda: pa.array([2**31 - 1] * 8, pa.date32()),
        "decimals": lambda: pa.array([1] * 8, pa.decimal128(20, 2)),
        "maps": lambda: pa.array([[("a", 1)]] * 8, pa.map_(pa.string(), pa.int64())),
        "structs": lambda: pa.array([{"a": 1, "b": ["x"]}] * 8),
        "lists": lambda: pa.array([[0, 7], [], None, [None], [1], [2], [0], [0]]),
        "nothing": lambda: pa.nulls(8),
    }
    bombs: dict[str, Callable[[], pa.Array]] = {
        "gigabytes": lambda: pa.DictionaryArray.from_arrays(pa.array([0] * 8), ["x" * 60_000_000]),
        "nested gigabytes": lambda: pa.ListArray.from_arrays(
            pa.array(range(0, 72_000_008, 9_000_000)[:9]), pa.nulls(72_000_000)
        ),
    }
    if heavy or chance.random() < 0.6:
        name = chance.choice(table.column_names)
        kinds = bombs if heavy else odd
        made = kinds[chance.choice(list(kinds))]()
        table = table.set_column(table.column_names.index(name), name, made)
    if chance.random() < 0.1:
        table = table.slice(0, 0)
    said = _in_values(FEATURES, chance) if chance.random() < 0.5 else FEATURES
    text = json.dumps(said).encode("utf-8", "surrogatepass")
    text = _in_bytes(text, chance) if chance.random() < 0.2 else text
    return table.replace_schema_metadata({"huggingface": text})


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def write(form: str, number: int, folder: Path) -> None:
    """Write the mutated file of a number, always the same."""
    folder.mkdir()
    chance = random.Random(f"{form} {number}")
    if form in SETTINGS:
        path = folder / f"{form}-settings.yaml"
        text = yaml.safe_dump(_in_values(SETTINGS[form], chance), allow_unicode=False)
        data = text.encode() if chance.random() < 0.4 else _in_bytes(text.encode(), chance)
    else:
        path = folder / f"train{FORMATS[form].endings[0]}"
        if form == "parquet":
            _parquet(chance, path, heavy=number % 25 == 0)
            return
        text = EXAMPLES.get(form, EXAMPLES["json"])
        data = _in_bytes(text.encode(), chance)
        if "json" in form or form not in {"csv", "tsv", "conll", "text"}:
            whole = (
                [json.loads(line) for line in text.splitlines()]
                if form == "jsonl"
                else json.loads(text)
            )
            made = _in_values(whole, chance)
            lines = made if form == "jsonl" and isinstance(made, list) else [made]
            data = data if chance.random() < 0.4 else b"\n".join(map(_dumped, lines))
    path.write_bytes(data)


def read(form: str, number: int, path: Path) -> None:
    """What a user would do with the file."""
    if form == "run":
        load_run(path)
    elif form == "task":
        find_kind(find_spec(str(path)))
    elif form == "grid":
        from weft.comparison.grid import (
            load_grid,  # it takes memory that the others are not to be charged with
        )

        load_grid(path)
    else:
        kind = KINDS.get(form, "sequence_classification")
        if form == "parquet" and number % 2:
            kind = "token_classification"
        task = path.parent / "own.yaml"
        task.write_text(f"kind: {kind}\nformat: {form}\nfiles: {{train: {path.name}}}\n")
        load_task(TaskSettings(name=str(task)), splits=["train"], seed=0)


def fault(form: str, number: int, folder: Path) -> str | None:
    """What is wrong with how a mutated file was taken; None where it was read, or refused by a sentence."""
    path = next(path for path in folder.iterdir() if path.name != "own.yaml")
    start = time.process_time()
    found = None
    try:
        read(form, number, path)
    except (ValueError, KeyError, TypeError) as error:
        said = str(error)
        # A registered set is named by its name, and that of a file is the file's.
        known = path.stem if form in SETTINGS else str(folder)
        if type(error) not in (ValueError, KeyError, TypeError):
            found = f"{type(error).__name__}: {said:.500}"
        elif known not in said:
            found = f"does not name the file: {type(error).__name__}: {said:.500}"
        elif len(said) > LONGEST_MESSAGE:
            found = f"{len(said)} characters: {said:.500}"
    except BaseException as error:
        found = f"{type(error).__name__}: {error}"[:500]
    took = time.process_time() - start
    return f"took {took:.1f} s" if took > LONGEST_S else found


def peak_mb() -> float:
    """The most memory that this process has held; `getrusage` counts what its parent held, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(what: str, form: str, first: int, count: int, folder: Path) -> None:
    """Write mutated files; or read them and print a line for each fault, and the most memory held, in MB."""
    numbers = range(first, first + count)
    if what == "write":
        for number in numbers:
            write(form, number, folder / str(number))
        return
    warnings.simplefilter("error")
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    for number in numbers:
        # Said before, so that a crash of the process has its number too.
        print(json.dumps({"number": number}), flush=True)
        found = fault(form, number, folder / str(number))
        if found:
            print(json.dumps({"form": form, "number": number, "fault": found}), flush=True)
    print(json.dumps({"MB": peak_mb()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
