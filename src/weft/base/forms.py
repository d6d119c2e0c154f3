"""Forms of trunks: which architectures can be a base, and how each of them computes attention.

All of it is asked of transformers' classes and their configs; no architecture is named here. Code that lies beside a
checkpoint (`auto_map`) is never run, and the user is never asked to.
"""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from weft import guard
from weft.base.trial import fault

_OTHER_INPUTS = re.compile("vision|image|audio")
_REASON = 300
"""Characters of another library's message that are passed on: some of them list every class there is."""


def read_config(file: Path) -> PreTrainedConfig:
    """The config in `file`, a checkpoint's `config.json`.

    Raises:
        ValueError: If it is damaged, or of a model type that this transformers does not have.
    """
    values = guard.read_json(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} is damaged: expected a JSON mapping")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1, cutoff=0.6)
        raise ValueError(
            f"{file}: transformers {transformers.__version__} has no model type {model_type!r}"
            + (f" (the nearest is {near[0]!r})" if near else "")
            + ("; the folder's own code is never run" if "auto_map" in values else "")
        )
    try:
        return AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} is no config that transformers can read: {brief(error)}"
        ) from error


def brief(error: BaseException) -> str:
    """What another library's error says, in one line of bearable length."""
    said = " ".join(str(error).split())
    return said if len(said) <= _REASON else f"{said[:_REASON]} ..."


def refusal(config: PreTrainedConfig) -> str | None:
    """Why no trunk of this config can be a base; None where one can."""
    kind = config.model_type
    text = config.get_text_config()
    found = None
    # The class is asked too: a checkpoint of the decoder alone says that it is none.
    if config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False):
        found = "is an encoder with a decoder; weft's bases are one or the other"
    elif text is not config:
        found = f"is more than a text model; take a checkpoint of its text part ({text.model_type})"
    elif parts := [name for name in config.sub_configs if _OTHER_INPUTS.search(name)]:
        found = f"is more than a text model: its config has {', '.join(parts)}"
    elif type(config) not in AutoModel._model_mapping:
        found = "has no bare trunk in transformers"
    else:
        try:
            found = _unreadable(trunk_class(config), config)
        except ImportError as error:
            found = f"cannot be made: {brief(error)}"
    return None if found is None else f"{kind} {found}"


def _unreadable(trunk: type[PreTrainedModel], config: PreTrainedConfig) -> str | None:
    """Why a trunk of this class cannot read padded rows of tokens."""
    takes = inspect.signature(trunk.forward).parameters
    if "input_ids" not in takes:
        return "does not read tokens"
    if needed := _needed(takes.values()):
        return f"needs {', '.join(needed)} beside tokens, which texts alone do not have"
    if "attention_mask" not in takes:
        return "cannot tell padding from text: it has no attention mask"
    return fault(trunk, config)


def check_form(config: PreTrainedConfig, name: str) -> None:
    """Refuse a config whose trunk cannot be a base.

    Raises:
        ValueError: With the reason, starting with the base's name.
    """
    reason = refusal(config)
    if reason is not None:
        raise ValueError(f"{name} cannot be a base: {reason}")


def trunk_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that `AutoModel` makes of `config`."""
    found: Any = AutoModel._model_mapping[type(config)]
    if not isinstance(found, tuple):
        return found
    # transformers' table has None where a class is missing; its first is the one that AutoModel takes.
    classes: list[type[PreTrainedModel]] = [kind for kind in found if kind is not None]
    named = {kind.__name__: kind for kind in classes}
    return next((named[name] for name in config.architectures or () if name in named), classes[0])


def blank_trunk(config: PreTrainedConfig) -> PreTrainedModel:
    """The trunk of `config` on the meta device.

    Raises:
        ValueError: If it needs a package that is not installed.
    """
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config, trust_remote_code=False)
    except ImportError as error:
        raise ValueError(
            f"a trunk of {config.model_type} cannot be made: {brief(error)}"
        ) from error


def _needed(takes: Iterable[inspect.Parameter]) -> list[str]:
    """What a forward cannot do without, beside tokens."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        one.name
        for one in takes
        if one.default is inspect.Parameter.empty
        and one.kind not in variadic
        and one.name not in ("self", "input_ids", "attention_mask")
    ]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report of tensors that are missing on purpose, or belong to a head."""
    bars, verbosity = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
