"""How many positions a trunk can number: found in its own tables, not by what it is called."""

import re

from torch import Tensor, nn
from transformers import PreTrainedModel

_TABLE = re.compile(r"(position_?embeddings?|embed_positions|pos_encoding|wpe)")
"""What tables with a row for each position are called; those for places on a page have more in their names."""


def max_positions(trunk: PreTrainedModel) -> int | None:
    """Longest sequence in tokens that `trunk` can number, special ones included; None where nothing limits it.

    A table of positions has a row for each. Its first rows are never used where positions count from behind the number
    of the padding token, which the table then names, or from an offset. Without a table, rotary positions go as
    far as the config says; what is relative, or counts nothing, has no limit.
    """
    tables = [
        rows
        for path, module in trunk.named_modules()
        if (rows := _rows(path.rpartition(".")[2], module)) is not None
    ]
    if tables:
        return min(tables)
    is_rotary = any("inv_freq" in name for name, _ in trunk.named_buffers())
    # Linear biases are made anew for a length that the config says; without one they are as long as the text.
    said = "max_position_embeddings" if is_rotary else "max_seq_len"
    limit = getattr(trunk.config, said, None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _rows(name: str, module: nn.Module) -> int | None:
    """Positions that a module's tables number: its own, where it is one, or its fewest; None without any."""
    counts = [
        len(value) for key, value in module.named_buffers(recurse=False) if _is_table(key, value)
    ]
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and _is_table(name, weight):
        padding, offset = (getattr(module, key, None) for key in ("padding_idx", "offset"))
        skipped = padding + 1 if isinstance(padding, int) else offset
        counts.append(len(weight) - (skipped if isinstance(skipped, int) else 0))
    elif not any(_TABLE.fullmatch(key) for key, _ in module.named_children()):
        return min(counts, default=None)
    # Where positions are numbered beforehand, there are no more of them than that.
    numbers = getattr(module, "position_ids", None)
    if isinstance(numbers, Tensor):
        counts.append(numbers.shape[-1])
    return min(counts, default=None)


def _is_table(name: str, value: Tensor) -> bool:
    return _TABLE.fullmatch(name) is not None and value.dim() == 2
