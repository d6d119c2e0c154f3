"""PEFT's LoRA format, both ways: factors of linear maps, and tensors of whole modules beside them.

    base_model.model.<prefix>.<module>.lora_A.weight   (rank, in)
    base_model.model.<prefix>.<module>.lora_B.weight   (out, rank)
    base_model.model.<name>                            modules_to_save: heads, copies of base modules

    W_eff = W0 + s B A,   s = alpha / rank, or alpha / sqrt(rank) with `use_rslora`; the scale is in the config alone

The format was read from PEFT 0.21.2 (`tuners/lora`, `utils/save_and_load.py`). Nothing here knows of heads or tasks.
What the config says that would change this equation is refused by name (`peft_config.py`).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft.atomic import write_tensors, write_text
from weft.digest import stored_tensors
from weft.lowrank.peft_config import check_config, is_targeted, saved_modules, value_for

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_ROOT = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_OTHER_FORMS = {
    ".lora_magnitude_vector": "DoRA, which rescales the rows of the weight",
    ".lora_embedding_": "a LoRA on an embedding",
    ".lora_bias": "a LoRA with a bias",
    ".lora_": "no plain LoRA",
}


@dataclass(frozen=True)
class PeftFolder:
    """What a PEFT folder holds, as it is stored."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """A (rank, in) and B (out, rank) by module of the trunk."""
    alphas: dict[str, float]
    """By module: the change of the weight is `alpha / rank * B @ A`, whatever the config's way to say it."""
    extra: dict[str, Tensor]
    """Tensors of saved modules by their name below the task class."""
    prefix: str
    """Name of the trunk in the task class that was saved; "" if the trunk itself was."""
    config: dict[str, Any]


def write_peft(
    folder: Path,
    *,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, float] | None,
    extra: Mapping[str, Tensor],
    prefix: str,
    base_name: str,
    task_type: str | None,
    transposed: Collection[str] = (),
) -> None:
    """Write a folder that PEFT opens.

    Args:
        folder: An existing folder.
        factors: A (rank, in) and B (out, rank) by module of the trunk; not empty.
        alphas: Alpha by module; None if B carries the whole scale, which makes alpha the rank.
        extra: Every tensor of the modules that are saved whole, by name below the task class.
        prefix: Name of the trunk in the task class; "" for a trunk alone.
        base_name: Hub id or folder of the base.
        task_type: PEFT's name for the kind of task; None where it has none.
        transposed: Modules that the base stores as (in, out).

    Raises:
        ValueError: If there are no factors, or only some of the modules are transposed.
    """
    if not factors:
        raise ValueError("an expert without adapters has no PEFT form: PEFT refuses a config without targets")
    turned = [module for module in factors if module in transposed]
    if turned and len(turned) < len(factors):
        straight = next(module for module in factors if module not in transposed)
        raise ValueError(
            f"the base stores {turned[0]} as (in, out) and {straight} as (out, in); PEFT's fan_in_fan_out is one "
            "setting for all targets, so train them as two experts"
        )
    below = f"{prefix}." if prefix else ""
    names = {module: f"{below}{module}" for module in factors}
    ranks = {names[module]: A.shape[0] for module, (A, _) in factors.items()}
    scales = {names[m]: float(ranks[names[m]] if alphas is None else alphas[m]) for m in factors}
    rank, alpha = _commonest(ranks.values()), _commonest(scales.values())
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: _number(own) for name, own in scales.items() if own != alpha},
        "target_modules": sorted(names.values()),
        "modules_to_save": _roots(extra, below) or None,
        "fan_in_fan_out": bool(turned),
        "bias": "none",
    }
    tensors = {f"{_ROOT}{name}": value for name, value in extra.items()}
    for module, (A, B) in factors.items():
        tensors[f"{_ROOT}{names[module]}.lora_A.weight"] = A
        tensors[f"{_ROOT}{names[module]}.lora_B.weight"] = B
    write_tensors(folder / WEIGHTS, tensors)
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_peft(folder: Path, modules: Mapping[str, tuple[int, int]]) -> PeftFolder:
    """Read a folder that PEFT, or `write_peft`, wrote.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        modules: (out, in) of every linear map of the trunk, by name.

    Raises:
        ValueError: If a file is missing or damaged, a setting is not supported, or tensors are missing, too many,
            not finite, or do not fit the base; names the file and the tensor or setting.
    """
    config = _read_config(folder / CONFIG)
    check_config(config, folder / CONFIG)
    path = folder / WEIGHTS
    found, extra = _sorted_out(_read_tensors(path), path)
    prefix = _prefix(found, modules, path)
    below = f"{prefix}." if prefix else ""
    names = {f"{below}{module}": module for module in modules}
    factors, alphas = {}, {}
    for name, sides in found.items():
        A, B = _pair(name, sides, modules[names[name]], path)
        if not is_targeted(config, name):
            raise ValueError(f"{path}: holds tensors for {name}, which target_modules of {CONFIG} does not name")
        wanted = value_for(config, "rank_pattern", "r", name)
        if A.shape[0] != wanted:
            raise ValueError(f"{path}: {name} has rank {A.shape[0]}, but {CONFIG} says {wanted:g}")
        alpha = value_for(config, "alpha_pattern", "lora_alpha", name)
        factors[names[name]] = (A, B)
        alphas[names[name]] = alpha * math.sqrt(A.shape[0]) if config.get("use_rslora") else alpha
    for name in names:
        if name not in found and config.get("target_modules") and is_targeted(config, name):
            raise ValueError(f"{path}: lacks lora_A and lora_B of {name}, which target_modules names")
    _check_extra(extra, config, path)
    return PeftFolder(factors, alphas, extra, prefix, config)


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
            raise ValueError(f"{path}: {name} holds NaN or infinite values, so it is of no use; train again")
    return tensors


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no PEFT folder: it has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(config).__name__}")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    pickled = path.with_suffix(".bin")
    if not path.is_file() and pickled.is_file():
        raise ValueError(
            f"{pickled} is a pickle, and opening a pickle can run any code; save the adapter again with PEFT "
            "(`save_pretrained`), which writes safetensors"
        )
    return _without_wrappers(read_tensors(path), path)


def _without_wrappers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names below the task class; old files keep `modules_to_save.<adapter>.` and `original_module.` in them."""
    wrong = [name for name in tensors if not name.startswith(_ROOT)]
    if wrong:
        raise ValueError(f"{path}: expected tensors named {_ROOT}..., got {wrong[0]}")
    inside = ".modules_to_save."
    after = [name.partition(inside)[2] for name in tensors if inside in name]
    adapters = {rest.partition(".")[0] for rest in after}
    # One name before every parameter is the adapter's; `weight` and `bias` themselves are parameters.
    named = len(adapters) == 1 and all("." in rest for rest in after)
    found = {}
    for name, value in tensors.items():
        if ".original_module." in name:
            continue
        module, wrapped, rest = name.removeprefix(_ROOT).partition(inside)
        rest = rest.partition(".")[2] if named else rest
        found[f"{module}.{rest}" if wrapped else module] = value
    return found


def _sorted_out(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Factors by module and side (A, B), and everything else."""
    factors: dict[str, dict[str, Tensor]] = {}
    extra = {}
    for name, value in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["side"]] = value
            continue
        for mark, what in _OTHER_FORMS.items():
            if mark in name:
                raise ValueError(f"{path}: {name} belongs to {what}; weft reads plain LoRA on linear maps")
        extra[name] = value
    if not factors:
        raise ValueError(f"{path}: holds no lora_A and lora_B, so there is nothing to weave in")
    return factors, extra


def _prefix(names: Collection[str], modules: Collection[str], path: Path) -> str:
    """What stands before the trunk's own names: nothing, or the trunk's name in a task class."""
    if all(name in modules for name in names):
        return ""
    first = next(iter(names)).partition(".")[0]
    for name in names:
        if not (name.startswith(f"{first}.") and name.removeprefix(f"{first}.") in modules):
            near = sorted(modules)[0]
            raise ValueError(
                f"{path}: {name} is no linear map of this base's trunk (its maps are like {near}); the adapter "
                "belongs to another architecture or depth, or adapts a pooler or head"
            )
    return first


def _pair(
    name: str, sides: Mapping[str, Tensor], shape: tuple[int, int], path: Path
) -> tuple[Tensor, Tensor]:
    for side in "AB":
        if side not in sides:
            raise ValueError(f"{path}: lacks {_ROOT}{name}.lora_{side}.weight")
    A, B = sides["A"], sides["B"]
    out_features, in_features = shape
    rank = A.shape[0] if A.dim() == 2 else None
    for side, value, expected in (("A", A, (rank, in_features)), ("B", B, (out_features, rank))):
        if tuple(value.shape) != expected:
            raise ValueError(
                f"{path}: {name}.lora_{side}.weight is {tuple(value.shape)}, but this base's {name} takes "
                f"{in_features} values and gives {out_features}, so expected {expected}"
            )
    return A, B


def _check_extra(extra: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    saved = saved_modules(config)
    for name in extra:
        owners = _owners(name)
        if any(owner.endswith(module) for owner in owners for module in saved):
            continue
        if config.get("bias", "none") != "none" and name.endswith(".bias"):
            raise ValueError(
                f"{path}: {name} is a bias of the base trained with bias: {config['bias']}, which weft does not "
                "support; train with bias: none"
            )
        raise ValueError(f"{path}: {name} is neither lora_A or lora_B nor in a module that modules_to_save names")


def _owners(name: str) -> list[str]:
    """The modules a tensor is in, from the outermost."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _roots(extra: Iterable[str], below: str) -> list[str]:
    """The modules that hold `extra`: whole top-level modules outside the trunk, single ones inside it."""
    holders = {
        name.rpartition(".")[0] if name.startswith(below) else name.partition(".")[0] for name in extra
    }
    return sorted(m for m in holders if not any(m.startswith(f"{other}.") for other in holders))


def _commonest(values: Iterable[Any]) -> Any:
    """The most frequent value; the smallest of several, so that it does not depend on order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value

