"""Span extraction: the answer to a question, as a span of a paragraph (SQuAD v1.1)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from weft.config import Settings, validate
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import gold, ratio, softmax
from weft.tasks.text import (
    encoding_of,
    extent,
    identity,
    most_context,
    sequences,
    text_of,
    valid_text,
    whole_number,
    windows,
)


class Options(Settings):
    max_answer_tokens: int = Field(default=30, ge=1)
    """Longest answer that can be said."""
    n_best: int = Field(default=20, ge=1)
    """Spans over which scores are normalised."""
    n_best_kept: int = Field(default=5, ge=1)
    """Spans that a prediction lists."""


class SpanExtraction(Task):
    """The answer to a question, as a span of a paragraph (SQuAD v1.1).

    Columns: `question`; `context`; `answers`, a list of `{text, start}` where start is the answer's
    character offset in the context. Training aims at the first answer, scores take the best of all.

    Encoding: question and context as a pair; the question stays whole, the context is shown in
    windows of at most `max_length` tokens together with the question, neighbours sharing `stride`
    tokens. `labels`: (first, last) token of the answer in each window, (0, 0) in windows that do
    not hold all of it. Output per window (tokens, 2): start and end.

    Prediction: `{id, text, start, end, score, n_best}`: the span with the highest sum of start and
    end logits over all windows, of at most `max_answer_tokens` tokens, begun in the window that
    shows most of its first token's context (as in google-research/bert, run_squad.py); score is the
    softmax over the `n_best` sums, of which `n_best_kept` are listed.

    Scores: `f1` of words and `exact_match`, as SQuAD v1.1's evaluation script. Selected on f1.
    """

    columns = ("question", "context")
    target = "answers"
    metric = "f1"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        _options(spec)
        return []

    def check(self, example: Example, where: str) -> Example:
        checked: dict[str, object] = {
            "id": identity(example, where),
            "question": text_of(example, "question", where),
            "context": text_of(example, "context", where),
        }
        answers = example.get("answers")
        if answers is None:
            return checked
        if not isinstance(answers, list | tuple) or not answers:
            raise ValueError(
                f"{where}: column 'answers' must be a list of at least one {{text, start}}, "
                f"got {answers!r}"
            )
        checked["answers"] = [_answer(answer, example["context"], where) for answer in answers]
        return checked

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerFast) -> Record:
        row, limit = f"row {example['id']!r}", self.spec.max_length
        encoding = encoding_of(tokenizer, example["question"], example["context"])
        extent(encoding, 0, f"{row}: the question")
        first, last = extent(encoding, 1, f"{row}: the context")
        total = len(encoding)
        room = limit - first - (total - last)
        if room < 1:
            raise ValueError(
                f"{row}: the question and the tokens added around it are {limit - room} of "
                f"max_length {limit}, which leaves nothing for the context; raise max_length"
            )
        spans = windows(last - first, room, self.spec.stride, row)
        rows = [
            [*range(first), *range(first + start, first + end), *range(last, total)]
            for start, end in spans
        ]
        offsets = encoding.offsets[first:last]
        record: Record = {
            "id": example["id"],
            **sequences(tokenizer, encoding, rows),
            "offsets": [list(offset) for offset in offsets],
            "windows": [[first, start, end] for start, end in spans],
        }
        if "answers" in example:
            begin, stop = _tokens_of(example["answers"][0], offsets, row)
            record["labels"] = [
                [first + begin - start, first + stop - start]
                if start <= begin and stop < end
                else [0, 0]
                for start, end in spans
            ]
        return record

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        offsets, longest = np.array(record["offsets"]), self.options.max_answer_tokens
        owner = most_context([(start, end) for _, start, end in record["windows"]], len(offsets))
        sums, begins, lengths = [], [], []
        for number, (first, start, end) in enumerate(record["windows"]):
            logits = np.asarray(output[number], dtype=np.float64)[first : first + end - start]
            tail = np.full(longest - 1, -np.inf)
            scores = logits[:, :1] + sliding_window_view(np.append(logits[:, 1], tail), longest)
            closes = np.append(offsets[start:end, 1], np.full(longest - 1, -1))
            scores[sliding_window_view(closes, longest) <= offsets[start:end, :1]] = -np.inf
            scores[owner[start:end] != number] = -np.inf
            best = np.argsort(-scores, axis=None, kind="stable")[: self.options.n_best]
            sums.append(scores.ravel()[best])
            begins.append(start + best // longest)
            lengths.append(best % longest)
        total, begin, length = map(np.concatenate, (sums, begins, lengths))
        best = np.argsort(-total, kind="stable")[: self.options.n_best]
        best = best[np.isfinite(total[best])]
        if not len(best):
            raise ValueError(f"row {example['id']!r}: no span of the context has a finite score")
        found = [
            _span(example["context"], offsets[first, 0].item(), offsets[last, 1].item(), score)
            for first, last, score in zip(
                begin[best], begin[best] + length[best], softmax(total[best]).tolist(), strict=True
            )
        ]
        kept = found[: self.options.n_best_kept]
        return {"id": example["id"], **found[0], "n_best": kept}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Exact match, F1, rows."""
        said, texts = prediction["text"], [answer["text"] for answer in gold(example, "answers")]
        exact = max(normalised(said) == normalised(text) for text in texts)
        return np.array([exact, max(word_f1(said, text) for text in texts), 1], dtype=np.float64)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        exact, overlap, rows = np.moveaxis(np.asarray(totals), -1, 0)
        return {"f1": ratio(overlap, rows), "exact_match": ratio(exact, rows)}


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    bare = "".join(mark for mark in answer.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(said: str, right: str) -> float:
    """F1 of the words of two normalised answers, with repetition."""
    a, b = normalised(said).split(), normalised(right).split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _answer(answer: object, context: str, where: str) -> dict[str, object]:
    if not isinstance(answer, dict) or not {"text", "start"} <= set(answer):
        raise ValueError(f"{where}: an answer must be {{text, start}}, got {answer!r:.80}")
    text = valid_text(answer["text"], "an answer's text", where)
    start = whole_number(answer["start"])
    if start is None or start < 0 or context[start : start + len(text)] != text:
        found = context.find(text)
        hint = "not found anywhere in it" if found < 0 else f"but found at {found}"
        raise ValueError(
            f"{where}: an answer not in its paragraph: {text!r} is not at {answer['start']!r}, "
            f"{hint}"
        )
    return {"text": text, "start": start}


def _tokens_of(
    answer: dict[str, object], offsets: Sequence[tuple[int, int]], row: str
) -> tuple[int, int]:
    """First and last context token that an answer touches."""
    start = int(str(answer["start"]))
    end = start + len(str(answer["text"]))
    inside = [i for i, (low, high) in enumerate(offsets) if low < end and high > start]
    if not inside:
        raise ValueError(f"{row}: the answer {answer['text']!r} has no tokens")
    return inside[0], inside[-1]


def _span(context: str, start: int, end: int, score: float) -> dict[str, object]:
    # Some tokenizers count the space before a word to its token.
    text = context[start:end].lstrip()
    start = end - len(text)
    text = text.rstrip()
    return {"text": text, "start": start, "end": start + len(text), "score": score}


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")
