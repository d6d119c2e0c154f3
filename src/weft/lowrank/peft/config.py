"""What a PEFT config may say: what is followed, what changes nothing, what is refused by name.

Read from PEFT 0.21.2 (`tuners/lora/config.py`, `tuners/tuners_utils.py`, `utils/other.py`).
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex

from weft.lowrank.peft.settings import TYPES, check_types

_FOLLOWED = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "bias",
    "lora_bias",
    "trainable_token_indices",
    "init_lora_weights",
    # AdaLoRA's, LoHa's and VeRA's own.
    "init_r",
    "alpha",
    "projection_prng_key",
    "save_projection",
}
# Say how training went, or belong to a setting that is refused where it is on.
_WITHOUT_EFFECT = {
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "auto_mapping",
    "revision",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "velora_config",  # changes the backward pass only
    # Settings of initialisations, which `init_lora_weights` names where they were used.
    "eva_config",
    "corda_config",
    "loftq_config",
    "lora_ga_config",
    # How AdaLoRA's budget, LoHa's dropout and VeRA's start were set.
    "target_r",
    "tinit",
    "tfinal",
    "deltaT",
    "beta1",
    "beta2",
    "orth_reg_weight",
    "total_step",
    "rank_dropout",
    "module_dropout",
    "vera_dropout",
    "d_initial",
    "init_weights",
}
_REFUSED = {
    "layer_replication": "a base with repeated layers",
    "target_parameters": "adapters on bare parameters instead of linear maps",
    "megatron_config": "layers split over devices by Megatron",
    "use_qalora": "QA-LoRA, which pools the input",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "arrow_config": "Arrow, which routes between several adapters",
    "kasa_config": "KaSA, which changes the base and adds a diagonal between A and B",
    "monteclora_config": "MonteCLoRA, which samples its factors",
    "alora_invocation_tokens": "activated LoRA, which starts at an invocation in the text",
    "ensure_weight_tying": "tying of trained embeddings",
    "use_effective_conv2d": "factors of convolutions",
}
_PATIENCE_S = 0.5
"""Seconds for one match of a regular expression; an honest one takes microseconds."""
_STARTS = {"gaussian", "eva", "orthogonal", "mica"}
"""Initialisations that leave the base as it is."""
_CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations (their first letters) that change the base's weights."""
REPEATED_STARTS = ("pissa", "olora")
"""Those of them that follow from W0 and the rank alone, so that what they took from it can be told."""
_HEADS_BY_TASK = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Modules that PEFT saves for a task type without being asked."""


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse every setting that would make the adapter something else than `s B A`.

    Raises:
        ValueError: Names the setting, what it is, and what to do.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(
            f"{path}: peft_type is {kind!r}; weft reads {', '.join(TYPES)}. PEFT's convert_to_lora or a "
            "merged export brings other methods over"
        )
    for key, what in _REFUSED.items():
        if config.get(key):
            raise ValueError(
                f"{path}: {key} means {what}, which weft does not read; merge it with PEFT instead"
            )
    for key in config.keys() - _FOLLOWED - _WITHOUT_EFFECT - _REFUSED.keys():
        _judge_unknown(key, config[key], path)
    check_types(config, path)
    _check_start(config.get("init_lora_weights", True), config, path)


def _judge_unknown(key: str, value: Any, path: Path) -> None:
    """Pass what a later PEFT says and means nothing here; refuse what switches something on.

    A method that changes the sum is switched on by a flag or by settings of its own; a number or a word sets
    something that another key has to switch on.
    """
    if not value:
        return
    if value is True or isinstance(value, dict | list):
        raise ValueError(
            f"{path}: weft does not know the setting {key} (here {str(value)[:80]}), so it cannot tell what the "
            "adapter computes; remove it if it changes nothing"
        )
    warnings.warn(
        f"{path}: weft does not know the setting {key} (here {str(value)[:80]}) of a later PEFT and ignores it",
        stacklevel=2,
    )


def _check_start(start: object, config: Mapping[str, Any], path: Path) -> None:
    if start is None or isinstance(start, bool) or start in _STARTS:
        return
    if start in REPEATED_STARTS and not config.get("use_dora"):
        if start == "olora" and config.get("fan_in_fan_out"):
            raise ValueError(f"{path}: init_lora_weights olora does not work with fan_in_fan_out")
        return
    if str(start).lower().startswith(_CHANGING_STARTS):
        refuse_changed_base(config, path)
    raise ValueError(
        f"{path}: weft does not know init_lora_weights {start!r}, so it cannot tell whether the "
        f"base was changed"
    )


def refuse_changed_base(config: Mapping[str, Any], path: Path) -> None:
    """Refuse factors that belong to another W0 than the base's.

    Raises:
        ValueError: If the start changed the base; says how to write what was trained as plain LoRA.
    """
    start = config.get("init_lora_weights")
    if str(start).lower().startswith(_CHANGING_STARTS):
        raise ValueError(
            f"{path}: init_lora_weights {start!r} changed the base's weights before training, so these factors do "
            "not fit the base as published; save it as plain LoRA with PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion) and take that folder"
        )


def value_for(config: Mapping[str, Any], pattern: str, default: str, name: str) -> float:
    """A module's own value, by the first key of `pattern` that ends its name; else the default."""
    for key, value in (config.get(pattern) or {}).items():
        if _match(rf"(.*\.)?({key})$", name):
            return value
    return config[default]


def saved_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Ends of the names of modules that are saved whole."""
    return (
        *(config.get("modules_to_save") or ()),
        *_HEADS_BY_TASK.get(config.get("task_type") or "", ()),
    )


def is_targeted(config: Mapping[str, Any], name: str) -> bool:
    """Whether PEFT puts an adapter on the linear map `name`; True where the config does not say."""
    if _matches(config.get("exclude_modules"), name):
        return False
    if any(_match(rf"(^|.*\.){module}($|\..*)", name) for module in saved_modules(config)):
        return False
    targets = config.get("target_modules")
    if not targets or targets == "all-linear":
        return True
    if isinstance(targets, str) or name in targets:
        return _matches(targets, name)
    return _matches(targets, name) and _in_layers(config, name)


def _matches(targets: str | list[str] | None, name: str) -> bool:
    """Whether `name` fits a regular expression, or is or ends with one of a list."""
    if isinstance(targets, str):
        return _match(rf"(?:{targets})\Z", name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def _in_layers(config: Mapping[str, Any], name: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    before = r".*?\." if not config.get("layers_pattern") else r"(?:^|.*?\.)"
    found = [match for p in patterns if (match := _match(rf"{before}{p}\.(?P<layer>\d+)\.", name))]
    return bool(found) and int(found[0]["layer"]) in (
        [layers] if isinstance(layers, int) else layers
    )


def _match(pattern: str, name: str) -> Any:
    """`re.match` of a pattern that somebody else wrote, given up after a second."""
    try:
        return regex.match(pattern, name, timeout=_PATIENCE_S)
    except TimeoutError:
        raise ValueError(
            f"the regular expression {pattern[:80]!r} takes more than {_PATIENCE_S} s to match {name}; "
            "write a simpler one"
        ) from None
    except regex.error as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression: {error}") from None
