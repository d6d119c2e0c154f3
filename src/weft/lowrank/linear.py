"""A frozen linear map and what is woven into it."""

from torch import Tensor, nn

from weft.lowrank.pool import Pool
from weft.lowrank.route import current_route


class LowRankLinear(nn.Module):
    """`y = x W0ᵀ + b` plus the adapters that the current route names; the bare map where it names none.

    The adapters belong to their experts: this module only refers to them, so `parameters()` yields W0 and b alone.

    Args:
        base: The frozen map, or the `Replaced` that stands for it; used as it is, never written to.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.pool = Pool()

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
        route = current_route()
        if route is None:
            return y
        return self.pool.apply(y, x, base.weight, route, self.training)
