"""Token classification: labels, loss and outputs of its head."""

from weft.model.heads.contract import ByToken


class TokenClassification(ByToken):
    """A class for every labelled token: logits (sequences, seq, labels)."""

    auto = "AutoModelForTokenClassification"
    task_type = "TOKEN_CLS"
    pipeline = "token-classification"
    has_classes = True
