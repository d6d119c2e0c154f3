"""What happens to experts and model before the first step: trials, start weights, calibration, dropout."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from weft.answering.inference import padding_id
from weft.base import attention
from weft.base.dropout import Dropout
from weft.base.loading import Base
from weft.config import Run
from weft.data.rows import HOLDOUT
from weft.lowrank.attach import frozen_linear
from weft.lowrank.route import Voices, current_voices, voiced
from weft.methods.gates.call import Calls, calling, current_calls
from weft.methods.recipes import Recipe
from weft.model.batching import Item, collate
from weft.model.expert import Expert
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.storage.experts import load_expert
from weft.training.learning import Stream, rate_factor


def start_from(path: str, base: Base, experts: Mapping[str, tuple[Expert, Recipe]]) -> None:
    """Give new experts the weights of a trained one: adapters always, the head where kind and shape are the same."""
    found, _ = load_expert(Path(path) / "expert", base)
    for expert, _ in experts.values():
        if set(found.adapters) != set(expert.adapters):
            raise ValueError(
                f"init_from {path}: its adapters sit on {sorted(found.adapters)[:3]} ..., this run's on "
                f"{sorted(expert.adapters)[:3]} ...; use the same targets"
            )
        for module, adapter in expert.adapters.items():
            before = found.adapters[module].state_dict()
            if adapter.resizes and isinstance(found.adapters[module], type(adapter)):
                adapter.resize(found.adapters[module].rank)
            after = adapter.state_dict()
            if _shapes(before) != _shapes(after):
                raise ValueError(
                    f"init_from {path}: {module} has another variant or rank; use the same recipe"
                )
            adapter.load_state_dict(before)
        if expert.shared is not None:
            before = found.shared.state_dict() if found.shared is not None else {}
            if _shapes(before) != _shapes(expert.shared.state_dict()):
                raise ValueError(
                    f"init_from {path}: what its adapters share has other shapes; use the same recipe "
                    "with the same settings"
                )
            expert.shared.load_state_dict(before)
        if found.head and expert.head and found.head.kind_name == expert.head.kind_name:
            state = found.head.state()
            if _shapes(state) == _shapes(expert.head.state()):
                expert.head.load_state(state)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def prepare(
    model: Model,
    experts: Mapping[str, tuple[Expert, Recipe]],
    streams: Mapping[str, Stream],
    run: Run,
) -> None:
    """Let variants that need data or gradients set their start values."""
    for name, (expert, recipe) in experts.items():
        if recipe.adapter is None or not expert.adapters:
            continue
        stream = streams.get(name) or next(iter(streams.values()))
        weights = frozen_weights(model, expert)

        def gradients(
            rows: int, stream: Stream = stream, weights: Mapping[str, Tensor] = weights
        ) -> Mapping[str, Tensor]:
            return weight_gradients(model, stream, rows, weights)

        peak = run.training.rate or recipe.learning_rate
        rate = peak * rate_factor(run.training, 0, stream.total_steps)
        recipe.adapter.prepare(expert.adapters, weights, gradients, rate)


class Trial:
    """What an expert would learn, tried on rows of train by a plan that has to choose; nothing is written to.

    Without dropout, so that it is the same again when a run is resumed.

    Args:
        model: Holds the expert, which learns.
        expert: Its name.
        streams: The tasks that its adapters speak for.
        run: Complete.
        rate: Of the adapters.

    Raises:
        ValueError: If a task has too few rows for some to be held out.
    """

    def __init__(
        self, model: Model, expert: str, streams: Sequence[Stream], run: Run, rate: float
    ) -> None:
        self.model, self.streams = model, list(streams)
        self.adapters = model.expert(expert).adapters
        rates: dict[nn.Parameter, float] = {}
        for stream in streams:
            head = model.expert(stream.head).head
            own = run.training.head_learning_rate or rate
            rates |= {p: own for p in (head.parameters() if head else ()) if p.requires_grad}
        learns = model.expert(expert).trained().values()
        rates = dict.fromkeys(learns, rate) | rates
        names = {p: name for name, p in model.named_parameters()}
        self.rates = {names[p]: own for p, own in rates.items()}
        self.start = {names[p]: p.detach() for p in rates}
        self.rows = {stream.name: _parted(stream) for stream in streams}

    def loss(
        self, weights: Mapping[str, Tensor], scales: Mapping[str, Tensor], *, held: bool, at: int
    ) -> Tensor:
        """As the contract of plans says."""
        items = [item for stream in self.streams for item in self._items(stream, held, at)]
        some = next(iter(self.start.values()))
        batch = collate(items, padding_id(self.model.base)).to(some.device)
        training = self.model.training
        try:
            for name, scale in scales.items():
                self.adapters[name].see(lambda x, weight, y, scale=scale: scale.to(y.dtype) * y)
            self.model.eval()
            # The fused forms of attention have no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                said = functional_call(self.model, dict(weights), (batch,))
        finally:
            self.model.train(training)
            for name in scales:
                self.adapters[name].see(None)
        total = some.new_zeros(())
        for part in batch.parts:
            assert part.labels is not None
            loss = kind_of(part.kind).loss(said[part.head], part.labels, 0.0, part.weights)
            total = total + loss / (part.count or 1)
        return total

    def _items(self, stream: Stream, held: bool, at: int) -> list[Item]:
        rows = self.rows[stream.name][held]
        size = min(stream.training.batch_size, len(rows))
        chosen = [rows[(at * size + place) % len(rows)] for place in range(size)]
        return [stream.item(row, at) for row in chosen]


def _parted(stream: Stream) -> dict[bool, list[int]]:
    """The rows of a task in a drawn order: whether they are held out of the trial, and which."""
    count = len(stream.records)
    if count < 2:
        raise ValueError(
            f"task {stream.name}: the recipe's plan learns on some rows of train and looks at others, and there is "
            f"{count}; take more rows"
        )
    order = np.random.default_rng([stream.seed, count]).permutation(count).tolist()
    held = max(1, round(HOLDOUT * count))
    return {True: order[:held], False: order[held:]}


def frozen_weights(model: Model, expert: Expert) -> dict[str, Tensor]:
    """The W0 under each of an expert's adapters by module name."""
    return {module: frozen_linear(model.trunk, module).weight for module in expert.adapters}


def weight_gradients(
    model: Model, stream: Stream, rows: int, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The loss's gradient with respect to frozen weights over the first `rows` training rows, summed.

    Without dropout, so that it is the same again when a run is resumed.

    The weights are read only: they ask for gradients during this call and never take a step.
    """
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    frozen = list(weights.values())
    held = model.snapshot
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        records = stream.records[:rows]
        for at in range(0, len(records), stream.training.batch_size):
            items = [
                stream.item(row, step=0)
                for row in range(at, min(at + stream.training.batch_size, len(records)))
            ]
            batch = collate(items, padding_id(model.base)).to(frozen[0].device)
            part = batch.parts[0]
            assert part.labels is not None
            kind, logits = kind_of(stream.kind), held(batch)[part.head]
            loss = kind.loss(logits, part.labels, 0.0, part.weights) / len(items)
            for name, value in zip(sums, torch.autograd.grad(loss, frozen), strict=True):
                sums[name] += value
    finally:
        for weight in frozen:
            weight.requires_grad_(model.is_private)
    return sums


@contextmanager
def _again(voices: Voices | None, calls: Calls | None) -> Iterator[None]:
    with voiced(voices), calling(calls):
        yield


def prepare_model(model: Model, run: Run) -> None:
    """Set dropout and gradient checkpointing as the run asks; weights stay as they are."""
    rate = run.training.base_dropout
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            model.set_submodule(
                name, Dropout(module.p if rate is None else rate).train(module.training)
            )
        elif rate is not None and isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", rate)  # noqa: B010 - a plain number, no submodule
    rates = [module.p for module in model.trunk.modules() if isinstance(module, Dropout)]
    rates += [getattr(module, "attention_dropout", 0.0) for module in model.trunk.modules()]
    if model.base.trunk.device.type == "cpu" and any(rates):
        trunk = cast(PreTrainedModel, model.trunk)
        if attention.available(attention.NAME, type(trunk)) == attention.NAME:
            trunk.set_attn_implementation(attention.NAME)
    if run.training.gradient_checkpointing:

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            # The second forward runs inside backward, outside the call that set voices and gates.
            return nullcontext(), _again(current_voices(), current_calls())

        trunk: Any = model.trunk
        trunk.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
