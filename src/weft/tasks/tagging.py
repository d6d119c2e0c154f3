"""How tags say where entities begin and end: the schemes that files use, and the one used here, IOB2.

tokens   Ada    Lovelace  met    Bob    Paris  Rome
iob2     B-PER  I-PER     O      B-PER  B-LOC  B-LOC
iob1     I-PER  I-PER     O      I-PER  I-LOC  B-LOC     B- only where two of a type touch
io       I-PER  I-PER     O      I-PER  I-LOC  I-LOC     the last two are one entity
bioes    B-PER  E-PER     O      S-PER  S-LOC  S-LOC     also BMES (M for I) and BMEWO (W for S)
bilou    B-PER  L-PER     O      U-PER  U-LOC  U-LOC
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

Scheme = Literal["iob2", "iob1", "io", "bioes", "bilou"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
OUTSIDE = "O"

_LETTERS: dict[Scheme, str] = {
    "iob2": "BI",
    "iob1": "BI",
    "io": "I",
    "bioes": "BIESMW",
    "bilou": "BILU",
}
_BEGIN = "BSUW"
_END = "ESLUW"
_PREFIXED = re.compile(r"([BIESMWLU])-(.+)", re.DOTALL)


def split(tag: str, scheme: Scheme | None = None) -> tuple[str, str] | None:
    """A tag's letter and type; None for `O`. A bare type is an `I-` where the scheme is `io`.

    Raises:
        ValueError: If it is no tag of the scheme, or of any if that is None.
    """
    if tag == OUTSIDE:
        return None
    found = _PREFIXED.fullmatch(tag)
    letters = "BIESMWLU" if scheme is None else _LETTERS[scheme]
    if found and found[1] in letters:
        return found[1], found[2]
    if scheme == "io" and not found and tag.strip():
        return "I", tag
    if scheme is None:
        raise ValueError(
            f"{tag[:60]!r} is no tag: expected O, or B-<type>, I-<type> and the like; bare types are read with "
            "`scheme: io`"
        )
    form = " or ".join(f"{letter}-<type>" for letter in letters)
    raise ValueError(f"{tag[:60]!r} is no tag of scheme {scheme}: expected O, or {form}")


def recognise(rows: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that rows of tags are written in; `iob2` where nothing tells it from another.

    Rows that break every scheme's rules but hold only B- and I- are `iob2`: what is read then is what seqeval's
    default reads. `io` and `iob1` mean the same where no two entities of a type touch.

    Raises:
        ValueError: If letters of different schemes occur.
    """
    letters: set[str] = set()
    needless = opened_by_i = False
    for row in rows:
        before = None
        for tag in row:
            own = split(tag)
            if own is not None:
                goes_on = before is not None and before[1] == own[1]
                letters.add(own[0])
                needless |= own[0] == "B" and not goes_on
                opened_by_i |= own[0] == "I" and not goes_on
            before = own
    bioes, bilou = letters & set("ESMW"), letters & set("LU")
    if bioes and bilou:
        raise ValueError(
            f"tags begin with {', '.join(sorted(letters))}: no one scheme has them all; say which with `scheme:`"
        )
    if bioes or bilou:
        return "bioes" if bioes else "bilou"
    if letters == {"I"}:
        return "io"
    return "iob1" if opened_by_i and not needless else "iob2"


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Tags in IOB2; those that are said to be in it stay as they are.

    An entity begins at a letter that says so, after one that ends another, and where the type changes.

    Raises:
        ValueError: If one is no tag of the scheme.
    """
    parts = [split(tag, scheme) for tag in tags]
    if scheme == "iob2":
        return list(tags)
    found: list[str] = []
    before = None
    for own in parts:
        if own is None:
            found.append(OUTSIDE)
        else:
            goes_on = before is not None and before[1] == own[1] and before[0] not in _END
            found.append(f"{'I' if goes_on and own[0] not in _BEGIN else 'B'}-{own[1]}")
        before = own
    return found


def classes_of(labels: Sequence[str], scheme: Scheme | None) -> list[str]:
    """The IOB2 classes of labels that a user named: as they are where they are IOB2, else `O` and B-, I- of each type.

    Raises:
        ValueError: If one is no tag.
    """
    parts = [split(label, scheme) for label in labels]
    letters = {own[0] for own in parts if own}
    if letters <= set("BI") and "B" in letters and scheme != "io":
        return list(labels)
    types = dict.fromkeys(own[1] for own in parts if own)
    return [*([OUTSIDE] if None in parts else []), *(f"{a}-{kind}" for kind in types for a in "BI")]
