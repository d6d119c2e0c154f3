"""What gates said in one call, by module: for losses, for heat maps, and to be saved.

A trace belongs to the call, in a context variable like a route: no module remembers it, so checkpointing, threads and
processes do not disturb it.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

from weft.methods.gates.gate import Gate
from weft.scoped import scoped


@dataclass
class GateTrace:
    """The gates of one call.

    Attributes:
        mask: (sequences, seq), 1 where a token is real; None counts all.
        labels: (sequences,), the expert that each sequence belongs to, where known.
        rows: (sequences,), for each the first of those that it is answered together with; None: each for itself.
        gates: By module what its gate said, each (sequences, seq, experts).
        logits: By module what the gate's network said.
    """

    mask: Tensor | None = None
    labels: Tensor | None = None
    rows: Tensor | None = None
    gates: dict[str, Gate] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)

    def record(self, module: str, logits: Tensor, found: Gate) -> None:
        """Keep what one module's gate said; a second run of the same call (checkpointing) replaces it."""
        self.logits[module] = logits
        self.gates[module] = found

    def counted(self, value: Tensor) -> Tensor:
        """The rows of a (sequences, seq, ...) tensor that belong to real tokens, (tokens, ...)."""
        flat = value.reshape(-1, *value.shape[2:])
        return flat if self.mask is None else flat[self.mask.reshape(-1).bool()]

    def tokens(self, value: Tensor) -> Tensor:
        """Real tokens of what a gate said: of (sequences, seq, n), or all of (rows, n) at a map without positions."""
        return self.counted(value) if value.dim() > 2 else value

    def tokens_of_labels(self) -> Tensor:
        """The label of every real token, (tokens,).

        Raises:
            ValueError: If the sequences have no labels, or no mask says how long they are.
        """
        if self.labels is None or self.mask is None:
            raise ValueError("this call's sequences have no labels; give them with the batch")
        return self.counted(self.labels.unsqueeze(1).expand_as(self.mask))


_current: ContextVar[GateTrace | None] = ContextVar("weft_gate_trace", default=None)


def current_trace() -> GateTrace | None:
    """The trace of the call under way in this thread or task."""
    return _current.get()


def traced(trace: GateTrace | None) -> AbstractContextManager[GateTrace | None]:
    """Gates inside the block are recorded in `trace`."""
    return scoped(_current, trace)
