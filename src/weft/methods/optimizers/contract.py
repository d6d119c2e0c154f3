"""The contract of an optimizer rule: what happens to an expert's gradients before AdamW sees them, or in its place.

A rule that needs an algorithm of its own says so in its groups: the function under `update` steps the group's
parameters, and AdamW leaves them alone. What it remembers it keeps in the optimizer's own state, by parameter, which
checkpoints hold; rate, schedule, warm-up and clipping are the trainer's, as for everything.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weft.config import Settings

State = MutableMapping[nn.Parameter, dict[str, Tensor]]
"""What an optimizer remembers of each parameter."""
Update = Callable[[Mapping[str, Any], State], None]
"""Steps the parameters of a group (`params`, `lr`, `weight_decay`) whose gradients are there."""


class Optimizer:
    """Plain AdamW: one group, gradients as they are. A method overrides what it changes.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    @classmethod
    def refusal(cls, adapter: type[nn.Module]) -> str | None:
        """Why this rule makes no sense with an adapter; None if it does."""
        return None

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        """Torch parameter groups that hold every trained adapter parameter once, each with its `lr`.

        A group may have `update`, an `Update` that steps it in AdamW's place, and a `weight_decay` of its own.
        """
        params = [p for adapter in adapters.values() for p in adapter.parameters()]
        return [{"params": [p for p in params if p.requires_grad], "lr": lr}]

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        """Change the `.grad` of the adapters in `pairs` in place, after clipping, before step `step` (from 0)."""

    def state_dict(self) -> dict[str, Tensor]:
        """What `transform` remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The trained factors of one map: its weight changes by `scaling * B @ A`, up to what is constant.

    With G the loss's gradient by the weight, the gradients are `g_A = s B^T G` and `g_B = s G A^T`.
    """

    A: nn.Parameter
    """(rank, in)"""
    B: nn.Parameter
    """(out, rank)"""
    scaling: float

    @property
    def learns(self) -> bool:
        """Whether both have a gradient."""
        return self.A.grad is not None and self.B.grad is not None

    def wide(self) -> tuple[Tensor, Tensor]:
        """A and B without gradients, in single precision at least, for the algebra."""
        dtype = torch.promote_types(self.A.dtype, torch.float32)
        return self.A.detach().to(dtype), self.B.detach().to(dtype)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Those of A and B, as wide."""
        dtype = torch.promote_types(self.A.dtype, torch.float32)
        assert self.A.grad is not None
        assert self.B.grad is not None
        return self.A.grad.to(dtype), self.B.grad.to(dtype)


class PairOptimizer(Optimizer):
    """A rule on the two factors of each map together, for every variant whose change is `s B A`."""

    @classmethod
    def refusal(cls, adapter: type[nn.Module]) -> str | None:
        if getattr(adapter, "pairs", False):
            return None
        return (
            f"it works on two trained factors whose product is the change, which {adapter.__name__} does not have; "
            "use it with lora, pissa or olora"
        )

    def pairs(self, adapters: Mapping[str, nn.Module]) -> Iterator[Pair]:
        """The factors of each adapter, in order."""
        for adapter in adapters.values():
            scaling = float(getattr(adapter, "scaling"))  # noqa: B009 - `pairs` promises it
            yield Pair(adapter.get_parameter("A"), adapter.get_parameter("B"), scaling)


def damped_inverse(gram: Tensor, damping: float) -> Tensor:
    """`(gram + damping I)^-1` of a small symmetric matrix, as wide as it."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.inv(gram + damping * eye)


def decay(parameter: Tensor, group: Mapping[str, Any]) -> None:
    """AdamW's decoupled decay, before the step."""
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
