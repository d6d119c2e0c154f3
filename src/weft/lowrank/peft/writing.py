"""PEFT's LoRA format: factors of linear maps, and tensors of whole modules beside them.

    base_model.model.<prefix>.<module>.lora_A.weight   (rank, in)
    base_model.model.<prefix>.<module>.lora_B.weight   (out, rank)
    base_model.model.<name>                            in modules_to_save: heads, copies

    base_model.model.<prefix>.<module>.lora_magnitude_vector  (out,), with `use_dora`

    W_eff = W0 + s B A,   s = alpha / rank, or alpha / sqrt(rank) with `use_rslora`
    W_eff = diag(m / c) (W0 + s B A) with `use_dora`: m the magnitudes, c the row norms of W0 + s B A

The scale is in the config alone. The format was read from PEFT 0.21.2 (`tuners/lora`,
`utils/save_and_load.py`). Nothing here knows of heads or tasks. `peft_reading.py` reads it.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.atomic import write_tensors, write_text
from weft.lowrank.folding import Change
from weft.lowrank.peft.forms import Projections
from weft.lowrank.peft.tensors import MAGNITUDE, ROOT

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
    changes: Mapping[str, Change] = field(default_factory=dict)
    """What adapters make of other parameters, by name below the task class; never written."""
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    """Trained biases (out,) by module of the trunk, of modules that are not saved whole; read, they are in `extra`."""
    projections: Projections | None = None
    """VeRA's state, which takes the place of `factors`; never written."""


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
    alone = {f"{below}{module}.bias": value for module, value in content.biases.items()}
    whole = content.extra
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
        "modules_to_save": _roots(whole, below) or None,
        "fan_in_fan_out": bool(turned),
        "use_dora": bool(content.magnitudes),
        "bias": _bias(alone, names.values()),
    }
    tensors = {f"{ROOT}{name}": value for name, value in whole.items()}
    for name, value in alone.items():
        holder = name.removesuffix(".bias")
        inner = "base_layer." if holder in ranks else ""
        tensors[f"{ROOT}{holder}.{inner}bias"] = value
    for module, (A, B) in factors.items():
        tensors[f"{ROOT}{names[module]}.lora_A.weight"] = A
        tensors[f"{ROOT}{names[module]}.lora_B.weight"] = B
        if content.magnitudes:
            tensors[f"{ROOT}{names[module]}.lora_{MAGNITUDE}"] = content.magnitudes[module]
    write_tensors(folder / WEIGHTS, tensors)
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _roots(extra: Iterable[str], below: str) -> list[str]:
    """The modules that hold `extra`: top-level ones outside the trunk, single ones inside."""
    holders = {
        name.rpartition(".")[0] if name.startswith(below) else name.partition(".")[0]
        for name in extra
    }
    return sorted(m for m in holders if not any(m.startswith(f"{other}.") for other in holders))


def _bias(alone: Collection[str], adapted: Collection[str]) -> str:
    """PEFT's word for which biases were trained: those of adapted maps, others too, or none."""
    if not alone:
        return "none"
    within = all(name.removesuffix(".bias") in adapted for name in alone)
    return "lora_only" if within else "all"


def _commonest(values: Iterable[Any]) -> Any:
    """The most frequent value; the smallest of several, so that it does not depend on order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value
