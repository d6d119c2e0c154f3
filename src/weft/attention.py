"""Attention for training on a CPU with dropout, drawn as fast as the rest (`dropout.py`).

    softmax(q k^T scale + mask), dropped, times v

torch's fused attention leaves its fast path on a CPU once it drops anything, and then draws one number at a time. This
is transformers' eager attention with the other draw, registered with transformers under `NAME`. Without dropout, as in
evaluation, it is `sdpa` in single and double precision and the same eager form in half precision.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from weft.dropout import dropout as drop

NAME = "weft_dropout"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One of transformers' attention functions, for `module` in training or not.

    Args:
        module: The attention layer.
        query: (batch, heads, seq, head size).
        key: (batch, key-value heads, seq, head size).
        value: As `key`.
        attention_mask: True where a token may look, or numbers to add; None lets all look, or with a causal
            layer all tokens at what is behind them.
        scaling: What scores are multiplied by; None is 1 / sqrt(head size).
        dropout: Fraction of the shares to drop; 0 outside training.
        is_causal: Overrides the layer's own.
        kwargs: What else transformers says; nothing of it matters here.

    Returns:
        (batch, seq, heads, head size), and None where others give the shares.
    """
    if not dropout and query.dtype in (torch.float32, torch.float64):
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    shares = scores.softmax(-1).to(query.dtype)
    if dropout:
        shares = drop(shares, dropout)
    return (shares @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
