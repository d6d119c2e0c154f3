"""Inputs on their way: encoded for who answers them, cut into works, put together again, decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weft.answering.automatic import fitting_records
from weft.answering.generation import Continuation, Generation, prompt_ids
from weft.answering.inference import order_of, units_of, whole
from weft.answering.inputs import Input, checked_input
from weft.answering.prediction import continued, refuse_generation
from weft.base.loading import Base
from weft.base.tokens import check_tokens
from weft.data.encoding import carried
from weft.model.batching import Item
from weft.model.mixed import refuse_state
from weft.registry import said_by
from weft.serving.computing.batches import Reading, Whole
from weft.serving.computing.writing import Chunk, Line
from weft.serving.errors import BadInput, TooLarge
from weft.serving.request.asking import Speaker
from weft.storage.loading import LoadedMixture
from weft.tasks.chat import prompt_of
from weft.tasks.contract import Example, Prediction, Record

WRITES = "causal_lm"
"""The kind whose answers are written."""


@dataclass(frozen=True)
class Row:
    """An input, who answers it, and its form for the model: a record, or the tokens of a prompt."""

    speaker: Speaker
    example: Example
    record: Record | None
    prompt: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether its answer is written."""
        return self.record is None

    @property
    def tokens(self) -> int:
        """Of its sequences, or of its prompt."""
        return len(self.prompt) if self.record is None else count(self.record)

    @property
    def item(self) -> Item:
        """As a batch takes it."""
        assert self.record is not None
        own = self.speaker
        return Item(own.head, own.task.spec.kind, own.members, self.record)


def count(record: Record) -> int:
    """Tokens of a record."""
    return sum(len(ids) for ids in record["input_ids"])


def encoded(
    base: Base,
    speakers: Sequence[Speaker],
    inputs: Sequence[Input],
    generation: Generation | None,
    most: int,
) -> list[Row]:
    """Inputs as those who answer them take them.

    Args:
        base: Whose tokenizer reads them.
        speakers: Who answers each.
        inputs: Texts, or mappings of the task's columns.
        generation: How texts are continued.
        most: Tokens that one may have.

    Raises:
        BadInput: If one is not what its task takes.
        TooLarge: If one has too many tokens.
    """
    rows = []
    try:
        for at, (own, value) in enumerate(zip(speakers, inputs, strict=True)):
            refuse_generation(own.task, generation)
            example = checked_input(own.task, value, at)
            if own.task.spec.kind == WRITES:
                how = generation or Generation()
                if how.style is not None:
                    raise ValueError(
                        "style: a server does not steer towards a corpus; ask a run folder (weft predict)"
                    )
                ids = prompt_ids(base, prompt_of(example), how, f"input {at}")
                rows.append(Row(own, example, None, tuple(ids)))
            else:
                record = carried(own.task.encode(example, base.tokenizer), example)
                if own.states:
                    refuse_state(record.get("state"), own.states)
                rows.append(Row(own, example, record))
        check_tokens(base, [row.record for row in rows if row.record is not None])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(said_by(error)) from error
    for at, row in enumerate(rows):
        if row.tokens > most:
            raise TooLarge(f"input {at} has {row.tokens:,} tokens, over the {most:,} of one input")
    return rows


def fitting(
    mixture: LoadedMixture, inputs: Sequence[Input]
) -> tuple[list[list[str]], list[Record]]:
    """As `fitting_records`, refused in our words.

    Raises:
        BadInput: If an input fits no task.
    """
    try:
        return fitting_records(mixture, inputs)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(said_by(error)) from error


@dataclass(frozen=True)
class Cut:
    """Rows cut into the units that are read apart, longest first as offline."""

    works: list[Reading]
    order: list[int]
    owners: list[int]

    def put_together(self, outputs: Sequence[Any]) -> dict[int, Any]:
        """What `Task.decode` gets, by the row's number."""
        said = dict(zip(self.order, outputs, strict=True))
        parts: dict[int, list[Any]] = {}
        for at, row in enumerate(self.owners):
            parts.setdefault(row, []).append(said[at])
        return {row: whole(own) for row, own in parts.items()}


def cut(rows: Sequence[Row]) -> Cut:
    """The units of those rows that are read."""
    units = [
        (at, unit, row.speaker.voices)
        for at, row in enumerate(rows)
        if not row.writes
        for unit in units_of(row.item)
    ]
    order = order_of([unit for _, unit, _ in units])
    works = [Reading(units[at][1], units[at][2]) for at in order]
    return Cut(works, order, [row for row, _, _ in units])


def chunks_of(rows: Sequence[Row], how: Generation) -> list[tuple[Chunk, list[int]]]:
    """Texts to be written in company, and which rows they are of, put together as `generate` does.

    By expert, shortest first; the batches of one expert draw from one source, one after the other.
    """
    found = []
    for speaker in dict.fromkeys(id(row.speaker) for row in rows if row.writes):
        own = [at for at, row in enumerate(rows) if row.writes and id(row.speaker) == speaker]
        generator = torch.Generator().manual_seed(how.seed) if how.sample else None
        order = sorted(own, key=lambda at: len(rows[at].prompt))
        for start in range(0, len(order), how.batch_size):
            places = order[start : start + how.batch_size]
            lines = [_line(rows[at], how) for at in places]
            chunk = Chunk(lines, rows[places[0]].speaker.voices, generator)
            found.append((chunk, places))
    return found


def _line(row: Row, how: Generation) -> Line:
    return Line(row.speaker.head, row.speaker.members, list(row.prompt), how)


def wholes_of(rows: Sequence[Row], how: Generation) -> list[tuple[Whole, list[int]]]:
    """Texts to be written in one go, by expert, and which rows they are of."""
    found = []
    for speaker in dict.fromkeys(id(row.speaker) for row in rows if row.writes):
        own = [at for at, row in enumerate(rows) if row.writes and id(row.speaker) == speaker]
        who = rows[own[0]].speaker
        prompts = tuple(prompt_of(rows[at].example) for at in own)
        found.append((Whole(who.head, who.members, prompts, how, who.voices), own))
    return found


def decoded(rows: Sequence[Row], outputs: dict[int, Any]) -> list[Prediction]:
    """The answer to each row, of what its head said or of what was written."""
    found = []
    for at, row in enumerate(rows):
        if row.record is None:
            written: Continuation = outputs[at]
            found.append(continued(row.example, written))
        else:
            found.append(row.speaker.task.decode(row.example, row.record, outputs[at]))
    return found
