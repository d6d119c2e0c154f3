"""The contract of a controller: what a method changes around each optimizer step."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from weft.config import Settings
from weft.lowrank.product import Pair, product_rule
from weft.lowrank.sensitivity import Watched

Through = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the input (..., in), W0 (out, in) and what an adapter adds (..., out) to what training adds."""


class Controller:
    """Changes nothing. A method overrides `before_step`, `after_step` or both.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings
        self.remembered: dict[str, Tensor] = {}
        """What is known of the steps before, under names of the method's own; kept with the training."""

    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        """Change how the expert's adapters see the rows of step `step` (from 0) of `total`.

        Args:
            adapters: By module name.
            optimizer: With what it remembers of the steps before.
            step: The step to come.
            total: Steps of the whole training.
            generator: Source of what is drawn; CPU. It begins anew each step from the run's seed and the step, so that
                all processes draw the same, and so does a run that is resumed.
        """

    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        """Look at or change the expert's adapters after step `step` (from 0) of `total`; no gradients here."""

    def form(self) -> dict[str, Tensor]:
        """What the shapes of the adapters follow from, where the method changes them; kept beside `state_dict`."""
        return {}

    def take_form(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        form: Mapping[str, Tensor],
    ) -> None:
        """Give adapters and the optimizer's groups the shapes they had when `form` was asked; values come after it."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the controller remembers between steps."""
        return dict(self.remembered)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.remembered = dict(state)


@runtime_checkable
class Product(Protocol):
    """An adapter whose change is `scaling * B @ A`, up to what is constant: A (rank, in), B (out, rank)."""

    A: nn.Parameter
    B: nn.Parameter
    scaling: float

    def delta(self, weight: Tensor) -> Tensor:
        """The change of the weight, (out, in)."""
        ...

    def see(self, through: Through | None) -> None:
        """What training adds in place of this adapter's own output; None is that."""
        ...


@runtime_checkable
class Grows(Watched, Protocol):
    """An adapter made of blocks of ranks, which can have more."""

    rank: int

    @property
    def growth(self) -> int:
        """Ranks that one growth adds."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether the map has no place for another growth."""
        ...

    def grow(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Add `growth` ranks; what is trained from now on and was not before."""
        ...

    def finish(self) -> None:
        """Growing is over."""
        ...

    def resize(self, rank: int) -> None:
        """Back to a rank it had."""
        ...


class Perturbing(Controller):
    """Each step is taken on weights that are slightly other than those it changes.

    The rows of the step see `W0 + change + e`; nothing is added to any tensor and so nothing has to be taken away
    again. Outside of a step, in evaluation and in what is saved there is no e.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._begun: dict[str, tuple[Tensor, Tensor]] = {}

    def perturbation(
        self,
        name: str,
        pair: Product,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Through | None:
        """What the rows of this step see at one map; None changes nothing."""
        raise NotImplementedError

    def observe(self, name: str, gradient: Pair) -> None:
        """Remember of the step just taken what the next needs; no gradients here.

        Args:
            name: The map.
            gradient: Factors of `s (g_B A + B g_A)`, which stands for the gradient of the map's whole weight.
        """

    @torch.no_grad()
    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        for name, adapter in adapters.items():
            pair = product(name, adapter, self)
            self._begun[name] = pair.A.clone(), pair.B.clone()
            pair.see(self.perturbation(name, pair, optimizer, generator))

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        for name, adapter in adapters.items():
            pair = product(name, adapter, self)
            pair.see(None)
            if pair.A.grad is not None and pair.B.grad is not None:
                A, B = self._begun[name]
                self.observe(name, product_rule(pair.scaling, A, B, pair.A.grad, pair.B.grad))
        self._begun = {}


Event = tuple[int, int, int]
"""A growth: the step before which it was, the map's place among the adapters, the seed of its new reserve."""


class Growing(Controller):
    """Adapters get more ranks while they learn. The list of growths is the form: it is carried out again, or undone."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.events: list[Event] = []
        self.is_over = False
        self.rise = 0
        """Steps over which the rate of new parts rises."""

    def grow(
        self,
        made: Mapping[str, Grows],
        optimizer: torch.optim.Optimizer,
        events: Sequence[Event],
    ) -> None:
        """Carry out growths; those of one step are a group, like the one of what learnt before, with its own rise."""
        own = list(made.values())
        for step in dict.fromkeys(step for step, _, _ in events):
            new: list[nn.Parameter] = []
            for begun, at, seed in events:
                if begun == step:
                    new += own[at].grow(torch.Generator().manual_seed(seed))
                    self.events.append((begun, at, seed))
            first = own[0].A[0]
            like = next(g for g in optimizer.param_groups if any(p is first for p in g["params"]))
            optimizer.add_param_group({**like, "params": new, "born": step, "rise": self.rise})

    def finish(self, made: Mapping[str, Grows]) -> None:
        """Growing is over."""
        for own in made.values():
            own.finish()
        self.is_over = True

    def form(self) -> dict[str, Tensor]:
        events = torch.tensor(self.events, dtype=torch.int64).reshape(-1, 3)
        over, rise = torch.tensor(self.is_over), torch.tensor(self.rise)
        return {"events": events, "is_over": over, "rise": rise}

    def take_form(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        form: Mapping[str, Tensor],
    ) -> None:
        made, wanted = growing(adapters, self), [(s, at, n) for s, at, n in form["events"].tolist()]
        own, over, self.rise = list(made.values()), bool(form["is_over"]), int(form["rise"])
        for _, at, _ in reversed(self.events[len(wanted) :]):
            own[at].resize(own[at].rank - own[at].growth)
        self.events = self.events[: len(wanted)]
        self.grow(made, optimizer, wanted[len(self.events) :])
        for one in own if self.is_over and not over else ():
            one.resize(one.rank)
        self.is_over = over
        if over:
            self.finish(made)


def product(name: str, adapter: nn.Module, controller: Controller) -> Product:
    """The adapter as a product.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(adapter, Product):
        raise TypeError(
            f"{type(controller).__name__}: the {type(adapter).__name__} on {name} is no product of two trained "
            "factors; use it with adapter lora, pissa or olora"
        )
    return adapter


def growing(adapters: Mapping[str, nn.Module], controller: Controller) -> dict[str, Grows]:
    """The adapters as such that can grow.

    Raises:
        TypeError: If one cannot.
    """
    found: dict[str, Grows] = {}
    for name, own in adapters.items():
        if isinstance(own, Grows):
            found[name] = own
    for name in adapters.keys() - found.keys():
        raise TypeError(
            f"{type(controller).__name__}: the {type(adapters[name]).__name__} on {name} cannot grow; "
            "use it with adapter blocks"
        )
    return found
