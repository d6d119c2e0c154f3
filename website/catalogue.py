"""Reference of methods, tasks and bases: a page for each list of `weft list` and for what `weft show` shows."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from weft.catalogue.pages import LISTS, PAGES, Entry, described, listed
from weft.catalogue.source import file_of, source_of
from weft.reporting.writers import escaped, table_lines

FOLDER = "reference"
COUNTED_ON = ("minilm", "bert-base")
"""Bases that parameters are counted on."""
ROOMS = ("weft.methods", "weft.model", "weft.tasks")
"""Where the folders are that a list may be of."""
_SAID_ABOVE = {"summary", "equation", "page", "settings", "file", "parameters"}
_CODE = re.compile(r"(`[^`]*`)")


def catalogue_pages(
    lists: Iterable[str] = tuple(LISTS), *, counted_on: Sequence[str] = COUNTED_ON
) -> dict[str, str]:
    """Markdown by place on the site.

    Args:
        lists: Of `weft list`.
        counted_on: Bases that parameters are counted on.
    """
    texts: dict[str, str] = {}
    for what in lists:
        entries, one = listed(what), what.removesuffix("s")
        if one in PAGES:
            texts[f"{FOLDER}/{what}/index.md"] = _list_page(what, entries, linked=True)
            for entry in entries:
                texts[f"{FOLDER}/{what}/{entry['name']}.md"] = _page(one, entry["name"], counted_on)
        else:
            texts[f"{FOLDER}/{what}.md"] = _list_page(what, entries, linked=False)
    return texts


def _list_page(what: str, entries: list[Entry], *, linked: bool) -> str:
    lines = [f"# {what.capitalize()}", "", f"What `weft list {what}` lists.", ""]
    headers = ["name", *(key for key in entries[0] if key != "name")] if entries else ["name"]
    rows = [[entry.get(key, "") for key in headers] for entry in entries]
    if linked:
        links = [f"[{entry['name']}]({entry['name']}.md)" for entry in entries]
        return "\n".join([*lines, *table(headers, rows, first=links), ""])
    lines += table(headers, rows)
    for entry in entries:
        text = _docstring(what, entry["name"])
        if text:
            lines += ["", f"## {entry['name']}", "", text]
    return "\n".join([*lines, ""])


def _docstring(what: str, name: str) -> str:
    """The page of a file that has no command to show it."""
    places = (f"{room}.{what}.{name}" for room in ROOMS)
    found = next((place for place in places if file_of(place)), None)
    return as_markdown(source_of(found).page) if found else ""


def _page(what: str, name: str, counted_on: Sequence[str]) -> str:
    """All that `weft show WHAT NAME` shows."""
    found = described(what, name)
    lines = [f"# {name}", "", f"`weft show {what} {name}`", ""]
    if "page" in found:
        lines += [as_markdown(found["page"]), ""]
    else:
        lines += [as_markdown(found.get("summary", "")), ""]
        if found.get("equation"):
            lines += ["```text", found["equation"], "```", ""]
    lines += _facts({key: value for key, value in found.items() if key not in _SAID_ABOVE | {what}})
    if found.get("settings"):
        entries = found["settings"]
        headers = list(entries[0])
        rows = [[entry[key] for key in headers] for entry in entries]
        lines += ["## Settings", "", *table(headers, rows), ""]
    lines += _parameters(what, name, counted_on)
    return "\n".join(lines)


def _facts(found: Mapping[str, Any]) -> Iterator[str]:
    """What is a word or a number, as a list."""
    for key, value in found.items():
        if value in (None, "", [], {}):
            continue
        yield f"- {key.replace('_', ' ')}: {escaped(_words(value))}"
    yield ""


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_words(own)}" for key, own in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _parameters(what: str, name: str, counted_on: Sequence[str]) -> Iterator[str]:
    """How many numbers a recipe trains on some bases."""
    if what != "recipe" or not counted_on:
        return
    rows = []
    for base in counted_on:
        own = described(what, name, base=base)["parameters"]
        rows.append([base, f"{own['trained']:,}", f"{own['of']:,}"])
    yield "## Parameters"
    yield ""
    yield from table_lines(["base", "trained, without the head", "of"], rows, words=1)
    yield ""


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], first: Sequence[str] = ()
) -> list[str]:
    """A table of words, in whose cells code is code.

    Args:
        headers: Of its columns.
        rows: Cells as docstrings have them.
        first: The first cell of every row as Markdown, in place of its own.
    """
    lines = [f"| {' | '.join(headers)} |", f"| {' | '.join('---' for _ in headers)} |"]
    for at, row in enumerate(rows):
        cells = [as_markdown(re.sub(r"\s+", " ", cell)).replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join([first[at], *cells[1:]] if first else cells)} |")
    return lines


def as_markdown(text: str) -> str:
    """A docstring: its indented blocks stay as they are, in its sentences only code is code."""
    lines = []
    for line in text.splitlines():
        parts = [line] if line.startswith("    ") else _CODE.split(line)
        lines.append(
            "".join(
                part if part.startswith(("`", "    ")) else re.sub(r"([*<\[\]])", r"\\\1", part)
                for part in parts
            )
        )
    return "\n".join(lines)
