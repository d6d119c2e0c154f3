"""A module of the base that some experts train a private copy of (norms, embeddings), and a place for the copies."""

import torch
from torch import Tensor, nn

from weft.lowrank.route import Members, current_voices


class Replaced(nn.Module):
    """The base's module, or the copy of the expert that the call names; the base's own is never written to.

    It holds no copy itself: the call brings those of its experts, by this module's name.

    Args:
        base: The shared module.
        name: The module's name in its trunk.
    """

    def __init__(self, base: nn.Module, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name

    def __getattr__(self, name: str):  # Whatever the wrapped module holds.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: Tensor) -> Tensor:
        """The routed module's output.

        Raises:
            ValueError: If two experts of one sequence each replace this module, or a heterogeneous
                route meets an input with another number of sequences.
        """
        voices = current_voices()
        if voices is None:
            return self.base(x)
        at, route = self.name, voices.route
        copies = {name: own.copies[at] for name, own in voices.woven.items() if at in own.copies}
        if not copies:
            return self.base(x)
        chosen = [self._for(members, copies) for members in route.members]
        if route.choice is None:
            return self._run(chosen[0], x)
        if x.shape[0] == 1:
            # Position numbers come once for the whole batch.
            x = x.expand(len(route.choice), *x.shape[1:])
        if x.shape[0] != len(route.choice):
            raise ValueError(
                f"the route names experts for {len(route.choice)} sequences, the module got an "
                f"input of shape {tuple(x.shape)}; say `sequences_per_row` for rows that own several"
            )
        order, parts = [], []
        for module in dict.fromkeys(chosen):
            own = [at for at, number in enumerate(route.choice) if chosen[number] is module]
            parts.append(self._run(module, x[torch.tensor(own, device=x.device)]))
            order += own
        return torch.cat(parts)[torch.tensor(order, device=x.device).argsort()]

    def _for(self, members: Members, copies: dict[str, nn.Module]) -> nn.Module:
        found = [name for name in members if name in copies]
        if len(found) > 1:
            raise ValueError(
                f"experts {', '.join(found)} each replace the same module of the base; "
                "copies cannot be added up, route one of them at a time"
            )
        return copies[found[0]] if found else self.base

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        """`module(x)` in the base's type: a half-precision module's copy is in single precision."""
        own, common = (next(part.parameters()).dtype for part in (module, self.base))
        if own == common:
            return module(x)
        return module(x.to(own) if x.is_floating_point() else x).to(common)
