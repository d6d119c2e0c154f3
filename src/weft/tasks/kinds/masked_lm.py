"""Masked language modelling: hidden tokens from what stands on both sides of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from weft.config import Settings, validate
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import language_scores
from weft.tasks.text import (
    UNLABELLED,
    encoding_of,
    extent,
    identity,
    most_context,
    pick,
    sequences,
    text_of,
    windows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


TOP_MASKS = 5
"""Candidates kept for each mask."""


class Options(Settings):
    probability: float = Field(default=0.15, gt=0, le=1)
    """Share of a text's tokens that `sample` hides; at least one."""


class MaskedLM(Task):
    """Hidden tokens from what stands on both sides of them.

    Columns: `text`; it is its own answer. A text for prediction holds the tokenizer's mask token
    (`[MASK]`).

    Encoding: windows of at most `max_length` tokens, neighbours sharing `stride` tokens; each has
    what the tokenizer adds around a text. A token can be hidden only in the window that shows most
    of its context. `labels`: -100 everywhere but at masks that the text itself holds, where the
    label is the mask's id and stands for "unknown". `sample` hides `probability` of the tokens that
    are not special: of these 80 % become the mask, 10 % a random token, 10 % stay (Devlin et al.
    2019, arXiv:1810.04805, section 3.1); labels are the hidden tokens.

    Output per sequence (tokens, 1 + 2k): negative log-likelihood of the label in nats, the k best
    token ids, their probabilities; positions without a label are not looked at.

    Prediction: `{id, masks: [{position, start, end, tokens: [{token, score}]}], nll, tokens,
    bytes}`: one of `masks` for each mask of the text itself, position counted in tokens of the
    text, start and end its character offsets; sum in nats, number and UTF-8 bytes of the tokens
    that `sample` hid. The names of tokens come from the tokenizer that `encode` saw last; set
    `tokenizer` where records come from elsewhere.

    Scores: `perplexity` = exp(nll / tokens) is a pseudo-perplexity of hidden tokens, and
    `bits_per_byte` counts only their bytes: neither compares with a causal model's. Lower is
    better. Selected on perplexity.
    """

    columns = ("text",)
    target = None
    metric = "perplexity"
    higher_is_better = False

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = validate(Options, spec.options, f"task {spec.name}: options")
        self.choose(("bits_per_byte", "perplexity"))
        self.tokenizer: PreTrainedTokenizerFast | None = None

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        return []

    def check(self, example: Example, where: str) -> Example:
        return {"id": identity(example, where), "text": text_of(example, "text", where)}

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row = f"row {example['id']!r}"
        mask = tokenizer.mask_token_id
        if mask is None:
            raise ValueError(
                f"{row}: this base's tokenizer has no mask token; causal_lm is the kind for it"
            )
        self.tokenizer = tokenizer
        encoding = encoding_of(tokenizer, example["text"])
        first, last = extent(encoding, 0, f"{row}: the text")
        total = len(encoding)
        room = self.spec.max_length - first - (total - last)
        spans = windows(last - first, room, self.spec.stride, row)
        rows = [
            [*range(first), *range(first + start, first + end), *range(last, total)]
            for start, end in spans
        ]
        owner = np.full(total, -1)
        owner[first:last] = most_context(spans, last - first)
        ids, special = encoding.ids, set(tokenizer.all_special_ids)
        places = [
            [place if owner[place] == number else -1 for place in shown]
            for number, shown in enumerate(rows)
        ]
        starts = [start for start, _ in encoding.offsets]
        ends = [end for _, end in encoding.offsets]
        return {
            "id": example["id"],
            **sequences(tokenizer, encoding, rows),
            "labels": [
                [mask if place >= 0 and ids[place] == mask else UNLABELLED for place in shown]
                for shown in places
            ],
            "maskable": [
                [int(place >= 0 and ids[place] not in special) for place in shown]
                for shown in places
            ],
            "positions": [[place - first if place >= 0 else -1 for place in p] for p in places],
            "starts": pick(starts, rows),
            "ends": pick(ends, rows),
            "vocabulary": [mask, tokenizer.vocab_size],
        }

    def sample(self, record: Record, generator: np.random.Generator) -> Record:
        """`record` with other tokens hidden; the same ones for the same state of `generator`."""
        mask, size = record["vocabulary"]
        inputs = [list(ids) for ids in record["input_ids"]]
        labels = [[UNLABELLED] * len(ids) for ids in inputs]
        maskable = [
            (sequence, place)
            for sequence, flags in enumerate(record["maskable"])
            for place, flag in enumerate(flags)
            if flag
        ]
        count = min(len(maskable), max(1, round(self.options.probability * len(maskable))))
        chosen = generator.choice(len(maskable), count, replace=False) if count else []
        fates, others = generator.random(count), generator.integers(size, size=count)
        for index, fate, other in zip(chosen, fates, others, strict=True):
            sequence, place = maskable[index]
            labels[sequence][place] = inputs[sequence][place]
            if fate < 0.9:
                inputs[sequence][place] = mask if fate < 0.8 else int(other)
        return {**record, "input_ids": inputs, "labels": labels}

    def outcomes(self, logits: np.ndarray, labels: Sequence[int] | None) -> np.ndarray:
        """(tokens, 1 + 2k): the label's nll, NaN where there is none; the k best ids; their probabilities."""
        wide = logits.astype(np.float32)
        wide = wide - wide.max(-1, keepdims=True)
        log_sum = np.log(np.exp(wide).sum(-1, keepdims=True))
        k = min(TOP_MASKS, wide.shape[-1])
        best = np.argsort(-wide, axis=-1, kind="stable")[:, :k]
        chances = np.exp(np.take_along_axis(wide, best, -1) - log_sum)
        own = np.array([UNLABELLED] * len(wide) if labels is None else labels)[:, None]
        nll = log_sum - np.take_along_axis(wide, np.maximum(own, 0), -1)
        nll = np.where(own == UNLABELLED, np.float32(np.nan), nll)
        return np.concatenate([nll, best.astype(np.float32), chances], axis=-1)

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        mask, text = record["vocabulary"][0], example["text"]
        masks: list[dict[str, Any]] = []
        nll, tokens, size = 0.0, 0, 0
        for sequence, labels in enumerate(record["labels"]):
            for place, label in enumerate(labels):
                if label == UNLABELLED:
                    continue
                values = np.asarray(output[sequence][place], dtype=np.float64)
                start, end = record["starts"][sequence][place], record["ends"][sequence][place]
                if label == mask:
                    position = record["positions"][sequence][place]
                    found = {"position": position, "start": start, "end": end}
                    masks.append({**found, "tokens": self._candidates(values[1:])})
                    continue
                nll += float(values[0])
                tokens += 1
                size += len(text[start:end].encode())
        return {
            "id": example["id"],
            "masks": masks,
            "nll": nll,
            "tokens": tokens,
            "bytes": size,
        }

    def _candidates(self, values: np.ndarray) -> list[dict[str, Any]]:
        if self.tokenizer is None:
            raise ValueError("set `tokenizer` of this task to name the tokens that masks stand for")
        ids, scores = np.split(values, 2)
        names = self.tokenizer.convert_ids_to_tokens(ids.astype(int).tolist())
        return [
            {"token": name, "score": score}
            for name, score in zip(names, scores.tolist(), strict=True)
        ]

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Negative log-likelihood in nats, hidden tokens, their bytes."""
        return np.array([prediction[key] for key in ("nll", "tokens", "bytes")], dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        return language_scores(totals)
