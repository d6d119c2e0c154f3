"""A trunk that computes attention its own way is tried, small and random, before it is taken for a base."""

import contextlib
import functools
import json

import torch
from torch.nn.functional import pad
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from weft.base.randomness import seeded

_LAYERS, _TOKENS, _PADDING, _WORDS = 2, 7, 5, 64
_TOLERANCE = 1e-4
"""Of states with and without padding: rounding in single precision is far below, a leak far above."""


def fault(kind: type[PreTrainedModel], config: PreTrainedConfig) -> str | None:
    """Why a trunk of this class cannot read padded rows of tokens; None if it can.

    Convolutions over tokens, Fourier transforms and landmarks may look at what the attention mask hides, and kernels
    that are not installed may leave attention out. Trunks that use transformers' own attention functions are
    taken at their word; two layers of the others, with few words, are asked with padding and without.
    """
    if kind._supports_sdpa or kind._supports_attention_backend:
        return None
    # The same trunk is tried once in a process, however often it is loaded.
    return _tried(type(config), json.dumps(config.to_dict(), sort_keys=True, default=str))


@functools.cache
def _tried(kind: type[PreTrainedConfig], values: str) -> str | None:
    try:
        small = _shrunk(kind.from_dict(json.loads(values)))
        with seeded(0), torch.no_grad():
            trunk = AutoModel.from_config(small, dtype=torch.float32, trust_remote_code=False)
            return _asked(trunk.eval())
    except ValueError as error:
        return f"does not read tokens alone: {error}" if "specify" in str(error) else None
    except (AttributeError, TypeError, ArithmeticError, RuntimeError, LookupError, AssertionError):
        # Not every config can be made small; such a trunk is tried by its first batch.
        return None


def _asked(trunk: PreTrainedModel) -> str | None:
    ids = torch.randint(1, _WORDS - 1, (1, _TOKENS))
    mask = torch.ones_like(ids)
    alone = trunk(input_ids=ids, attention_mask=mask)[0]
    padded = trunk(input_ids=pad(ids, (0, _PADDING)), attention_mask=pad(mask, (0, _PADDING)))[0]
    if (padded[:, :_TOKENS] - alone).abs().max() > _TOLERANCE * alone.abs().max():
        return "cannot tell padding from text, so what it says of a row would depend on the rows beside it"
    ids[0, 0] += 1
    if torch.equal(trunk(input_ids=ids, attention_mask=mask)[0][:, -1], alone[:, -1]):
        return "computes no attention here, where what it needs for that is not installed"
    return None


def _shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    layers = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == layers:
            setattr(config, name, value[:_LAYERS])
    # Some count their layers from other settings; those stay as many as they are.
    with contextlib.suppress(NotImplementedError, AttributeError):
        config.num_hidden_layers = min(_LAYERS, layers)
    config.vocab_size, config.pad_token_id = _WORDS, 0
    return config
