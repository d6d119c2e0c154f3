"""Experts away from their start, mixtures of them, and rows, on one tiny base; settings that keep mixtures tiny."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.base.loading import Base, load_base
from weft.config import MixtureSettings, RecipeSettings
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.trace import GateTrace, traced
from weft.methods.mixtures import mixtures
from weft.methods.recipes import resolve
from weft.model.batching import Batch, Item, collate
from weft.model.card import Card
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.mixed import Mix
from weft.model.mixing import MIX, Ingredient, make_mix
from weft.model.model import Model

NAMES = mixtures.names()
KIND = {
    "topic": "sequence_classification",
    "tags": "token_classification",
    "endings": "multiple_choice",
    "where": "span_extraction",
    "go_on": "causal_lm",
}
SEQUENCES = {"endings": 3, "where": 2}
TINY: dict[str, dict[str, Any]] = {
    "mola": {"top_k": 2, "num_experts": 3},
    "smora": {"num_experts": 1, "rank": 4, "top_k": 2},
    "xlora": {"width": 8},
}
"""Where the common settings do not do."""


def is_new(name: str) -> bool:
    """Whether a mixture trains experts of its own unless told otherwise."""
    return issubclass(mixtures.load(name).settings_type, TrainedSpec)


def takes_experts(name: str) -> bool:
    """Whether a mixture can be made of trained experts."""
    return name != "mixlora"


def tiny(name: str) -> dict[str, Any]:
    """A mixture's settings at the smallest sizes."""
    return ({"num_experts": 3, "rank": 2} if is_new(name) else {}) | TINY.get(name, {})


def of_experts(name: str) -> dict[str, Any]:
    """Settings for a mixture of trained experts."""
    own = {"top_k": tiny(name)["top_k"]} if "top_k" in tiny(name) else {}
    return own | ({"start": "experts"} if is_new(name) else {})


@functools.cache
def _loaded(folder: Path) -> Base:
    return load_base(str(folder), dtype=torch.float64)


def exact(folder: Path) -> Base:
    """A base in double precision with a trunk of its own; read from disk once."""
    base = _loaded(folder)
    return dataclasses.replace(base, trunk=copy.deepcopy(base.trunk))


def expert(base: Base, name: str, number: int, **recipe: Any) -> Expert:
    """An expert away from its start, of its own rank."""
    settings = {"name": "lora", "rank": 2 + number, "targets": ["query", "value"]} | recipe
    method = resolve(RecipeSettings(**settings))
    head = Head(KIND[name], base, 3, seed=number)
    made = build(name, base, method, head, seed=number)
    shake(made.trained().values(), number)
    return made


def shake(parameters: Any, seed: int = 0) -> None:
    """Move parameters away from where they start, as training would."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in parameters:
            value.add_(0.3 * torch.randn(value.shape, generator=draw))


def ingredients(
    base: Base, names: Sequence[str] = ("topic", "tags", "endings"), **recipe: Any
) -> dict[str, Ingredient]:
    """Experts that were trained, as mixing takes them; their cards say nothing."""
    card = Card({}, (), "", {}, (), base.name, base.source, None, base.digest)
    return {
        name: Ingredient(expert(base, name, number, **recipe), card, Path(name))
        for number, name in enumerate(names)
    }


def mixed(
    base: Base, owners: Mapping[str, Ingredient], name: str, *, moved: bool = True, **settings: Any
) -> Mix:
    """A mixture in double precision, away from its start unless told otherwise."""
    mix = make_mix(MixtureSettings(name=name, **settings), base, owners, list(owners), seed=1)
    mix.double()
    if moved:
        shake([value for value in mix.parameters() if value.requires_grad])
    return mix


def model_of(base: Base, owners: Mapping[str, Ingredient], *mixes: Mix) -> Model:
    """The experts and mixtures on one trunk; gates can be trained, nothing else."""
    model = Model(base).eval()
    for own in owners.values():
        model.add(own.expert)
    for mix in mixes:
        model.add(mix, trainable=True)
    return model


def with_factors(name: str, factors: Mapping[str, tuple[Tensor, Tensor]], head: Head) -> Expert:
    """A plain LoRA of scale 1 with these factors."""
    adapters = {}
    for module, (A, B) in factors.items():
        spec = LoRASpec(rank=len(A), alpha=float(len(A)))
        own = LoRA(torch.empty(len(B), A.shape[1], device="meta"), spec, torch.Generator())
        own.A, own.B = nn.Parameter(A.clone()), nn.Parameter(B.clone())
        adapters[module] = own
    return Expert(name, adapters, head)


def rows(name: str, count: int, *members: str) -> list[Item]:
    """Rows of random tokens for the head `name`; every sequence has another length."""
    draw = torch.Generator().manual_seed(len(name))
    made = []
    for at in range(count):
        lengths = [3 + (5 * at + 3 * part) % 11 for part in range(SEQUENCES.get(name, 1))]
        ids = [torch.randint(10, 90, (length,), generator=draw).tolist() for length in lengths]
        labels: Any = {"topic": at % 3, "endings": at % 3, "where": [[1, 2] for _ in ids]}.get(
            name, [[token % 3 for token in own] for own in ids]
        )
        record = {"id": f"{name}{at}", "input_ids": ids, "labels": labels}
        made.append(Item(name, KIND[name], members, record))
    return made


def batch_of(items: Sequence[Item], multiple: int = 1) -> Batch:
    return collate(items, 0, multiple=multiple)


def by_row(answers: Mapping[str, Tensor], batch: Batch) -> dict[str, list[Tensor]]:
    """Outputs without padding, by head, in the order of the rows, as one line of numbers each."""
    found: dict[str, list[Tensor]] = {}
    for part in batch.parts:
        raw = kind_of(part.kind).outputs(answers[part.head], part.labels, part.lengths)
        lines = dict(zip(part.rows, raw, strict=True))
        found[part.head] = [_line(lines[row]) for row in sorted(lines)]
    return found


def _line(output: Any) -> Tensor:
    windows = output if isinstance(output, list) else [output]
    return torch.cat([torch.from_numpy(one).flatten() for one in windows])


def task_loss(model: Model, batch: Batch, trace: GateTrace | None = None) -> Tensor:
    """The sum of every head's loss, and of what the mixture adds to it."""
    trace = trace or GateTrace()
    with traced(trace):
        answers = model(batch)
    total = torch.zeros((), dtype=torch.float64)
    for part in batch.parts:
        assert part.labels is not None
        total = total + kind_of(part.kind).loss(answers[part.head], part.labels, 0.0)
    mix = model.experts[MIX]
    assert isinstance(mix, Mix)
    return total + sum(weight * value for weight, value in mix.mixture.losses(trace).values())


def gradients(model: Model) -> dict[str, Tensor]:
    """Every gradient there is, by the parameter's name; they are taken away."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
