"""Folders that PEFT wrote, or weft in its format (`checkpoint.py`), read and checked against a base.

What a config says that would change the equation is refused by name (`peft_config.py`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from weft import guard
from weft.lowrank.folding import Change
from weft.lowrank.peft.config import check_config, is_targeted, refuse_changed_base, value_for
from weft.lowrank.peft.forms import Projections, Sides, adalora, loha, vera
from weft.lowrank.peft.outside import (
    Places,
    bias_of,
    changes_of,
    check_complete,
    check_extra,
    check_saved,
    scaling_of,
)
from weft.lowrank.peft.tensors import (
    BIAS,
    MAGNITUDE,
    SIDES,
    TOKENS,
    VERA_SHARED,
    factor_pair,
    magnitude,
    named_tensors,
    sorted_out,
    trunk_prefix,
)
from weft.lowrank.peft.writing import CONFIG, WEIGHTS, PeftFolder


def read_peft(
    folder: Path, modules: Mapping[str, tuple[int, int]], places: Places | None = None
) -> PeftFolder:
    """Read a folder that PEFT, or `write_peft`, wrote.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors` or `adapter_model.bin`.
        modules: (out, in) of every linear map of the trunk, by name.
        places: What else there is on this base for an adapter to change; None where nothing else may be changed.

    Raises:
        ValueError: If a file is missing or damaged, a setting is not supported, or tensors are missing, too many, not
            finite, or do not fit the base; names the file and the tensor or setting.
    """
    config = read_config(folder)
    check_config(config, folder / CONFIG)
    path = weights_file(folder)
    tensors = named_tensors(path)
    shared = [tensors.pop(name, None) for name in VERA_SHARED]
    found, extra = _by_type(tensors, config, path)
    if places is None:
        _refuse_more(found, config, folder)
    trunk = [name for name in found if places is None or _in_trunk(name, modules)]
    prefix = trunk_prefix(trunk, modules, path) if trunk or places is None else places.prefix
    if places is not None and prefix not in ("", places.prefix):
        raise ValueError(
            f"{path}: its tensors are those of a class that calls its trunk {prefix!r}, this base's class for the task "
            f"says {places.prefix!r}; the adapter belongs to another architecture"
        )
    below = f"{prefix}." if prefix else ""
    names = {f"{below}{module}": module for module in modules}
    _check_targets(found, names, config, path)
    own = {names[name]: sides for name, sides in found.items() if name in names}
    changes: dict[str, Change] = {}
    if places is not None:
        _check_head_targets(found, config, places, prefix, path)
        for name, sides in found.items():
            full = places.full(name, prefix)
            if name not in names:
                changes |= changes_of(full, sides, config, places, path)
            elif BIAS in sides:
                scaling = scaling_of(name, sides["B"].shape[-1], config)
                changes |= bias_of(full, sides, scaling, places, path)
        _check_more(found, config, path)
    check_extra(extra, config, path, places, prefix)
    if places is not None:
        extra = {places.full(name, prefix): value for name, value in extra.items()}
        check_saved(extra, own, config, places, path)
    if config["peft_type"] == "VERA":
        b, d = ({module: sides[part] for module, sides in own.items()} for part in ("b", "d"))
        state = Projections(b, d, *shared)
        return PeftFolder({}, {}, extra, prefix, config, changes=changes, projections=state)
    factors, alphas, magnitudes = {}, {}, {}
    for module, sides in own.items():
        name, shape = f"{below}{module}", modules[module]
        factors[module] = factor_pair(name, sides, shape, path)
        rows = magnitude(name, sides, shape, bool(config.get("use_dora")), path)
        if rows is not None:
            magnitudes[module] = rows
        alphas[module] = _alpha(name, factors[module][0].shape[0], config, path)
    return PeftFolder(factors, alphas, extra, prefix, config, magnitudes, changes)


def read_config(folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` says.

    Raises:
        ValueError: If it is missing, not JSON, or no mapping.
    """
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder} is no PEFT folder: it has no {CONFIG}")
    config = guard.read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(config).__name__}")
    return config


def weights_file(folder: Path) -> Path:
    """Where a PEFT folder has its tensors: in safetensors, or in a file of `torch.save` if there is nothing else."""
    path = folder / WEIGHTS
    pickled = path.with_suffix(".bin")
    return pickled if pickled.exists() and not path.exists() else path


def _by_type(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    match config["peft_type"]:
        case "ADALORA":
            return adalora(tensors, config, path)
        case "LOHA":
            return loha(tensors, config, path)
        case "VERA":
            return vera(tensors, path)
        case _:
            return sorted_out(tensors, path)


def _in_trunk(name: str, modules: Mapping[str, Any]) -> bool:
    return name in modules or name.partition(".")[2] in modules


def _refuse_more(found: Mapping[str, Sides], config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what only `weft import`, which has the base's weights, makes an expert of."""
    refuse_changed_base(config, folder / CONFIG)
    if config["peft_type"] == "VERA":
        raise ValueError(
            f"{folder / CONFIG}: a VERA is no plain LoRA; bring it in with weft import"
        )
    for key in ("lora_bias", "trainable_token_indices"):
        if config.get(key):
            raise ValueError(
                f"{folder / CONFIG}: {key} trains more than plain LoRA; bring the folder in with weft import"
            )
    for name, sides in found.items():
        odd = sorted(sides.keys() - {*SIDES, MAGNITUDE})
        if odd:
            raise ValueError(
                f"{weights_file(folder)}: the adapter on {name} is no plain LoRA on a linear map (it has {odd[0]}); "
                "bring the folder in with weft import"
            )


def _check_targets(
    found: Mapping[str, Sides],
    names: Mapping[str, str],
    config: Mapping[str, Any],
    path: Path,
) -> None:
    for name, sides in found.items():
        if TOKENS not in sides and not is_targeted(config, name):
            raise ValueError(
                f"{path}: holds tensors for {name}, which target_modules of {CONFIG} does not name"
            )
    check_complete(found, names, config, path)


def _check_more(found: Mapping[str, Sides], config: Mapping[str, Any], path: Path) -> None:
    """Refuse biases and rows that the config says and the file lacks, or the other way round."""
    wanted = bool(config.get("lora_bias"))
    for name, sides in found.items():
        if "B" in sides and (BIAS in sides) != wanted:
            raise ValueError(
                f"{path}: {'lacks' if wanted else 'holds'} lora_B.bias of {name}, but lora_bias is {wanted}"
            )
    said = config.get("trainable_token_indices")
    count = len(said) if isinstance(said, dict) else int(bool(said))
    if sum(TOKENS in sides for sides in found.values()) != count:
        raise ValueError(f"{path}: the rows that trainable_token_indices names are not all there")


def _check_head_targets(
    found: Mapping[str, Sides],
    config: Mapping[str, Any],
    places: Places,
    prefix: str,
    path: Path,
) -> None:
    """Refuse a folder that lacks the adapter of a head's map; `all-linear` leaves some of them out."""
    if config.get("target_modules") == "all-linear":
        return
    inside = places.below
    said = [
        n if prefix else n.removeprefix(inside)
        for n in places.linears
        if prefix or n.startswith(inside)
    ]
    check_complete(found, dict.fromkeys(said), config, path)


def _alpha(name: str, rank: int, config: Mapping[str, Any], path: Path) -> float:
    """The alpha that plain LoRA, which divides by the rank, needs for the module's scale."""
    if config["peft_type"] != "LORA":
        return float(rank)
    wanted = value_for(config, "rank_pattern", "r", name)
    if rank != wanted:
        raise ValueError(f"{path}: {name} has rank {rank}, but {CONFIG} says {wanted:g}")
    alpha = value_for(config, "alpha_pattern", "lora_alpha", name)
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
