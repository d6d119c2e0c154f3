"""Causal language modelling: each token from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from weft.config import Settings, validate
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import language_scores
from weft.tasks.text import UNLABELLED, encoding_of, extent, identity, sequences, text_of, windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    """This kind has no options."""


class CausalLM(Task):
    """Each token from those before it.

    Columns: `text`; it is its own answer.

    Encoding: windows of at most `max_length` tokens, neighbours sharing `stride` tokens; each has
    what the tokenizer adds around a text. `labels`: the token itself (the head shifts), -100 at
    added tokens and at tokens that an earlier window has scored: every token is scored once. A
    tokenizer that puts nothing before a text leaves the text's first token unscored, and its
    windows share at least one token. Output per sequence (tokens, 1): the negative log-likelihood,
    in nats, of each labelled token; what stands at other positions is not looked at.

    Prediction: `{id, nll, tokens, bytes}`: sum in nats, scored tokens, UTF-8 bytes of the text they
    cover.

    Scores: `bits_per_byte` = nll / ln 2 / bytes, comparable between tokenizers; `perplexity` =
    exp(nll / tokens), which is not. Lower is better. Selected on bits_per_byte.
    """

    columns = ("text",)
    target = None
    metric = "bits_per_byte"
    higher_is_better = False

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        validate(Options, spec.options, f"task {spec.name}: options")
        self.choose(("bits_per_byte", "perplexity"))

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        return []

    def check(self, example: Example, where: str) -> Example:
        return {"id": identity(example, where), "text": text_of(example, "text", where)}

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row = f"row {example['id']!r}"
        encoding = encoding_of(tokenizer, example["text"])
        first, last = extent(encoding, 0, f"{row}: the text")
        total = len(encoding)
        stride = max(self.spec.stride, 0 if first else 1)
        room = self.spec.max_length - first - (total - last)
        spans = windows(last - first, room, stride, row)
        rows, labels = [], []
        scored = first if first else 1
        for start, end in spans:
            shown = range(first + start, first + end)
            rows.append([*range(first), *shown, *range(last, total)])
            labels.append(
                [UNLABELLED] * first
                + [encoding.ids[place] if place >= scored else UNLABELLED for place in shown]
                + [UNLABELLED] * (total - last)
            )
            scored = first + end
        text = example["text"] if first else example["text"][encoding.offsets[0][1] :]
        return {
            "id": example["id"],
            **sequences(tokenizer, encoding, rows),
            "labels": labels,
            "num_bytes": [len(text.encode())],
        }

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        nll, tokens = 0.0, 0
        for labels, values in zip(record["labels"], output, strict=True):
            scored = np.asarray(labels) != UNLABELLED
            nll += float(np.asarray(values, dtype=np.float64)[scored, 0].sum())
            tokens += int(scored.sum())
        return {"id": example["id"], "nll": nll, "tokens": tokens, "bytes": record["num_bytes"][0]}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Negative log-likelihood in nats, scored tokens, their bytes."""
        return np.array([prediction[key] for key in ("nll", "tokens", "bytes")], dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        return language_scores(totals)
