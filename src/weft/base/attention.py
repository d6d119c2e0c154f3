"""Attention on a CPU where torch's fused one is slow: with dropout, and in half precision.

    softmax(scale q k^T + mask), dropped, times v

torch's fused attention leaves its fast path on a CPU once it drops anything, and then draws one number at a time; in
half precision it is slow wherever there is a mask. This is the eager form with fewer passes over the scores and the
draw of `dropout.py`, registered with transformers under `NAME`. In single and double precision without dropout, as in
evaluation, it hands over to `sdpa`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from weft.base.dropout import dropout as drop

NAME = "weft"


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
    position_bias: Tensor | None = None,
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
        position_bias: Added to the scores, (batch or 1, heads, seq, key seq).
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
            position_bias=position_bias,
            **kwargs,
        )
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(2, 3)
    if position_bias is not None:
        scores = scores.add_(position_bias)
    if attention_mask is not None:
        scores = scores.add_(_added(attention_mask, scores))
    shares = scores.softmax(-1).to(query.dtype)
    if dropout:
        shares = drop(shares, dropout)
    return (shares @ value).transpose(1, 2).contiguous(), None


def available(wanted: str, kind: type[PreTrainedModel]) -> str:
    """`wanted`, or what trunks of this class have in its place: SDPA where ours, eager where SDPA, cannot be had.

    Ours computes what SDPA does, so it never stands where SDPA would lack something (a cap on scores, sinks).
    """
    if wanted not in ("sdpa", NAME):
        return wanted
    if not kind._supports_sdpa:
        return "eager"
    return wanted if wanted == "sdpa" or kind._can_set_attn_implementation() else "sdpa"


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """What a mask adds to the scores, for all heads: filling each head's takes four times as long."""
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(scores.dtype).min
    return scores.new_zeros(mask.shape).masked_fill_(~mask, lowest)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
