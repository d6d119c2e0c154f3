"""What a map looks up of a whole call: the rows at hand, their tasks, and gates that were made for all maps at once."""

from functools import cached_property

from torch import Tensor

from weft.lowrank.route import current_rows
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate
from weft.methods.gates.mid import by_rank


class AtOnce:
    """The gates of all maps, made by one network in one go; a map looks up its own.

    Args:
        logits: (sequences, seq, maps, experts).
        found: What they became, in the same shape.
    """

    def __init__(self, logits: Tensor, found: Gate) -> None:
        self._all = logits, found
        self._spread: dict[tuple[int, ...], tuple[Tensor, ...]] = {}

    # Taken apart for all maps in one operation, whose gradient is one as well.
    @cached_property
    def _logits(self) -> tuple[Tensor, ...]:
        return self._all[0].unbind(-2)

    @cached_property
    def _gates(self) -> list[Gate]:
        return [Gate(*own) for own in zip(*(v.unbind(-2) for v in self._all[1]), strict=True)]

    def logits_of(self, at: int) -> Tensor:
        """(sequences at hand, seq, experts)."""
        return rows(self._logits[at])

    def gate_of(self, at: int) -> Gate:
        """What the gate said of the sequences at hand."""
        found = self._gates[at]
        return found if current_rows() is None else Gate(*map(rows, found))

    def by_rank(self, at: int, ranks: tuple[int, ...]) -> Tensor:
        """The gates spread over the ranks of each expert, (sequences, seq, sum of ranks); of all maps in one go."""
        if ranks not in self._spread:
            self._spread[ranks] = by_rank(self._all[1].gates, ranks).unbind(-2)
        return self._spread[ranks][at]


def rows(value: Tensor) -> Tensor:
    """The part of a whole call's tensor, (sequences, ...), that belongs to the sequences at hand."""
    index = current_rows()
    return value if index is None else value[index]


def labels_of(call: Call, like: Tensor) -> Tensor:
    """The expert that each token's row belongs to, in the leading shape of `like` (sequences, seq, ...).

    Raises:
        ValueError: If the call does not say, or a row belongs to none of the experts.
    """
    labels = call.trace.labels
    if labels is None:
        raise ValueError("this mixture reads the task of every row, and the call names none")
    own = labels if len(labels) == 1 else rows(labels)
    if bool((own < 0).any()):
        raise ValueError("a row belongs to none of the mixture's experts")
    return own.view(-1, *[1] * (like.dim() - 2)).expand(like.shape[:-1])
