"""Does in a folder what a page tells its reader to do: writes its files, types its commands, runs its Python.

Commands of weft run in this process, as fast as their own work; others are a shell's.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from website.blocks import Block, blocks_of
from weft.cli import app

SCREEN = {"COLUMNS": "96", "TTY_COMPATIBLE": "1", "TERM": "xterm"}
"""What commands take for the terminal that pages show."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
Maker = Callable[[str], None]
"""Does what `make TARGET` does."""


class PageError(AssertionError):
    """A block that did not end as the page says."""


def play(
    page: str, folder: Path, *, name: str, slow: bool, make: Maker | None = None
) -> list[tuple[Block, str]]:
    """Do all that a page says, from its first block to its last.

    Args:
        page: Its Markdown.
        folder: Where its reader is.
        name: What errors call it.
        slow: Whether to run its slow blocks too.
        make: For `make TARGET`, which has no meaning in the folder.

    Returns:
        Every block that was run, and what it printed.

    Raises:
        PageError: At the first block that ends otherwise than it should.
    """
    printed: list[tuple[Block, str]] = []
    session: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(folder), _screen():
        for block in blocks_of(page):
            where = f"{name}:{block.line}"
            if block.title is not None:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.is_run and (slow or block.said != "slow"):
                run = _python(block, session, where) if block.language == "python" else None
                out = _commands(block, where, make) if run is None else run
                printed.append((block, _clean(out, folder)))
    return printed


@contextmanager
def _screen() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in SCREEN}
    os.environ.update(SCREEN)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _clean(text: str, folder: Path) -> str:
    """What is shown: no colours, no white space at the ends of lines, no folder of this machine."""
    here = re.escape(f"{folder}/")
    plain = _COLOURS.sub("", text)
    # In a cell of a table what is left of a path keeps its width.
    cells = re.sub(
        f"{here}([^│\\n]*)│", lambda found: f"{found[1]}{' ' * len(str(folder))} │", plain
    )
    plain = re.sub(here, "", cells)
    return "\n".join(line.rstrip() for line in plain.strip("\n").splitlines()) + "\n"


def _python(block: Block, session: dict[str, Any], where: str) -> str:
    out = io.StringIO()
    # Lines of the block are those of the page, in tracebacks too.
    code = compile("\n" * (block.line - 1) + block.text, where.rpartition(":")[0], "exec")
    try:
        with redirect_stdout(out):
            exec(code, session)
    except BaseException:
        raise PageError(f"{where}:\n{block.text}\n{traceback.format_exc()}") from None
    return out.getvalue()


def _commands(block: Block, where: str, make: Maker | None) -> str:
    out = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "make":
            if make is None:
                raise PageError(f"{where}: {line}: nobody says what it makes here")
            make(words[1])
        elif words[0] == "cd":
            os.chdir(words[1])
        else:
            code, text, wrong = _line(line)
            if (code != 0) != (block.said == "fails"):
                raise PageError(f"{where}: {line}\nexit code {code}\n{text}{wrong}")
            out.append(wrong if block.said == "fails" else text)
    return "".join(out)


def _line(line: str) -> tuple[int, str, str]:
    """One command, or several with pipes between them: exit code of the last, what it printed, what it complained."""
    code, text, wrong = 0, "", ""
    for part in _split(line, "|"):
        command, _, source = (piece.strip() for piece in part.partition(" < "))
        given = Path(source).read_text(encoding="utf-8") if source else text
        code, text, wrong = _command(command, given)
    return code, text, wrong


def _split(line: str, sign: str) -> list[str]:
    """Parts of a line between signs that stand alone, outside quotation marks."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars=sign)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word == sign:
            parts.append([])
        else:
            parts[-1].append(word)
    return [" ".join(part) for part in parts]


def _command(command: str, given: str) -> tuple[int, str, str]:
    words = shlex.split(command)
    if words[0] == "weft":
        said = CliRunner().invoke(app, words[1:], given or None)
        error = said.exception
        if error is not None and not isinstance(error, SystemExit):
            return 1, said.stdout, "".join(traceback.format_exception(error))
        return said.exit_code, said.stdout, _without_bars(said.stderr)
    # A script of the reader's is a process of its own: what it registers is not there for others.
    typed = [sys.executable, *words[1:]] if words[0] == "python" else ["bash", "-c", command]
    run = subprocess.run(typed, input=given, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout, run.stderr


def _without_bars(text: str) -> str:
    """What was complained about, without how far the work was."""
    return "".join(line for line in text.splitlines(keepends=True) if "━" not in line)


def recorded(page: str, printed: list[tuple[Block, str]]) -> str:
    """A page whose outputs are what was printed."""
    said: Mapping[int, str] = {block.span[1]: text for block, text in printed}
    last = None
    parts, at = [], 0
    for block in blocks_of(page):
        if block.is_output and last in said:
            parts += [page[at : block.span[0]], said[last]]
            at = block.span[1]
        last = block.span[1]
    return "".join([*parts, page[at:]])
