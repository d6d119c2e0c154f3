"""LoRAMoE: every expert speaks by a dense gate, and a loss keeps experts in use, some of them for knowledge.

    y = W0 x + b + sum_e G_e s_e B_e A_e drop(x),    G = softmax(W_g x)
    loss += beta Var(Q I) / (mean(Q I)^2 + 1e-10),   Q_be = sum of G_te over the tokens t of sequence b
    I_be = 1 + delta where the types of sequence b and expert e agree, else 1 - delta

Dou et al. 2023, LoRAMoE, arXiv:2312.09979 (the localised balancing constraint). Read in the authors' code
(github.com/Ablustrund/LoRAMoE, `peft/tuners/lora.py`): gate without bias on the map's own undropped input, softmax in
single precision, W_g and A start U(±1/sqrt(in)), B zero; the variance is the unbiased one over all sequences and
experts together. The code divides by the mean's square, as here, so that the scale of Q cancels; the paper, from
memory, by the mean.

Which sequences are of type 1 (questions of knowledge) is `knowledge`: numbers of tasks, from 0, as the labels of a
call count them, which is the order of the experts where these come from runs. Such an expert is of its own task's
type; of new experts the first half is of type 1, as in the code (of an odd number the smaller half). Without
`knowledge` nobody has a type: I is 1 and this is plain balance.

Defaults: the paper's beta and delta, 0.1 each (from memory); the authors' script has 0 for both, the loss off. Theirs
are 8 experts (kept), rank 4, alpha 32, dropout 0.05 (kept), the feed-forward maps (kept), rate 2e-4 for a model of
seven billion; ours rank 8, alpha 16. Their loss is summed over maps, here it is the mean: multiply beta by their
number. Padding is left out of Q, which the code lets count, and so are sequences of padding alone.

Known defects, kept as published: the loss is least at Q proportional to 1 / I, so where types agree an expert is used
less, not more; and Q grows with a sequence's length, so that unequal lengths alone cost something.
"""

import torch
from pydantic import Field
from torch import Tensor

from weft.methods.gates import losses
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of LoRAMoE."""

    num_experts: int = Field(default=8, ge=1)
    """New experts at each map; experts of runs are as many as there are."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""
    targets: list[str] | str = ["ffn_in", "ffn_out"]
    """Where new experts go, in the terms of a recipe's targets."""
    balance_weight: float = Field(default=0.1, ge=0)
    """What the balance adds to the loss, beta; 0 leaves it out."""
    delta: float = Field(default=0.1, ge=0, lt=1)
    """How far importance is from 1; has a say with `knowledge` only."""
    knowledge: list[int] = []
    """Numbers of the tasks of type 1, from 0 in the order of the experts."""


class LoRAMoE(contract.Routed):
    """Dense gates at each map, balanced within types."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        spec, count = self.spec, len(self.experts)
        least, most = min(spec.knowledge, default=0), max(spec.knowledge, default=0)
        if least < 0 or (spec.start == "experts" and most >= count):
            raise ValueError(
                f"knowledge {spec.knowledge}: expected numbers of tasks, 0 to {count - 1} for {count} experts"
            )

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.balance_weight or not trace.gates:
            return {}
        agreement, delta = self._agreement(trace), self.spec.delta
        found = losses.over(
            _balance(each.gates, trace, agreement, delta) for each in trace.gates.values()
        )
        return {"balance": (self.spec.balance_weight, found)}

    def _agreement(self, trace: GateTrace) -> Tensor | None:
        """1 where the types of sequence and expert agree, else -1, (sequences or 1, experts); None: no types."""
        own, labels = self.spec, trace.labels
        if not own.knowledge or not own.delta:
            return None
        if labels is None or bool((labels < 0).any()):
            raise ValueError(
                "`knowledge` tells tasks of two types apart, and the call does not say the task of every sequence; "
                "leave `knowledge` empty, or mix the experts of these tasks (start: experts)"
            )
        count = len(self.experts)
        typed = own.knowledge if own.start == "experts" else range(count // 2)
        sequences = torch.isin(labels, labels.new_tensor(own.knowledge))
        experts = torch.tensor([at in typed for at in range(count)], device=labels.device)
        return 2 * (sequences[:, None] == experts).int() - 1


def _balance(gates: Tensor, trace: GateTrace, agreement: Tensor | None, delta: float) -> Tensor:
    """The loss of one map; gates (sequences, seq, experts), or (sequences, experts) without a seq."""
    mask = trace.mask
    tokens = gates.unsqueeze(1) if gates.dim() == 2 else gates
    if mask is None:
        counts = torch.ones(len(tokens), 1, device=tokens.device)
    else:
        counts = mask.bool().any(1, keepdim=True) if gates.dim() == 2 else mask
    usage = (tokens * counts.unsqueeze(-1)).sum(1)
    real = counts.bool().any(1)
    if agreement is None:
        return losses.balance_cv2(usage[real])
    importance = (1 + delta * agreement.to(usage.dtype)).expand_as(usage)
    return losses.balance_cv2(usage[real], importance[real])
