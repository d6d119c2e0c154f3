"""What is shown before a question: examples with answers, passages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.data.encoding import cache_folder
from weft.guard import read_text
from weft.prompting.nearest import Index
from weft.prompting.settings import Prompting
from weft.prompting.templates.contract import Template
from weft.tasks.contract import Example

MOST = 2**30
"""Bytes of a corpus."""
_PASSED = 8
"""How many more texts than wanted are looked up, to pass over a row's own."""


@dataclass(frozen=True)
class Evidence:
    """What one row is shown."""

    shots: tuple[tuple[str, str], ...] = ()
    """Questions with answers; the last stands nearest to the row."""
    passages: tuple[str, ...] = ()
    """The last stands nearest to the row."""


def evidence_for(
    rows: Sequence[Example],
    train: Sequence[Example],
    template: Template,
    settings: Prompting,
    *,
    among: bool = False,
) -> list[Evidence]:
    """What each row is shown, in order. No row is shown itself, nor what it holds already.

    Args:
        rows: Those asked about.
        train: Examples come from them, and passages where there is no corpus.
        template: Their words.
        settings: How many of which.
        among: Whether the rows are training rows themselves; other splits may number theirs alike.

    Raises:
        ValueError: If there are fewer training rows than examples are asked for, or no text in the corpus.
    """
    shots = _shots(rows, train, template, settings, among)
    passages = _passages(rows, train, template, settings, among)
    return [Evidence(*both) for both in zip(shots, passages, strict=True)]


def _shots(
    rows: Sequence[Example],
    train: Sequence[Example],
    template: Template,
    settings: Prompting,
    among: bool,
) -> list[tuple[tuple[str, str], ...]]:
    if not settings.shots:
        return [()] * len(rows)
    if settings.shots > len(train) - among:
        raise ValueError(
            f"shots {settings.shots}: there are {len(train) - among} training rows to show; ask for fewer"
        )
    if settings.nearest:
        near = _nearest(rows, [template.about(own) for own in train], template, settings.shots)
    else:
        drawn = np.random.default_rng([settings.seed, *b"shots"]).permutation(len(train)).tolist()
        near = [drawn] * len(rows)
    found = []
    for row, places in zip(rows, near, strict=True):
        others = [train[at] for at in places if not (among and train[at]["id"] == row["id"])]
        # The nearest last, where a model heeds it most.
        shown = others[: settings.shots][::-1]
        found.append(tuple((template.question(own), template.answer(own)) for own in shown))
    return found


def _passages(
    rows: Sequence[Example],
    train: Sequence[Example],
    template: Template,
    settings: Prompting,
    among: bool,
) -> list[tuple[str, ...]]:
    if not settings.retrieve:
        return [()] * len(rows)
    if settings.corpus is not None:
        texts = paragraphs(Path(settings.corpus))
    else:
        texts = list(dict.fromkeys(template.passage(own) for own in train))
    found = []
    near = _nearest(rows, texts, template, settings.retrieve)
    for row, places in zip(rows, near, strict=True):
        asked = template.question(row)
        # What stands in the question need not stand before it, and a row's own answer must not.
        own = template.passage(row) if among and settings.corpus is None else None
        kept = [texts[at] for at in places if texts[at] not in asked and texts[at] != own]
        found.append(tuple(kept[: settings.retrieve][::-1]))
    return found


def _nearest(
    rows: Sequence[Example], texts: Sequence[str], template: Template, count: int
) -> list[list[int]]:
    index = Index(texts, cache=cache_folder())
    return index.nearest([template.about(row) for row in rows], count + _PASSED)


def paragraphs(path: Path) -> list[str]:
    """The paragraphs of a text file, parted by blank lines, each once, its lines joined.

    Raises:
        ValueError: If there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise ValueError(
            f"corpus {path}: no such file; give a text file, paragraphs parted by blank lines"
        )
    lines = [line.strip() for line in read_text(path, MOST).splitlines()]
    found = [" ".join(part.split("\n")) for part in "\n".join(lines).split("\n\n")]
    texts = list(dict.fromkeys(text.strip() for text in found if text.strip()))
    if not texts:
        raise ValueError(f"corpus {path}: no text in it")
    return texts
