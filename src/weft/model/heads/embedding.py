"""Embedding: the mean of a text's last states, and sentence-transformers' losses on it."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from weft.config import TrainingSettings
from weft.model.heads.contract import BySequence, has_class, wide
from weft.tasks.kinds.embedding import LOSSES, Loss

TEXT = (
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)
"""What transformers has for models of text; `AutoModel` has those of pictures and sounds too."""


class MeanPooled(PreTrainedModel):
    """The mean of a trunk's last states over each sequence's tokens; it has no parameter of its own."""

    def __init__(self, config: PreTrainedConfig, trunk: nn.Module) -> None:
        # Theirs settles how layers compute, and refuses what it does not know; here is no layer.
        nn.Module.__init__(self)
        self.config = config
        # What a pooler makes of the states is not looked at.
        if "pooler" in dict(trunk.named_children()):
            trunk.register_module("pooler", None)
        self.trunk = trunk

    def forward(self, *, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        """Vectors, (sequences, hidden), as `logits`."""
        states = self.trunk(attention_mask=attention_mask, **inputs).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        # As sentence-transformers' pooling does it: sums of half precision in single.
        total = wide(states * mask).sum(1)
        mean = total / mask.to(total.dtype).sum(1).clamp(min=1e-9)
        return SequenceClassifierOutput(logits=mean.to(states.dtype))  # type: ignore[arg-type]


class Embedding(BySequence):
    """A vector for every sequence, (sequences, hidden); a row's sequences learn together, and rows with each other."""

    auto = "AutoModel"
    task_type = "FEATURE_EXTRACTION"
    pipeline = "sentence-similarity"
    outcome = "dimension"
    is_trunk = True
    joint = True

    def fits(self, config: PreTrainedConfig) -> bool:
        return any(has_class(getattr(transformers, name), config) for name in TEXT)

    def task_class(self, config: PreTrainedConfig) -> PreTrainedModel:
        return MeanPooled(config, super().task_class(config))

    def check_training(self, training: TrainingSettings) -> None:
        if training.label_smoothing:
            raise ValueError("label_smoothing: an embedding has no classes to smooth; set it to 0")
        if training.batch_size < 2:
            raise ValueError(
                "training.batch_size: an embedding learns from the rows of a step held against each other, so it takes "
                "2 rows at least, better 16 or more"
            )
        _losses()

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        """For every sequence, (sequences, 6): its row, its place in the row, its text's number, and its record's label.

        Two texts of the same tokens have the same number.
        """
        numbers: dict[tuple[int, ...], int] = {}
        found = [
            [row, place, numbers.setdefault(tuple(ids), len(numbers)), *label]
            for row, record in enumerate(records)
            for place, (ids, label) in enumerate(
                zip(record["input_ids"], record["labels"], strict=True)
            )
        ]
        return torch.tensor(found, dtype=torch.float64)

    def count(
        self, labels: Tensor, rows: Tensor | None = None, classes: Tensor | None = None
    ) -> float:
        """Rows."""
        return int(labels[-1, 0]) + 1

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        """The loss of the rows together times their number, so that its mean over them is the library's loss."""
        _, place, text, which, scale, score = labels.unbind(1)
        vectors = wide(logits)
        columns = [place == at for at in range(int(place.max()) + 1)]
        loss = MAKERS[LOSSES[int(which[0])]](float(scale[0]), [text[own] for own in columns])
        scores = score[columns[0]].to(vectors.dtype)
        return self.count(labels) * loss([vectors[own] for own in columns], scores)


Compute = Callable[[list[Tensor], Tensor], Tensor]
"""From the vectors of each column, (rows, hidden), and the scores, (rows,), to the loss."""


def _cosent(scale: float, texts: Sequence[Tensor]) -> Compute:
    return _losses().CoSENTLoss(None, scale=scale).compute_loss_from_embeddings


def _cosine_similarity(scale: float, texts: Sequence[Tensor]) -> Compute:
    return _losses().CosineSimilarityLoss(None).compute_loss_from_embeddings


def _multiple_negatives_ranking(scale: float, texts: Sequence[Tensor]) -> Compute:
    """Their loss takes every other row's texts for negatives; those that are none have no similarity here."""
    from sentence_transformers import util

    wrong = same_meaning(texts)

    def similarity(anchors: Tensor, others: Tensor) -> Tensor:
        return util.cos_sim(anchors, others).masked_fill(wrong, -torch.inf)

    ranking = _losses().MultipleNegativesRankingLoss
    return ranking(None, scale=scale, similarity_fct=similarity).compute_loss_from_embeddings


MAKERS: dict[Loss, Callable[[float, Sequence[Tensor]], Compute]] = {
    "cosent": _cosent,
    "cosine_similarity": _cosine_similarity,
    "multiple_negatives_ranking": _multiple_negatives_ranking,
}


def same_meaning(texts: Sequence[Tensor]) -> Tensor:
    """Which texts are no negatives of an anchor: its own, and all that a row gives as its positive; (rows, others).

    The anchor's own positive is not among them. Others are all positives, then all negatives.

    Args:
        texts: The texts' numbers by column, (rows,) each: anchors, positives, and negatives if there are any.
    """
    anchors, positives = texts[0], texts[1]
    others = torch.cat(list(texts[1:]))
    same_anchor = anchors[:, None] == anchors
    is_positive = positives[:, None] == others
    known = (same_anchor[:, :, None] & is_positive).any(1) | (anchors[:, None] == others)
    rows = torch.arange(len(anchors), device=anchors.device)
    known[rows, rows] = False
    return known


def _losses() -> ModuleType:
    """sentence-transformers' losses.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        from sentence_transformers.sentence_transformer import losses  # an extra, slow to import
    except ImportError:
        raise ValueError(
            "an embedding learns by the losses of sentence-transformers, which is not installed: pip install "
            "'weft[embeddings]'"
        ) from None
    return losses
