"""Span extraction: the paragraph and the question; the answer is written, and found in the paragraph if it is there.

The wording is lm-evaluation-harness's for SQuAD (`Background:`, `Question:`, `Answer:`), with an instruction before it.
"""

from weft.prompting.templates.contract import Writing
from weft.tasks.contract import Example, Prediction
from weft.tasks.kinds.span_extraction import SpanExtraction as Kind
from weft.tasks.metrics import gold
from weft.tasks.squad import normalised

NONE = "unanswerable"
"""How a model says that there is no answer, where the set has such questions."""


class SpanExtraction(Writing):
    """A written answer, scored as any; `start` and `end` are null where the paragraph does not hold it.

    Written words carry no probability: `score` is 1. Of a set with `no_answer`, `unanswerable` or nothing says so, and
    `null_log_odds` is 1 or -1, so scores over thresholds say no more than that.
    """

    max_new_tokens = 24

    @property
    def may_be_none(self) -> bool:
        assert isinstance(self.task, Kind)
        return self.task.options.no_answer

    @property
    def instruction(self) -> str:
        none = f' If the text does not answer it, write "{NONE}".' if self.may_be_none else ""
        return f"Answer each question with the fewest words of its text.{none}"

    def question(self, example: Example) -> str:
        return f"Background: {example['context'].strip()}\n\nQuestion: {example['question'].strip()}\n\nAnswer:"

    def answer(self, example: Example) -> str:
        answers = gold(example, "answers")
        return answers[0]["text"].strip() if answers else NONE

    def about(self, example: Example) -> str:
        return example["question"]

    def passage(self, example: Example) -> str:
        return example["context"].strip()

    def read(self, example: Example, text: str) -> Prediction:
        said = text.strip()
        context = example["context"]
        bare = said.rstrip(".")
        # A sentence's full stop is none of the answer's.
        words = said if said in context or bare not in context else bare
        none = self.may_be_none and normalised(words) in ("", NONE)
        start = context.find(words) if words and not none else -1
        place = (start, start + len(words)) if start >= 0 else (None, None)
        span = {"text": words, "start": place[0], "end": place[1], "score": 1.0}
        found: Prediction = {"id": example["id"], **span, "n_best": [span]}
        if not self.may_be_none:
            return found
        nothing = {"text": "", "start": None, "end": None} if none else {}
        return {
            **found,
            **nothing,
            "no_answer": float(none),
            "null_log_odds": 1.0 if none else -1.0,
        }
