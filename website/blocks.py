"""A page's fenced blocks: which are typed by its reader, which are files, which show what came out.

    ```sh       commands
    ```python   lines of Python; all of a page are one session
    ```LANG title="PATH"   a file that the reader writes
    ```text     right behind commands or Python: what they print, written by `make record`

A comment before a block says more of it: `<!-- slow -->` (left to the slow tests), `<!-- fails -->` (is refused; what
is shown is the refusal), `<!-- not run: REASON -->`. At the top of a page `<!-- after: PAGE -->` names the page whose
folder the reader has, `<!-- run by: TEST -->` a test of its own that runs the page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(
    r"^(?:<!-- (?P<said>slow|fails|not run: [^>]+?) -->\n+)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_AFTER = re.compile(r"^<!-- after: (?P<page>\S+) -->$", re.MULTILINE)
_RUN_BY = re.compile(r"^<!-- run by: (?P<test>\S+) -->$", re.MULTILINE)
RUN = ("sh", "python")
SHOWN = "text"


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of text, from 1."""
    span: tuple[int, int]
    """Of its text, in characters of the page."""
    title: str | None = None
    said: str = ""
    """The comment before it."""
    is_output: bool = False
    """Whether it shows what the block before it printed."""

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.title is None and not self.said.startswith("not run")


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    ended, runs = 0, False
    for found in _FENCE.finditer(page):
        follows = runs and not page[ended : found.start()].strip()
        block = Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found.span("text"),
            found["title"],
            found["said"] or "",
            is_output=follows and found["language"] == SHOWN and found["title"] is None,
        )
        yield block
        ended, runs = found.end(), block.is_run


def folder_of(page: str) -> str | None:
    """The page whose folder a page's reader has; None starts from an empty one."""
    found = _AFTER.search(page)
    return found["page"] if found else None


def own_test_of(page: str) -> str | None:
    """The file of the test that runs a page in place of the one that runs all others."""
    found = _RUN_BY.search(page)
    return found["test"] if found else None
