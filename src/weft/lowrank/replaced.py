"""A module of the base that some experts train a private copy of (norms, embeddings)."""

import torch
from torch import Tensor, nn

from weft.lowrank.route import Members, current_route


class Replaced(nn.Module):
    """The base's module, or the copy of the expert that the route names; the base's own is never written to.

    Args:
        base: The shared module.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.copies: dict[str, nn.Module] = {}

    def __getattr__(self, name: str):  # noqa: ANN204 - whatever the wrapped module holds
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def add(self, expert: str, copy: nn.Module) -> None:
        """Let `copy` stand for the base's module wherever `expert` speaks."""
        self.copies = {**self.copies, expert: copy}

    def remove(self, expert: str) -> None:
        self.copies = {name: copy for name, copy in self.copies.items() if name != expert}

    def _for(self, members: Members) -> nn.Module:
        copies = self.copies
        found = [copies[name] for name in members if name in copies]
        if len(found) > 1:
            raise ValueError(
                f"experts {', '.join(name for name in members if name in copies)} each replace the same module of the "
                "base; copies cannot be added up, route one of them at a time"
            )
        return found[0] if found else self.base

    def forward(self, x: Tensor) -> Tensor:
        """The routed module's output; `x` has one entry for each sequence where the route is heterogeneous."""
        route = current_route()
        if route is None or not self.copies:
            return self.base(x)
        if route.choice is None:
            return self._for(route.members[0])(x)
        parts = []
        for number, members in enumerate(route.members):
            index = [at for at, chosen in enumerate(route.choice) if chosen == number]
            parts.append((index, self._for(members)(x[index])))
        y = torch.empty(x.shape[0], *parts[0][1].shape[1:], dtype=parts[0][1].dtype, device=x.device)
        for index, part in parts:
            y = y.index_copy(0, torch.tensor(index, device=x.device), part)
        return y
