"""How SQuAD compares answers: the rules of its two evaluation scripts.

Version 1.1: Rajpurkar et al. 2016, arXiv:1606.05250 (evaluate-v1.1.py). Version 2.0: Rajpurkar et al. 2018,
arXiv:1806.03822 (evaluate-v2.0.py).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    bare = "".join(mark for mark in answer.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(said: str, right: str) -> float:
    """F1 of the words of two normalised answers, with repetition."""
    a, b = normalised(said).split(), normalised(right).split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def answer_scores(said: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 by version 1.1: the best over the right answers."""
    exact = max(normalised(said) == normalised(text) for text in answers)
    return float(exact), max(word_f1(said, text) for text in answers)


def answer_or_none_scores(said: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 by version 2.0, where "" says that there is no answer.

    Right answers of which normalising leaves nothing do not count; where none is left, nothing is the right answer.
    Two answers of which nothing is left are equal, where version 1.1 gives them an F1 of 0.
    """
    right = [text for text in answers if normalised(text)] or [""]
    exact = max(normalised(said) == normalised(text) for text in right)
    if not normalised(said):
        return float(exact), float(exact)
    return float(exact), max(word_f1(said, text) for text in right)
