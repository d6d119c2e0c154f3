"""The tensors of a PEFT folder: plain names, factors apart from whole modules, shapes checked."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft.base.digest import stored_tensors

ROOT = "base_model.model."
"""What every name starts with: where PEFT's wrapper holds the model."""

MAGNITUDE = "magnitude_vector"

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<side>[AB])(?:\.[^.]+)?\.weight|(?P<row>magnitude_vector)(?:\..+)?)"
)
_OTHER_FORMS = {
    ".lora_embedding_": "a LoRA on an embedding",
    ".lora_bias": "a LoRA with a bias",
    ".lora_": "no plain LoRA",
}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all finite.

    Raises:
        ValueError: If the file is missing or damaged, or a tensor is not finite.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    # Says what is wrong with a file that is cut short, which the library does not.
    stored_tensors([path])
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: {name} holds NaN or infinite values, so it is of no use; train again"
            )
    return tensors


def named_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder's file by their names below the task class.

    Raises:
        ValueError: If the file is missing, damaged or a pickle, or a name is not PEFT's.
    """
    pickled = path.with_suffix(".bin")
    if not path.is_file() and pickled.is_file():
        raise ValueError(
            f"{pickled} is a pickle, and opening a pickle can run any code; save the adapter "
            f"again with PEFT "
            "(`save_pretrained`), which writes safetensors"
        )
    return _without_wrappers(read_tensors(path), path)


def _without_wrappers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names below the task class; old files have `modules_to_save.<adapter>.` in them, too."""
    wrong = [name for name in tensors if not name.startswith(ROOT)]
    if wrong:
        raise ValueError(f"{path}: expected tensors named {ROOT}..., got {wrong[0]}")
    inside = ".modules_to_save."
    after = [name.partition(inside)[2] for name in tensors if inside in name]
    adapters = {rest.partition(".")[0] for rest in after}
    # One name before every parameter is the adapter's; `weight` and `bias` are parameters.
    named = len(adapters) == 1 and all("." in rest for rest in after)
    found = {}
    for name, value in tensors.items():
        if ".original_module." in name:
            continue
        module, wrapped, rest = name.removeprefix(ROOT).partition(inside)
        rest = rest.partition(".")[2] if named else rest
        found[f"{module}.{rest}" if wrapped else module] = value
    return found


def sorted_out(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Factors by module and side (A, B, and DoRA's magnitude), and everything else."""
    factors: dict[str, dict[str, Tensor]] = {}
    extra = {}
    for name, value in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["side"] or MAGNITUDE] = value
            continue
        for mark, what in _OTHER_FORMS.items():
            if mark in name:
                raise ValueError(
                    f"{path}: {name} belongs to {what}; weft reads plain LoRA on linear maps"
                )
        extra[name] = value
    if not factors:
        raise ValueError(f"{path}: holds no lora_A and lora_B, so there is nothing to weave in")
    return factors, extra


def trunk_prefix(names: Collection[str], modules: Collection[str], path: Path) -> str:
    """What stands before the trunk's own names: nothing, or the trunk's name in a task class."""
    if all(name in modules for name in names):
        return ""
    first = next(iter(names)).partition(".")[0]
    for name in names:
        if not (name.startswith(f"{first}.") and name.removeprefix(f"{first}.") in modules):
            near = sorted(modules)[0]
            raise ValueError(
                f"{path}: {name} is no linear map of this base's trunk (its maps are like {near}); "
                "the adapter belongs to another architecture or depth, or adapts a pooler or head"
            )
    return first


def factor_pair(
    name: str, sides: Mapping[str, Tensor], shape: tuple[int, int], path: Path
) -> tuple[Tensor, Tensor]:
    """A and B of one map.

    Raises:
        ValueError: If one is missing, or a shape is not that of the map's `shape` (out, in).
    """
    for side in "AB":
        if side not in sides:
            raise ValueError(f"{path}: lacks {ROOT}{name}.lora_{side}.weight")
    A, B = sides["A"], sides["B"]
    out_features, in_features = shape
    rank = A.shape[0] if A.dim() == 2 else None
    for side, value, expected in (("A", A, (rank, in_features)), ("B", B, (out_features, rank))):
        if tuple(value.shape) != expected:
            raise ValueError(
                f"{path}: {name}.lora_{side}.weight is {tuple(value.shape)}, but this base's "
                f"{name} takes "
                f"{in_features} values and gives {out_features}, so expected {expected}"
            )
    return A, B


def magnitude(
    name: str, sides: Mapping[str, Tensor], shape: tuple[int, int], wanted: bool, path: Path
) -> Tensor | None:
    """DoRA's row norms of one map, where the config says `use_dora`.

    Raises:
        ValueError: If they are missing, there although the config says no, or of another shape.
    """
    value = sides.get(MAGNITUDE)
    full = f"{ROOT}{name}.lora_{MAGNITUDE}"
    if value is None:
        if wanted:
            raise ValueError(f"{path}: lacks {full}, though the config says use_dora")
        return None
    if not wanted:
        raise ValueError(
            f"{path}: {full} belongs to DoRA, but the config does not say use_dora; set it, or "
            "remove the tensor"
        )
    if tuple(value.shape) != shape[:1]:
        raise ValueError(
            f"{path}: {full} is {tuple(value.shape)}, but this base's {name} gives {shape[0]} values"
        )
    return value
