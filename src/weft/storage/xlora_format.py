"""Settings and head of an X-LoRA as PEFT writes them, both ways.

    base_model.internal_xlora_classifier.layers.<i>.weight   (out, in), and .bias (out,)

An X-LoRA head is a `Sequential`. Between two maps stand a ReLU and, where there is dropout, a Dropout, so that a map
is at every third i, or at every second. Read from PEFT 0.21.2 (`tuners/xlora`), whose settings mean the same as ours
(`mixtures/xlora.py`) but for these:

- `enable_softmax_topk` takes a softmax over what is selected, without the temperature. Where weft divides by one, the
  head's last map is written divided by it. With `enable_softmax` on as well it is a softmax of a softmax: refused.
- In the first pass experts speak with `scaling_pass_value` times `global_scaling_weight`, through the same selection;
  weft's `scaling_value` is the whole gate. Other than 0 it is converted without top-k, and refused with it.
- What is ours alone: a head that is `standardise`d is written with its first map on the plain state, which is the same;
  one gate a sequence and `infer_top_k` have no form there and are refused.
- In that softmax over the selected PEFT leaves out an expert whose raw score is exactly 0; weft does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft import guard
from weft.config import validate
from weft.lowrank.peft.tensors import read_tensors
from weft.lowrank.peft.writing import CONFIG
from weft.methods.mixtures.xlora import Spec, XLoRA

_SETTINGS = {
    "depth": "xlora_depth",
    "width": "xlora_size",
    "head_dropout": "xlora_dropout_p",
    "layerwise": "layerwise_scalings",
    "softmax": "enable_softmax",
    "softmax_top_k": "enable_softmax_topk",
    "temperature": "softmax_temperature",
    "top_k": "top_k_lora",
    "global_weight": "global_scaling_weight",
    "scaling_value": "scaling_pass_value",
    "train_experts": "use_trainable_adapters",
}
"""Ours and theirs; the defaults are the same."""
_NO_SETTINGS = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "hidden_size",
    "adapters",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "revision",
    "runtime_config",
}
_MAP = "base_model.internal_xlora_classifier.layers."


def xlora_folder(folder: Path) -> dict[str, Any] | None:
    """The config of an X-LoRA folder; None where it is missing, damaged or of another method."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = guard.read_json(path)
    except ValueError:
        return None
    return config if isinstance(config, dict) and config.get("peft_type") == "XLORA" else None


def xlora_config(spec: Spec) -> dict[str, Any]:
    """The settings of an X-LoRA as PEFT's config says them.

    Raises:
        ValueError: If PEFT's first pass cannot do what they ask for.
    """
    if spec.infer_top_k is not None:
        raise ValueError(
            f"infer_top_k {spec.infer_top_k}: in PEFT training and inference select alike; such a mixture has no form "
            "in PEFT"
        )
    config = {theirs: getattr(spec, ours) for ours, theirs in _SETTINGS.items()}
    if _over_selected(spec):
        config |= {"enable_softmax": False, "softmax_temperature": 1.0}
    else:
        config["enable_softmax_topk"] = False
    if spec.scaling_value:
        if spec.top_k is not None or not spec.global_weight:
            raise ValueError(
                f"scaling_value {spec.scaling_value} with top_k {spec.top_k} and global_weight {spec.global_weight}: "
                "in its first pass PEFT keeps top_k experts and multiplies by the weight, weft does neither; such a "
                "mixture has no form in PEFT"
            )
        config["scaling_pass_value"] = spec.scaling_value / spec.global_weight
    return config


def xlora_spec(config: Mapping[str, Any], path: Path) -> Spec:
    """The settings of an X-LoRA from PEFT's config in the file `path`.

    Raises:
        ValueError: If a setting is unknown, out of range, or means what weft does not do; names it.
    """
    for key in config.keys() - _NO_SETTINGS - set(_SETTINGS.values()):
        if config[key]:
            raise ValueError(
                f"{path}: weft does not know the setting {key} (here {config[key]!r}), so it cannot tell what the "
                "mixture computes; remove it if it changes nothing"
            )
    given = {ours: config[theirs] for ours, theirs in _SETTINGS.items() if theirs in config}
    spec = validate(Spec, given, str(path))
    if spec.softmax and spec.softmax_top_k:
        raise ValueError(
            f"{path}: enable_softmax and enable_softmax_topk are both on, a softmax of a softmax, which weft does not "
            "compute; train with one of them"
        )
    if spec.softmax_top_k:
        found: dict[str, Any] = {"temperature": 1.0}
        # Without a selection it is a softmax over all.
        found |= {"softmax": True, "softmax_top_k": False} if spec.top_k is None else {}
    else:
        found = {}
    if spec.scaling_value:
        if spec.top_k is not None or spec.softmax_top_k:
            raise ValueError(
                f"{path}: scaling_pass_value {spec.scaling_value} goes through top_k_lora and enable_softmax_topk in "
                "PEFT's first pass, which weft does not do; only 0 can be read beside them"
            )
        found["scaling_value"] = spec.scaling_value * spec.global_weight
    return spec.model_copy(update=found)


def gate_tensors(mixture: XLoRA) -> dict[str, Tensor]:
    """The head of a mixture by PEFT's names."""
    found = {name: value.detach().clone() for name, value in _named(mixture).items()}
    if mixture.standard is not None:
        weight, bias = _pair(mixture.spec, 0)
        found[weight] *= mixture.standard.scale
        found[bias] -= found[weight] @ mixture.standard.mean
    if _over_selected(mixture.spec):
        for name in _pair(mixture.spec, mixture.spec.depth - 1):
            found[name] /= mixture.spec.temperature
    return found


def fill_gate(mixture: XLoRA, path: Path) -> None:
    """Give a mixture the head in the file `path`.

    Raises:
        ValueError: If tensors are missing, too many, or of another shape; names them.
    """
    found, own = read_tensors(path), _named(mixture)
    missing = [name for name in own if name not in found]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: tensors of the gate. PEFT 0.21.2 leaves every layers.<i> out of what "
            "it saves whose number is an expert's name, and this folder has them nowhere; save the state dict of the "
            "trained model with all of them, or train the gate again"
        )
    for name in sorted(found.keys() - own.keys()):
        raise ValueError(f"{path}: an X-LoRA with these settings has no tensor {name}")
    for name, value in own.items():
        if found[name].shape != value.shape:
            raise ValueError(
                f"{path}: {name} is {tuple(found[name].shape)}, expected {tuple(value.shape)} with "
                f"{len(mixture.experts)} experts on {len(mixture.modules_woven)} maps of this base"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])


def _over_selected(spec: Spec) -> bool:
    """Whether the softmax is over the selected experts only."""
    return spec.top_k is not None and spec.softmax_top_k


def _pair(spec: Spec, at: int) -> tuple[str, str]:
    """PEFT's names of weight and bias of the head's map `at`, from 0."""
    place = at * (3 if spec.head_dropout else 2)
    return f"{_MAP}{place}.weight", f"{_MAP}{place}.bias"


def _named(mixture: XLoRA) -> dict[str, Tensor]:
    """Our own parameters by PEFT's names."""
    found: dict[str, Tensor] = {}
    for at, layer in enumerate(mixture.head.maps):
        weight, bias = _pair(mixture.spec, at)
        found |= {weight: layer.get_parameter("weight"), bias: layer.get_parameter("bias")}
    return found
