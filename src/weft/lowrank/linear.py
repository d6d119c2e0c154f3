"""A frozen linear map, and a place for what calls add to it."""

from torch import Tensor, nn

from weft.lowrank.pool import add_up
from weft.lowrank.route import current_voices


class LowRankLinear(nn.Module):
    """`y = x W0ᵀ + b` plus the adapters of the experts that the call names; the bare map where it names none.

    It holds W0 and b and nothing of any expert: the call brings what its experts add, by this map's name.

    Args:
        base: The frozen map, or the `Replaced` that stands for it; used as it is, never written to.
        name: The map's name in its trunk.
    """

    def __init__(self, base: nn.Linear, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name

    @property
    def weight(self) -> Tensor:
        """W0, (out, in)."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """b, (out,)."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, seq, in) to (sequences, seq, out)."""
        # Looked up once: at a few tokens a module's attribute takes a tenth of what an adapter does.
        base = self.base
        y = base(x)
        voices = current_voices()
        if voices is None:
            return y
        return add_up(y, x, base.weight, self.name, voices, training=self.training)
