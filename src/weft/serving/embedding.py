"""Vectors of texts: the mean of a text's last states, of the base or of any expert on it."""

from dataclasses import dataclass

from weft.base.loading import Base
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.storage.loading import Ground
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

READER = ".mean"
"""What a model calls the head, without parameters, that takes the mean; no expert has such a name."""
KIND = "embedding"
MOST_TOKENS = 8192
"""Tokens of a text on a base that numbers no positions."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts, in order.

    Attributes:
        vectors: (texts, hidden).
        expert: Whose; the base's name where it is that.
        version: Its version; of the base, the first digits of its digest.
        tokens: Read for it.
    """

    vectors: list[list[float]]
    expert: str
    version: str
    tokens: int


def add_reader(ground: Ground) -> None:
    """Let a model take means, where its base is one of texts."""
    base = ground.model.base
    if kind_of(KIND).fits(base.config):
        ground.model.add(Expert(READER, {}, Head(KIND, base, 0, seed=0)).to(ground.device))


def embedding_task(base: Base, *, normalize: bool) -> Task:
    """What a text is encoded and decoded by."""
    options = {"normalize": normalize}
    longest = base.max_positions or MOST_TOKENS
    spec = TaskSpec(name=KIND, kind=KIND, max_length=longest, options=options)
    return kinds.load(KIND)(spec)
