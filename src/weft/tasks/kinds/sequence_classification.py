"""Sequence classification: a class, several classes, or a number for a text or a pair of texts."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from weft.config import Settings, validate
from weft.registry import unknown
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import f1, gold, ratio, softmax
from weft.tasks.text import encoding_of, extent, fit, identity, sequences, text_of


class Options(Settings):
    mode: Literal["single", "multi_label", "regression"] = "single"
    """One class a row, any number of classes a row, or one number a row."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """multi_label: probability from which a class is said."""
    separator: str = Field(default=",", min_length=1)
    """multi_label: what stands between classes where a row gives them as one string."""


class SequenceClassification(Task):
    """A class, several classes, or a number for a text or a pair of texts.

    Columns: `text`; `text_pair` for pairs; `label`: a class name (where the set's YAML names the
    classes, also its number from 0), with `mode: multi_label` a list of them or a string with
    separators ("" for none), with `mode: regression` a number.

    Encoding: one sequence. A row longer than `max_length` is an error, or with `truncate: true`
    loses tokens from the end of its longer text. `labels`: class number; a list of 0.0 and 1.0; or
    a float. Output (classes,), for regression (1,).

    Prediction: `{id, label, probabilities: {class: p}}`; without probabilities for regression.

    Scores: single: `accuracy`, `f1_macro`. multi_label: `f1_micro`, `f1_macro`, `accuracy` (all
    classes of a row right). Macro F1 averages over the classes that occur in references or
    predictions, as scikit-learn's does for single labels. regression: `pearson`, `mse`, `mae`;
    Spearman's is not additive over rows and is left out. Selected on accuracy, f1_micro or pearson.
    """

    columns = ("text",)
    optional = ("text_pair",)
    target = "label"
    metric = "accuracy"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.mode = self.options.mode
        selected = {"single": "accuracy", "multi_label": "f1_micro", "regression": "pearson"}
        self.metric = selected[self.mode]

    @property
    def num_labels(self) -> int:
        """Classes, or 1 for regression."""
        return 1 if self.mode == "regression" else len(self.labels)

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        """`spec.labels`, else what occurs, sorted (as numbers where all are); [] for regression."""
        options = _options(spec)
        if options.mode == "regression":
            if spec.labels:
                raise ValueError(
                    f"task {spec.name}: regression has no classes; remove `labels: {spec.labels}`"
                )
            return []
        if spec.labels is None:
            values = [row["label"] for row in examples if row.get("label") is not None]
            names = {name for value in values for name in _names(value, options)} - {""}
            labels = sorted(names, key=int if all(map(_is_digits, names)) else None)
        else:
            labels = list(spec.labels)
        if len(set(labels)) < len(labels) or len(labels) < (2 if options.mode == "single" else 1):
            raise ValueError(f"task {spec.name}: expected different classes, got {labels!s:.200}")
        return labels

    def check(self, example: Example, where: str) -> Example:
        checked = {"id": identity(example, where), "text": text_of(example, "text", where)}
        if example.get("text_pair") is not None:
            checked["text_pair"] = text_of(example, "text_pair", where)
        value = example.get("label")
        if value is None:
            return checked
        if self.mode == "regression":
            return {**checked, "label": _number(value, where)}
        names = [self._known(name, where) for name in _names(value, self.options)]
        if self.mode == "single":
            return {**checked, "label": names[0]}
        return {**checked, "label": [label for label in self.labels if label in names]}

    def _known(self, name: str, where: str) -> str:
        if name in self.labels:
            return name
        if self.spec.labels is not None and _is_digits(name) and int(name) < len(self.labels):
            return self.labels[int(name)]
        raise ValueError(f"{where}: column 'label': {unknown('class', name, self.labels)}")

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerFast) -> Record:
        row = f"row {example['id']!r}"
        encoding = encoding_of(tokenizer, example["text"], example.get("text_pair"))
        for segment in range(encoding.n_sequences):
            extent(encoding, segment, f"{row}: {('text', 'text_pair')[segment]!r}")
        kept = fit(encoding, self.spec.max_length, self.spec.truncate, row)
        record: Record = {"id": example["id"], **sequences(tokenizer, encoding, [kept])}
        if "label" not in example:
            return record
        if self.mode == "single":
            record["labels"] = self.labels.index(example["label"])
        elif self.mode == "multi_label":
            record["labels"] = [float(label in example["label"]) for label in self.labels]
        else:
            record["labels"] = example["label"]
        return record

    def decode(self, example: Example, record: Record, output: np.ndarray) -> Prediction:
        if self.mode == "regression":
            return {"id": example["id"], "label": float(output[0])}
        if self.mode == "single":
            probabilities = softmax(output)
            label = self.labels[int(probabilities.argmax())]
        else:
            probabilities = softmax(np.stack([np.zeros_like(output), output], axis=-1))[:, 1]
            said = probabilities >= self.options.threshold
            label = [name for name, yes in zip(self.labels, said, strict=True) if yes]
        by_class = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return {"id": example["id"], "label": label, "probabilities": by_class}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Classes: correct, predicted and gold rows of each class, rows all right, rows.

        Regression: rows; sums of x, y, xx, yy, xy and |x - y|, x predicted.
        """
        said, right = prediction["label"], gold(example, "label")
        if self.mode == "regression":
            return np.array(
                [1, said, right, said * said, right * right, said * right, abs(said - right)]
            )
        if self.mode == "single":
            said, right = [said], [right]
        predicted = np.array([name in said for name in self.labels])
        true = np.array([name in right for name in self.labels])
        exact = [np.array_equal(predicted, true), 1]
        return np.concatenate([predicted & true, predicted, true, exact]).astype(np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        totals = np.asarray(totals, dtype=np.float64)
        if self.mode == "regression":
            return _regression(totals)
        correct, predicted, true = np.split(totals[..., :-2], 3, axis=-1)
        occurring = (predicted + true) > 0
        macro = ratio(f1(correct, predicted, true).sum(-1), occurring.sum(-1))
        accuracy = ratio(totals[..., -2], totals[..., -1])
        if self.mode == "single":
            return {"accuracy": accuracy, "f1_macro": macro}
        micro = f1(correct.sum(-1), predicted.sum(-1), true.sum(-1))
        return {"f1_micro": micro, "f1_macro": macro, "accuracy": accuracy}


def _regression(totals: np.ndarray) -> dict[str, np.ndarray]:
    rows, x, y, xx, yy, xy, absolute = np.moveaxis(totals, -1, 0)
    spread = np.maximum(rows * xx - x * x, 0) * np.maximum(rows * yy - y * y, 0)
    return {
        "pearson": ratio(rows * xy - x * y, np.sqrt(spread), empty=np.nan),
        "mse": ratio(xx - 2 * xy + yy, rows, empty=np.nan),
        "mae": ratio(absolute, rows, empty=np.nan),
    }


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")


def _names(value: object, options: Options) -> list[str]:
    if options.mode == "single":
        return [str(value).strip()]
    parts = value if isinstance(value, list | tuple) else str(value).split(options.separator)
    return [name for part in parts if (name := str(part).strip())]


def _number(value: object, where: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: column 'label' must be a finite number, got {value!r}")
    return number


def _is_digits(name: str) -> bool:
    return name.isascii() and name.isdigit()
