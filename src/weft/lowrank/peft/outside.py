"""What a PEFT folder holds beside the adapters on the trunk's linear maps: of heads, poolers, embeddings, biases."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.lowrank.folding import Change, Product, Rows, Sum
from weft.lowrank.peft.config import is_targeted, saved_modules, value_for
from weft.lowrank.peft.tensors import BIAS, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, SIDES, TOKENS


@dataclass(frozen=True)
class Places:
    """The parameters that a task class has on one base, by their names in it."""

    prefix: str
    """Name of the trunk."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter, those of the trunk's linear maps included."""
    linears: frozenset[str]
    """Linear maps of the head: its own, a pooler's, those of a language model's head."""
    embeddings: frozenset[str]
    """The trunk's embeddings."""
    tokens: str
    """The one of them that tokens are looked up in."""
    tied: frozenset[str] = frozenset()
    """Parameters of the head that are the token embedding itself."""

    def full(self, name: str, prefix: str) -> str:
        """The name of what a folder calls `name`, where it calls the trunk `prefix`."""
        return name if prefix else f"{self.below}{name}"

    @property
    def below(self) -> str:
        """What stands before the trunk's names in the task class."""
        return f"{self.prefix}." if self.prefix else ""


def changes_of(
    name: str,
    sides: Mapping[str, Tensor],
    config: Mapping[str, Any],
    places: Places,
    path: Path,
) -> dict[str, Change]:
    """What one adapter outside the trunk's linear maps makes of which parameters.

    Args:
        name: The adapted module, as the task class calls it.
        sides: Its tensors.
        config: The folder's settings.
        places: What there is.
        path: The file, for errors.

    Raises:
        ValueError: If there is no such module, tensors are missing, or a shape is not that of the parameter.
    """
    weight = f"{name}.weight"
    found: dict[str, Change] = {}
    if TOKENS in sides:
        found |= _token_rows(name, sides[TOKENS], config, places, path)
    if EMBEDDING_A in sides or EMBEDDING_B in sides:
        A, B = (sides.get(side) for side in (EMBEDDING_A, EMBEDDING_B))
        if A is None or B is None or A.dim() != 2 or B.dim() != 2:
            raise ValueError(f"{path}: lora_embedding_A and lora_embedding_B of {name} are no pair")
        if name not in places.embeddings or MAGNITUDE in sides:
            raise ValueError(
                f"{path}: {name} is no embedding of this base that plain LoRA can be on; train it another way"
            )
        found[weight] = Product(B.T, A.T, scaling_of(name, len(A), config))
    if any(side in sides for side in SIDES):
        missing = [side for side in SIDES if side not in sides]
        if missing:
            raise ValueError(f"{path}: lacks lora_{missing[0]}.weight of {name}")
        if weight not in places.shapes or name not in places.linears:
            near = ", ".join(sorted(places.linears)) or "none"
            raise ValueError(
                f"{path}: {name} is no linear map of this base's trunk or head (the head's are: {near}); the adapter "
                "belongs to another architecture, depth or kind of task"
            )
        A, B = sides["A"], sides["B"]
        scaling = scaling_of(name, len(A) if A.dim() == 2 else 1, config)
        found[weight] = Product(A, B, scaling, sides.get(MAGNITUDE))
        found |= bias_of(name, sides, scaling, places, path)
        if bool(config.get("use_dora")) != (MAGNITUDE in sides):
            raise ValueError(f"{path}: use_dora and the magnitudes of {name} contradict each other")
    for parameter, change in found.items():
        _check_shape(parameter, change, places, path)
    return found


def bias_of(
    name: str, sides: Mapping[str, Tensor], scaling: float, places: Places, path: Path
) -> dict[str, Change]:
    """The bias inside an adapter (PEFT's `lora_bias`) as a change of the map's own.

    Raises:
        ValueError: If the map has none.
    """
    if BIAS not in sides:
        return {}
    if f"{name}.bias" not in places.shapes:
        raise ValueError(
            f"{path}: lora_bias trained a bias of {name}, which has none in this base, so there is no place for it; "
            "train without lora_bias"
        )
    change = Sum(scaling * sides[BIAS].float())
    _check_shape(f"{name}.bias", change, places, path)
    return {f"{name}.bias": change}


def scaling_of(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """What the product of a module's factors is multiplied by."""
    if config["peft_type"] != "LORA":
        return 1.0
    alpha = value_for(config, "alpha_pattern", "lora_alpha", name)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_extra(
    extra: Mapping[str, Tensor],
    config: Mapping[str, Any],
    path: Path,
    places: Places | None = None,
    prefix: str = "",
) -> None:
    """Refuse tensors that are neither an adapter's nor of anything that was to be saved whole.

    Raises:
        ValueError: Names the tensor, and what it is where that can be told.
    """
    saved = saved_modules(config)
    for name, value in extra.items():
        known = places.shapes.get(places.full(name, prefix)) if places else None
        parts = name.split(".")
        owners = [".".join(parts[:end]) for end in range(1, len(parts))]
        if known is None:
            if any(owner.endswith(module) for owner in owners for module in saved):
                continue
            if places is None and config.get("bias", "none") != "none" and name.endswith(".bias"):
                continue
            raise ValueError(
                f"{path}: {name} is neither lora_A or lora_B nor in a module that modules_to_save names"
            )
        if tuple(value.shape) == known:
            continue
        more = value.shape[0] - known[0] if value.dim() == len(known) else 0
        if more and tuple(value.shape[1:]) == known[1:] and _is_vocabulary(name, places, prefix):
            raise ValueError(
                f"{path}: the base's vocabulary was {'enlarged' if more > 0 else 'cut'} before training "
                f"({owners[-1]} has {abs(more)} rows {'more' if more > 0 else 'less'} than this base's {known[0]}); "
                "save a base with that vocabulary (resize_token_embeddings, save_pretrained) and give it as the base"
            )
        raise ValueError(
            f"{path}: {name} is {tuple(value.shape)}, but this base's is {known}; the folder belongs to another base "
            "or another number of labels"
        )


def check_saved(
    extra: Mapping[str, Tensor],
    adapted: Collection[str],
    config: Mapping[str, Any],
    places: Places,
    path: Path,
) -> None:
    """Refuse a folder that lacks what its config says is saved, where the base's own would silently take its place.

    Args:
        extra: Tensors by name in the task class.
        adapted: Modules of the trunk, as it calls them, that have an adapter.
        config: The folder's settings.
        places: What there is.
        path: The file, for errors.

    Raises:
        ValueError: Names the tensor.
    """
    saved, bias = config.get("modules_to_save") or (), config.get("bias", "none")
    below = places.below
    for name in places.shapes.keys() - extra.keys():
        module, _, last = name.rpartition(".")
        parts = module.split(".")
        owners = [".".join(parts[: end + 1]) for end in range(len(parts))]
        if any(owner.endswith(own) for owner in owners for own in saved):
            raise ValueError(f"{path}: lacks {name}, which modules_to_save names")
        inside = last == "bias" and module.startswith(below)
        if inside and (
            bias == "all" or (bias == "lora_only" and module.removeprefix(below) in adapted)
        ):
            raise ValueError(f"{path}: lacks {name}, though bias is {bias}")


def check_complete(
    found: Mapping[str, Any], names: Mapping[str, Any], config: Mapping[str, Any], path: Path
) -> None:
    """Refuse a folder that lacks an adapter on one of the maps `names` that its config targets.

    Raises:
        ValueError: Names the map.
    """
    for name in names:
        if name not in found and config.get("target_modules") and is_targeted(config, name):
            raise ValueError(
                f"{path}: lacks lora_A and lora_B of {name}, which target_modules names"
            )


def _is_vocabulary(name: str, places: Places | None, prefix: str) -> bool:
    if places is None:
        return False
    full = places.full(name, prefix)
    vocabulary = places.shapes.get(f"{places.tokens}.weight", (0,))[0]
    return full.rpartition(".")[0] == places.tokens or places.shapes[full][0] == vocabulary


def _token_rows(
    name: str, rows: Tensor, config: Mapping[str, Any], places: Places, path: Path
) -> dict[str, Change]:
    said = config.get("trainable_token_indices")
    if isinstance(said, dict):
        said = next((own for key, own in said.items() if f".{name}".endswith(f".{key}")), None)
    if not said or name not in places.embeddings:
        raise ValueError(
            f"{path}: holds trained rows of {name}, but trainable_token_indices names no rows of such an embedding"
        )
    if len(set(said)) != len(said):
        raise ValueError(f"{path}: trainable_token_indices names a row of {name} twice")
    change = Rows(tuple(said), rows)
    found: dict[str, Change] = {f"{name}.weight": change}
    if name == places.tokens:
        # PEFT lets a tied head look through the same trained rows.
        found |= dict.fromkeys(places.tied, change)
    return found


def _check_shape(parameter: str, change: Change, places: Places, path: Path) -> None:
    shape = places.shapes.get(parameter)
    if shape is None or not change.fits(shape):
        raise ValueError(
            f"{path}: the adapter on {parameter} does not fit this base, where it is {shape}; of another base?"
        )
