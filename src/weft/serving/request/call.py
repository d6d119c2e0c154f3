"""The way of one request whose experts are in memory: encode, wait, decode."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from weft.answering.automatic import likeliest, with_task
from weft.answering.generation import Generation
from weft.answering.inputs import Input
from weft.answering.recognition import sequences_of
from weft.model.batching import Item
from weft.model.recogniser import Recognised, Recogniser
from weft.serving.computing.batches import Group, Reading, read, recognise, write_whole
from weft.serving.computing.scheduler import Heard, Scheduler
from weft.serving.computing.waiting import Waiting
from weft.serving.computing.writing import Chunk, can_join
from weft.serving.errors import BadInput
from weft.serving.request.asking import Asked, Speaker, speaker, speaker_of
from weft.serving.request.rows import (
    Row,
    chunks_of,
    count,
    cut,
    decoded,
    encoded,
    fitting,
    wholes_of,
)
from weft.serving.resident import VERSION_DIGITS, Resident
from weft.storage.loading import Ground
from weft.tasks.contract import Prediction, Record

Found = TypeVar("Found")


@dataclass(frozen=True)
class Call:
    """What a request has to do with.

    Attributes:
        scheduler: Computes.
        texts: Threads that encode and decode.
        ground: The model that answers.
        asked: Who is to answer; None is the bare base.
        residents: They, in memory for as long as this lasts.
        flow: What it counts for in the queue.
        until: When it is given up, on the loop's clock.
        most: Tokens that one input may have.
    """

    scheduler: Scheduler
    texts: Executor
    ground: Ground
    asked: Asked | None
    residents: Sequence[Resident]
    flow: str
    until: float
    most: int

    @property
    def own(self) -> Resident:
        """What answers, or the first of those that are weighed."""
        return self.residents[0]

    @property
    def who(self) -> tuple[str, str]:
        """Who answers, and the version: of experts that are weighed, all of them."""
        if self.asked is None:
            base = self.ground.model.base
            return base.name, base.digest[:VERSION_DIGITS]
        if self.asked.weights is None:
            return self.own.name, self.own.version
        pairs = list(zip(self.residents, self.asked.weights, strict=True))
        names = " + ".join(f"{weight:g} {own.name}" for own, weight in pairs)
        return names, "+".join(own.version for own, _ in pairs)

    async def speaker(self) -> Speaker | None:
        """Who answers; None where the mixture has to recognise the task of each input."""
        assert self.asked is not None
        return await self.in_pool(partial(speaker_of, self.asked, self.residents))

    async def predictions(
        self, inputs: Sequence[Input], generation: Generation | None
    ) -> tuple[list[Prediction], int]:
        """The answers in order, and the tokens that were read and written for them."""
        one = await self.speaker()
        said: list[tuple[Recognised, str]] = []
        if one is None:
            said = await self.recognised(inputs)
            tasks = {name: speaker(self.own, name) for name in {name for _, name in said}}
            speakers = [tasks[name] for _, name in said]
        else:
            speakers = [one] * len(inputs)
        rows = await self.encoded(speakers, inputs, generation)
        outputs = await self.read(rows)
        outputs |= await self.written(rows, generation or Generation())
        answers = await self.in_pool(partial(decoded, rows, outputs))
        if said:
            answers = [with_task(answer, *own) for answer, own in zip(answers, said, strict=True)]
        written = sum(len(outputs[at].tokens) for at, row in enumerate(rows) if row.writes)
        return answers, written + sum(row.tokens for row in rows)

    async def recognised(self, inputs: Sequence[Input]) -> list[tuple[Recognised, str]]:
        """What the mixture takes each input for, and the likeliest of the tasks that it fits."""
        mixture = self.own.mixture
        if mixture is None:
            raise BadInput(f"{self.own.name} is no mixture, so it recognises no task; name one")
        if not inputs:
            return []
        tasks, records = await self.in_pool(partial(fitting, mixture, inputs))
        works = [Reading(_plain(record)) for record in records]
        features = await self.done(works, Group(recognise, self.ground))
        _, owners = sequences_of(records)
        said = await self.in_pool(partial(_voted, mixture.recogniser, features, owners))
        return [(one, likeliest(own, one)) for own, one in zip(tasks, said, strict=True)]

    async def encoded(
        self,
        speakers: Sequence[Speaker],
        inputs: Sequence[Input],
        generation: Generation | None,
    ) -> list[Row]:
        """Inputs as those who answer them take them."""
        base = self.ground.model.base
        return await self.in_pool(
            partial(encoded, base, speakers, inputs, generation, most=self.most)
        )

    async def read(self, rows: Sequence[Row]) -> dict[int, Any]:
        """What heads say of the rows that are read, by number."""
        own = cut(rows)
        found = await self.done(own.works, Group(read, self.ground))
        return own.put_together(found)

    async def written(self, rows: Sequence[Row], how: Generation) -> dict[int, Any]:
        """What is written for the others, by number."""
        writes = [row for row in rows if row.writes]
        if not writes:
            return {}
        ground = self.ground
        if not all(self.joins(row, how) for row in writes):
            return await self._written_whole(rows, how)
        chunks = chunks_of(rows, how)
        # What draws from one source goes one after the other, as offline.
        turns = [[one] for one in chunks] if how.sample else [chunks]
        found: dict[int, Any] = {}
        for turn in turns:
            await self.written_in_company([chunk for chunk, _ in turn])
            for chunk, places in turn:
                texts = await self.in_pool(partial(chunk.continuations, ground))
                found |= dict(zip(places, texts, strict=True))
        return found

    async def written_in_company(self, chunks: Sequence[Chunk], heard: Heard | None = None) -> None:
        """Let texts be written beside others', to their end.

        Args:
            chunks: The texts.
            heard: Called after every token.
        """
        group = Group(self.scheduler.writer(self.ground).join, self.ground)
        works = [(chunk, group, chunk.columns) for chunk in chunks]
        await self.scheduler.done(Waiting(self.flow, self.until, works), heard)

    async def _written_whole(self, rows: Sequence[Row], how: Generation) -> dict[int, Any]:
        group = Group(write_whole, self.ground)
        wholes = wholes_of(rows, how)
        works = [
            (work, group, sum(rows[at].tokens + how.max_new_tokens for at in places))
            for work, places in wholes
        ]
        texts = await self.scheduler.done(Waiting(self.flow, self.until, works))
        found: dict[int, Any] = {}
        for (_, places), own in zip(wholes, texts, strict=True):
            found |= dict(zip(places, own, strict=True))
        return found

    def joins(self, row: Row, how: Generation) -> bool:
        """Whether a text can be written in company."""
        held = self.ground.model.snapshot
        members = [name for name in row.speaker.members if name not in row.speaker.voices]
        return can_join(held, tuple(members), how)

    async def done(self, works: Sequence[Reading], group: Group) -> list[Any]:
        """What comes of works, in order, when their turn has come."""
        units = [(work, group, count(work.item.record)) for work in works]
        return await self.scheduler.done(Waiting(self.flow, self.until, units))

    async def in_pool(self, call: Callable[[], Found]) -> Found:
        """What a thread for texts makes of it."""
        return await asyncio.get_running_loop().run_in_executor(self.texts, call)


def _plain(record: Record) -> Item:
    """A record as what recognises tasks reads it: its tokens, whoever answers it."""
    return Item("", "sequence_classification", (), {"input_ids": record["input_ids"]})


def _voted(
    recogniser: Recogniser, features: Sequence[Tensor], owners: list[int]
) -> list[Recognised]:
    return recogniser(torch.cat(list(features)), owners)
