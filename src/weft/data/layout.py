"""What a set's description says of its files' form, and what every reader shares."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Placed = tuple[Row, str]
"""A row and where it stands."""


@dataclass(frozen=True)
class Layout:
    """What a set's description says of the form of its files; None where it says nothing (see `TaskSpec`)."""

    header: tuple[str, ...] | None = None
    quotes: bool | None = None
    comments: str | None = None
    columns: tuple[str, ...] = ()
    """Columns asked for by number."""


PLAIN = Layout()
"""Nothing is said."""


def lines_of(text: str) -> list[str]:
    """Lines without their ends: LF, CRLF, or CR alone where there is no other. No other character ends a line."""
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]
