"""Rows joined to blocks: as many whole sequences as fit, the longest first, each into the fullest block with room.

Best-fit decreasing, as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830), section
3. A block says its positions, which begin anew with every sequence: by them attention is kept inside each.
"""

import bisect
from collections.abc import Sequence

from weft.tasks.contract import Record
from weft.tasks.text import UNLABELLED


def packed(records: Sequence[Record], room: int) -> list[Record]:
    """Blocks of at most `room` tokens that hold every sequence of the records once, whole.

    The first token of a sequence is never a label: what stands before it in a block belongs to another one.

    Args:
        records: Of a causal language model; each sequence has at most `room` tokens.
        room: Tokens of a block.

    Raises:
        ValueError: If a row has a weight of its own, which a block cannot have.
    """
    if any("weight" in record for record in records):
        raise ValueError(
            "rows have weights, which a block of several has not: take the column `weight` out, or set pack: false"
        )
    pieces = [(record, at) for record in records for at in range(len(record["input_ids"]))]
    pieces.sort(key=lambda piece: -len(piece[0]["input_ids"][piece[1]]))
    blocks: list[list[tuple[Record, int]]] = []
    free: list[tuple[int, int]] = []  # room left and number of each block, in order
    for record, at in pieces:
        size = len(record["input_ids"][at])
        place = bisect.bisect_left(free, (size, -1))
        if place == len(free):
            left, number = room, len(blocks)
            blocks.append([])
        else:
            left, number = free.pop(place)
        blocks[number].append((record, at))
        bisect.insort(free, (left - size, number))
    return [_block(block) for block in blocks]


def _block(pieces: Sequence[tuple[Record, int]]) -> Record:
    names = [name for name in ("input_ids", "token_type_ids") if name in pieces[0][0]]
    found: Record = {
        "id": pieces[0][0]["id"],
        **{name: [[one for record, at in pieces for one in record[name][at]]] for name in names},
        "position_ids": [
            [place for record, at in pieces for place in range(len(record["input_ids"][at]))]
        ],
        "labels": [
            [
                label if place else UNLABELLED
                for record, at in pieces
                for place, label in enumerate(record["labels"][at])
            ]
        ],
        "num_bytes": [sum(record["num_bytes"][0] for record, at in pieces if at == 0)],
    }
    return found
