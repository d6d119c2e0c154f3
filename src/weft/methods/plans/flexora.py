"""Flexora: layers are weighed on held-out rows while an expert learns on others; those that want more are adapted.

    y = W0 x + w_l s B A x,    w = L softmax(h),  h in R^L, 0 at the start
    inner    theta_k+1 = theta_k - rate Adam(d loss_train(theta_k, w) / d theta),   k = 0 .. K - 1
    outer    h <- Adam(d loss_held(theta_K(h), w(h)) / d h)                         after each K steps
    chosen   layers with h_l >= mean(h)

Wei et al. 2024, Flexora: Flexible Low-Rank Adaptation for Large Language Models, arXiv:2408.10774; the authors' code
(github.com/kithib/Flexora, src/llamafactory/train/flora.py) for all numbers. Then a fresh expert is trained on the
chosen layers alone; of the trial nothing else stays. `order: unrolled` differentiates through the K steps, Adam's
moments included, as the paper's equations do; `first` holds theta constant in the outer gradient, as the code does.

Where it differs: the multiplier is w. The code's hooks sit on dropout, A and B and so multiply by w^3. The code keeps
h > 0; a common part of h changes no w, plain descent leaves its mean at 0, and Adam lets it drift, so here it is
taken off. Inner moments last over the rounds, where the code begins Adam anew at each step. The square root of Adam is
that of v + eps^2, which has a derivative at 0. The held rows are a tenth of train, not of validation, which scores.
The inner steps have no warm-up, decay, clipping, dropout or penalty, and train the head too, since a new one says
nothing. Targets outside of all layers keep their adapters, unweighed.

A round costs K + 1 steps, each some two to three times as long as plain ones where they are unrolled; all K are in
memory at once. Where maps are only counted, before there are rows, every layer has its adapters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.roles import layer_of
from weft.methods.plans.contract import Plan, Trial
from weft.registry import unknown

BETAS, EPS = (0.9, 0.999), 1e-8
"""Of the inner Adam, as of training's."""


class FlexoraSettings(Settings):
    """Settings of Flexora."""

    rounds: int = Field(default=40, ge=1)
    """Steps that the layers' weights take before a choice is made."""
    inner_steps: int = Field(default=1, ge=1)
    """Training steps between two of these, K."""
    order: Literal["unrolled", "first"] = "unrolled"
    """Whether the gradient of the layers' weights goes through the inner steps."""
    layer_rate: float = Field(default=0.01, gt=0)
    """Learning rate of the layers' weights."""
    chosen: dict[str, list[str]] | None = None
    """Layers by expert, written by training; an expert that is named has these, and nothing is tried."""


class Flexora(Plan):
    """Adapters in the layers that held-out rows ask for."""

    settings_type: ClassVar[type[Settings]] = FlexoraSettings
    tries: ClassVar[bool] = True
    settings: FlexoraSettings

    kept: Sequence[str] | None = None
    """Layers that have adapters, of the one expert that this plan is for; None before the choice."""

    def plan(self, base: Mapping[str, Tensor], spec: Mapping[str, int]) -> dict[str, int | None]:
        """The rank of each target's adapter, or None in layers that were not chosen; all, where nothing was."""
        if self.kept is None:
            return dict(spec)
        wanted = (None, *self.kept)
        return {name: rank if layer_of(name) in wanted else None for name, rank in spec.items()}

    def choose(self, expert: str, maps: Sequence[str], trial: Callable[[], Trial]) -> Sequence[str]:
        """The layers that one expert's adapters go on.

        Raises:
            ValueError: If `chosen` names a layer that has no target, or none for this expert.
        """
        layers = _layers(maps)
        kept = (self.settings.chosen or {}).get(expert)
        if kept is None:
            h = layer_weights(trial(), maps, self.settings)
            kept = [own for own, value in zip(layers, h - h.mean(), strict=True) if value >= 0]
        other = [own for own in kept if own not in layers]
        if other or not kept:
            wrong = unknown("layer with a target", other[0], layers) if other else "names no layer"
            raise ValueError(f"plan flexora: chosen: {expert}: {wrong}")
        return kept

    def keep(self, layers: Sequence[str]) -> None:
        self.kept = layers


def _layers(maps: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(own for name in maps if (own := layer_of(name)) is not None))


def layer_weights(trial: Trial, maps: Sequence[str], settings: FlexoraSettings) -> Tensor:
    """What h is after all rounds, one number for each layer of `maps`."""
    h = next(iter(trial.start.values())).new_zeros(len(_layers(maps)), requires_grad=True)
    outer, inner = torch.optim.Adam([h], lr=settings.layer_rate), Inner(trial, maps)
    for number in range(settings.rounds):
        loss = inner.round(h, number, settings.inner_steps, unrolled=settings.order == "unrolled")
        (h.grad,) = torch.autograd.grad(loss, h)
        outer.step()
        inner.cut()
    return h.detach()


class Inner:
    """The expert of the trial between two steps of h: its weights and Adam's moments as functions of h."""

    def __init__(self, trial: Trial, maps: Sequence[str]) -> None:
        self.trial, layers = trial, _layers(maps)
        self.weights = {n: v.clone().requires_grad_() for n, v in trial.start.items()}
        self.first = {n: torch.zeros_like(v) for n, v in trial.start.items()}
        self.second = {n: torch.zeros_like(v) for n, v in trial.start.items()}
        self.places = {n: layers.index(own) for n in maps if (own := layer_of(n)) is not None}
        self.done = 0

    def round(self, h: Tensor, number: int, steps: int, *, unrolled: bool) -> Tensor:
        """`steps` inner steps, and the loss of held rows after them."""
        for _ in range(steps):
            self._step(h if unrolled else h.detach(), unrolled=unrolled)
        if not unrolled:
            self.cut()
        return self.trial.loss(self.weights, self._scales(h), held=True, at=number)

    def cut(self) -> None:
        """Go on from the values that were reached, whatever led there."""
        self.weights = {n: v.detach().requires_grad_() for n, v in self.weights.items()}
        self.first = {n: v.detach() for n, v in self.first.items()}
        self.second = {n: v.detach() for n, v in self.second.items()}

    def _scales(self, h: Tensor) -> dict[str, Tensor]:
        w = len(h) * h.softmax(0)
        return {name: w[at] for name, at in self.places.items()}

    def _step(self, h: Tensor, *, unrolled: bool) -> None:
        loss = self.trial.loss(self.weights, self._scales(h), held=False, at=self.done)
        gradients = torch.autograd.grad(
            loss, list(self.weights.values()), create_graph=unrolled, materialize_grads=True
        )
        self.done += 1
        for (n, value), g in zip(list(self.weights.items()), gradients, strict=True):
            m = self.first[n] = BETAS[0] * self.first[n] + (1 - BETAS[0]) * g
            v = self.second[n] = BETAS[1] * self.second[n] + (1 - BETAS[1]) * g * g
            m, v = m / (1 - BETAS[0] ** self.done), v / (1 - BETAS[1] ** self.done)
            new = value - self.trial.rates[n] * m / (v + EPS**2).sqrt()
            self.weights[n] = new if unrolled else new.detach().requires_grad_()
