"""What the gates of one call may read, and what they said; by the name of their mixture.

A call lasts one forward of the trunk. It travels in a context variable like a route: no module remembers it, so that
threads, processes and recomputed layers each see their own.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from weft.methods.gates.trace import GateTrace
from weft.scoped import scoped


class Pass(NamedTuple):
    """A forward of the trunk before the one that counts, without gradient.

    Attributes:
        value: What every gate is meanwhile; 0 is the bare base.
        layers: How many layers it runs; None runs all.
    """

    value: float = 0.0
    layers: int | None = None


@dataclass
class Call:
    """One forward of the trunk as one mixture sees it.

    Attributes:
        trace: Mask, labels, and what each gate said.
        hidden: (sequences, seq, hidden), the state that the gate reads; None until it is known.
        state: (sequences, numbers), what is known of whom each sequence is for; None if the gate reads no such thing.
        constant: Every gate is this number; what a scaling pass runs with.
        watched: Whether what the gates say is recorded for the caller.
        once: What is computed once for many maps.
    """

    trace: GateTrace = field(default_factory=GateTrace)
    hidden: Tensor | None = None
    state: Tensor | None = None
    constant: float | None = None
    watched: bool = True
    once: dict[str, Any] = field(default_factory=dict)


Calls = Mapping[str, Call]

_current: ContextVar[Calls | None] = ContextVar("weft_gate_calls", default=None)


def current_calls() -> Calls | None:
    """The calls of the forward under way in this thread or task, by mixture; None outside of one."""
    return _current.get()


def calling(calls: Calls | None) -> AbstractContextManager[Calls | None]:
    """Gates inside the block belong to `calls`."""
    return scoped(_current, calls)
