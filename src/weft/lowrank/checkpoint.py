"""PEFT's LoRA format, both ways: factors of linear maps, and tensors of whole modules beside them.

    base_model.model.<prefix>.<module>.lora_A.weight   (rank, in)
    base_model.model.<prefix>.<module>.lora_B.weight   (out, rank)
    base_model.model.<name>                            in modules_to_save: heads, copies

    base_model.model.<prefix>.<module>.lora_magnitude_vector  (out,), with `use_dora`

    W_eff = W0 + s B A,   s = alpha / rank, or alpha / sqrt(rank) with `use_rslora`
    W_eff = diag(m / c) (W0 + s B A) with `use_dora`: m the magnitudes, c the row norms of W0 + s B A

The scale is in the config alone. The format was read from PEFT 0.21.2 (`tuners/lora`,
`utils/save_and_load.py`). Nothing here knows of heads or tasks. What a config says that would
change the equation is refused by name (`peft_config.py`).
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.atomic import write_tensors, write_text
from weft.lowrank.peft_config import check_config, is_targeted, saved_modules, value_for
from weft.lowrank.peft_tensors import (
    MAGNITUDE,
    ROOT,
    factor_pair,
    magnitude,
    named_tensors,
    sorted_out,
    trunk_prefix,
)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class PeftFolder:
    """What a PEFT folder holds, as it is stored."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """A (rank, in) and B (out, rank) by module of the trunk."""
    alphas: dict[str, float]
    """By module: the change of the weight is `alpha / rank * B @ A`, however the config says it."""
    extra: dict[str, Tensor]
    """Tensors of saved modules by their name below the task class."""
    prefix: str
    """Name of the trunk in the task class that was saved; "" if the trunk itself was."""
    config: dict[str, Any] = field(default_factory=dict)
    """What the config file said; not used for writing."""
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    """DoRA's row norms (out,) by module: of all of them, or none."""


def write_peft(
    folder: Path,
    content: PeftFolder,
    *,
    base_name: str,
    task_type: str | None,
    transposed: Collection[str] = (),
) -> None:
    """Write a folder that PEFT opens.

    Args:
        folder: An existing folder.
        content: Factors, alphas (a module's rank where B carries the whole scale), and every tensor
            of the modules that are saved whole.
        base_name: Hub id or folder of the base.
        task_type: PEFT's name for the kind of task; None where it has none.
        transposed: Modules that the base stores as (in, out).

    Raises:
        ValueError: If there are no factors, or only some of the modules are transposed.
    """
    factors = content.factors
    if not factors:
        raise ValueError(
            "an expert without adapters has no PEFT form: PEFT refuses a config without targets"
        )
    turned = [module for module in factors if module in transposed]
    if turned and len(turned) < len(factors):
        straight = next(module for module in factors if module not in transposed)
        raise ValueError(
            f"the base stores {turned[0]} as (in, out) and {straight} as (out, in); PEFT's "
            "fan_in_fan_out is one setting for all targets, so train them as two experts"
        )
    below = f"{content.prefix}." if content.prefix else ""
    names = {module: f"{below}{module}" for module in factors}
    ranks = {names[module]: A.shape[0] for module, (A, _) in factors.items()}
    alphas = {names[module]: content.alphas[module] for module in factors}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: _number(own) for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(names.values()),
        "modules_to_save": _roots(content.extra, below) or None,
        "fan_in_fan_out": bool(turned),
        "use_dora": bool(content.magnitudes),
        "bias": "none",
    }
    tensors = {f"{ROOT}{name}": value for name, value in content.extra.items()}
    for module, (A, B) in factors.items():
        tensors[f"{ROOT}{names[module]}.lora_A.weight"] = A
        tensors[f"{ROOT}{names[module]}.lora_B.weight"] = B
        if content.magnitudes:
            tensors[f"{ROOT}{names[module]}.lora_{MAGNITUDE}"] = content.magnitudes[module]
    write_tensors(folder / WEIGHTS, tensors)
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_peft(folder: Path, modules: Mapping[str, tuple[int, int]]) -> PeftFolder:
    """Read a folder that PEFT, or `write_peft`, wrote.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        modules: (out, in) of every linear map of the trunk, by name.

    Raises:
        ValueError: If a file is missing or damaged, a setting is not supported, or tensors are
            missing, too many,
            not finite, or do not fit the base; names the file and the tensor or setting.
    """
    config = _read_config(folder / CONFIG)
    check_config(config, folder / CONFIG)
    path = folder / WEIGHTS
    found, extra = sorted_out(named_tensors(path), path)
    prefix = trunk_prefix(found, modules, path)
    below = f"{prefix}." if prefix else ""
    names = {f"{below}{module}": module for module in modules}
    factors, alphas, magnitudes = {}, {}, {}
    dora = bool(config.get("use_dora"))
    for name, sides in found.items():
        A, B = factor_pair(name, sides, modules[names[name]], path)
        own = magnitude(name, sides, modules[names[name]], dora, path)
        if own is not None:
            magnitudes[names[name]] = own
        if not is_targeted(config, name):
            raise ValueError(
                f"{path}: holds tensors for {name}, which target_modules of {CONFIG} does not name"
            )
        wanted = value_for(config, "rank_pattern", "r", name)
        if A.shape[0] != wanted:
            raise ValueError(f"{path}: {name} has rank {A.shape[0]}, but {CONFIG} says {wanted:g}")
        alpha = value_for(config, "alpha_pattern", "lora_alpha", name)
        factors[names[name]] = (A, B)
        alphas[names[name]] = alpha * math.sqrt(A.shape[0]) if config.get("use_rslora") else alpha
    for name in names:
        if name not in found and config.get("target_modules") and is_targeted(config, name):
            raise ValueError(
                f"{path}: lacks lora_A and lora_B of {name}, which target_modules names"
            )
    _check_extra(extra, config, path)
    return PeftFolder(factors, alphas, extra, prefix, config, magnitudes)


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


def _check_extra(extra: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    saved = saved_modules(config)
    for name in extra:
        parts = name.split(".")
        owners = [".".join(parts[:end]) for end in range(1, len(parts))]
        if any(owner.endswith(module) for owner in owners for module in saved):
            continue
        if config.get("bias", "none") != "none" and name.endswith(".bias"):
            raise ValueError(
                f"{path}: {name} is a bias of the base trained with bias: {config['bias']}, which "
                f"weft does not "
                "support; train with bias: none"
            )
        raise ValueError(
            f"{path}: {name} is neither lora_A or lora_B nor in a module that modules_to_save names"
        )


def _roots(extra: Iterable[str], below: str) -> list[str]:
    """The modules that hold `extra`: top-level ones outside the trunk, single ones inside."""
    holders = {
        name.rpartition(".")[0] if name.startswith(below) else name.partition(".")[0]
        for name in extra
    }
    return sorted(m for m in holders if not any(m.startswith(f"{other}.") for other in holders))


def _commonest(values: Iterable[Any]) -> Any:
    """The most frequent value; the smallest of several, so that it does not depend on order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value
