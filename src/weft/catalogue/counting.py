"""How many numbers a method trains in a base, from configs alone: everything is on the meta device."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModel

from weft.base.loading import config_of, skeleton
from weft.config import MixtureSettings
from weft.lowrank.roles import resolve as targeted
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.stack import Part
from weft.methods.recipes import Recipe
from weft.model.expert import Expert, make_adapters, plan_ranks
from weft.model.mixing import frame_of, method_of, starts_from_experts

RANK = 8
TARGETS = ("query", "value")
"""What experts are taken to be where a count needs some."""


def parameters(recipe: Recipe, base: str) -> dict[str, Any]:
    """What a recipe trains in `base`, from its config alone; the head is not counted."""
    trunk = skeleton(base)
    total = sum(value.numel() for value in trunk.parameters())
    maps = 0
    count = total if recipe.trains == "base" else 0
    if recipe.adapter is not None and recipe.spec is not None:
        ranks = plan_ranks(trunk, recipe)
        weights = {module: trunk.get_submodule(module).get_parameter("weight") for module in ranks}
        maps = len(ranks)
        made, shared = make_adapters(recipe, weights, ranks, torch.Generator(), torch.float32)
        count += Expert("", made, None, shared=shared).adapter_parameters()
    return {"base": base, "trained": count, "of": total, "adapted_maps": maps}


def mixture_parameters(
    name: str, base: str, experts: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a mixture of plain LoRAs trains in `base`; the tasks' heads are not counted.

    Args:
        name: A file of `mixtures/`.
        base: An alias, a hub id or a folder.
        experts: How many experts of rank 8 on query and value are mixed; a mixture that starts from
            nothing has its own.
        settings: Of the mixture.

    Raises:
        ValueError: If the mixture does not have a setting, or cannot mix so many.
    """
    trunk = skeleton(base)
    kind, spec = method_of(MixtureSettings(name=name, **settings))
    frame, generator = frame_of(trunk), torch.Generator()
    if starts_from_experts(spec):
        targets: Any = TARGETS
        names = [f"expert{at}" for at in range(experts)]
    else:
        assert isinstance(spec, TrainedSpec)
        targets = spec.targets
        names = [f"expert{at}" for at in range(spec.num_experts)]
    stacks = {}
    with torch.device("meta"):
        for module in targeted(trunk, targets):
            weight = trunk.get_submodule(module).get_parameter("weight")
            if not isinstance(spec, TrainedSpec) or spec.start == "experts":
                A = torch.empty(RANK, weight.shape[1])
                part = Part(A, torch.empty(weight.shape[0], RANK), 2.0)
                stacks[module] = kind.from_experts(module, [part] * experts, frame, spec)
            else:
                stacks[module] = kind.from_nothing(module, weight, frame, spec, generator)
        mixture = kind(names, stacks, frame, spec, generator)
    # As others count a base: with the pooler, where the architecture has one.
    with torch.device("meta"):
        total = AutoModel.from_config(config_of(base), trust_remote_code=False).num_parameters()
    held = sum(value.numel() for value in mixture.parameters())
    return {
        "base": base,
        "trained": sum(p.numel() for p in mixture.parameters() if p.requires_grad),
        "of": total + held,
        "gates": mixture.gate_parameters,
        "experts": held - mixture.gate_parameters,
        "maps": len(stacks),
    }
