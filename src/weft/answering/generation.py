"""Continuations by a causal language model: transformers' own generation and key/value cache."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from weft.answering.inference import Progress, autocast, padding_id
from weft.answering.style.ngrams import NGrams, ngrams_of
from weft.answering.style.steering import Steering
from weft.base.loading import Base
from weft.base.randomness import seeded
from weft.base.tokens import check_tokens
from weft.config import Settings
from weft.lowrank.route import Members, Route
from weft.model.mixed import caching
from weft.model.model import Model
from weft.model.prefix import places_of
from weft.model.snapshot import Snapshot
from weft.scoped import tell
from weft.tasks.chat import Prompt, prompt_encoding
from weft.tasks.contract import Record
from weft.tasks.text import extent


class Style(Settings):
    """Whose style a text is written in, without training for it."""

    corpus: Path
    """Running text (.txt), or rows with a column `text`."""
    strength: float = Field(default=0.1, ge=0, le=1)
    """What its n-grams weigh beside the model; 0 is the model alone."""


class Generation(Settings):
    """How a text is continued."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest continuation in tokens."""
    sample: bool = False
    """Draw each token by its probability instead of taking the most probable."""
    temperature: float = Field(default=1.0, gt=0)
    """sample: below 1 sharpens the probabilities, above 1 flattens them."""
    top_k: int = Field(default=50, ge=0)
    """sample: tokens that can be drawn, the most probable ones; 0 means all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """sample: probability that the tokens that can be drawn cover together."""
    seed: int = 0
    """sample: source of the draws; the same prompts in the same batches give the same texts."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts at which a continuation ends; they are cut off."""
    cache: bool = True
    """Keep keys and values of earlier tokens: more memory, less time, the same text."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts continued together."""
    style: Style | None = None
    """Steer each token towards a corpus; a server does not."""


@dataclass(frozen=True)
class Continuation:
    """What comes after a prompt."""

    text: str
    """Without special tokens and stop texts."""
    tokens: tuple[int, ...]
    """Everything that was generated, an end-of-text token included."""


def generate(
    model: Model | Snapshot,
    name: str,
    prompts: Sequence[Prompt],
    settings: Generation,
    *,
    device: torch.device | str,
    members: Members | None = None,
    precision: str = "fp32",
) -> list[Continuation]:
    """A continuation of each prompt by one expert, in order.

    Args:
        model: Has the expert resident. It may change meanwhile: what it held at the start writes to the end.
        name: The expert; its head is a causal language model.
        prompts: Texts that are not empty, or chats, each a list of messages.
        settings: How.
        members: What speaks beside the head, e.g. a mixture; None is the expert itself.
        device: Where the model is.
        precision: fp32, bf16, fp16 or fp64.

    Raises:
        ValueError: If the expert does not write text, or a prompt leaves too little room.
    """
    held = model.snapshot
    head = held.resident(name).head
    if head is None or head.kind_name != "causal_lm":
        kind = "no head" if head is None else f"a head for {head.kind_name}"
        raise ValueError(
            f"expert {name!r} has {kind}, so it writes no text; causal_lm is the kind that does"
        )
    ids = [prompt_ids(held.base, text, settings, f"prompt {at}") for at, text in enumerate(prompts)]
    where = {"device": torch.device(device), "members": members, "precision": precision}
    return _written(held, name, ids, settings, **where)


def transcribe(
    model: Model | Snapshot,
    name: str,
    records: Sequence[Record],
    settings: Generation,
    *,
    device: torch.device | str,
    members: Members | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> list[Continuation]:
    """What one expert writes behind the prefix of each record, in order.

    Args:
        model: As of `generate`.
        name: The expert; its head is a transcription's.
        records: As `Task.encode` makes them.
        settings: How.
        device: Where the model is.
        members: What speaks beside the head; None is the expert itself.
        precision: fp32, bf16, fp16 or fp64.
        progress: Told how far it is.

    Raises:
        ValueError: If a prefix leaves too little room.
    """
    held = model.snapshot
    ids = [record["input_ids"][0] for record in records]
    for record, own in zip(records, ids, strict=True):
        _check_room(held.base, f"row {record['id']!r}", len(own), settings)
    where = {"device": torch.device(device), "members": members, "precision": precision}
    return _written(held, name, ids, settings, records=records, progress=progress, **where)


def _written(
    held: Snapshot,
    name: str,
    ids: Sequence[list[int]],
    settings: Generation,
    *,
    device: torch.device,
    members: Members | None,
    precision: str,
    records: Sequence[Record] | None = None,
    progress: Progress | None = None,
) -> list[Continuation]:
    """What follows each row of tokens, those of `records` where they are given."""
    style = (
        None if settings.style is None else ngrams_of(settings.style.corpus, held.base.tokenizer)
    )
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found: dict[int, Continuation] = {}
    writer = held.head(name).assembled(held.trunk)
    with (
        torch.inference_mode(),
        held.routed(Route.everywhere(*(members or (name,))).owned([name])),
        autocast(device, precision),
        seeded(settings.seed, device) if settings.sample else nullcontext(),
    ):
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            given = None if records is None else (name, [records[at] for at in rows])
            with caching():
                own = [ids[at] for at in rows]
                written = write_batch(writer, held, own, settings, device, style=style, given=given)
            tell("texts continued", start + len(rows), len(order))
            if progress is not None:
                progress(start + len(rows), len(order))
            for at, row in zip(rows, written, strict=True):
                # A prefix is no text that the answer could be read behind.
                before = ids[at] if records is None else []
                found[at] = continuation(held.base.tokenizer, before, row, settings.stop)
    return [found[at] for at in range(len(ids))]


@dataclass(frozen=True)
class Shared:
    """What all prompts of a batch begin with, read already."""

    length: int
    """Tokens."""
    kept: Cache
    """Their keys and values, once for each prompt; the call writes into it."""


def write_batch(
    writer: PreTrainedModel,
    held: Snapshot,
    prompts: Sequence[Sequence[int]],
    settings: Generation,
    device: torch.device,
    *,
    shared: Shared | None = None,
    style: NGrams | None = None,
    given: tuple[str, Sequence[Record]] | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt; rows that end early are padded.

    Args:
        writer: The language model.
        held: What it is made of.
        prompts: Token ids.
        settings: How.
        device: Where the model is.
        shared: What all prompts begin with, if it was read already; something is left of each.
        style: N-grams that weigh on every next token.
        given: The expert and the records whose prefix the prompts are, where part of it is no text.
    """
    base = held.base
    start = 0 if shared is None else shared.length
    ids, mask = left_padded([own[start:] for own in prompts], padding_id(base), device)
    if shared is not None:
        same = torch.tensor([list(prompts[0][:start])], device=device).expand(len(prompts), -1)
        ids = torch.cat([same, ids], dim=1)
        mask = torch.cat([torch.ones_like(same), mask], dim=1)
    width = ids.shape[1]
    inputs: dict[str, Tensor] = {"inputs": ids}
    steering = LogitsProcessorList()
    if settings.style is not None and style is not None:
        starts = [width - len(prompt) for prompt in prompts]
        steering.append(Steering(style, settings.style.strength, starts))
    if given is not None:
        name, records = given
        places = places_of(records, [width - len(row) for row in prompts])
        inputs = {"inputs_embeds": held.embed(ids, [(name, slice(0, len(prompts)), places)])}
        # What was written is then all that comes back.
        width = 0
    stopping = StoppingCriteriaList()
    if settings.stop:
        stopping.append(_StopTexts(base.tokenizer, settings.stop, width))
    written = writer.generate(  # type: ignore[operator] - nn.Module's __getattr__ hides the method's type
        **inputs,
        attention_mask=mask,
        generation_config=_config(settings, base),
        stopping_criteria=stopping,
        **({} if shared is None else {"past_key_values": shared.kept}),
        logits_processor=steering,
    )
    return written[:, width:].tolist()


def prompt_ids(base: Base, prompt: Prompt, settings: Generation, where: str) -> list[int]:
    """The tokens of a prompt, with what the tokenizer puts before a text, not what it puts behind.

    Raises:
        ValueError: If the text has no tokens, what follows would exceed the base's positions, or messages find no
            chat template or one that refuses them.
    """
    encoding = prompt_encoding(base.tokenizer, prompt, where)
    _, stop = extent(encoding, 0, where)
    check_tokens(base, [{"id": where, "input_ids": [encoding.ids[:stop]]}])
    _check_room(base, where, stop, settings)
    return encoding.ids[:stop]


def _check_room(base: Base, where: str, tokens: int, settings: Generation) -> None:
    """Refuse a prompt of so many tokens that leaves too little room."""
    limit = base.max_positions
    if limit is not None and tokens + settings.max_new_tokens > limit:
        raise ValueError(
            f"{where} has {tokens} tokens, which leaves {max(0, limit - tokens)} of the {limit} "
            f"positions of {base.name} for max_new_tokens {settings.max_new_tokens}; "
            "ask for fewer, or shorten the prompt"
        )


class _StopTexts(StoppingCriteria):
    """Transformers' `stop_strings`, looked for in what was written alone: left to them, one may begin in the prompt."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], width: int
    ) -> None:
        self.found = StopStringCriteria(tokenizer, list(texts))
        self.width = width

    def __call__(self, input_ids: Any, scores: Any, **others: Any) -> Any:
        return self.found(input_ids[:, self.width :], scores, **others)


def _config(settings: Generation, base: Base) -> GenerationConfig:
    drawing = (
        {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
        if settings.sample
        else {}
    )
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.sample,
        use_cache=settings.cache,
        eos_token_id=base.tokenizer.eos_token_id,
        bos_token_id=base.tokenizer.bos_token_id,
        pad_token_id=padding_id(base),
        **drawing,
    )


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (rows, tokens); prompts end together, all go on at one place."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def continuation(
    tokenizer: PreTrainedTokenizerFast, prompt: list[int], row: list[int], stop: Sequence[str]
) -> Continuation:
    """What was written behind a prompt, as tokens and as text: to its end or to the first stop text.

    Args:
        tokenizer: The base's.
        prompt: Tokens of the prompt.
        row: Tokens behind it; what follows an end-of-text token is padding.
        stop: Texts at which it ends.
    """
    if tokenizer.eos_token_id in row:
        row = row[: row.index(tokenizer.eos_token_id) + 1]
    text = text_behind(tokenizer, prompt, row)
    for length in range(1, len(row) + 1) if stop else ():
        text = text_behind(tokenizer, prompt, row[:length])
        ends = [text.index(end) for end in stop if end in text]
        if ends:
            return Continuation(text[: min(ends)], tuple(row[:length]))
    return Continuation(text, tuple(row))


def text_behind(tokenizer: PreTrainedTokenizerFast, prompt: list[int], row: list[int]) -> str:
    """What `row` adds to the prompt's text; read behind it: alone, a leading space may be lost."""

    def read(ids: list[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    before, both = read(prompt), read([*prompt, *row])
    return both[len(before) :] if both.startswith(before) else read(row)
