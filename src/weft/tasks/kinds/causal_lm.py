"""Causal language modelling: each token from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.config import Settings, validate
from weft.tasks.chat import chat_encoding, checked_messages, prompt_encoding, prompt_of
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.language.perplexity import COUNTS, counted, tokenization_scores
from weft.tasks.language.pieces import pieces_of
from weft.tasks.metrics import language_scores
from weft.tasks.packing import packed
from weft.tasks.text import (
    UNLABELLED,
    encoding_of,
    extent,
    fit,
    identity,
    sequences,
    text_of,
    windows,
)

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    pack: bool = False
    """Join the rows that are trained on to blocks of `max_length` tokens, as many whole rows as fit: less padding.
    Positions begin anew with every row, and no token looks at another row's. Scores are of rows, as ever."""
    tokenization: bool = False
    """Score what the tokenizer does as well: the share of tokens that are bytes or parts of characters, tokens per
    byte, and perplexities of whole characters, which byte fallback does not lower, of characters and of words."""


class CausalLM(Task):
    """Each token from those before it: of texts, of completions of prompts, or of what an assistant says in chats.

    Columns: `text`, which is its own answer; or `prompt` and `completion`, texts, of which the first is given and the
    second is learnt; or `messages`, a list of `{role, content}`, of which the turns of role `assistant` are learnt. Of
    a row that has several, `messages` come first, then `prompt`.

    Encoding of a text: windows of at most `max_length` tokens, neighbours sharing `stride` tokens;
    each has what the tokenizer adds around a text. `labels`: the token itself (the head shifts), -100
    at added tokens and at tokens that an earlier window has scored: every token is scored once. A
    tokenizer that puts nothing before a text leaves the text's first token unscored, and its
    windows share at least one token.

    Encoding of a prompt with its completion: both as one text, with the end-of-text token behind it;
    of messages: as the tokenizer's chat template writes them. Each is one sequence of at most
    `max_length` tokens; `truncate` cuts its end. `labels`: the tokens of the completion and of what
    ends it, or of the assistant's turns (see `tasks/chat.py`), -100 elsewhere.

    Output per sequence (tokens, 1): the negative log-likelihood, in nats, of each labelled token; what
    stands at other positions is not looked at.

    Prediction: `{id, nll, tokens, bytes}`: sum in nats, scored tokens, UTF-8 bytes of the text they
    cover.

    Scores: `bits_per_byte` = nll / ln 2 / bytes, comparable between tokenizers; `perplexity` =
    exp(nll / tokens), which is not. Lower is better. Selected on bits_per_byte. With the option
    `tokenization` those of `tasks/language/perplexity.py` too, of which `perplexity_of_characters` and
    `perplexity_of_words` are comparable.
    """

    columns = ("text",)
    optional = ("messages", "prompt", "completion")
    instead = (("messages",), ("prompt", "completion"))
    target = None
    metric = "bits_per_byte"
    higher_is_better = False

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = validate(Options, spec.options, f"task {spec.name}: options")
        self.choose(("bits_per_byte", "perplexity"))

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        return []

    def check(self, example: Example, where: str) -> Example:
        found: dict[str, Any] = {"id": identity(example, where)}
        if example.get("messages") is not None:
            return {**found, "messages": checked_messages(example["messages"], where)}
        if example.get("prompt") is None:
            return {**found, "text": text_of(example, "text", where)}
        found["prompt"] = text_of(example, "prompt", where)
        if example.get("completion") is not None:
            found["completion"] = text_of(example, "completion", where)
        return found

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row = f"row {example['id']!r}"
        if "messages" in example:
            return self._answered(
                example, tokenizer, *chat_encoding(tokenizer, example["messages"], row)
            )
        if "prompt" in example:
            return self._completed(example, tokenizer, row)
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
        text, rest = example["text"], 0
        if not first:
            begun = text[: encoding.offsets[0][1]]
            text, rest = text[len(begun) :], _rest_of_first(tokenizer, encoding.ids, begun)
        counted_from = first if first else 1
        own = [counted_from <= place < last for place in range(total)]
        return {
            "id": example["id"],
            **sequences(tokenizer, encoding, rows),
            "labels": labels,
            "num_bytes": [len(text.encode()) + rest],
            **self._counts(tokenizer, encoding.ids, own, [text]),
        }

    def _completed(
        self, example: Example, tokenizer: "PreTrainedTokenizerFast", row: str
    ) -> Record:
        if "completion" not in example:
            raise ValueError(f"{row} has a prompt and no completion to learn")
        prompt, completion = example["prompt"], example["completion"]
        text = prompt + completion
        encoding = encoding_of(tokenizer, text)
        _, last = extent(encoding, 0, row)
        if last == len(encoding) and tokenizer.eos_token:
            # Left to itself this tokenizer does not end a text, and a model that never saw an end would write none.
            text += tokenizer.eos_token
            encoding = encoding_of(tokenizer, text)
        own = [
            place >= last or (start < stop and stop > len(prompt))
            for place, (start, stop) in enumerate(encoding.offsets)
        ]
        return self._answered(example, tokenizer, encoding, own, text)

    def _answered(
        self,
        example: Example,
        tokenizer: "PreTrainedTokenizerFast",
        encoding: "Encoding",
        own: Sequence[bool],
        text: str,
    ) -> Record:
        """The record of one sequence, the tokens of `text`, of which those that are `own` are learnt."""
        row = f"row {example['id']!r}"
        kept = fit(encoding, self.spec.max_length, self.spec.truncate, row)
        if not any(own[place] for place in kept[1:]):
            raise ValueError(
                f"{row}: max_length {self.spec.max_length} cuts off all that would be learnt; raise it"
            )
        said = _said(tokenizer, encoding, [at for at in kept if own[at]], text)
        scored = [own[place] and place > 0 for place in kept]
        return {
            "id": example["id"],
            **sequences(tokenizer, encoding, [kept]),
            # The first token has none before it that could tell it.
            "labels": [
                [encoding.ids[place] if own[place] and place else UNLABELLED for place in kept]
            ],
            "num_bytes": [sum(len(part.encode()) for part in said)],
            **self._counts(tokenizer, [encoding.ids[place] for place in kept], scored, said),
        }

    def _counts(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        ids: Sequence[int],
        scored: Sequence[bool],
        said: Sequence[str],
    ) -> dict[str, list[int]]:
        """What the option `tokenization` asks of a text: units, raw tokens, characters and words, in this order."""
        if not self.options.tokenization:
            return {}
        units, raw = counted(pieces_of(tokenizer), ids, scored)
        characters, words = sum(map(len, said)), sum(len(part.split()) for part in said)
        return {"counts": [units, raw, characters, words]}

    def asked(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        if "text" in example:
            return self.encode(example, tokenizer)
        row = f"row {example['id']!r}"
        encoding = prompt_encoding(tokenizer, prompt_of(example), row)
        kept = fit(encoding, self.spec.max_length, self.spec.truncate, row)
        return {"id": example["id"], **sequences(tokenizer, encoding, [kept])}

    def packed(self, records: list[Record]) -> list[Record]:
        return packed(records, self.spec.max_length) if self.options.pack else records

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        nll, tokens = 0.0, 0
        for labels, values in zip(record["labels"], output, strict=True):
            scored = np.asarray(labels) != UNLABELLED
            nll += float(np.asarray(values, dtype=np.float64)[scored, 0].sum())
            tokens += int(scored.sum())
        found = {"id": example["id"], "nll": nll, "tokens": tokens, "bytes": record["num_bytes"][0]}
        return found | dict(zip(COUNTS[3:], record.get("counts", ()), strict=False))

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Negative log-likelihood in nats, scored tokens, their bytes; and the other `COUNTS`, where they are asked."""
        asked = COUNTS if self.options.tokenization else COUNTS[:3]
        return np.array([prediction[key] for key in asked], dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        found = language_scores(totals[..., :3])
        return found | (tokenization_scores(totals) if self.options.tokenization else {})


def _rest_of_first(tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int], begun: str) -> int:
    """Bytes that a text's first token leaves to the next of the character it ends in, the last of `begun`."""
    pieces = pieces_of(tokenizer)
    own = pieces.bytes[ids[0]]
    if own is None or not any(pieces.joins(ids[:2])):
        return 0
    return max(0, len(begun.encode()) - len(own))


def _said(
    tokenizer: "PreTrainedTokenizerFast", encoding: "Encoding", places: Sequence[int], text: str
) -> list[str]:
    """What the tokens at these places say, one text where they follow one another; special tokens say nothing."""
    special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: list[str] = []
    before, behind = -2, 0
    for place in places:
        start, stop = encoding.offsets[place]
        if encoding.ids[place] in special:
            continue
        follows = place == before + 1
        # Some tokenizers leave the space before a word out of its offsets; tokens of one character share them.
        start = behind if follows else max(start, behind)
        if follows and found:
            found[-1] += text[start:stop]
        else:
            found.append(text[start:stop])
        before, behind = place, max(stop, behind)
    return found
