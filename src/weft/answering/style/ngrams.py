"""What follows what in a corpus: smoothed counts of 1- to 3-grams in a tokenizer's own tokens.

    p~_n(v | c_n) = (N(c_n, v) + d) / (N(c_n) + d |V|),    d = 0.01,    c_n the last n - 1 tokens
    b(v) = sum_{n in O} w_n log p~_n(v | c_n),             w = (.1, .3, .6) renormalised over O

O are the orders whose context occurs in the corpus; that of single tokens always does. V are the tokens that text is
made of: special ones, and rows of the vocabulary that no token has, are none. N(c) counts where something follows.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from weft.data.formats import read_rows
from weft.guard import check_file
from weft.scoped import tell
from weft.tasks.text import encoding_of

ORDERS = (1, 2, 3)
WEIGHTS = (0.1, 0.3, 0.6)
SMOOTHING = 0.01
COLUMN = "text"


@dataclass(frozen=True)
class Following:
    """What follows one context: how often anything does, and each token by its place in V."""

    total: int
    counts: dict[int, int]


_NOTHING = Following(0, {})


@dataclass(frozen=True, eq=False)
class NGrams:
    """The counts of a corpus.

    Attributes:
        tokens: V: ids of the tokens that text is made of, ascending, (|V|,).
        following: By context, a tuple of none to two ids.
        tokenizer: A hash of whose tokens these are.
        corpus_tokens: How many the corpus has.
    """

    tokens: Tensor
    following: dict[tuple[int, ...], Following]
    tokenizer: str
    corpus_tokens: int

    def log_probabilities(self, order: int, context: Sequence[int]) -> Tensor:
        """The logarithm of p~_n of every token of V, double precision, (|V|,); all alike behind what never occurs.

        Args:
            order: n.
            context: Ids of what was written so far, n - 1 of them at least.
        """
        if order == 1:
            return self._single
        return self._after(tuple(context[len(context) - order + 1 :]))

    def active(self, context: Sequence[int]) -> list[int]:
        """The orders whose context occurs; a text that has only begun has no long ones."""
        return [
            order
            for order in ORDERS
            if len(context) >= order - 1
            and tuple(context[len(context) - order + 1 :]) in self.following
        ]

    def bias(self, context: Sequence[int]) -> Tensor:
        """The prior on every token of V, double precision, (|V|,).

        Args:
            context: Ids of what was written so far; the last two count.
        """
        orders = self.active(context)
        mass = sum(WEIGHTS[order - 1] for order in orders)
        terms = [
            WEIGHTS[order - 1] / mass * self.log_probabilities(order, context) for order in orders
        ]
        return torch.stack(terms).sum(0)

    def interpolated(self, context: Sequence[int], token: int) -> float:
        """The sum of w_n p~_n of a token, with full weights; of an order whose context never occurs, 1/|V|.

        Raises:
            KeyError: If the token is none that text is made of.
        """
        place, size = self.place(token), len(self.tokens)
        value = 0.0
        for order, weight in zip(ORDERS, WEIGHTS, strict=True):
            known = len(context) >= order - 1
            found = self._at(tuple(context[len(context) - order + 1 :])) if known else _NOTHING
            often = found.counts.get(place, 0)
            value += weight * (often + SMOOTHING) / (found.total + SMOOTHING * size)
        return value

    @cached_property
    def _single(self) -> Tensor:
        return self._after(())

    def _after(self, context: tuple[int, ...]) -> Tensor:
        """Only tokens that were seen there differ from one constant."""
        found, size = self._at(context), len(self.tokens)
        below = math.log(found.total + SMOOTHING * size)
        values = torch.full((size,), math.log(SMOOTHING) - below, dtype=torch.float64)
        seen = torch.tensor(list(found.counts), dtype=torch.long)
        often = torch.tensor(list(found.counts.values()), dtype=torch.float64)
        values[seen] = (often + SMOOTHING).log() - below
        return values

    def _at(self, context: tuple[int, ...]) -> Following:
        return self.following.get(context, _NOTHING)

    def place(self, token: int) -> int:
        """Where a token stands in V.

        Raises:
            KeyError: If it does not.
        """
        at = int(torch.searchsorted(self.tokens, token))
        if at == len(self.tokens) or int(self.tokens[at]) != token:
            raise KeyError(f"token {token} is special, or none of the vocabulary's")
        return at

    def has(self, gram: Sequence[int]) -> bool:
        """Whether the corpus has these one to three tokens in a row."""
        try:
            return self.place(gram[-1]) in self._at(tuple(gram[:-1])).counts
        except KeyError:
            return False

    def check(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Refuse another tokenizer than the one whose tokens were counted.

        Raises:
            ValueError: If it is one.
        """
        if digest_of(tokenizer) != self.tokenizer:
            raise ValueError(
                "these n-grams were counted in another tokenizer's tokens; count the corpus anew with the base's own"
            )


def counted(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, where: str) -> NGrams:
    """The n-grams of texts; none reaches from one text into the next.

    Args:
        texts: Such as the paragraphs of a book.
        tokenizer: Of the base that is to write.
        where: What errors call the corpus.

    Raises:
        ValueError: If there is no token in it.
    """
    special = set(tokenizer.all_special_ids)
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
    places = {token: at for at, token in enumerate(ordinary)}
    counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    total = 0
    for number, text in enumerate(texts):
        if number % 1000 == 0:
            tell(f"counting n-grams of {where}, {total:,} tokens")
        ids = [one for one in encoding_of(tokenizer, text, special=False).ids if one in places]
        total += len(ids)
        for at, token in enumerate(ids):
            for before in range(min(at, max(ORDERS) - 1) + 1):
                counts[tuple(ids[at - before : at])][places[token]] += 1
    if not total:
        raise ValueError(f"{where}: a corpus without a word has no style; give a file with text")
    following = {context: Following(own.total(), dict(own)) for context, own in counts.items()}
    return NGrams(torch.tensor(ordinary), following, digest_of(tokenizer), total)


def ngrams_of(path: Path, tokenizer: PreTrainedTokenizerFast) -> NGrams:
    """The n-grams of a file: running text (.txt), whose paragraphs are apart, or rows with a column `text`.

    A paragraph's lines are joined: where a file breaks them is no style.

    Raises:
        ValueError: If it cannot be read, has no such column, or no text.
    """
    check_file(path)
    state = path.stat()
    return _counted_once(path, (state.st_size, state.st_mtime_ns), tokenizer)


@lru_cache(maxsize=2)
def _counted_once(path: Path, state: tuple[int, int], tokenizer: PreTrainedTokenizerFast) -> NGrams:
    """A file is counted again when it has changed."""
    return counted(_texts(path), tokenizer, str(path))


def _texts(path: Path) -> Iterable[str]:
    for row, where in read_rows(path):
        text = row.get(COLUMN)
        if not isinstance(text, str):
            raise ValueError(
                f"{where}: expected a column {COLUMN!r} with the style's text, got {sorted(map(str, row))}"
            )
        yield " ".join(text.split())


def digest_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of what a tokenizer makes of texts."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def perplexity(log_probabilities: Sequence[float]) -> float:
    """The exponential of the mean negative logarithm; NaN of none."""
    if not log_probabilities:
        return math.nan
    return math.exp(-math.fsum(log_probabilities) / len(log_probabilities))
