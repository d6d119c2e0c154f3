"""Rows of any tasks through the model, in batches that waste little."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from weft.base.loading import Base
from weft.base.precision import is_emulated
from weft.base.tokens import embedding_rows
from weft.data.columns import CARRIED
from weft.model.batching import Batch, Item, collate
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.model.snapshot import Snapshot
from weft.scoped import tell
from weft.storage.loading import LoadedRun
from weft.tasks.contract import Record, Task

_log = logging.getLogger(__name__)

TOKENS_PER_BATCH = {"cpu": 1024}
"""Padded tokens in one forward call by device type, where fewer are faster: they stay in a CPU's caches. Measured by
benchmarks/answering.py."""
MOST_TOKENS = 4096
"""The same on every other device."""
LOGITS_PER_BATCH = 2**26
"""Vocabulary logits in one forward call: a quarter GiB in single precision."""

MASK_SEED = 0
"""Decides which tokens a masked language model is scored on: the same in every evaluation."""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


def sampled(task: Task, records: Sequence[Record], seed: int = MASK_SEED) -> list[Record]:
    """Records with what `task.sample` draws: by id, so that neither the rows beside one nor processes decide it."""
    return [
        task.sample(record, np.random.default_rng([seed, *record["id"].encode()]))
        for record in records
    ]


def outputs(
    model: Model | Snapshot,
    items: Sequence[Item],
    *,
    pad_id: int,
    device: torch.device | str,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """What `Task.decode` gets for each row, in order; rows of any tasks and experts share batches.

    Sequences of similar length run together: a row's windows perhaps apart, its choices never.

    Args:
        model: Has the experts resident. It may change meanwhile: what it held at the start answers.
        items: The rows.
        pad_id: The base's padding token.
        device: Where the model is.
        precision: fp32, bf16, fp16 or fp64; fp64 wants a model in double precision.
        tokens_per_batch: Padded tokens in one forward call, unless a single row has more; None takes what is fastest
            on the device.
        progress: Told how far it is.
    """
    units = [(row, unit) for row, item in enumerate(items) for unit in units_of(item)]
    found: list[list[Any]] = [[] for _ in units]
    left = Counter(row for row, _ in units)
    done = 0
    own = [unit for _, unit in units]
    for batch_rows, batch, answers in _forwards(
        model.snapshot,
        own,
        pad_id,
        tokens_per_batch,
        device=torch.device(device),
        precision=precision,
    ):
        for at, output in by_unit(batch, answers):
            found[batch_rows[at]] = output
            left[units[batch_rows[at]][0]] -= 1
            done += left[units[batch_rows[at]][0]] == 0
        tell("rows answered", done, len(items))
        if progress is not None:
            progress(done, len(items))
    rows: list[list[Any]] = [[] for _ in items]
    for (row, _), output in zip(units, found, strict=True):
        rows[row].append(output)
    return [whole(own) for own in rows]


def outputs_of(loaded: LoadedRun, records: Sequence[Record]) -> list[Any]:
    """The same for records of one task, by the expert or mixture that was loaded for it."""
    kind, members = loaded.task.spec.kind, loaded.members
    return outputs(
        loaded.model,
        [Item(loaded.name, kind, members, record) for record in records],
        pad_id=padding_id(loaded.model.base),
        device=loaded.device,
        precision=loaded.precision,
    )


def by_unit(batch: Batch, answers: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Any]]:
    """Where each unit stood among those of a batch, and what its head says of it, without padding.

    Args:
        batch: The batch.
        answers: Logits by head.
    """
    for part in batch.parts:
        raw = kind_of(part.kind).outputs(answers[part.head], part.labels, part.lengths)
        yield from zip(part.rows, raw, strict=True)


def whole(own: Sequence[Any]) -> Any:
    """What `Task.decode` gets for a row, of what was said of its units in order."""
    return own[0] if len(own) == 1 else [part for one in own for part in one]


def total_loss(
    model: Model | Snapshot,
    items: Sequence[Item],
    *,
    pad_id: int,
    device: torch.device | str,
    precision: str = "fp32",
) -> tuple[float, float]:
    """The sum of the loss over the labelled items of rows, without dropout and smoothing, and of their weights."""
    loss, count = torch.zeros((), dtype=torch.float64), 0
    units = [
        unit for item in items for unit in ([item] if kind_of(item.kind).joint else units_of(item))
    ]
    for _, batch, answers in _forwards(
        model.snapshot,
        units,
        pad_id,
        None,
        device=torch.device(device),
        precision=precision,
    ):
        for part in batch.parts:
            assert part.labels is not None
            kind = kind_of(part.kind)
            loss += kind.loss(answers[part.head], part.labels, 0.0, part.weights).double().cpu()
            count += part.count
    return loss.item(), count


def _forwards(
    held: Snapshot,
    units: Sequence[Item],
    pad_id: int,
    tokens_per_batch: int | None,
    *,
    device: torch.device,
    precision: str,
) -> Iterator[tuple[list[int], Batch, dict[str, torch.Tensor]]]:
    """Which units a batch holds, the batch, and what the model makes of it."""
    with torch.inference_mode(), autocast(device, precision):
        for rows, batch in batched(held, units, pad_id, tokens_per_batch, device):
            yield rows, batch, held(batch)


def batched(
    held: Snapshot,
    units: Sequence[Item],
    pad_id: int,
    tokens_per_batch: int | None,
    device: torch.device,
) -> Iterator[tuple[list[int], Batch]]:
    """Which units a batch holds, and the batch, on `device`."""
    most = tokens_per_batch or tokens_for(device)
    for rows in _batches(units, most, held.base.config.vocab_size):
        yield rows, collate([units[at] for at in rows], pad_id).to(device)


def units_of(item: Item) -> list[Item]:
    """The parts of a row that can be answered apart: its windows, or itself."""
    record = item.record
    count = len(record["input_ids"])
    if count == 1 or kind_of(item.kind).compares:
        return [item]
    names = [name for name in ("input_ids", "token_type_ids", "labels") if name in record]
    whole = {name: record[name] for name in CARRIED if name in record}
    return [
        replace(item, record={**whole, **{name: [record[name][at]] for name in names}})
        for at in range(count)
    ]


class Filling:
    """A batch that units join while it has room.

    Args:
        tokens: Padded tokens that it takes; a single unit may have more.
        vocabulary: The base's: where a language model answers, a batch takes no more than `LOGITS_PER_BATCH`.
    """

    def __init__(self, tokens: int, vocabulary: int) -> None:
        self.limit = tokens
        self.width = self.sequences = 0
        self._few = LOGITS_PER_BATCH // vocabulary

    def takes(self, unit: Item) -> bool:
        """Whether there is room for a unit, which is then taken; the first always has."""
        sequences = self.sequences + len(unit.record["input_ids"])
        width = max(self.width, unit.length)
        limit = min(self.limit, self._few) if kind_of(unit.kind).language_model else self.limit
        if self.sequences and sequences * width > limit:
            return False
        self.sequences, self.width, self.limit = sequences, width, limit
        return True


def order_of(units: Sequence[Item]) -> list[int]:
    """Places of units, longest first: memory runs out soon or never."""
    return sorted(range(len(units)), key=lambda at: (-units[at].length, units[at].head))


def _batches(units: Sequence[Item], tokens: int, vocabulary: int) -> list[list[int]]:
    """Batches of at most `tokens` padded tokens."""
    found: list[list[int]] = []
    filling = Filling(tokens, vocabulary)
    for at in order_of(units):
        if not found or not filling.takes(units[at]):
            filling = Filling(tokens, vocabulary)
            filling.takes(units[at])
            found.append([])
        found[-1].append(at)
    return found


def tokens_for(device: torch.device) -> int:
    """Padded tokens in one forward call on `device`, where nobody says otherwise."""
    return TOKENS_PER_BATCH.get(device.type, MOST_TOKENS)


def padding_id(base: Base) -> int:
    """The token that fills a batch; where tokenizer or embedding has none, any: attention never sees it."""
    own = base.tokenizer.pad_token_id
    return own if isinstance(own, int) and own < embedding_rows(base) else 0


@cache
def _warn(kind: str, precision: str) -> None:
    """Once a process."""
    if is_emulated(kind, precision):
        _log.warning(
            "this %s has no instructions for %s and emulates it, many times slower than fp32: choose precision fp32",
            kind,
            precision,
        )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The arithmetic that `precision` means on `device`; a warning, once, where the device only emulates it."""
    _warn(device.type, precision)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=types.get(precision), enabled=precision in types)
