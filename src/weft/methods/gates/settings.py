"""What every mixture can set, by where its experts and its gates come from."""

from typing import Literal

from pydantic import Field

from weft.config import Settings


class Spec(Settings):
    """What every mixture can set."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""
    train_heads: bool | None = None
    """Whether the tasks' heads go on learning; None: where the experts do."""
    baselines: bool = True
    """Whether uniform gates and the sum of the runs' experts are scored beside the mixture."""
    balance: str = "none"
    """What each task's loss counts in the sum: a file of `balances/` (none start expert uncertainty)."""

    @property
    def states(self) -> int | None:
        """How many numbers the gate reads of a row's `state`; None reads no such column."""
        return None


class FrozenSpec(Spec):
    """Experts that were trained apart, and may be trained on."""

    train_experts: bool = False
    """Whether the experts go on learning with the gate."""


class HeadSpec(FrozenSpec):
    """Frozen experts, and gates of all maps from one head."""

    depth: int = Field(default=1, ge=1)
    """Linear maps in the head."""
    width: int = Field(default=128, ge=1)
    """Size between the head's maps."""
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout between the head's maps, while training."""
    layerwise: bool = False
    """Gates of its own for every map, or the same for all."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by in the softmax."""
    head_start: Literal["random", "uniform"] = "random"
    """Whether the head's last map is drawn, or 0, so that every gate starts at 1 / experts."""
    standardise: bool = False
    """Whether what the head reads is brought to mean 0 and variance 1 before, by all that training has seen."""
    reads: Literal["token", "sequence"] = "token"
    """Whether every token has gates of its own, or all of a sequence the same, from mean and first token; choices of a
    row then share theirs."""
    label_weight: float = Field(default=0.0, ge=0)
    """Weight of the gates' cross-entropy against the row's own task; 0 trains by the tasks' losses alone."""


class TrainedSpec(Spec):
    """Experts that the mixture trains itself."""

    start: Literal["nothing", "experts"] = "nothing"
    """New experts, or those of the runs that are mixed."""
    num_experts: int = Field(default=4, ge=1)
    """New experts at each map; experts of runs are as many as there are."""
    rank: int = Field(default=8, ge=1)
    """Rank of each new expert."""
    alpha: float = Field(default=16.0, gt=0)
    """Strength of new experts: each is scaled by alpha / rank."""
    targets: list[str] | str = ["query", "value"]
    """Where new experts go, in the terms of a recipe's targets."""


def check_k(k: int | None, experts: int, name: str = "top_k") -> None:
    """Refuse to select more experts than there are.

    Raises:
        ValueError: If `k`, the setting `name`, is more than `experts`.
    """
    if k is not None and k > experts:
        raise ValueError(f"{name} {k} is more than the {experts} experts; choose at most {experts}")


def trains_experts(spec: Spec) -> bool:
    """Whether the experts learn with the gate."""
    return isinstance(spec, TrainedSpec) or (isinstance(spec, FrozenSpec) and spec.train_experts)
