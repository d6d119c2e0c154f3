"""Whether a judge is worth being believed: it must tell what people wrote from the same words in disorder.

Rows are drawn, and the judge is asked of each, by the protocol it will be asked by, to compare the reference with the
reference shuffled word by word. It has to prefer the former so often that guessing would do so in one of twenty cases
at most: an exact one-sided sign test over rows that are no ties. Our own choice; a judge that fails it cannot be
believed about finer differences, and one that passes may still be wrong about them.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

from weft.judging.agreement import sign_test
from weft.judging.asking import Asking
from weft.judging.protocols.contract import Protocol
from weft.judging.rows import Rows

ROWS = 20
"""Rows that a judge is tried on, at most."""
LEVEL = 0.05
FEWEST = 5
"""Rows below which even a judge without fault could be guessing: 1/2^5 < 0.05 < 1/2^4."""
WORDS = 4
"""Words of a reference below which their order says little."""


class RefusedError(ValueError):
    """A judge that is not to be believed."""


@dataclass(frozen=True)
class Trust:
    """How a judge did."""

    rows: int
    right: int
    """Rows where the reference was preferred."""
    wrong: int
    p: float
    """Of so many right ones or more by guessing."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shuffled(text: str, generator: random.Random) -> str:
    """The words of a text in another order."""
    words = text.split()
    found = list(words)
    while found == words:
        generator.shuffle(found)
    return " ".join(found)


def trials(rows: Rows, seed: int) -> list[tuple[int, str]]:
    """Rows that a judge is tried on, by number, and their references in disorder.

    Raises:
        ValueError: If too few references have words that could be shuffled.
    """
    able = [at for at, text in enumerate(rows.references) if len({*text.split()}) >= WORDS]
    if len(able) < FEWEST:
        raise ValueError(
            f"{len(able)} references have {WORDS} different words or more, but a judge is tried on {FEWEST} at least; "
            "give more rows"
        )
    generator = random.Random(seed)
    chosen = sorted(generator.sample(able, min(ROWS, len(able))))
    return [(at, shuffled(rows.references[at], generator)) for at in chosen]


def tried(asking: Asking, protocol: Protocol, criteria: str, rows: Rows, seed: int) -> Trust:
    """How a judge did on references and what disorder makes of them.

    Raises:
        RefusedError: If it cannot tell them apart.
    """
    prompts: list[list[str]] = [
        protocol.prompts(criteria, rows.question(at), (rows.references[at], disorder))
        for at, disorder in trials(rows, seed)
    ]
    flat = [prompt for own in prompts for prompt in own]
    said = iter(asking.answers(flat, protocol.options, "validating the judge"))
    verdicts = [protocol.verdict([next(said) for _ in own]).difference for own in prompts]
    right, wrong = (sum(sign * one > 0 for one in verdicts) for sign in (1, -1))
    p = sign_test(right, wrong, one_sided=True)
    if p > LEVEL:
        raise RefusedError(
            f"{_called(asking)} is no judge: of {len(prompts)} references it preferred {right} to the same words in "
            f"disorder, and the disorder {wrong} times (p = {p:.2g}, {LEVEL} at most is wanted); take another judge or "
            "protocol"
        )
    return Trust(len(prompts), right, wrong, p)


def _called(asking: Asking) -> str:
    own = asking.judge.description
    return " ".join(str(own[key]) for key in ("judge", "model", "base") if key in own)
