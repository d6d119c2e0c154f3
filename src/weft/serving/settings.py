"""Limits of the engine and of the shelf, and what a request may set."""

from pydantic import Field

from weft.answering.generation import Generation
from weft.config import Settings


class Limits(Settings):
    """How much the engine takes on."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens in one forward call; a single row may have more. None is as offline: what is fastest on the device,
    and a request alone is answered in the same batches."""
    quantum: int = Field(default=256, ge=1)
    """Tokens that an expert is given in each round of those that wait; smaller mixes finer."""
    rows: int = Field(default=1024, ge=1)
    """Inputs of one request."""
    row_tokens: int = Field(default=100_000, ge=1)
    """Tokens of one input, windows and choices together."""
    waiting_rows: int = Field(default=8192, ge=1)
    """Inputs that may be under way in all; where more come, the expert with most waiting gives way."""
    waiting_tokens: int = Field(default=131_072, ge=1)
    """Tokens that may wait to be read or written."""
    waiting_seconds: float = Field(default=10.0, gt=0)
    """Seconds of work that may wait, by how fast it was done in the last half minute; a request that finds nothing
    waiting is taken, however long it is."""
    patience: float = Field(default=60.0, gt=0)
    """Seconds after which a request that named no deadline is given up."""
    sequences: int = Field(default=32, ge=1)
    """Texts that are written at one time."""
    cached_tokens: int = Field(default=65_536, ge=1)
    """Tokens whose keys and values are kept at one time, in all texts that are written; a single one may have more."""


class Room(Settings):
    """How much the shelf holds in memory, and what it lets in."""

    bytes: int = Field(default=2**30, ge=1)
    """Tensors of experts in memory, bases not counted; those that nobody asks go first."""
    experts: int = Field(default=1024, ge=1)
    """Experts and mixtures in memory."""
    expert_bytes: int = Field(default=2**28, ge=1)
    """Tensors of one expert or mixture, as stored."""
    rank: int = Field(default=1024, ge=1)
    """Largest rank of an expert's maps."""
    tensors: int = Field(default=16_384, ge=1)
    """Tensors of one expert or mixture, as stored."""
    bases: int = Field(default=1, ge=1)
    """Bases in memory; an expert of a further one is refused."""


class Options(Settings):
    """What a request may set."""

    task: str | None = None
    """Of an expert that answers several tasks, or of experts that are weighed: whose head answers."""
    generation: Generation | None = None
    """How a causal language model continues."""
