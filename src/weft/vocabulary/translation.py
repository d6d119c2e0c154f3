"""Embeddings of new tokens from those of old ones, token by token.

    E_new[t] = sum_s w(t, s) E_old[s],    sum_s w(t, s) = 1

where the s are the old tokens that the text of t is made of, each with the share of the pieces that it is: a token that
is in both vocabularies is copied, the others are the mean of their pieces. The head's rows (and biases) are translated
by the same weights, so a new token's logit is the weighted mean of the old logits. ChocoLlama 2024, arXiv:2412.07633,
and its `translate_embeddings.py`, which decides what is unknown and the order of sums (smallest weights first).

Special tokens are those of the same name, or of the same role. A token that is a part of a character has no text: it is
the mean of the old tokens of its bytes. A token of which the old vocabulary knows nothing has the row of the unknown
token; where there is none, the mean of all rows, which is ours. Sums are in double precision.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weft.scoped import tell
from weft.tasks.language.pieces import Pieces, pieces_of
from weft.tasks.text import encoding_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Weights = Mapping[int, float]
"""Share by old token; they sum to 1."""

_AT_ONCE = 4096
"""New tokens whose old rows are held in double precision at a time."""


@dataclass(frozen=True)
class Translation:
    """What each new token is made of.

    Attributes:
        weights: By new token; empty where the old vocabulary knows nothing of it.
        unknown: The old token that then stands for it; None is the mean of all.
    """

    weights: Sequence[Weights]
    unknown: int | None

    @property
    def copied(self) -> int:
        """Tokens that are one old token."""
        return sum(len(own) == 1 for own in self.weights)

    @property
    def averaged(self) -> int:
        """Tokens that are several old tokens."""
        return sum(len(own) > 1 for own in self.weights)

    @property
    def missing(self) -> int:
        """Tokens of which nothing is known."""
        return sum(not own for own in self.weights)

    def rows(self, old: Tensor) -> Tensor:
        """The new rows, (new tokens, ...), in the old ones' type.

        Args:
            old: Rows of old tokens, (old tokens or more, ...): embeddings, a head's weight or its bias.
        """
        found = old.new_empty(len(self.weights), *old.shape[1:])
        lost = old.double().mean(0) if self.unknown is None else old[self.unknown].double()
        for start in range(0, len(self.weights), _AT_ONCE):
            own = self.weights[start : start + _AT_ONCE]
            terms = [
                (weight, place, number)
                for place, weights in enumerate(own)
                for number, weight in weights.items()
            ]
            terms.sort()  # the smallest first
            shares = torch.tensor([weight for weight, _, _ in terms], dtype=torch.float64)
            places = torch.tensor([place for _, place, _ in terms], dtype=torch.long)
            numbers = torch.tensor([number for _, _, number in terms], dtype=torch.long)
            values = old[numbers].double() * shares.view(-1, *[1] * (old.dim() - 1))
            total = torch.zeros(len(own), *old.shape[1:], dtype=torch.float64)
            total.index_add_(0, places, values)
            for place, weights in enumerate(own):
                if not weights:
                    total[place] = lost
            found[start : start + len(own)] = total.to(old.dtype)
        return found


def translation(new: "PreTrainedTokenizerFast", old: "PreTrainedTokenizerFast") -> Translation:
    """What each token of `new` is made of in `old`."""
    here, there = pieces_of(new), pieces_of(old)
    roles = special_tokens(new, old)
    vocabulary, bytes_there = old.get_vocab(), _single_bytes(there)
    found: list[Weights] = []
    for number, token in enumerate(here.tokens):
        if number % 1000 == 0:
            tell("tokens translated", number, len(here.tokens))
        own = here.bytes[number]
        if number in roles:
            found.append({roles[number]: 1.0})
        elif own is None:
            found.append({})
        elif here.form == there.form and token in vocabulary:
            found.append({vocabulary[token]: 1.0})
        else:
            found.append(_made_of(own, old, there, bytes_there))
    unknown = old.unk_token_id
    return Translation(found, unknown if isinstance(unknown, int) else None)


def special_tokens(
    new: "PreTrainedTokenizerFast", old: "PreTrainedTokenizerFast"
) -> dict[int, int]:
    """The old number by the new one of special tokens that both have, by name or else by role."""
    vocabulary = old.get_vocab()
    found = {}
    roles: dict[str, list[str]] = {}
    for role, content in new.special_tokens_map.items():
        roles.setdefault(str(content), []).append(role)
    for number, token in new.added_tokens_decoder.items():
        if not token.special:
            continue
        by_role = (getattr(old, f"{role}_id", None) for role in roles.get(str(token), ()))
        known = (own for own in (vocabulary.get(str(token)), *by_role) if own is not None)
        same = next(known, None)
        if same is not None:
            found[number] = same
    return found


def _made_of(
    own: bytes, old: "PreTrainedTokenizerFast", there: Pieces, single: Mapping[int, int]
) -> Weights:
    """The old tokens that a text, or a part of a character, is made of."""
    try:
        text = own.decode()
    except UnicodeDecodeError:
        text = ""
    ids = encoding_of(old, text, special=False).ids if text else []
    ids = [
        number for number in ids if number != old.unk_token_id and there.bytes[number] is not None
    ]
    ids = ids or [single[byte] for byte in own if byte in single]
    return {number: count / len(ids) for number, count in Counter(ids).items()}


def _single_bytes(pieces: Pieces) -> dict[int, int]:
    """The tokens that are one byte, by byte, where the vocabulary has them."""
    found = {}
    for number, own in enumerate(pieces.bytes):
        if own is None or len(own) != 1:
            continue
        if pieces.form == "bytes" or pieces.is_raw(number):
            found[own[0]] = number
    return found
