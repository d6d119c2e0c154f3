"""Letters of scripts that a language is not written in: what a model that slips into another language leaves behind.

A letter's script is Unicode's (UAX #24), as the library regex has it. Letters that belong to no script (Common: the
micro sign; Inherited) are nobody's, and never leak; digits, marks and punctuation are no letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import regex

from weft.tasks.scoring import Score, share

_NOBODYS = ("Common", "Inherited")


@dataclass(frozen=True)
class Leakage:
    """What leaked.

    Attributes:
        letters: Share of all letters that are of another script; 0 where there are none.
        texts: Share of texts that have such a letter, with its interval.
    """

    letters: float
    texts: Score


def script_leakage(texts: Sequence[str], allowed: Sequence[str]) -> Leakage:
    """How much of some texts is written in scripts other than those that are allowed.

    Args:
        texts: What was written; at least one.
        allowed: Names of scripts as Unicode has them: Latin, Arabic, Cyrillic, Han, ...

    Raises:
        ValueError: If there are no texts, or Unicode has no script of a name.
    """
    if not texts:
        raise ValueError("no texts, so no share of them; give at least one")
    foreign = _foreign(tuple(allowed))
    letters = sum(len(_LETTER.findall(text)) for text in texts)
    leaked = [len(foreign.findall(text)) for text in texts]
    return Leakage(
        sum(leaked) / letters if letters else 0.0,
        share(sum(count > 0 for count in leaked), len(texts)),
    )


_LETTER = regex.compile(r"\p{L}")


@cache
def _foreign(allowed: tuple[str, ...]) -> regex.Pattern[str]:
    if not allowed:
        raise ValueError(
            "no script is allowed; name those that the language is written in, e.g. Latin"
        )
    for name in allowed:
        try:
            regex.compile(rf"\p{{Script={name}}}")
        except regex.error:
            raise ValueError(
                f"{name!r} is no script of Unicode's; write its name as there, e.g. Latin, Arabic, Han, Cyrillic"
            ) from None
    classes = "".join(rf"\p{{Script={name}}}" for name in (*allowed, *_NOBODYS))
    return regex.compile(rf"[\p{{L}}--[{classes}]]", regex.VERSION1)
