"""Run folders as training leaves them, without the training, and what offline says of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from weft.base.loading import Base
from weft.config import MixtureSettings, RecipeSettings, Run
from weft.methods.recipes import resolve
from weft.model.card import Card
from weft.model.expert import LM_HEAD, Expert, build
from weft.model.head import Head
from weft.model.mixing import Ingredient, make_mix
from weft.model.recogniser import STATES, Recogniser
from weft.runs import RunFolder
from weft.storage.experts import save_expert
from weft.storage.mixture import save_mixture
from weft.tasks.contract import Prediction, TaskSpec
from weft.tasks.kinds import kinds

SPECS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"labels": ["bad", "good"]},
    "token_classification": {"labels": ["O", "B-x", "I-x"]},
    "span_extraction": {"max_length": 40, "stride": 8},
    "multiple_choice": {"options": {"choices": 2}},
    "masked_lm": {},
    "embedding": {},
    "causal_lm": {},
}
CONTEXT = "the river was in paris and the old city of london had a big house for john and mary"
INPUTS: dict[str, list[Any]] = {
    "sequence_classification": ["a good film", "the bad old dog of london said so", "one"],
    "token_classification": ["John was in New-Paris, and it's big!", "one dog"],
    "span_extraction": [{"question": "who", "context": f"{CONTEXT} {CONTEXT}"}],
    "multiple_choice": [{"id": "mine", "context": "the dog", "choices": ["said it", "went"]}],
    "masked_lm": ["the [MASK] dog was [MASK]"],
    "embedding": [{"text_a": "the good dog", "text_b": "a bad film"}],
    "causal_lm": ["the good dog", "a", "she said that he went to the city by the river and"],
}


def write_run(
    folder: Path, base: Base, kind: str, seed: int = 0, *, rank: int = 3, **recipe: Any
) -> Path:
    """A run folder with one LoRA expert whose every weight is random, by its seed."""
    settings = {"name": "lora", "targets": ["query", "ffn_out"], "rank": rank, **recipe}
    run = Run.model_validate({"base": base.name, "task": said(kind), "recipe": settings})
    made = RunFolder.create(folder, run)
    expert, card = trained(base, kind, seed, settings)
    save_expert(expert, card, base, made.expert)
    return folder


def spec_of(kind: str) -> TaskSpec:
    """A task of a kind, by its kind's name."""
    return TaskSpec.model_validate({"name": kind, "kind": kind, "max_length": 64, **SPECS[kind]})


def said(kind: str) -> dict[str, Any]:
    """The same as a run's settings have it."""
    return {"name": kind, "spec": spec_of(kind).model_dump(mode="json", exclude={"name"})}


def trained(base: Base, kind: str, seed: int, recipe: dict[str, Any]) -> tuple[Expert, Card]:
    """An expert away from its start, and its card."""
    spec = spec_of(kind)
    task = kinds.load(kind)(spec, spec.labels or [])
    resolved = resolve(RecipeSettings.model_validate(recipe))
    expert = build(kind, base, resolved, Head(kind, base, task.num_labels, seed), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in expert.adapters.values():
            torch.nn.init.normal_(adapter.get_parameter("B"), 0.0, 0.3, generator=draw)
        if LM_HEAD in resolved.settings.train_also and expert.head is not None:
            for value in expert.head.state().values():
                value.add_(0.1 * torch.randn(value.shape, generator=draw))
    card = Card(
        task=spec.model_dump(mode="json"),
        labels=tuple(task.labels),
        head=kind,
        recipe=resolved.describe().model_dump(mode="json"),
        targets=tuple(expert.adapters),
        train_also=tuple(expert.copies),
        base=base.name,
        source=base.source,
        revision=None,
        digest=base.digest,
    )
    return expert, card


def write_mixture(folder: Path, base: Base, tasks: Sequence[str], method: str = "xlora") -> Path:
    """A run folder with a mixture of an expert for each task, its gates away from their start."""
    recipe = {"name": "lora", "targets": ["query", "ffn_out"], "rank": 2}
    owners: dict[str, Ingredient] = {}
    heads: dict[str, tuple[Expert, Card]] = {}
    for at, kind in enumerate(tasks):
        expert, card = trained(base, kind, 20 + at, recipe)
        save_expert(expert, card, base, folder / "from" / kind)
        owners[kind] = Ingredient(expert, card, folder / "from" / kind)
        heads[kind] = trained(base, kind, 40 + at, {"name": "head"})
    settings = MixtureSettings.model_validate({"name": method})
    mix = make_mix(settings, base, owners, list(tasks), seed=1)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in mix.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
    size = STATES * base.config.hidden_size
    weight = torch.randn(len(tasks), size, generator=draw)
    save_mixture(
        folder / "mixture",
        mix,
        base,
        settings=settings,
        ingredients=owners,
        heads=heads,
        extra=Recogniser(tuple(tasks), weight, torch.zeros(len(tasks))).tensors(),
    )
    shutil.rmtree(folder / "from")
    common = {"base": base.name, "mixture": settings.model_dump()}
    whole = Run.model_validate({**common, "tasks": [said(kind) for kind in tasks]})
    RunFolder(folder).write_config(whole)
    for kind in tasks:
        (folder / kind).mkdir()
        RunFolder(folder / kind).write_config(Run.model_validate({**common, "task": said(kind)}))
    return folder


def close(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    """Equal but for numbers, which differ by rounding: products of single precision, a few layers deep."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other, [tolerance] * len(one)))
    if isinstance(one, float):
        return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))
    return bool(one == other)


Answered = list[Prediction]
