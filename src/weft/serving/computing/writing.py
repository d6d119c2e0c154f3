"""Texts that are written together, a token each at a time; any may begin or end at any step.

A text's keys and values are its own rows of one cache. All texts end at the cache's last column, so a new token is a
new column for all of them; what stands before a shorter text is masked and has no position, as padding on the left has
none in transformers' generation. So a text's numbers are those it has alone, to rounding.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from weft.answering.generation import (
    Continuation,
    Generation,
    continuation,
    left_padded,
    text_behind,
)
from weft.answering.inference import autocast, padding_id
from weft.lowrank.route import Members, Route
from weft.model.head import Head
from weft.model.mixed import Mix
from weft.model.snapshot import Snapshot
from weft.serving.computing.batches import Voices, with_voices
from weft.storage.loading import Ground


@dataclass(eq=False)
class Line:
    """One text that is written.

    Attributes:
        head: The expert whose head writes.
        members: What speaks.
        prompt: Its tokens.
        settings: How.
        written: Tokens behind the prompt.
        ended: Whether it has come to its end.
    """

    head: str
    members: Members
    prompt: list[int]
    settings: Generation
    written: list[int] = field(default_factory=list)
    ended: bool = False


@dataclass(eq=False)
class Chunk:
    """Texts that begin together and draw from one source, as a batch of `generate` does.

    Attributes:
        lines: The texts.
        voices: What speaks beside the model's experts.
        generator: Where draws come from; None takes the likeliest tokens.
        gone: Whether nobody wants it any more.
    """

    lines: list[Line]
    voices: Voices = field(default_factory=dict)
    generator: torch.Generator | None = None
    gone: bool = False

    @property
    def ended(self) -> bool:
        return self.gone or all(line.ended for line in self.lines)

    @property
    def columns(self) -> int:
        """Tokens whose keys and values it may keep."""
        return sum(len(line.prompt) + line.settings.max_new_tokens for line in self.lines)

    def continuations(self, ground: Ground) -> list[Continuation]:
        """What was written, once it has ended."""
        tokenizer = ground.model.base.tokenizer
        return [
            continuation(tokenizer, line.prompt, line.written, line.settings.stop)
            for line in self.lines
        ]


def can_join(held: Snapshot, members: Members, settings: Generation) -> bool:
    """Whether a text can be written in company.

    Not where gates read a pass of their own, which has its own cache, nor where keys and values are not kept for all
    tokens alike.
    """
    for name in members:
        own = held.expert(name)
        if isinstance(own, Mix) and own.mixture.reads_pass is not None:
            return False
    trunk = cast(PreTrainedModel, held.trunk)
    layers = DynamicCache(config=trunk.config).layers
    return (
        settings.cache
        and all(type(layer) is DynamicLayer for layer in layers)
        and "position_ids" in inspect.signature(trunk.forward).parameters
    )


class Writer:
    """The texts that are written on one model; it computes in one thread.

    Args:
        ground: The model.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.chunks: list[Chunk] = []
        self._lines: list[Line] = []
        self._cache: DynamicCache | None = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)
        self._kept: dict[str, Any] = {}

    @property
    def columns(self) -> int:
        """Tokens whose keys and values may be kept for what is being written."""
        return sum(chunk.columns for chunk in self.chunks)

    @property
    def count(self) -> int:
        """Texts that are being written."""
        return sum(not line.ended for chunk in self.chunks for line in chunk.lines)

    def join(self, held: Snapshot, chunks: Sequence[Chunk], ground: Ground) -> list[None]:
        """Read the prompts of new texts and write the first token of each."""
        lines = [line for chunk in chunks for line in chunk.lines]
        prompts = [line.prompt for line in lines]
        ids, mask = left_padded(prompts, padding_id(ground.model.base), ground.device)
        cache = DynamicCache(config=cast(PreTrainedModel, held.trunk).config)
        states = self._forward(held, lines, ids, mask, cache)
        self._merge(cache, mask)
        self.chunks += chunks
        self._lines += lines
        self._advance(held, lines, states, chunks)
        return [None] * len(chunks)

    def step(self, held: Snapshot) -> None:
        """Write one more token of every text."""
        self._leave()
        lines = self._lines
        if not lines or self._cache is None:
            return
        held = with_voices(held, [chunk.voices for chunk in self.chunks])
        ids = torch.tensor([[line.written[-1]] for line in lines], device=self.ground.device)
        mask = F.pad(self._mask, (0, 1), value=1)
        states = self._forward(held, lines, ids, mask, self._cache)
        self._mask = mask
        self._advance(held, lines, states, self.chunks)

    def _forward(
        self, held: Snapshot, lines: Sequence[Line], ids: Tensor, mask: Tensor, cache: DynamicCache
    ) -> Tensor:
        """The last state of each text, (texts, 1, hidden); the cache has the keys and values of all its tokens."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        route = Route.by_sequence([line.members for line in lines])
        route = route.owned([line.head for line in lines])
        with (
            torch.inference_mode(),
            held.routed(route, self._kept),
            autocast(self.ground.device, self.ground.precision),
        ):
            found = held.trunk(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        return found.last_hidden_state[:, -1:]

    def _merge(self, cache: DynamicCache, mask: Tensor) -> None:
        """New rows below those that are there; the narrower are padded on the left."""
        if self._cache is None:
            self._cache, self._mask = cache, mask
            return
        width = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([_wider(self._mask, width, 1), _wider(mask, width, 1)])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                both = [_wider(getattr(layer, name), width, 2) for layer in (old, new)]
                setattr(old, name, torch.cat(both))

    def _leave(self) -> None:
        """Drop the rows of texts that have ended, and columns that no text has any more."""
        self.chunks = [chunk for chunk in self.chunks if not chunk.ended]
        wanted = {id(line) for chunk in self.chunks for line in chunk.lines if not line.ended}
        rows = [at for at, line in enumerate(self._lines) if id(line) in wanted]
        if len(rows) == len(self._lines):
            return
        self._lines = [self._lines[at] for at in rows]
        if not rows:
            # Experts may go once nobody writes by them.
            self._cache, self._kept = None, {}
            return
        mask = self._mask[rows]
        first = int(mask.any(0).int().argmax())
        self._mask = mask[:, first:]
        for layer in self._cache.layers if self._cache else ():
            for name in ("keys", "values"):
                # A copy, so that what the others had is freed.
                setattr(layer, name, getattr(layer, name)[rows, :, first:].contiguous())

    def _advance(
        self, held: Snapshot, lines: Sequence[Line], states: Tensor, chunks: Iterable[Chunk]
    ) -> None:
        """The next token of each of `lines`, and whether it is the last."""
        logits = self._logits(held, lines, states)
        for chunk in chunks:
            for line, token in zip(chunk.lines, _chosen(chunk, logits), strict=True):
                if id(line) in logits and not line.ended:
                    line.written.append(token)
                    line.ended = self._ends(line)

    def _logits(self, held: Snapshot, lines: Sequence[Line], states: Tensor) -> dict[int, Tensor]:
        """Single precision, (vocabulary,), by the identity of the text."""
        found: dict[int, Tensor] = {}
        with torch.inference_mode(), autocast(self.ground.device, self.ground.precision):
            alike: dict[object, list[int]] = {}
            for at, line in enumerate(lines):
                alike.setdefault(_tensors(held.head(line.head)), []).append(at)
            for rows in alike.values():
                ids = torch.tensor(
                    [[(lines[at].written or lines[at].prompt)[-1]] for at in rows],
                    device=states.device,
                )
                mask = torch.ones_like(ids)
                head = held.head(lines[rows[0]].head)
                said = head(states[rows], mask, [1] * len(rows), ids)
                found |= {
                    id(lines[at]): own[-1].float() for at, own in zip(rows, said, strict=True)
                }
        return found

    def _ends(self, line: Line) -> bool:
        tokenizer, settings = self.ground.model.base.tokenizer, line.settings
        if line.written[-1] == tokenizer.eos_token_id:
            return True
        if len(line.written) >= settings.max_new_tokens:
            return True
        if not settings.stop:
            return False
        text = text_behind(tokenizer, line.prompt, line.written)
        return any(stop in text for stop in settings.stop)


def _tensors(head: Head) -> tuple[object, ...]:
    """What a head is made of: heads on the same tensors say the same, and those that came with the base often are.

    A vocabulary's product is a fifth of a small decoder, so that it is taken once for all of them.
    """
    module = head.module
    return head.kind_name, *map(id, module.parameters()), *map(id, module.buffers())


def _chosen(chunk: Chunk, logits: dict[int, Tensor]) -> list[int]:
    """A token for every text of a chunk; texts that have ended still draw, as they do in a batch of `generate`."""
    some = next((logits[id(line)] for line in chunk.lines if id(line) in logits), None)
    if some is None:
        return [0] * len(chunk.lines)
    blank = torch.zeros_like(some)
    rows = torch.stack([logits.get(id(line), blank) for line in chunk.lines])
    if chunk.generator is None:
        return rows.argmax(-1).tolist()
    settings = chunk.lines[0].settings
    scores = _warpers(settings)(cast(Any, torch.zeros(len(rows), 1, dtype=torch.long)), rows)
    shares = scores.softmax(-1)
    return torch.multinomial(shares, 1, generator=chunk.generator).squeeze(1).tolist()


def _warpers(settings: Generation) -> LogitsProcessorList:
    """What transformers' generation does to scores before it draws, in its order."""
    found = LogitsProcessorList()
    if settings.temperature != 1.0:
        found.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        found.append(TopKLogitsWarper(top_k=settings.top_k))
    if settings.top_p < 1.0:
        found.append(TopPLogitsWarper(top_p=settings.top_p))
    return found


def _wider(value: Tensor, width: int, axis: int) -> Tensor:
    """Zeros in front along an axis, up to a width."""
    missing = width - value.shape[axis]
    if not missing:
        return value
    shape = list(value.shape)
    shape[axis] = missing
    return torch.cat([value.new_zeros(shape), value], axis)
