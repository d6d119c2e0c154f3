"""Auxiliary losses of gates, each exact and on one scale, over real tokens only.

name              formula, E experts, p mean over tokens      balanced     collapsed
balance_switch    E sum_e f_e p_e, f: share of arg-max        1            E
balance_mixtral   E sum_slot sum_e f_slot,e p_e               k            E (p one-hot)
balance_norm      E sum_e f_e p_e, f: share of selections     1            E / k (p one-hot)
balance_cv2       var(Q I) / mean(Q I)^2, Q summed by sample  0            E (one sample)
z                 mean logsumexp(l)^2                         (log E)^2    -
label_ce          -mean log softmax(l)_label                  log E        -
entropy           mean H(p)                                   log E        0

f carries no gradient. Each takes what one gate said; over modules they are averaged (`over`), so that a coefficient
means the same for models of any depth. LoRAMoE and MoLA sum over modules: multiply by their number.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from weft.methods.gates.trace import GateTrace

IGNORED = -100
"""The label that cross-entropy leaves out."""


def balance_switch(p: Tensor) -> Tensor:
    """Switch Transformer's (Fedus et al. 2021, arXiv:2101.03961, equation 4); p (tokens, experts)."""
    f = _shares(torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]))
    return p.shape[-1] * (f * p.mean(0)).sum()


def balance_mixtral(p: Tensor, k: int) -> Tensor:
    """Mixtral's code's: every slot of the k selections counts on its own."""
    order = p.detach().argsort(dim=-1, descending=True, stable=True)[:, :k]
    f = _shares(torch.nn.functional.one_hot(order, p.shape[-1]))
    return p.shape[-1] * (f * p.mean(0)).sum()


def balance_norm(p: Tensor, selected: Tensor) -> Tensor:
    """MoLA's: f is the share of all selections, so that it sums to 1 whatever k."""
    f = selected.to(p.dtype).sum(0).detach()
    return p.shape[-1] * (f / f.sum().clamp_min(1e-30) * p.mean(0)).sum()


def balance_cv2(usage: Tensor, importance: Tensor | None = None) -> Tensor:
    """LoRAMoE's localised balance: the squared coefficient of variation, unbiased; 0 for one entry.

    Args:
        usage: (samples, experts), gates summed over a sample's real tokens.
        importance: As `usage`; what each entry is multiplied by before.
    """
    q = usage if importance is None else usage * importance
    if q.numel() < 2:
        return q.sum() * 0.0
    return q.var() / (q.mean().square() + 1e-10)


def z_loss(logits: Tensor) -> Tensor:
    """Keeps logits small; (tokens, experts)."""
    return logits.logsumexp(-1).square().mean()


def label_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against the expert a token belongs to; labels of -100 do not count."""
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)


def task_ce(trace: GateTrace, logits: Tensor) -> Tensor:
    """`label_ce` of one map against each row's own task; 0 where no row has an expert of its own.

    Args:
        trace: Whose the rows are, and which tokens are real.
        logits: (sequences, seq, experts), of which every real token counts; or (sequences, experts), of which those
            that are answered together count as one.

    Raises:
        ValueError: If the call does not say whose its rows are.
    """
    if trace.labels is None:
        raise ValueError(
            "these gates are trained on the task of every row, and the call names none; give the rows' tasks "
            "with the batch, or set label_weight 0"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = trace.labels.masked_fill(trace.labels < 0, IGNORED)
    own = own.view(-1, *[1] * (logits.dim() - 2)).expand(logits.shape[:-1])
    if logits.dim() > 2:
        logits, own = trace.counted(logits), trace.counted(own)
    elif trace.rows is not None:
        # Four choices would count four times as much as a sentence, and draw it to their expert.
        own = own.masked_fill(trace.rows != torch.arange(len(own), device=own.device), IGNORED)
    # A mean over nothing is not a number; the gates still get their (zero) gradient.
    return label_ce(logits, own) if bool((own >= 0).any()) else logits.sum() * 0.0


def entropy(p: Tensor) -> Tensor:
    """Mean entropy of the scores in nats; 0 log 0 is 0, and so is its gradient's share."""
    # The derivative of p log p is infinite at 0, where a softmax over far logits arrives in single precision.
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(-1).mean()


def preserve_l2(values: Iterable[Tensor], start: Iterable[Tensor]) -> Tensor:
    """Squared distance of trained values from where they started."""
    return torch.stack(
        [(value - was.detach()).square().sum() for value, was in zip(values, start, strict=True)]
    ).sum()


def over(modules: Iterable[Tensor], reduce: str = "mean") -> Tensor:
    """One number from one a module: their mean, or their sum."""
    each = torch.stack(list(modules))
    found: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum}
    return found[reduce](each)


def _shares(counts: Tensor) -> Tensor:
    """Mean over tokens, without gradient."""
    return counts.to(torch.get_default_dtype()).mean(0).detach()
