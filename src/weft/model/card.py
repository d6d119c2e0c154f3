"""What is written of an expert beside its tensors: its card. No torch here: who only reads cards needs none."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Card:
    """What `weft.json` says of an expert, beside its tensors."""

    task: dict[str, Any]
    """The complete TaskSpec."""
    labels: tuple[str, ...]
    head: str
    recipe: dict[str, Any]
    """The complete recipe settings; `targets` as they were asked for."""
    targets: tuple[str, ...]
    """The modules that the targets resolved to."""
    base: str
    source: str
    revision: str | None
    digest: str
    train_also: tuple[str, ...] = ()
    """Modules of the base that the expert owns a copy of."""
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
