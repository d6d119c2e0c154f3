"""Whether a trunk tells padding from text."""

import contextlib
import functools
import json

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

_LAYERS, _TOKENS, _PADDING, _WORDS = 2, 7, 5, 64
_TOLERANCE = 1e-4
"""Of states with and without padding: rounding in single precision is far below, a leak far above."""


def reads_padding(kind: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether what a trunk of this class says of a text changes with the padding behind it.

    Convolutions over tokens, Fourier transforms and landmarks may look at what the attention mask hides. Trunks
    that use transformers' own attention functions are taken at their word; two layers of the others, with few
    words and random weights, is asked with padding and without.
    """
    if kind._supports_sdpa or kind._supports_attention_backend:
        return False
    # The same trunk is asked once in a process, however often it is loaded.
    return _leaks(type(config), json.dumps(config.to_dict(), sort_keys=True, default=str))


@functools.cache
def _leaks(kind: type[PreTrainedConfig], values: str) -> bool:
    try:
        small = _shrunk(kind.from_dict(json.loads(values)))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            trunk = AutoModel.from_config(
                small, dtype=torch.float32, trust_remote_code=False
            ).eval()
            ids = torch.randint(1, _WORDS, (1, _TOKENS))
            mask = torch.ones_like(ids)
            alone = trunk(input_ids=ids, attention_mask=mask)[0]
            padded = trunk(
                input_ids=torch.nn.functional.pad(ids, (0, _PADDING)),
                attention_mask=torch.nn.functional.pad(mask, (0, _PADDING)),
            )[0][:, :_TOKENS]
    except (
        AttributeError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        LookupError,
        AssertionError,
    ):
        # Not every config can be made small; such a trunk is tried by its first batch.
        return False
    return bool((padded - alone).abs().max() > _TOLERANCE * alone.abs().max())


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
