"""What happens to experts and model before the first step: start weights, calibration, dropout, checkpointing, balance.

What is measured here is measured on each process alone, from the start values and the seed, so that all processes agree
and a resumed run finds the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.answering.inference import autocast, padding_id, total_loss
from weft.base import attention
from weft.base.dropout import Dropout
from weft.base.loading import Base
from weft.config import Run
from weft.lowrank.attach import frozen_linear
from weft.lowrank.route import Voices, current_voices, voiced
from weft.methods.balances import balances
from weft.methods.balances.contract import Balance
from weft.methods.gates.call import Calls, calling, current_calls
from weft.methods.gates.settings import Spec
from weft.methods.recipes import Recipe
from weft.model.batching import MOST_TOKENS, Item, collate, pieces
from weft.model.expert import Expert
from weft.model.heads import kind_of
from weft.model.mixing import MIX, Ingredient
from weft.model.model import Model
from weft.scoped import tell
from weft.storage.experts import load_expert
from weft.training.learning import Stream, rate_factor

MOST_ROWS = 128
"""Of a task, whose loss is measured: a scale need not be exact, and this is to take little of a training."""
_OWN = "own expert"
"""What an expert is called while its loss is measured; no task's name has a space."""


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


def balance_of(
    spec: Spec | None,
    model: Model,
    streams: Sequence[Stream],
    ingredients: Mapping[str, Ingredient],
    run: Run,
) -> Balance | None:
    """The balance of a mixture's tasks, with what it wanted to know; None where there is no mixture.

    Args:
        spec: The mixture's settings.
        model: As training starts it, in training mode.
        streams: The tasks' rows.
        ingredients: The experts that are mixed, by task.
        run: Whose seed and precision count.

    Raises:
        ValueError: If a task's loss is 0 or no number, so that nothing can be divided by it.
    """
    if spec is None:
        return None
    kind = balances.load(spec.balance)
    if kind.measures is None:
        return kind()
    found = {}
    for stream in streams:
        tell(f"loss of {stream.name} before training")
        if kind.measures == "start":
            found[stream.name] = start_loss(model, stream, run)
        else:
            found[stream.name] = own_loss(model, stream, ingredients[stream.name], run)
        if not (math.isfinite(found[stream.name]) and found[stream.name] > 0):
            of = "the mixture's" if kind.measures == "start" else "its own expert's"
            raise ValueError(
                f"balance {spec.balance}: {of} loss on the first {len(_rows(stream))} training rows of "
                f"{stream.name} is {found[stream.name]:g}, and nothing can be divided by that; choose balance: none"
            )
    return kind(found)


def start_loss(model: Model, stream: Stream, run: Run) -> float:
    """The mean loss that training starts from over the first rows of a task, gates and dropout as in training."""
    device = next(model.trunk.parameters()).device
    total = count = 0.0
    with (
        _as_it_was(model.expert(MIX), run.seed),
        torch.no_grad(),
        autocast(device, run.training.precision),
    ):
        for piece in _pieces(stream, device):
            batch = collate(piece, padding_id(model.base)).to(device)
            answers = model(batch)
            for part in batch.parts:
                assert part.labels is not None
                loss = kind_of(part.kind).loss(
                    answers[part.head], part.labels, run.training.label_smoothing, part.weights
                )
                total += loss.double().item()
                count += part.count
    return total / (count or 1)


def own_loss(model: Model, stream: Stream, own: Ingredient, run: Run) -> float:
    """The mean loss of a task's own expert over its first rows, without dropout."""
    device = next(model.trunk.parameters()).device
    expert = Expert(_OWN, own.expert.adapters, own.expert.head, shared=own.expert.shared).to(device)
    items = [stream.item(row, step=0) for row in _rows(stream)]
    items = [replace(item, head=_OWN, members=(_OWN,)) for item in items]
    model.add(expert)
    try:
        total, count = total_loss(
            model,
            items,
            pad_id=padding_id(model.base),
            device=device,
            precision=run.training.precision,
        )
    finally:
        model.remove(_OWN)
    return total / (count or 1)


def _pieces(stream: Stream, device: torch.device) -> Iterator[list[Item]]:
    """The first rows by as many as a step has: rows of one step may learn from each other."""
    rows, size = _rows(stream), stream.training.batch_size
    for at in range(0, len(rows), size):
        items = [stream.item(row, step=0) for row in rows[at : at + size]]
        yield from pieces(items, 1, MOST_TOKENS.get(device.type))


def _rows(stream: Stream) -> range:
    return range(min(MOST_ROWS, len(stream.records)))


@contextmanager
def _as_it_was(mixture: nn.Module, seed: int) -> Iterator[None]:
    """What the block draws is the seed's and disturbs no draw after it; what it counts is forgotten."""
    before = {name: value.clone() for name, value in mixture.named_buffers()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        with torch.no_grad():
            for name, value in mixture.named_buffers():
                value.copy_(before[name])
