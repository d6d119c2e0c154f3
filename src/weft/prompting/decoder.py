"""A decoder that is asked: log-likelihoods of continuations, and written ones, over token ids.

A continuation's log-likelihood is lm-evaluation-harness's: context and continuation are one text to the tokenizer,
white space at the context's end goes to the continuation, and the tokens behind those of the context alone are scored
(Gao et al. 2024, doi:10.5281/zenodo.12608602; `api/model.py`, `_encode_pair`). What contexts begin with alike is read
once and its keys and values are kept; so is a context before its options.
"""

import copy
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from weft.answering.generation import (
    Continuation,
    Generation,
    Shared,
    continuation,
    left_padded,
    write_batch,
)
from weft.answering.inference import LOGITS_PER_BATCH, autocast, padding_id, tokens_for
from weft.base.loading import attention_for, config_of, load_base
from weft.config import Run
from weft.lowrank.route import Route
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.heads import kind_for
from weft.model.model import Model
from weft.registry import unknown
from weft.runs import CONFIG, RunFolder
from weft.storage.loading import DEVICES, PRECISIONS, LoadedRun, available_device, load_run_model
from weft.tasks.text import encoding_of, extent

NAME = "asked"
"""How routes call a bare base's language-model head."""
SHORTEST_SHARED = 8
"""Tokens that contexts must begin with alike before they are read apart."""
WRITTEN_TOGETHER = 8
"""Prompts that are continued together on a CPU; elsewhere four times as many."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True)
class Pair:
    """A context with continuations of it, as token ids."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """All that is read where the context is read once."""
        return len(self.context) + sum(map(len, self.continuations))


def pair_of(
    tokenizer: PreTrainedTokenizerFast,
    context: str,
    continuations: Sequence[str],
    where: str,
    *,
    special: bool = True,
) -> Pair:
    """A context and what may follow on it as token ids.

    Args:
        tokenizer: The base's.
        context: Not empty.
        continuations: Each begins with the white space that parts it from the context.
        where: What errors call the row.
        special: Whether the tokenizer puts in front of a text what it does; a chat template has done it already.

    Raises:
        ValueError: If the context has no tokens, or a continuation adds none.
    """
    bare = context.rstrip()
    space = context[len(bare) :]
    own = context_ids(tokenizer, bare, where, special=special)
    found = []
    for text in continuations:
        both = context_ids(tokenizer, f"{bare}{space}{text}", where, special=special)
        found.append(both[len(own) :])
        if not found[-1]:
            raise ValueError(f"{where}: the option {text!r} adds no token to the question")
    return Pair(own, tuple(found))


def context_ids(
    tokenizer: PreTrainedTokenizerFast, text: str, where: str, *, special: bool = True
) -> tuple[int, ...]:
    """A text's tokens with what the tokenizer puts before it, not what it puts behind."""
    encoding = encoding_of(tokenizer, text, special=special)
    _, last = extent(encoding, 0, where)
    return tuple(encoding.ids[:last])


class Decoder:
    """A base's language model, or an expert's on it, ready to score and to write.

    Args:
        loaded: Of kind `causal_lm`.
        identity: What says whose answers these are: digests of base and expert.
        cache: Whether keys and values are kept for what texts begin with alike.
    """

    def __init__(self, loaded: "LoadedRun | Bare", identity: str, *, cache: bool = True) -> None:
        self.held = loaded.model.snapshot
        self.base = self.held.base
        self.device, self.precision, self.cache = loaded.device, loaded.precision, cache
        self.identity = identity
        head = self.held.resident(loaded.name).head
        assert head is not None  # it is a language model's
        self._writer = head.assembled(self.held.trunk)
        members = loaded.members
        self._route = Route.everywhere(*members).owned([loaded.name]) if members else None
        self._last_only = "logits_to_keep" in inspect.signature(self._writer.forward).parameters
        self._shared: tuple[int, ...] = ()
        self._kept: DynamicCache | None = None

    def share(self, contexts: Sequence[tuple[int, ...]]) -> None:
        """Read once what these contexts begin with alike; contexts that begin otherwise are read whole."""
        first, last = min(contexts), max(contexts)
        most = min(map(len, contexts)) - 1  # something is left of every one
        same = next((at for at in range(most) if first[at] != last[at]), max(most, 0))
        self._kept = None
        self._shared = tuple(first[:same])
        if not self.cache or len(contexts) < 2 or same < SHORTEST_SHARED:
            self._shared = ()
            return
        with self._reading():
            ids = torch.tensor([self._shared], device=self.device)
            self._kept = self._forward(ids, torch.ones_like(ids), None, last=True).past_key_values

    def scored(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """The log-likelihood of each continuation of each pair, in nats, in order; float64."""
        found: dict[int, np.ndarray] = {}
        with self._reading():
            for rows in self._batches(pairs):
                own = [pairs[at] for at in rows]
                values = self._by_context(own) if self.cache else self._whole(own)
                found.update(zip(rows, values, strict=True))
        return [found[at] for at in range(len(pairs))]

    def written(
        self, contexts: Sequence[tuple[int, ...]], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Continuation]:
        """What the model writes behind each context, the likeliest token each time, in order."""
        together = WRITTEN_TOGETHER * (1 if self.device.type == "cpu" else 4)
        settings = Generation(max_new_tokens=max_new_tokens, stop=tuple(stop), cache=self.cache)
        order = sorted(range(len(contexts)), key=lambda at: -len(contexts[at]))
        found: dict[int, Continuation] = {}
        with self._reading():
            for start in range(0, len(order), together):
                rows = order[start : start + together]
                own = [list(contexts[at]) for at in rows]
                kept = self._kept_for([contexts[at] for at in rows], len(rows))
                shared = None if kept is None else Shared(len(self._shared), kept)
                written = write_batch(
                    self._writer, self.held, own, settings, self.device, shared=shared
                )
                for at, context, row in zip(rows, own, written, strict=True):
                    found[at] = continuation(self.base.tokenizer, context, row, settings.stop)
        return [found[at] for at in range(len(contexts))]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with (
            torch.inference_mode(),
            self.held.routed(self._route),
            autocast(self.device, self.precision),
        ):
            yield

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[list[int]]:
        """Places of pairs that are read together, those of like length."""
        most = tokens_for(self.device)
        logits = LOGITS_PER_BATCH // self.base.config.vocab_size
        rows: list[int] = []
        options = width = 0
        for at in sorted(range(len(pairs)), key=lambda at: -len(pairs[at].context)):
            own = pairs[at].continuations
            longest = max(width, *map(len, own))
            long = len(pairs[rows[0]].context) if rows else 0
            reads = (len(rows) + 1) * (long - len(self._shared)) + (options + len(own)) * longest
            if rows and (reads > most or (options + len(own)) * longest > logits):
                yield rows
                rows, options, longest = [], 0, max(map(len, own))
            rows.append(at)
            options, width = options + len(own), longest
        if rows:
            yield rows

    def _kept_for(self, contexts: Sequence[tuple[int, ...]], rows: int) -> DynamicCache | None:
        """The shared beginning's keys and values for so many rows; None where these contexts do not have it."""
        length = len(self._shared)
        if self._kept is None or any(
            own[:length] != self._shared or len(own) <= length for own in contexts
        ):
            return None
        kept = copy.deepcopy(self._kept)
        kept.batch_repeat_interleave(rows)
        return kept

    def _forward(
        self, ids: Tensor, mask: Tensor, past: DynamicCache | None, *, last: bool = False
    ) -> Any:
        """The model's output for tokens behind `past`.

        Args:
            ids: (rows, tokens).
            mask: 1 for tokens, 0 for padding; those of `past` too, (rows, tokens of past + tokens).
            past: Keys and values of earlier tokens.
            last: Whether the last token's logits alone are wanted.
        """
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._writer(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=past if past is not None else DynamicCache(config=self.base.config),
            use_cache=True,
            **({"logits_to_keep": 1} if last and self._last_only else {}),
        )

    def _by_context(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """Each context once, then all continuations behind copies of its keys and values."""
        contexts = [own.context for own in pairs]
        kept = self._kept_for(contexts, len(pairs))
        start = len(self._shared) if kept is not None else 0
        pad = padding_id(self.base)
        ids, mask = left_padded([own[start:] for own in contexts], pad, self.device)
        mask = torch.cat([mask.new_ones(len(pairs), start), mask], dim=1)
        output = self._forward(ids, mask, kept, last=True)
        first = output.logits[:, -1:]
        owner = torch.tensor(
            [at for at, own in enumerate(pairs) for _ in own.continuations], device=self.device
        )
        said = [list(one) for own in pairs for one in own.continuations]
        wanted, labelled = _right_padded(said, pad, self.device)
        logits = first[owner]
        if wanted.shape[1] > 1:
            past = output.past_key_values
            past.batch_select_indices(owner)
            own = torch.cat([mask[owner], labelled[:, :-1]], dim=1)
            behind = self._forward(wanted[:, :-1], own, past).logits
            logits = torch.cat([logits, behind], dim=1)
        return _by_row(_totals(logits, wanted, labelled), pairs)

    def _whole(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """Each context with each continuation as one text: nothing is kept."""
        pad = padding_id(self.base)
        found = []
        for own in pairs:
            rows = [[*own.context, *one] for one in own.continuations]
            ids, mask = _right_padded(rows, pad, self.device)
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self._writer(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False
            ).logits
            start = len(own.context)
            values = _totals(logits[:, start - 1 : -1], ids[:, start:], mask[:, start:])
            found.append(values.double().cpu().numpy())
        return found


def _totals(logits: Tensor, wanted: Tensor, labelled: Tensor) -> Tensor:
    """The sum of each row's log-probabilities of its tokens, (rows,)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    each = wide.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    return (each * labelled).sum(1)


def _by_row(values: Tensor, pairs: Sequence[Pair]) -> list[np.ndarray]:
    counts = [len(own.continuations) for own in pairs]
    return [own.cpu().double().numpy() for own in values.split(counts)]


def _right_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, tokens); rows begin together."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(device), mask.to(device)


@dataclass(frozen=True)
class Bare:
    """A base with its own language-model head, and nothing that anybody trained."""

    model: Model
    name: str
    device: torch.device
    precision: str
    members: tuple[str, ...] = ()


def check_base(base: str) -> Run | None:
    """Refuse what cannot write before anything is read: the run of an expert, or None for a bare base.

    Raises:
        KeyError: If `base` is no run folder, no alias, and looks like neither a folder nor a hub id.
        ValueError: If it is an encoder, a mixture, or an expert of another kind.
    """
    if not (Path(base) / CONFIG).is_file():
        config = config_of(base)
        try:
            kind_for("causal_lm", config)
        except ValueError as error:
            raise ValueError(
                f"base {base}: {error}. A prompt is answered by a base that writes: smollm2, or another decoder "
                "(weft list bases)"
            ) from None
        return None
    run = RunFolder.open(base).run
    if run.mixture is not None or run.tasks:
        raise ValueError(
            f"base {base}: a run of several tasks or a mixture; give the run folder of one expert of kind causal_lm"
        )
    return run


def load_decoder(
    base: str, *, device: str = "auto", precision: str | None = None, cache: bool = True
) -> Decoder:
    """The decoder that a base, or the expert of a run folder, is.

    Args:
        base: A name that `load_base` takes, or a run folder.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's, or fp32.
        cache: As of `Decoder`.

    Raises:
        KeyError: As `check_base`.
        ValueError: As `check_base`; or if device or precision is unknown.
    """
    if check_base(base) is not None:
        loaded = load_run_model(base, device=device, precision=precision)
        if loaded.task.spec.kind != "causal_lm":
            raise ValueError(
                f"base {base}: an expert of kind {loaded.task.spec.kind}, which writes no text; give one of kind "
                "causal_lm, or ask this one itself: weft evaluate"
            )
        return Decoder(loaded, _identity(loaded, Path(base)), cache=cache)
    if device not in DEVICES:
        raise ValueError(f"device: {unknown('device', device, DEVICES)}")
    precision = precision or "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {unknown('precision', precision, PRECISIONS)}")
    where = torch.device(available_device() if device == "auto" else device)
    half = precision in ("bf16", "fp16")
    # Nothing is trained, so weights may be rounded once instead of at every call.
    own = load_base(
        base,
        dtype=_TYPES.get(precision, torch.float32),
        device=where,
        attention=attention_for(where, half=half),
    )
    model = Model(own)
    model.add(Expert(NAME, {}, Head("causal_lm", own, 0, seed=0)).to(where))
    return Decoder(Bare(model.eval(), NAME, where, precision), own.digest, cache=cache)


def _identity(loaded: LoadedRun, folder: Path) -> str:
    hasher = hashlib.sha256(loaded.card.digest.encode())
    for path in sorted(RunFolder(folder).expert.glob("*.safetensors")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
