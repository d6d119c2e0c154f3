"""What a task is: its description, and the contract every kind of task keeps.

A *kind* (`tasks/<kind>.py`) turns rows into model inputs, model outputs into answers, and answers into scores. A *named
set* (`tasks/<name>.yaml`) is a kind plus where its rows are. A user's own set is the same YAML in a file of their own.

    rows ─ check ─> examples ─ encode ─> records ─ model ─> outputs ─ decode ─> predictions ─ statistics ─> metrics

Plain Python values up to `records`; numpy for `outputs` and `statistics`. No torch here, and no model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from weft.config import Settings, Split
from weft.registry import unknown
from weft.tasks.cases import Case
from weft.tasks.details import Details

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Example = Mapping[str, Any]
"""One row in the kind's canonical columns; always with a string `id`."""
Record = dict[str, Any]
"""One encoded row: `id`; `input_ids` and, where the base has them, `token_type_ids`, both
`(sequences, tokens)` lists of lists; `labels` in the kind's form; and what `decode` needs."""
Prediction = dict[str, Any]
"""What a user gets for one row; JSON-able, always with the row's `id`."""


class Lines(str):
    """The place of a row that has a line of its own for each item: `file:line` of the first."""

    lines: tuple[int, ...]

    def __new__(cls, source: str, lines: Sequence[int]) -> "Lines":
        place = super().__new__(cls, f"{source}:{lines[0]}")
        place.source, place.lines = source, tuple(lines)
        return place

    source: str


def place_of(where: str, item: int) -> str:
    """Where an item of a row stands: its own line, if the row has one for each."""
    return f"{where.source}:{where.lines[item]}" if isinstance(where, Lines) else where


def _texts(values: Any) -> Any:
    """Names that YAML read as whole numbers, as text."""

    def text(value: Any) -> Any:
        if isinstance(value, bool):
            said = "yes, no, on, off, true, false"
            raise ValueError(f"YAML reads {said} as {value}: put the name in quotation marks")
        return str(value) if isinstance(value, int) else value

    if isinstance(values, Mapping):
        return {key: text(value) for key, value in values.items()}
    return [text(value) for value in values] if isinstance(values, list) else values


class Hub(Settings):
    """Where the set is on the hub."""

    path: str
    config: str | None = None
    revision: str | None = None
    columns: Annotated[dict[str, str], BeforeValidator(_texts)] = {}
    """Column on the hub by canonical column, where they differ from the files' (`TaskSpec.columns`)."""


class TaskSpec(Settings):
    """A set: its kind, its files and columns, its labels and limits. One YAML file."""

    name: str
    kind: str
    """A file of `tasks/`: sequence_classification, token_classification, multiple_choice, span_extraction, ..."""
    version: str = "1"
    """Changes whenever data or encoding change meaning."""
    description: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    format: str | None = None
    """csv, tsv, jsonl, json, conll, squad, parquet, text, label_studio, doccano or prodigy; None reads it off the
    file's ending and form."""
    files: dict[Split, str] = {}
    """File name by split, relative to the data folder; names not given are looked for as
    train / validation, val, dev / test with the format's ending."""
    columns: Annotated[dict[str, str], BeforeValidator(_texts)] = {}
    """Column in the files by canonical column of the kind; columns not named keep the canonical name. In CoNLL files
    by number: 0 is the first, -1 the last. Three of every kind are taken only where they are named: `weight`, what a
    training row counts in the loss, 0 or more; `user`, whose row it is, for personal experts; `state`, numbers that say
    what is known of whom the row is for, which gates may read."""
    header: list[str] | None = None
    """Names of the columns of csv, tsv or conll files that have no header line."""
    quotes: bool | None = None
    """Whether quotation marks around a field of a csv or tsv file belong to the file's form, as CSV has it, or to the
    text. None: csv has them; tsv has none, and is refused where its fields look as if it had."""
    comments: str | None = None
    """What a line of a conll file begins with that holds no token; None skips lines before a sentence that begin
    with # and have other columns than tokens have, "" skips none."""
    hub: Hub | None = None
    labels: Annotated[list[str] | None, BeforeValidator(_texts)] = None
    """Class names in class order; None collects them, sorted, from the training split."""
    options: dict[str, Any] = {}
    """Settings of the kind (e.g. `choices: 4`, `mode: multi_label`), checked by the kind."""
    metrics: list[str] = []
    """Scores that the set asks for, of those its kind knows; the first is what training and comparisons select on."""
    max_length: int = Field(default=128, ge=8)
    stride: int = Field(default=0, ge=0)
    truncate: bool = False


class Task(ABC):
    """One set, ready to encode, decode and score. A kind of task is one subclass.

    Args:
        spec: What the user said.
        labels: Class names in class order, as `collect_labels` found them; empty where the kind has none.
    """

    columns: ClassVar[tuple[str, ...]]
    """Canonical columns an example must have, besides `id`."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Canonical columns an example may have."""
    instead: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Columns that a row may have together in place of `columns` and `target`, the preferred first."""
    target: ClassVar[str | None]
    """The column with the answer; absent when predicting. None where the text itself is the answer."""
    metric: str
    """The score that training and comparisons select on; may depend on the kind's options."""
    higher_is_better: ClassVar[bool] = True
    classes_per: ClassVar[str | None] = None
    """What has a class that can be given a weight: a `row`, a `word`; None where nothing has."""
    found_in_training: ClassVar[tuple[str, ...]] = ()
    """Options that `tuned` may find, where the set does not say them."""
    files: ClassVar[bool] = False
    """Whether rows name files, so that whoever may ask may have them opened."""
    most_written: int = 0
    """Tokens of the longest answer of a kind whose answers are written; 0 where none are."""

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        self.spec = spec
        self.labels = list(labels)

    def choose(self, known: Sequence[str]) -> None:
        """Select on the first of the scores that the set asks for, if it asks for any.

        Args:
            known: The scores that this kind can be selected on.

        Raises:
            ValueError: If the set asks for another.
        """
        for name in self.spec.metrics:
            if name not in known:
                raise ValueError(f"task {self.spec.name}: metrics: {unknown('score', name, known)}")
        if self.spec.metrics:
            self.metric = self.spec.metrics[0]

    @property
    def num_labels(self) -> int:
        """Size of the head's output where the kind has classes."""
        return len(self.labels)

    @classmethod
    def read(cls, spec: TaskSpec, example: Example, where: str) -> Example:
        """`example` with its answer in the kind's form, where sources write it in several; before labels are known.

        Raises:
            ValueError: If its answer cannot be one, whatever the labels are; names the line.
        """
        return example

    @classmethod
    def located(cls, example: Example, folder: Path | None) -> Example:
        """`example` with the files that it names looked for in `folder`, that of the data; None leaves them as said."""
        return example

    @classmethod
    def settle(cls, spec: TaskSpec, examples: Sequence[Example]) -> TaskSpec:
        """`spec` with what it leaves to the training rows written out."""
        return spec

    @classmethod
    @abstractmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        """Class names in class order, from `spec.labels` or the training examples; [] where there are none."""

    @abstractmethod
    def check(self, example: Example, where: str) -> Example:
        """`example` in canonical types, or ValueError starting with `where` (file and line) that says what is wrong.

        The target may be absent (prediction); if present it is checked against `labels`.
        """

    @abstractmethod
    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        """One checked example as a record.

        Raises:
            ValueError: If it is longer than `spec.max_length`, has no windows, and `truncate` is off.
        """

    def asked(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        """One checked row to be answered as a record, as who recognises its task reads it."""
        return self.encode(example, tokenizer)

    def packed(self, records: list[Record]) -> list[Record]:
        """The records that training sees: `records` itself, or them joined where the kind and its options say so."""
        return records

    def length(self, record: Record) -> int:
        """How long a row is, where rows of similar length share a batch."""
        return max(len(ids) for ids in record["input_ids"])

    def at_step(self, record: Record, *, seed: int, step: int) -> Record:
        """`record` with what a training step draws once, alike for all rows, tasks and processes; itself if nothing."""
        return record

    def at(self, rates: Mapping[str, int]) -> "Task":
        """This task answering at one of the rates that its inputs were trained at, by input.

        Raises:
            ValueError: If it has no such input, or was not trained at that rate.
        """
        raise ValueError(
            f"task {self.spec.name}: rates are of inputs that are no text; a {self.spec.kind} has none"
        )

    def sample(self, record: Record, generator: np.random.Generator) -> Record:
        """`record` with what is drawn anew each time it is used (masks); itself where nothing is."""
        return record

    def outcomes(self, logits: np.ndarray, labels: Sequence[int] | None) -> np.ndarray:
        """What `decode` gets of one sequence from its logits, where it is not the logits themselves.

        For who has a head's logits and not the head: `Kind.outputs` (`model/heads/`) does the same in torch.

        Args:
            logits: (tokens, vocabulary).
            labels: The sequence's own, as `encode` or `sample` made them.
        """
        return logits

    @abstractmethod
    def decode(self, example: Example, record: Record, output: Any) -> Prediction:
        """The answer for one row from its head's output.

        Args:
            example: The checked example.
            record: Its record.
            output: Float32 logits of this row without padding: (classes,) for sequence classification, (choices,)
                for multiple choice; ragged kinds get a list-like of one array per sequence: (tokens, labels) for
                token classification, (tokens, 2) for spans, (tokens, 1) for causal and
                (tokens, 1 + 2k) for masked language models (see the kind). Where answers are written: the text.
        """

    @abstractmethod
    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Additive counts of one row, float64 (k,): `metrics` of their sum over rows is the score."""

    @abstractmethod
    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """Scores as fractions from summed statistics; vectorised over leading dimensions.

        Args:
            totals: (..., k) sums of `statistics`; leading dimensions are bootstrap resamples.
        """

    def ranked(self, statistics: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores that no sums can tell (ranks, best thresholds), of every resample: (resamples,).

        Args:
            statistics: `statistics` of every row, (rows, k).
            counts: How often each row was drawn, (resamples, rows).
        """
        return {}

    def details(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> Details | None:
        """Scores class by class, and what was taken for what; None where the kind has no classes."""
        return None

    def case(self, prediction: Prediction, example: Example) -> Case | None:
        """A row as people look at it, its answer beside the right one; None where the kind has nothing of the sort."""
        return None

    def tuned(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> "Task":
        """This task with what is chosen on rows that neither training nor the final score sees; itself by default."""
        return self

    def with_found(self, options: Mapping[str, Any]) -> "Task":
        """This task with what `tuned` found, as the options of a trained expert's task hold it."""
        own = self.spec.options
        found = {
            name: options[name]
            for name in self.found_in_training
            if own.get(name) is None and options.get(name) is not None
        }
        if not found:
            return self
        spec = self.spec.model_copy(update={"options": {**own, **found}})
        return type(self)(spec, self.labels)
