"""What a report says, whatever it is shown as: sections of words, notes, tables and figures.

A report is a function from results to a `Document`, and a section of it is a function too. `weft.reporting.writers`
shows a document as a page, as Markdown, on a terminal and as JSON; nothing else knows of any of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from weft.tasks.cases import Mark


class Marked(str):
    """Text of which parts are marked: `[rose: giver] gave the lamp away` where there is only text.

    Args:
        text: The text without its marks.
        marks: In its order, apart from each other.
    """

    parts: tuple[tuple[str, Mark | None], ...]
    """All of the text, cut where marks begin and end."""

    def __new__(cls, text: str, marks: Sequence[Mark]) -> "Marked":
        parts: list[tuple[str, Mark | None]] = []
        at = 0
        for mark in marks:
            parts += [(text[at : mark.start], None), (text[mark.start : mark.end], mark)]
            at = mark.end
        parts = [part for part in [*parts, (text[at:], None)] if part[0]]
        own = super().__new__(
            cls, "".join(f"[{part}: {mark.label}]" if mark else part for part, mark in parts)
        )
        own.parts = tuple(parts)
        return own


@dataclass(frozen=True)
class Table:
    """Cells as text, some of it `Marked`, and what must be known to read them."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns from the left hold words; the others hold numbers."""
    prose: bool = False
    """Whether those are texts to read, none of which is the row's name."""
    notes: tuple[str, ...] = ()
    """Numbered from 1; cells name them by `raised`."""
    remarks: tuple[str, ...] = ()
    folded: str = ""
    """What the page says in place of the table until the reader opens it; "" shows it at once."""
    brief: bool = True
    """Whether a terminal shows it too."""

    def __post_init__(self) -> None:
        uneven = next((row for row in self.rows if len(row) != len(self.headers)), None)
        if uneven is not None:
            raise ValueError(
                f"table {self.caption!r} has {len(self.headers)} headers and a row of {len(uneven)} cells: {uneven}"
            )


@dataclass(frozen=True)
class Figure:
    """A drawing and its words."""

    name: str
    """Of its file, and of its parts in the page."""
    svg: str
    """An element that can stand in a page beside others."""
    file: str
    """The same as a file that looks right on its own."""
    caption: str
    alt: str
    """What it shows, for who cannot see it."""


@dataclass(frozen=True)
class Section:
    """One thing that a document has to say."""

    key: str
    """Names it in addresses: ASCII letters, digits, hyphens and underscores."""
    heading: str
    words: tuple[str, ...] = ()
    """Paragraphs."""
    notes: tuple[str, ...] = ()
    """A list below them."""
    parts: tuple[Table | Figure, ...] = ()
    """In the order in which they are shown."""
    brief: bool = True
    """Whether a terminal shows it too."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(part for part in self.parts if isinstance(part, Table))

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(part for part in self.parts if isinstance(part, Figure))


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    sections: tuple[Section, ...]
    values: Any = None
    """The numbers behind it, unrounded, as JSON values."""

    def __post_init__(self) -> None:
        names = [section.key for section in self.sections]
        names += [figure.name for figure in self.figures]
        twice = sorted(name for name, often in Counter(names).items() if often > 1)
        if twice:
            raise ValueError(f"{self.title}: two sections or figures are called {', '.join(twice)}")

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(figure for section in self.sections for figure in section.figures)


def safe_name(words: str) -> str:
    """Words as a part of file names and addresses: ASCII letters, digits, hyphens and underscores."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in words)


def distinct_names(words: Sequence[str]) -> list[str]:
    """Safe names of several things; those that would be the same are numbered."""
    found: list[str] = []
    for name in map(safe_name, words):
        ways = (name if at == 1 else f"{name}-{at}" for at in count(1))
        found.append(next(way for way in ways if way not in found))
    return found


RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def raised(notes: tuple[int, ...]) -> str:
    """What a cell ends in to name notes of its table by their numbers."""
    marks = " ".join(str(note).translate(RAISED) for note in notes)
    return f" {marks}" if marks else ""
