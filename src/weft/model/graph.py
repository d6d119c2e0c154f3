"""An expert's ONNX graph as it lies in a folder, and rows through it by ONNX Runtime.

Neither torch nor transformers is imported: what is answered here starts in a fraction of the time that they take.
`storage/forms/onnx.py` writes such folders.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from weft import guard
from weft.config import Settings, validate
from weft.tasks.contract import Record

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "model.onnx"
ABOUT = "onnx.json"
TOKENS_PER_BATCH = 1024
"""Padded tokens in one call. Measured on a CPU by benchmarks/answering.py: larger batches leave its caches."""

Unit = tuple[int, int | None]
"""A row, and which of its sequences; None is all of them together."""


class About(Settings):
    """What a caller of the graph must know: `onnx.json`."""

    task: str
    kind: str
    labels: list[str]
    """Class names in class order."""
    inputs: list[str]
    """All int64, in the shape that `axes` says."""
    axes: list[str]
    """batch, choices where a row's sequences are set against each other, length."""
    along: list[str]
    """What there is an answer for: row, sequence, or sequence and token."""
    answers: list[str]
    """Names of the outputs."""
    pad_id: int
    mask_id: int | None
    special_ids: list[int]
    vocabulary: int
    """Tokens that the embedding knows."""
    max_length: int
    """Tokens of a sequence."""
    quantised: str | None
    opset: int


class Graph:
    """The graph of a folder.

    Args:
        folder: What an export to onnx wrote.

    Raises:
        ValueError: If its `onnx.json` is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / ABOUT
        self.about = validate(About, guard.read_json(path), str(path))

    @cached_property
    def session(self) -> "InferenceSession":
        """ONNX Runtime's, on the CPU.

        Raises:
            ValueError: If the package is not installed, or the graph is damaged.
        """
        return session(self.folder / GRAPH)

    def outputs(
        self, records: Sequence[Record], tokens_per_batch: int | None = None
    ) -> list[list[np.ndarray]]:
        """For every row what the graph answers to each of its sequences, without padding.

        One array for a row whose sequences are set against each other. By token, an array is (tokens, outcomes).

        Args:
            records: Encoded rows.
            tokens_per_batch: Padded tokens in one call, unless a single unit has more; None is `TOKENS_PER_BATCH`.

        Raises:
            ValueError: If a row holds a token that the graph does not know.
        """
        for record in records:
            self._check(record)
        found: list[list[np.ndarray]] = [
            [np.empty(0)] * (1 if self._together else len(record["input_ids"]))
            for record in records
        ]
        for units in self._batches(records, tokens_per_batch or TOKENS_PER_BATCH):
            inputs, lengths = self._inputs(records, units)
            answers = self.ask(inputs)
            value = answers[0] if len(answers) == 1 else np.stack(answers, axis=-1)
            for (row, sequence), own, length in zip(units, value, lengths, strict=True):
                found[row][sequence or 0] = own[:length] if "token" in self.about.along else own
        return found

    def ask(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One array for each of the graph's answers, to inputs as `about` describes them."""
        return cast("list[np.ndarray]", self.session.run(self.about.answers, dict(inputs)))

    @property
    def _together(self) -> bool:
        return "choices" in self.about.axes

    def _check(self, record: Record) -> None:
        highest = max((max(ids, default=0) for ids in record["input_ids"]), default=0)
        if highest >= self.about.vocabulary:
            raise ValueError(
                f"row {record.get('id', '?')!r} holds token number {highest}, and {self.folder / GRAPH} knows "
                f"{self.about.vocabulary} tokens; the tokenizer beside it is another's"
            )

    def _batches(self, records: Sequence[Record], tokens: int) -> Iterator[list[Unit]]:
        """Units of like length, longest first; of a row's sequences together, rows with equally many."""
        units: list[tuple[int, int, Unit]] = []
        for row, record in enumerate(records):
            lengths = [len(ids) for ids in record["input_ids"]]
            if self._together:
                units.append((max(lengths), len(lengths), (row, None)))
            else:
                units += [(length, 1, (row, at)) for at, length in enumerate(lengths)]
        units.sort(key=lambda unit: (-unit[1], -unit[0]))
        batch: list[Unit] = []
        width = count = 0
        for length, sequences, unit in units:
            if batch and (sequences != count or (len(batch) + 1) * count * width > tokens):
                yield batch
                batch = []
            if not batch:
                width, count = length, sequences
            batch.append(unit)
        if batch:
            yield batch

    def _inputs(
        self, records: Sequence[Record], units: Sequence[Unit]
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        """Padded arrays, and the tokens of each unit."""
        rows = [_sequences(records[row], at) for row, at in units]
        width = max(len(ids) for own in rows for ids in own["input_ids"])
        shape = (len(rows), *((len(rows[0]["input_ids"]),) if self._together else ()), width)
        found = {
            name: np.full(shape, self.about.pad_id if name == "input_ids" else 0, dtype=np.int64)
            for name in self.about.inputs
        }
        for name, array in found.items():
            flat = array.reshape(len(rows), -1, width)
            for at, own in enumerate(rows):
                for number, ids in enumerate(own["input_ids"]):
                    values: Any = 1 if name == "attention_mask" else own[name][number]
                    flat[at, number, : len(ids)] = values
        return found, [max(map(len, own["input_ids"])) for own in rows]


def _sequences(record: Record, at: int | None) -> Mapping[str, Sequence[Sequence[int]]]:
    own = {name: record[name] for name in ("input_ids", "token_type_ids") if name in record}
    return own if at is None else {name: [values[at]] for name, values in own.items()}


def session(path: Path) -> "InferenceSession":
    """ONNX Runtime's session on a graph, on the CPU.

    Raises:
        ValueError: If the package is not installed, or the graph is missing or damaged.
    """
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf, NoSuchFile
    except ImportError:
        raise ValueError(
            "a graph of ONNX is answered by onnxruntime, which is not installed: pip install 'weft[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it remarks on what it folds away
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidProtobuf, NoSuchFile) as error:
        raise ValueError(
            f"{path}: no graph that can be read: {str(error)[:200]}; export it anew"
        ) from None
