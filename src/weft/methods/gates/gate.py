"""From logits to gates, as data: a mixture says which score, which selection and which normalisation.

    scores    softmax(l / temperature), sigmoid(l), |l|, or l
    selected  all; the k largest; the fewest that hold a share p; those over a threshold; the labelled one
    gates     scores where selected, as they are; to sum 1; softmax over the selected; to sum k

Scores that do not sum to more than 0, which a bias or `raw` can bring about, have no shares: they stay as they are
where gates are to sum to 1, and where they are to sum to k each counts 1e-6 at least. All in single precision at
least. Of equal scores the earlier expert is selected, so ties have one answer.
"""

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.config import Settings

SMALLEST = 1e-6
"""What a selected score counts at least where gates sum to k."""


class GateSpec(Settings):
    """How logits become gates."""

    score: Literal["softmax", "sigmoid", "abs", "raw"] = "softmax"
    """What turns a logit into a score."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by, in every softmax."""
    select: Literal["dense", "top_k", "top_p", "threshold", "hard"] = "dense"
    """Who takes part."""
    k: int | None = Field(default=None, ge=1)
    """Experts (or ranks) that `top_k` selects."""
    p: float | None = Field(default=None, gt=0, le=1)
    """Share of the scores that `top_p` selects at least."""
    normalise: Literal["none", "renormalise", "softmax", "sum_to_k"] = "none"
    """What selected scores become: themselves, a sum of 1, a softmax of their logits (`abs`: of |l|), a sum of k."""
    bias_counts: bool = True
    """Whether a selection bias, where there is one, enters the gates too."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.select == "top_k") != (self.k is not None):
            raise ValueError(
                f"select {self.select} and k {self.k}: top_k takes k, nothing else does"
            )
        if (self.select == "top_p") != (self.p is not None):
            raise ValueError(
                f"select {self.select} and p {self.p}: top_p takes p, nothing else does"
            )
        if self.normalise == "sum_to_k" and self.select != "top_k":
            raise ValueError("normalise sum_to_k needs select top_k")
        return self

    @classmethod
    def kept(cls, k: int | None, temperature: float) -> Self:
        """A softmax of which the `k` largest stay, to sum 1; None keeps all."""
        if k is None:
            return cls(temperature=temperature)
        return cls(temperature=temperature, select="top_k", k=k, normalise="renormalise")


class Gate(NamedTuple):
    """What a gate says of every token, (..., experts) each."""

    scores: Tensor
    gates: Tensor
    selected: Tensor
    """bool; what a gate of exactly 0 cannot tell."""


def gate(
    logits: Tensor,
    spec: GateSpec,
    *,
    bias: Tensor | None = None,
    threshold: Tensor | None = None,
    labels: Tensor | None = None,
) -> Gate:
    """Gates from logits.

    Args:
        logits: (..., experts), or (..., ranks) where every rank is an expert.
        spec: What to do with them.
        bias: (experts,), added to the scores for selection; no gradient.
        threshold: (..., 1), for `select: threshold`; what is selected exceeds or equals it, and what
            counts is the excess.
        labels: (...) expert of every token, for `select: hard`.

    Raises:
        ValueError: If k is more than there are experts, or what a selection needs is not given.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if spec.temperature != 1 and "softmax" in (spec.score, spec.normalise):
        wide = wide / spec.temperature
    scores = _scores(wide, spec)
    key = scores if bias is None else scores + bias
    selected = _selected(key, spec, threshold, labels)
    value = key if spec.bias_counts else scores
    if spec.select == "hard":
        value = torch.ones_like(scores)
    elif spec.select == "threshold" and threshold is not None:
        value = value - threshold
    own = scores if spec.score == "abs" else wide
    return Gate(scores, _normalised(value, own, selected, spec), selected)


def _scores(logits: Tensor, spec: GateSpec) -> Tensor:
    if spec.score == "softmax":
        return logits.softmax(-1)
    return {"sigmoid": torch.sigmoid, "abs": torch.abs, "raw": torch.clone}[spec.score](logits)


def _selected(
    key: Tensor, spec: GateSpec, threshold: Tensor | None, labels: Tensor | None
) -> Tensor:
    experts = key.shape[-1]
    if spec.select == "hard":
        if labels is None:
            raise ValueError("select hard: every token needs the label of its expert")
        return torch.nn.functional.one_hot(labels, experts).bool()
    if spec.select == "threshold":
        if threshold is None:
            raise ValueError("select threshold: every token needs a threshold")
        return key >= threshold
    if spec.select == "dense":
        return key.new_ones((), dtype=torch.bool).expand(key.shape)
    order = key.detach().argsort(dim=-1, descending=True, stable=True)
    if spec.select == "top_k":
        assert spec.k is not None
        if spec.k > experts:
            raise ValueError(
                f"k {spec.k} is more than the {experts} experts; choose at most {experts}"
            )
        chosen = torch.arange(experts, device=key.device) < spec.k
    else:
        assert spec.p is not None
        falling = key.detach().gather(-1, order)
        # An expert is in if those before it do not yet hold the share; the first always is.
        chosen = falling.cumsum(-1) - falling < spec.p * falling.sum(-1, keepdim=True)
    return torch.zeros_like(key, dtype=torch.bool).scatter(-1, order, chosen.expand_as(order))


def _normalised(value: Tensor, logits: Tensor, selected: Tensor, spec: GateSpec) -> Tensor:
    if spec.normalise == "softmax":
        return logits.masked_fill(~selected, -torch.inf).softmax(-1)
    if spec.normalise == "sum_to_k":
        assert spec.k is not None
        kept = value.clamp_min(SMALLEST) * selected
        return spec.k * kept / kept.sum(-1, keepdim=True)
    kept = value if spec.select == "dense" else value * selected
    if spec.normalise == "none":
        return kept
    total = kept.sum(-1, keepdim=True)
    return kept / torch.where(total > 0, total, 1.0)
