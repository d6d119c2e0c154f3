"""Transcription: a text from a recording, a picture, or both, by a decoder that reads them as a prefix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from weft.config import Settings, validate
from weft.registry import unknown
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.inputs import inputs
from weft.tasks.inputs.contract import Input, pooled_steps, rate_at, stamp_of
from weft.tasks.language.edits import edits
from weft.tasks.text import UNLABELLED, encoding_of, extent, identity, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = "text"
"""Among the inputs: a prompt in words, which the decoder's own embedding reads."""
PLACEHOLDER = 0
"""The token that stands where the prefix goes; its embedding is replaced."""

Rate = Annotated[int, Field(ge=1)]


class Options(Settings):
    inputs: list[str] = ["audio"]
    """What a row has, in the order in which the decoder reads it: audio, image, text."""
    rates: dict[str, Annotated[list[Rate], Field(min_length=1)]] = {}
    """Vectors of an input that become one token, their mean; each training step draws one of the list, the same for
    all rows and tasks. Not said: 1, none are joined."""
    at: dict[str, Rate] = {}
    """Rates that answers are given at, each of those trained; the finest where not said."""
    encoders: dict[str, dict[str, Any]] = {}
    """Settings of each input: how files are read, and the size of its encoder."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Tokens of the longest answer."""


class Transcription(Task):
    """The words of a recording, a picture, or both.

    Columns: `audio`, the path of a WAV file; `image`, of a picture; relative to the folder of the data, or to the
    working folder for rows in memory and inputs of predictions. `prompt`, a text, where `inputs` has text. Of these
    the row has those that the option `inputs` names. Its answer: `text`.

    Encoding: what the tokenizer puts before a text; for each input, in the order of `inputs`, as many
    placeholders as its vectors leave when they are pooled, or the prompt's tokens. `sample` adds the answer's tokens
    with the end-of-text token behind them, the only ones that are labelled; prompt and answer are tokenised apart.
    Nothing is cut: what is longer than `max_length` at its finest rate is refused.

    Output: the text that the decoder wrote, taking the likeliest token at each place.

    Prediction: `{id, text}`.

    Scores: `word_error_rate` = insertions, deletions and substitutions of words over words of the answers, words
    being what stands between white space; `exact`, the share of rows without an error. Selected on
    word_error_rate, of which lower is better.
    """

    columns = ()
    optional = (*inputs.names(), "prompt")
    target = "text"
    metric = "word_error_rate"
    higher_is_better = False
    files: ClassVar[bool] = True

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        where = f"task {spec.name}: options"
        self.options = validate(Options, spec.options, where)
        known = [*inputs.names(), TEXT]
        for name in [*self.options.inputs, *self.options.rates, *self.options.encoders]:
            if name not in known:
                raise ValueError(f"{where}: {unknown('input', name, known)}")
        chosen = self.options.inputs
        if len(set(chosen)) < len(chosen) or not set(chosen) - {TEXT}:
            raise ValueError(
                f"{where}: inputs: expected {', '.join(inputs.names())}, each once, with or without {TEXT}, got "
                f"{chosen}; for text alone use kind causal_lm"
            )
        self.readers: dict[str, Input] = {}
        for name in chosen:
            if name != TEXT:
                kind = inputs.load(name)
                own = self.options.encoders.get(name, {})
                settings = validate(kind.settings_type, own, f"{where}: encoders: {name}")
                self.readers[name] = kind(settings)
        self._check_rates(self.options.at)
        self.most_written = self.options.max_new_tokens
        if spec.metrics and spec.metrics[0] == "exact":
            raise ValueError(
                f"task {spec.name}: metrics: exact is told beside word_error_rate, not selected on"
            )
        self.choose(("word_error_rate",))
        # Here the set's options decide, so an object says more than its class.
        vars(self)["columns"] = tuple(self._column(name) for name in chosen)
        vars(self)["optional"] = ()

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        return []

    @classmethod
    def located(cls, example: Example, folder: Path | None) -> Example:
        if folder is None:
            return example
        found = {
            name: str(folder / example[name])
            for name in inputs.names()
            if isinstance(example.get(name), str) and example[name].strip()
        }
        return {**example, **found}

    def check(self, example: Example, where: str) -> Example:
        found: dict[str, Any] = {"id": identity(example, where), "given": []}
        for name in self.options.inputs:
            column = self._column(name)
            found[column] = text_of(example, column, where)
            if name == TEXT:
                continue
            path = Path(found[column]).expanduser().absolute()
            steps = self.readers[name].steps(path, where)
            found[column] = str(path)
            found["given"].append(
                {"name": name, "path": str(path), "stamp": stamp_of(path), "steps": steps}
            )
        if example.get("text") is not None:
            found["text"] = text_of(example, "text", where)
        return found

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row = f"row {example['id']!r}"
        before, behind = _frame(tokenizer, row)
        ids, given = list(before), []
        own = {one["name"]: one for one in example["given"]}
        for name in self.options.inputs:
            if name == TEXT:
                ids += _tokens(tokenizer, example["prompt"], f"{row}: the prompt")
                continue
            rate = self.rate(name)
            count = pooled_steps(own[name]["steps"], rate)
            given.append({**own[name], "rate": rate, "start": len(ids)})
            ids += [PLACEHOLDER] * count
        record: Record = {"id": example["id"], "input_ids": [ids], "given": given}
        if "token_type_ids" in tokenizer.model_input_names:
            record["token_type_ids"] = [[0] * len(ids)]
        finest = len(ids) + sum(
            pooled_steps(one["steps"], min(self.rates(one["name"])))
            - pooled_steps(one["steps"], one["rate"])
            for one in given
        )
        if "text" in example:
            record["labels"] = [[*_tokens(tokenizer, example["text"], row), *behind]]
            finest += len(record["labels"][0])
        if finest > self.spec.max_length:
            raise ValueError(
                f"{row}: {finest} tokens at the finest rates, more than max_length {self.spec.max_length}; raise "
                "max_length, or give coarser rates"
            )
        return record

    def length(self, record: Record) -> int:
        """Of the answer: the same whatever the row is read from, so that tasks of the same rows batch them alike."""
        return len(record["labels"][0])

    def rates(self, name: str) -> list[int]:
        """The rates that an input is trained at."""
        return self.options.rates.get(name, [1])

    def rate(self, name: str) -> int:
        """The rate at which answers are given."""
        return self.options.at.get(name, min(self.rates(name)))

    def at(self, rates: Mapping[str, int]) -> "Transcription":
        self._check_rates(rates)
        options = {**self.spec.options, "at": {**self.options.at, **rates}}
        return type(self)(self.spec.model_copy(update={"options": options}), self.labels)

    def at_step(self, record: Record, *, seed: int, step: int) -> Record:
        rates = {
            name: rate_at(name, self.rates(name), seed=seed, step=step) for name in self.readers
        }
        return _pooled(record, rates)

    def sample(self, record: Record, generator: np.random.Generator) -> Record:
        """The record with its answer behind it, nothing drawn."""
        if "labels" not in record:
            return record
        [ids], [labels] = record["input_ids"], record["labels"]
        whole = {**record, "labels": [[*[UNLABELLED] * len(ids), *labels]]}
        return _with_ids(whole, [*ids, *labels])

    def decode(self, example: Example, record: Record, output: str) -> Prediction:
        return {"id": example["id"], "text": output.strip()}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Errors, words of the answer, rows without an error, rows."""
        if "text" not in example:
            raise ValueError(f"row {example['id']!r} has no 'text' to compare with")
        said, right = prediction["text"].split(), example["text"].split()
        wrong = edits(said, right)
        return np.array([wrong, len(right), wrong == 0, 1], dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        wrong, words, exact, rows = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
        return {
            "word_error_rate": wrong / np.maximum(words, 1),
            "exact": exact / np.maximum(rows, 1),
        }

    def _check_rates(self, rates: Mapping[str, int]) -> None:
        for name, rate in rates.items():
            if name not in self.readers:
                raise ValueError(
                    f"task {self.spec.name}: at: {unknown('input', name, self.readers)}"
                )
            if rate not in self.rates(name):
                known = ", ".join(map(str, self.rates(name)))
                raise ValueError(
                    f"task {self.spec.name}: {name} was not trained at rate {rate}; choose one of {known}"
                )

    @staticmethod
    def _column(name: str) -> str:
        return "prompt" if name == TEXT else name


def _pooled(record: Record, rates: Mapping[str, int]) -> Record:
    """The record at other rates; as `encode` would have made it."""
    [ids], moved, given = record["input_ids"], 0, []
    for one in record["given"]:
        old, new = (pooled_steps(one["steps"], rate) for rate in (one["rate"], rates[one["name"]]))
        start = one["start"] + moved
        ids = [*ids[:start], *[PLACEHOLDER] * new, *ids[start + old :]]
        moved += new - old
        given.append({**one, "rate": rates[one["name"]], "start": start})
    return _with_ids({**record, "given": given}, ids)


def _with_ids(record: Record, ids: list[int]) -> Record:
    found = {**record, "input_ids": [ids]}
    return found | ({"token_type_ids": [[0] * len(ids)]} if "token_type_ids" in record else {})


def _frame(tokenizer: "PreTrainedTokenizerFast", row: str) -> tuple[list[int], list[int]]:
    """The tokens before any text, and those that end one."""
    encoding = encoding_of(tokenizer, "a")
    first, last = extent(encoding, 0, row)
    behind: list[int] = list(encoding.ids[last:])
    end = tokenizer.eos_token_id
    if not behind and isinstance(end, int):
        behind = [end]
    if not behind:
        raise ValueError(
            f"{row}: the base's tokenizer has no end-of-text token, so an answer would never end; give it one "
            "(eos_token)"
        )
    return encoding.ids[:first], behind


def _tokens(tokenizer: "PreTrainedTokenizerFast", text: str, row: str) -> list[int]:
    ids = encoding_of(tokenizer, text, special=False).ids
    if not ids:
        raise ValueError(f"{row} has no tokens: the tokenizer drops all its characters")
    return ids
