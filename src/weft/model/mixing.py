"""From run folders to a mixture: experts read, stacked map by map, and given gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from weft.base.loading import Base
from weft.config import MixtureSettings, validate
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import resolve, roles_of
from weft.methods.adapters.contract import Adapter, NotLowRank
from weft.methods.gates.frame import Frame
from weft.methods.gates.settings import Spec, TrainedSpec
from weft.methods.gates.stack import Part, Stack
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture
from weft.model.card import Card
from weft.model.expert import Expert, check_rank
from weft.model.head import trained_dtype
from weft.model.heads import kind_of
from weft.model.mixed import Mix

MIX = "mix"
"""How routes call the mixture of a run."""


@dataclass(frozen=True)
class Ingredient:
    """A trained expert that is to be mixed."""

    expert: Expert
    card: Card
    folder: Path
    """Where it lies on disk."""


def method_of(settings: MixtureSettings) -> tuple[type[Mixture], Spec]:
    """A mixture's class and its settings, checked.

    Raises:
        KeyError: If there is no such mixture.
        ValueError: If it does not have a setting, or its value is out of range.
    """
    kind = mixtures.load(settings.name)
    own = settings.model_extra or {}
    return kind, validate(kind.settings_type, own, f"mixture {settings.name}")


def starts_from_experts(spec: Spec) -> bool:
    """Whether the experts are those of runs."""
    return not isinstance(spec, TrainedSpec) or spec.start == "experts"


def frame_of(trunk: PreTrainedModel) -> Frame:
    """What a mixture has to know of a trunk, or of its skeleton."""
    config = trunk.config
    causal = kind_of("causal_lm").fits(config)
    return Frame(
        config.model_type, config.hidden_size, config.num_hidden_layers, causal, roles_of(trunk)
    )


def make_mix(
    settings: MixtureSettings,
    base: Base,
    ingredients: Mapping[str, Ingredient],
    tasks: Sequence[str],
    seed: int,
) -> Mix:
    """A mixture as its training starts it.

    Args:
        settings: The method and its settings.
        base: The frozen base.
        ingredients: The experts by name; none where the method starts from nothing.
        tasks: Whose rows are answered.
        seed: Decides every random start value.

    Raises:
        ValueError: If there is no expert to mix, or the method cannot mix these; with the reason.
    """
    kind, spec = method_of(settings)
    generator = torch.Generator().manual_seed(seed)
    frame = frame_of(base.trunk)
    where = f"mixture {settings.name}"
    try:
        if starts_from_experts(spec):
            if not ingredients:
                raise ValueError("no expert to mix; give the run folders of at least one expert")
            experts = list(ingredients)
            stacks = _stacked(kind, spec, base, list(ingredients.values()), frame)
        else:
            assert isinstance(spec, TrainedSpec)
            experts = [f"expert{at}" for at in range(spec.num_experts)]
            stacks = _new(kind, spec, base, frame, generator)
        mixture = kind(experts, stacks, frame, spec, generator).to(trained_dtype(base))
        return Mix(MIX, mixture, () if starts_from_experts(spec) else tasks)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _stacked(
    kind: type[Mixture], spec: Spec, base: Base, owners: Sequence[Ingredient], frame: Frame
) -> dict[str, Stack]:
    """The experts' factors map by map, in the order of the trunk's modules."""
    dtype = trained_dtype(base)
    used = {module for owner in owners for module in owner.expert.adapters}
    stacks = {}
    for module in (name for name in resolve(base.trunk, sorted(used)) if name in used):
        weight = frozen_linear(base.trunk, module).weight
        parts = [
            _part(owner, adapter, weight, dtype)
            if (adapter := owner.expert.adapters.get(module))
            else None
            for owner in owners
        ]
        stacks[module] = kind.from_experts(module, parts, frame, spec).to(weight.device, dtype)
    return stacks


def _part(owner: Ingredient, adapter: Adapter, weight: torch.Tensor, dtype: torch.dtype) -> Part:
    """An expert's factors at one map; a plain LoRA keeps its scale apart, so that it can go on learning."""
    try:
        A, B = (value.detach().to(dtype) for value in adapter.to(weight.device).factors(weight))
    except NotLowRank as error:
        raise ValueError(
            f"{owner.folder} has no exact factors ({error}); bring it to a plain LoRA first: "
            "weft export --rank K, then weft import, or train it with another recipe"
        ) from error
    alpha = adapter.peft_alpha() if adapter.peft_magnitude() is None else None
    scale = 1.0 if alpha is None else alpha / adapter.rank
    return Part(A, B / scale, scale)


def _new(
    kind: type[Mixture],
    spec: TrainedSpec,
    base: Base,
    frame: Frame,
    generator: torch.Generator,
) -> dict[str, Stack]:
    """New experts on the maps that the settings target."""
    stacks = {}
    for module in resolve(base.trunk, spec.targets):
        weight = frozen_linear(base.trunk, module).weight
        check_rank(module, spec.rank, tuple(weight.shape))
        made = kind.from_nothing(module, weight, frame, spec, generator)
        stacks[module] = made.to(weight.device, trained_dtype(base))
    return stacks
