"""Sequence classification: a class, several classes, or a number for a text or a pair of texts."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from weft.config import Settings, validate
from weft.registry import unknown
from weft.tasks.cases import Case, Claim, Option, loss_of
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.details import Details, class_table, confusion
from weft.tasks.metrics import f1, gold, matthews, pearson, ratio, softmax
from weft.tasks.ranks import mean_defined, roc_auc, spearman
from weft.tasks.text import encoding_of, extent, fit, identity, sequences, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    mode: Literal["single", "multi_label", "regression"] = "single"
    """One class a row, any number of classes a row, or one number a row."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """multi_label: probability from which a class is said."""
    separator: str = Field(default=",", min_length=1)
    """multi_label: what stands between classes where a row gives them as one string."""


SCORES = {
    "single": ("accuracy", "f1_macro", "matthews_corrcoef", "roc_auc"),
    "multi_label": ("f1_micro", "f1_macro", "accuracy", "roc_auc"),
    "regression": ("pearson", "spearman"),
}
"""What each mode can be selected on, its own choice first."""


class SequenceClassification(Task):
    """A class, several classes, or a number for a text or a pair of texts.

    Columns: `text`; `text_pair` for pairs; `label`: a class name (where the set's YAML names the
    classes, also its number from 0), with `mode: multi_label` a list of them or a string with
    separators ("" for none), with `mode: regression` a number.

    Encoding: one sequence; white space around a text says nothing. A row longer than `max_length` is
    an error, or with `truncate: true` loses tokens from the end of its longer text. `labels`: class
    number; a list of 0.0 and 1.0; or a float. Output (classes,), for regression (1,).

    Prediction: `{id, label, probabilities: {class: p}}`; without probabilities for regression.

    Scores: single: `accuracy`, `f1_macro`. multi_label: `f1_micro`, `f1_macro`, `accuracy` (all
    classes of a row right). Macro F1 averages over the classes that occur in references or
    predictions, as scikit-learn's does for single labels. regression: `pearson`, `mse`, `mae`.
    Selected on accuracy, f1_micro or pearson.

    Where the set's `metrics` names them: `matthews_corrcoef` (single; of several classes as Gorodkin
    2004, doi:10.1016/j.compbiolchem.2004.09.006), `spearman` (regression), `roc_auc` (the second of
    two classes against the first; else every class against the rest, averaged over the classes that
    some but not all rows have).
    """

    columns = ("text",)
    optional = ("text_pair",)
    target = "label"
    classes_per = "row"
    metric = "accuracy"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.mode = self.options.mode
        self.metric = SCORES[self.mode][0]
        self.choose(SCORES[self.mode])

    @property
    def num_labels(self) -> int:
        """Classes, or 1 for regression."""
        return 1 if self.mode == "regression" else len(self.labels)

    @classmethod
    def read(cls, spec: TaskSpec, example: Example, where: str) -> Example:
        options = _options(spec)
        if example.get("label") is not None and options.mode != "regression":
            _names(example["label"], options, where)
        return example

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
            names = {
                name for value in values for name in _names(value, options, f"task {spec.name}")
            } - {""}
            labels = sorted(names, key=int if all(map(_is_digits, names)) else None)
        else:
            labels = list(spec.labels)
        if len(set(labels)) < len(labels) or len(labels) < (2 if options.mode == "single" else 1):
            raise ValueError(
                f"task {spec.name}: expected different classes, got {', '.join(labels)[:200] or 'none'}"
            )
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
        names = [self._known(name, where) for name in _names(value, self.options, where)]
        if self.mode == "single":
            return {**checked, "label": names[0]}
        return {**checked, "label": [label for label in self.labels if label in names]}

    def _known(self, name: str, where: str) -> str:
        if name in self.labels:
            return name
        # JSON's true and false, in whatever case the classes have them.
        same = [label for label in self.labels if label.lower() == name.lower()]
        if name in ("True", "False") and len(same) == 1:
            return same[0]
        numbers = any(map(_is_digits, self.labels))
        by_number = self.spec.labels is not None and not numbers and _is_digits(name)
        if by_number and int(name) < len(self.labels):
            return self.labels[int(name)]
        hint = "; classes that look like numbers are taken by name" if numbers else ""
        raise ValueError(f"{where}: column 'label': {unknown('class', name, self.labels)}{hint}")

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row = f"row {example['id']!r}"
        pair = example["text_pair"].strip() if "text_pair" in example else None
        encoding = encoding_of(tokenizer, example["text"].strip(), pair)
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
        """Classes: correct, predicted and gold rows of each class, rows all right, rows; for `roc_auc` probabilities.

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
        counts = np.concatenate([predicted & true, predicted, true, exact]).astype(np.float64)
        if "roc_auc" not in self.spec.metrics:
            return counts
        return np.append(counts, [prediction["probabilities"][name] for name in self.labels])

    def case(self, prediction: Prediction, example: Example) -> Case | None:
        if self.mode == "regression":
            return None
        shares, right = prediction["probabilities"], gold(example, "label")
        several = self.mode == "multi_label"
        said = prediction["label"] if several else [prediction["label"]]
        right = list(right) if several else [right]
        # Of several, each class is claimed to be so or not; of one, the likeliest alone.
        claims = [
            Claim(max(share, 1 - share) if several else share, (name in said) == (name in right))
            for name, share in shares.items()
            if several or name in said
        ]
        sure = [
            shares[name] if name in right else 1 - shares[name]
            for name in shares
            if several or name in right
        ]
        missed = [name for name in right if name not in said]
        pair = f" / {example['text_pair']}" if example.get("text_pair") else ""
        if several:
            wrong = [f"missed {name}" for name in missed]
            wrong += [f"{name}, which it is not" for name in said if name not in right]
        else:
            wrong = [f"{name} taken for {said[0]}" for name in missed]
        return Case(
            id=example["id"],
            text=f"{example['text']}{pair}",
            said=", ".join(said) or "none",
            right=", ".join(right) or "none",
            claims=tuple(claims),
            wrong=tuple(wrong),
            loss=sum(map(loss_of, sure)),
            options=tuple(Option(name, share, name in right) for name, share in shares.items()),
        )

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        totals = np.asarray(totals, dtype=np.float64)
        if self.mode == "regression":
            return _regression(totals)
        totals = totals[..., : 3 * len(self.labels) + 2]
        correct, predicted, true = np.split(totals[..., :-2], 3, axis=-1)
        occurring = (predicted + true) > 0
        macro = ratio(f1(correct, predicted, true).sum(-1), occurring.sum(-1))
        accuracy = ratio(totals[..., -2], totals[..., -1])
        if self.mode == "single":
            scores = {"accuracy": accuracy, "f1_macro": macro}
            if "matthews_corrcoef" in self.spec.metrics:
                scores["matthews_corrcoef"] = matthews(correct, predicted, true)
            return scores
        micro = f1(correct.sum(-1), predicted.sum(-1), true.sum(-1))
        return {"f1_micro": micro, "f1_macro": macro, "accuracy": accuracy}

    def ranked(self, statistics: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        if "spearman" in self.spec.metrics:
            return {"spearman": spearman(statistics[:, 1], statistics[:, 2], counts)}
        if "roc_auc" not in self.spec.metrics:
            return {}
        classes = len(self.labels)
        true = statistics[:, 2 * classes : 3 * classes] > 0
        probabilities = statistics[:, -classes:]
        # Of two classes that exclude each other the curves are one.
        chosen = [1] if self.mode == "single" and classes == 2 else range(classes)
        areas = [roc_auc(probabilities[:, at], true[:, at], counts) for at in chosen]
        return {"roc_auc": mean_defined(np.stack(areas, axis=-1))}

    def details(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> Details | None:
        if self.mode == "regression":
            return None
        rows = zip(predictions, examples, strict=True)
        total = np.sum([self.statistics(said, example) for said, example in rows], axis=0)
        table = class_table(self.labels, *np.split(total[: 3 * len(self.labels)], 3))
        if self.mode == "multi_label":
            return Details("class", table, None)
        pairs = ([row["label"] for row in own] for own in (examples, predictions))
        return Details("class", table, confusion(self.labels, *pairs))


def _regression(totals: np.ndarray) -> dict[str, np.ndarray]:
    rows, _, _, xx, yy, xy, absolute = np.moveaxis(totals, -1, 0)
    return {
        "pearson": pearson(totals[..., :6]),
        "mse": ratio(xx - 2 * xy + yy, rows, empty=np.nan),
        "mae": ratio(absolute, rows, empty=np.nan),
    }


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")


def _names(value: object, options: Options, where: str) -> list[str]:
    """The classes that a row's label names.

    Raises:
        ValueError: If it is no class, or several where a row has one.
    """
    several = isinstance(value, list | tuple)
    if options.mode == "single":
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise ValueError(
                    f"{where}: column 'label' has {len(value)} classes, {list(value)!r:.80}; a row has one here: "
                    "say `options: {mode: multi_label}` for any number"
                )
            value = value[0]
        return [_name(value, where)]
    parts = value if several else _name(value, where).split(options.separator)
    assert isinstance(parts, list | tuple)
    return [name for part in parts if (name := _name(part, where))]


def _name(value: object, where: str) -> str:
    """A class name; whole numbers are written as such, whatever their type."""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    elif not isinstance(value, str | int):
        raise ValueError(f"{where}: column 'label' must hold a class name, got {value!r:.80}")
    return str(value).strip()


def _number(value: object, where: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: column 'label' must be a finite number, got {value!r:.80}")
    return number


def _is_digits(name: str) -> bool:
    return name.isascii() and name.isdigit()
