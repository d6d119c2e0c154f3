"""Questions in words, and answers to them: what styles of asking are made of."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from weft.answering.generation import Continuation
from weft.prompting.decoder import Decoder, Pair, context_ids, pair_of
from weft.prompting.settings import Prompting
from weft.prompting.templates.contract import Choosing, Template, Writing
from weft.tasks.chat import ASSISTANT, rendered
from weft.tasks.contract import Example, Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BETWEEN = "\n\n"
"""What parts instruction, examples, passages and question in plain text."""


@dataclass(frozen=True)
class Asked:
    """A row as it is asked about."""

    example: Example
    text: str
    """The row in words, up to where its answer follows."""
    instruction: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    """Questions with their answers that are shown before it."""
    passages: tuple[str, ...] = ()
    """What was retrieved for it."""
    begun: str = ""
    """What the model has said already behind the question."""

    @property
    def where(self) -> str:
        return f"row {self.example['id']!r}"

    @property
    def body(self) -> str:
        """Passages and question."""
        return BETWEEN.join([*self.passages, self.text])

    def plain(self) -> str:
        """All of it as one text."""
        shown = [f"{question} {answer}" for question, answer in self.shots]
        parts = [self.instruction, *shown, self.body]
        begun = f" {self.begun}" if self.begun else ""
        return BETWEEN.join(filter(None, parts)) + begun

    def messages(self) -> list[dict[str, str]]:
        """All of it but `begun` as a chat; the instruction is said in the first turn: some templates know no other."""
        turns = [
            {"role": role, "content": text}
            for pair in self.shots
            for role, text in zip(("user", ASSISTANT), pair, strict=True)
        ]
        turns.append({"role": "user", "content": self.body})
        turns[0]["content"] = BETWEEN.join(filter(None, [self.instruction, turns[0]["content"]]))
        return turns


@dataclass(frozen=True)
class Written:
    """A text that was written on the way to an answer, and what it cost."""

    text: str
    tokens_read: int
    tokens_written: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What was said of a row, and what that cost."""

    prediction: Prediction
    text: str
    """What was written, or the option that was taken."""
    tokens_read: int
    """Tokens of the prompt, and of the options where some were scored; of every prompt where there were several."""
    tokens_written: int
    seconds: float
    """Of the batches it was in, shared out by the row."""
    thought: str = ""
    """What was written before the answer."""

    def after(self, written: Written) -> "Answer":
        """This answer with what was written before it."""
        return replace(
            self,
            thought=written.text,
            tokens_read=self.tokens_read + written.tokens_read,
            tokens_written=self.tokens_written + written.tokens_written,
            seconds=self.seconds + written.seconds,
        )


class Asker:
    """Puts questions to a decoder.

    Args:
        decoder: Who is asked.
        template: Whose words questions are in.
        settings: How.
    """

    def __init__(self, decoder: Decoder, template: Template, settings: Prompting) -> None:
        self.decoder, self.template, self.settings = decoder, template, settings

    @property
    def max_new_tokens(self) -> int:
        """Longest written answer; 0 where answers are chosen."""
        if not isinstance(self.template, Writing):
            return 0
        return self.settings.max_new_tokens or self.template.max_new_tokens

    def context(self, question: Asked) -> str:
        """A question as text."""
        return context_of(question, self.decoder.base.tokenizer, chat=self.settings.chat)

    def ids(self, question: Asked) -> tuple[int, ...]:
        """A question as tokens."""
        return context_ids(
            self.decoder.base.tokenizer,
            self.context(question),
            question.where,
            special=not self.settings.chat,
        )

    def pair(self, question: Asked) -> Pair:
        """A question with its options as tokens; without, where the answer is written."""
        if not isinstance(self.template, Choosing):
            return Pair(self.ids(question), ())
        # Behind a chat template's cue an answer begins at once, as its turn does.
        gap = "" if self.settings.chat and not question.begun else " "
        return pair_of(
            self.decoder.base.tokenizer,
            self.context(question),
            [f"{gap}{option}" for option in self.template.options(question.example)],
            question.where,
            special=not self.settings.chat,
        )

    def decided(self, questions: Sequence[Asked]) -> list[Answer]:
        """An answer to each question, chosen or written as the kind has it."""
        if isinstance(self.template, Choosing):
            return self._chosen(questions, self.template)
        assert isinstance(self.template, Writing)
        written = self.written(questions, self.max_new_tokens, self.template.stop)
        return [
            Answer(
                self.template.read(own.example, one.text),
                one.text.strip(),
                one.tokens_read,
                one.tokens_written,
                one.seconds,
            )
            for own, one in zip(questions, written, strict=True)
        ]

    def written(
        self, questions: Sequence[Asked], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Written]:
        """What the model writes behind each question."""
        began = time.perf_counter()
        contexts = [self.ids(own) for own in questions]
        found: list[Continuation] = self.decoder.written(contexts, max_new_tokens, stop)
        seconds = (time.perf_counter() - began) / max(len(questions), 1)
        return [
            Written(one.text, len(context), len(one.tokens), seconds)
            for context, one in zip(contexts, found, strict=True)
        ]

    def _chosen(self, questions: Sequence[Asked], template: Choosing) -> list[Answer]:
        began = time.perf_counter()
        pairs = [self.pair(own) for own in questions]
        scores = self.decoder.scored(pairs)
        seconds = (time.perf_counter() - began) / max(len(questions), 1)
        found = []
        for own, pair, likelihoods in zip(questions, pairs, scores, strict=True):
            options = template.options(own.example)
            values = likelihoods / self._lengths(options, pair)
            best = options[int(np.argmax(values))]
            prediction = template.decided(own.example, values)
            found.append(Answer(prediction, best, pair.tokens, 0, seconds))
        return found

    def _lengths(self, options: Sequence[str], pair: Pair) -> np.ndarray:
        if self.settings.normalise == "none":
            return np.ones(len(options))
        if self.settings.normalise == "tokens":
            return np.array([len(own) for own in pair.continuations], dtype=np.float64)
        return np.array([len(own) for own in options], dtype=np.float64)


def context_of(question: Asked, tokenizer: "PreTrainedTokenizerFast", *, chat: bool) -> str:
    """A question as the text that its answer follows on."""
    if not chat:
        return question.plain()
    asked = rendered(tokenizer, question.messages(), question.where, answer=True)
    return asked + question.begun
