"""Masked language modelling: labels, loss and outputs of its head."""

import torch
from torch import Tensor

from weft.model.heads.contract import ByToken, token_nll
from weft.tasks.kinds.masked_lm import TOP_MASKS


class MaskedLM(ByToken):
    """The token behind each mask; outputs are (tokens, 1 + 2k): nll, the k best ids, their probabilities."""

    auto = "AutoModelForMaskedLM"
    pipeline = "fill-mask"
    language_model = True

    def by_token(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        best = logits.float().softmax(-1).topk(min(TOP_MASKS, logits.shape[-1]), dim=-1)
        nll = (
            torch.full(logits.shape[:2], torch.nan, device=logits.device)
            if labels is None
            else token_nll(logits, labels)
        )
        return torch.cat([nll.unsqueeze(-1), best.indices.float(), best.values], dim=-1)
