"""What happens to experts and model before the first step: start weights, calibration, dropout, checkpointing."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.answering.inference import padding_id
from weft.base import attention
from weft.base.dropout import Dropout
from weft.base.loading import Base
from weft.config import Run
from weft.lowrank.attach import frozen_linear
from weft.lowrank.route import Voices, current_voices, voiced
from weft.methods.gates.call import Calls, calling, current_calls
from weft.methods.recipes import Recipe
from weft.model.batching import collate
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
