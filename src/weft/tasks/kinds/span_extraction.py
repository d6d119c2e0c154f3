"""Span extraction: the answer to a question, as a span of a paragraph (SQuAD v1.1 and v2.0)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator

from weft.config import Settings, validate
from weft.tasks.cases import Case, Claim, Mark, apart
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec
from weft.tasks.metrics import gold, ratio, softmax
from weft.tasks.ranks import best_threshold
from weft.tasks.squad import answer_or_none_scores, answer_scores, normalised
from weft.tasks.text import (
    encoding_of,
    extent,
    identity,
    most_context,
    sequences,
    text_of,
    trimmed,
    valid_text,
    whole_number,
    windows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Options(Settings):
    max_answer_tokens: int = Field(default=30, ge=1)
    """Longest answer that can be said."""
    n_best: int = Field(default=20, ge=1)
    """Spans over which scores are normalised."""
    n_best_kept: int = Field(default=5, ge=1)
    """Spans that a prediction lists."""
    no_answer: bool = False
    """Whether questions may have no answer in their paragraph, as in SQuAD v2.0."""
    null_threshold: float | None = Field(default=None, allow_inf_nan=False)
    """no_answer: log-odds of no answer against the best span above which none is given. None: the one with the best f1
    on rows held out of training where there are some that the final score does not see, else 0."""

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.null_threshold is not None and not self.no_answer:
            raise ValueError(
                "null_threshold says when no answer is given; set no_answer: true with it"
            )
        return self


NO_ANSWER_SCORES = ("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1")
"""What SQuAD v2.0 scores besides, by its script's names; thresholds are no scores to select on."""


class SpanExtraction(Task):
    """The answer to a question, as a span of a paragraph (SQuAD v1.1 and, with `no_answer`, v2.0).

    Columns: `question`; `context`; `answers`, a list of `{text, start}` where start is the answer's
    character offset in the context; with `no_answer` it may be empty. Training aims at the first
    answer, scores take the best of all.

    Encoding: question and context as a pair; the question stays whole but for the white space
    around it, the context is shown in windows of at most `max_length` tokens together with the
    question, neighbours sharing `stride` tokens. `labels`: (first, last) token of the answer in each
    window, (0, 0), the first token, in windows that do not hold all of it. Output per window
    (tokens, 2): start and end.

    Prediction: `{id, text, start, end, score, n_best}`: the span with the highest sum of start and
    end logits over all windows, of at most `max_answer_tokens` tokens, begun in the window that
    shows most of its first token's context (as in google-research/bert, run_squad.py); score is the
    softmax over the `n_best` sums, of which `n_best_kept` are listed. An answer has no white space
    at its ends.

    With `no_answer` also `no_answer`, the probability that there is none: the null score, which is the
    least sum of the first token's start and end logits over all windows, takes part in that softmax;
    and `null_log_odds`, the null score less the best span's. Where that exceeds `null_threshold`, text
    is "", start and end are null and score is that of no answer (Devlin et al. 2019,
    arXiv:1810.04805, section 4.3; run_squad.py). `n_best` lists spans in any case.

    Scores: `f1` of words and `exact_match`, as SQuAD v1.1's evaluation script. With `no_answer` they
    follow v2.0's, and so do `HasAns_*` and `NoAns_*` over questions with and without an answer, and
    `best_exact`, `best_f1`: what the best threshold over these very rows would give, with that
    threshold (`best_exact_thresh`, `best_f1_thresh`, in log-odds). Selected on f1.
    """

    columns = ("question", "context")
    target = "answers"
    metric = "f1"
    found_in_training = ("null_threshold",)

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.options = _options(spec)
        self.choose(("f1", "exact_match", *(NO_ANSWER_SCORES if self.options.no_answer else ())))

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
        if isinstance(answers, list | tuple) and not answers:
            if self.options.no_answer:
                return {**checked, "answers": []}
            raise ValueError(
                f"{where}: column 'answers' is empty, a question without an answer (SQuAD 2.0); "
                "`options: {no_answer: true}`, as the set squad_v2 has it, trains and scores such "
                "rows, else leave them out of the file"
            )
        if not isinstance(answers, list | tuple):
            raise ValueError(
                f"{where}: column 'answers' must be a list of at least one {{text, start}}, "
                f"got {answers!r}"
            )
        checked["answers"] = [_answer(answer, example["context"], where) for answer in answers]
        return checked

    def encode(self, example: Example, tokenizer: "PreTrainedTokenizerFast") -> Record:
        row, limit = f"row {example['id']!r}", self.spec.max_length
        encoding = encoding_of(tokenizer, example["question"].strip(), example["context"])
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
            record["labels"] = [[0, 0] for _ in spans]
            if example["answers"]:
                begin, stop = _tokens_of(example["context"], example["answers"][0], offsets, row)
                record["labels"] = [
                    [first + begin - start, first + stop - start]
                    if start <= begin and stop < end
                    else [0, 0]
                    for start, end in spans
                ]
        return record

    def decode(self, example: Example, record: Record, output: Sequence[np.ndarray]) -> Prediction:
        offsets, longest = np.array(record["offsets"]), self.options.max_answer_tokens
        opening, closing = _without_spaces(example["context"], offsets)
        owner = most_context([(start, end) for _, start, end in record["windows"]], len(offsets))
        sums, begins, lengths = [], [], []
        for number, (first, start, end) in enumerate(record["windows"]):
            logits = np.asarray(output[number], dtype=np.float64)[first : first + end - start]
            tail = np.full(longest - 1, -np.inf)
            scores = logits[:, :1] + sliding_window_view(np.append(logits[:, 1], tail), longest)
            closes = np.append(closing[start:end], np.full(longest - 1, -1))
            scores[sliding_window_view(closes, longest) <= opening[start:end, None]] = -np.inf
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
        null = min(float(values[0, 0]) + float(values[0, 1]) for values in output)
        sums = np.append(total[best], null) if self.options.no_answer else total[best]
        *scores, last_score = softmax(sums).tolist()
        if not self.options.no_answer:
            scores.append(last_score)
        found = [
            _span(example["context"], opening[first].item(), closing[last].item(), score)
            for first, last, score in zip(
                begin[best], begin[best] + length[best], scores, strict=True
            )
        ]
        kept = found[: self.options.n_best_kept]
        if not self.options.no_answer:
            return {"id": example["id"], **found[0], "n_best": kept}
        odds = null - float(total[best[0]])
        none = {"text": "", "start": None, "end": None, "score": last_score}
        return {
            "id": example["id"],
            **(none if odds > (self.options.null_threshold or 0.0) else found[0]),
            "no_answer": last_score,
            "null_log_odds": odds,
            "n_best": kept,
        }

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        """Exact match, F1, rows.

        With `no_answer` also, of rows with an answer: rows, exact match, F1; and, for thresholds: exact match and F1
        of the best span, and the log-odds of no answer.
        """
        said, texts = prediction["text"], [answer["text"] for answer in gold(example, "answers")]
        if not self.options.no_answer:
            return np.array([*answer_scores(said, texts), 1], dtype=np.float64)
        exact, overlap = answer_or_none_scores(said, texts)
        of_span = answer_or_none_scores(prediction["n_best"][0]["text"], texts)
        has = bool(texts)
        own = (has, has * exact, has * overlap)
        return np.array(
            [exact, overlap, 1, *own, *of_span, prediction["null_log_odds"]], np.float64
        )

    def case(self, prediction: Prediction, example: Example) -> Case:
        said, answers = prediction["text"], gold(example, "answers")
        texts = [answer["text"] for answer in answers]
        none_is_right = not any(normalised(text) for text in texts)
        scores = answer_or_none_scores if self.options.no_answer else answer_scores
        exact, overlap = scores(said, texts)
        marks = []
        if prediction["start"] is not None:
            verdict = "right" if exact else "wrong"
            marks.append(Mark(prediction["start"], prediction["end"], "said", verdict))
        if not exact and answers:
            start = answers[0]["start"]
            marks.append(Mark(start, start + len(texts[0]), "right answer", "missed"))
        if exact:
            wrong: tuple[str, ...] = ()
        elif said and none_is_right:
            wrong = ("answered where there is no answer",)
        elif not said:
            wrong = ("no answer where there is one",)
        else:
            wrong = (
                "another part, with words in common" if overlap else "another part of the text",
            )
        return Case(
            id=example["id"],
            asked=example["question"],
            text=example["context"],
            said=said or "no answer",
            right=" / ".join(dict.fromkeys(texts)) or "no answer",
            claims=(Claim(prediction["score"], bool(exact)),),
            wrong=wrong,
            loss=(1 - overlap) * (1 + prediction["score"]),
            marks=apart(marks),
        )

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        exact, overlap, rows, *own = np.moveaxis(np.asarray(totals), -1, 0)
        scores = {"f1": ratio(overlap, rows), "exact_match": ratio(exact, rows)}
        if not self.options.no_answer:
            return scores
        has, has_exact, has_overlap = own[:3]
        return scores | {
            "HasAns_exact": ratio(has_exact, has, empty=np.nan),
            "HasAns_f1": ratio(has_overlap, has, empty=np.nan),
            "NoAns_exact": ratio(exact - has_exact, rows - has, empty=np.nan),
            "NoAns_f1": ratio(overlap - has_overlap, rows - has, empty=np.nan),
        }

    def ranked(self, statistics: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        if not self.options.no_answer:
            return {}
        has, odds = statistics[:, 3], statistics[:, -1]
        # A span said where there is no answer is wrong, whatever normalising leaves of it.
        return {
            name: values
            for which, column in (("exact", -3), ("f1", -2))
            for name, values in zip(
                (f"best_{which}", f"best_{which}_thresh"),
                best_threshold(odds, 1 - has, has * statistics[:, column], counts),
                strict=True,
            )
        }

    def tuned(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Task:
        """This task with the `null_threshold` of the best F1 on these rows, unless the set says one."""
        if not self.options.no_answer or self.options.null_threshold is not None or not examples:
            return self
        rows = [self.statistics(*pair) for pair in zip(predictions, examples, strict=True)]
        found = self.ranked(np.stack(rows), np.ones((1, len(rows))))
        return self.with_found({"null_threshold": found["best_f1_thresh"].item()})


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
    context: str, answer: dict[str, object], offsets: Sequence[tuple[int, int]], row: str
) -> tuple[int, int]:
    """First and last context token that an answer touches; the white space around a word is none of it."""
    start = int(str(answer["start"]))
    start, end = trimmed(context, start, start + len(str(answer["text"])))
    inside = [i for i, (low, high) in enumerate(offsets) if low < end and high > start]
    if not inside:
        raise ValueError(f"{row}: the answer {answer['text']!r} has no tokens")
    return inside[0], inside[-1]


def _without_spaces(context: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each token begins and ends without white space, which some tokenizers count to a word."""
    size = len(context)
    shown = ~np.fromiter(map(str.isspace, context), bool, size)
    places = np.arange(size)
    following = np.minimum.accumulate(np.where(shown, places, size)[::-1])[::-1]
    before = np.maximum.accumulate(np.where(shown, places + 1, 0))
    return np.append(following, size)[offsets[:, 0]], np.append(0, before)[offsets[:, 1]]


def _span(context: str, start: int, end: int, score: float) -> dict[str, object]:
    return {"text": context[start:end], "start": start, "end": end, "score": score}


def _options(spec: TaskSpec) -> Options:
    return validate(Options, spec.options, f"task {spec.name}: options")
