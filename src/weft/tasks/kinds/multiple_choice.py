"""Multiple choice: which of several continuations fits a context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from weft.config import Settings, validate
from weft.tasks.cases import Case, Claim, Option, loss_of
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import gold, ratio, softmax
from weft.tasks.text import (
    encoding_of,
    extent,
    fit,
    identity,
    sequences,
    text_of,
    valid_text,
    whole_number,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    choices: int = Field(default=4, ge=2)
    """Choices that every row has."""


class MultipleChoice(Task):
    """Which of several continuations fits a context.

    Columns: `context`; `choices`, a list of `options.choices` texts; `prefix`, the words that all
    choices begin with (may be empty or absent); `label`, the number of the right choice, from 0.

    Encoding: a sequence for each choice, as in transformers' SWAG example: first segment the
    context, second `prefix + " " + choice`; white space around each says nothing. A sequence longer
    than `max_length` is an error, or with `truncate: true` loses tokens from the end of its longer
    segment, the context where both are equally long. `labels`: number of the choice. Output (choices,).

    Prediction: `{id, label, choice, probabilities}`, probabilities in the order of the choices.
    Score: `accuracy`.
    """

    columns = ("context", "choices")
    optional = ("prefix",)
    target = "label"
    metric = "accuracy"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.choose(("accuracy",))

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        _options(spec)
        return []

    def check(self, example: Example, where: str) -> Example:
        choices = example.get("choices")
        if not isinstance(choices, list | tuple):
            raise ValueError(f"{where}: column 'choices' must be a list of texts, got {choices!r}")
        expected = self.options.choices
        if len(choices) != expected:
            raise ValueError(
                f"{where}: {len(choices)} choices where every row must have {expected}; "
                "set options.choices if another number is meant"
            )
        prefix = example.get("prefix") or ""
        checked = {
            "id": identity(example, where),
            "context": text_of(example, "context", where),
            "prefix": valid_text(prefix, "'prefix'", where) if prefix else "",
            "choices": [
                valid_text(choice, f"choice {number}", where)
                for number, choice in enumerate(choices)
            ],
        }
        if example.get("label") is None:
            return checked
        label = whole_number(example["label"])
        if label is None or not 0 <= label < expected:
            raise ValueError(
                f"{where}: column 'label' must be the number of a choice, 0 to {expected - 1}, "
                f"got {example['label']!r}"
            )
        return {**checked, "label": label}

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        inputs: dict[str, list[list[int]]] = {}
        for number, choice in enumerate(example["choices"]):
            row = f"row {example['id']!r}, choice {number}"
            second = f"{example['prefix'].strip()} {choice.strip()}".strip()
            encoding = encoding_of(tokenizer, example["context"].strip(), second)
            for segment, name in enumerate(("the context", "the choice")):
                extent(encoding, segment, f"{row}: {name}")
            kept = fit(encoding, self.spec.max_length, self.spec.truncate, row)
            for key, values in sequences(tokenizer, encoding, [kept]).items():
                inputs.setdefault(key, []).extend(values)
        record: Record = {"id": example["id"], **inputs}
        if "label" in example:
            record["labels"] = example["label"]
        return record

    def decode(self, example: Example, record: Record, output: np.ndarray) -> Prediction:
        probabilities = softmax(output)
        label = int(probabilities.argmax())
        return {
            "id": example["id"],
            "label": label,
            "choice": example["choices"][label],
            "probabilities": probabilities.tolist(),
        }

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Right rows, rows."""
        return np.array([prediction["label"] == gold(example, "label"), 1], dtype=np.float64)

    def case(self, prediction: Prediction, example: Example) -> Case:
        said, right, shares = (
            prediction["label"],
            gold(example, "label"),
            prediction["probabilities"],
        )
        options = tuple(
            Option(text, share, number == right)
            for number, (text, share) in enumerate(zip(example["choices"], shares, strict=True))
        )
        return Case(
            id=example["id"],
            text=f"{example['context']} {example['prefix']}".strip(),
            said=options[said].text,
            right=options[right].text,
            claims=(Claim(shares[said], said == right),),
            wrong=() if said == right else ("another choice",),
            loss=loss_of(shares[right]),
            options=options,
        )

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        totals = np.asarray(totals)
        return {"accuracy": ratio(totals[..., 0], totals[..., 1])}


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")
