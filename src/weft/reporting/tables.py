"""What commands print of plain values: lists, pages, predictions; nothing heavy is imported: they come at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from weft.reporting.writers import console


def show_list(what: str, entries: Sequence[Mapping[str, str]]) -> None:
    """Print a list of the catalogue."""
    if entries:
        console().print(_table(entries))
    else:
        console().print(f"no {what} yet", markup=False)


def show_page(page: Mapping[str, Any]) -> None:
    """Print a page of the catalogue: a line for each value, a table for each list of things."""
    out = console()
    for key, value in page.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            out.print(f"{key}:", markup=False)
            out.print(_table(value))
        elif isinstance(value, str) and "\n" in value:
            out.print(f"{key}:", markup=False)
            out.print("\n".join(f"    {line}" for line in value.split("\n")), markup=False)
        else:
            out.print(f"{key}: {_plain(value)}", markup=False, soft_wrap=True)


def readable(prediction: Mapping[str, Any]) -> str:
    """A prediction for people: its text or label, with each found thing on a line of its own."""
    found = {key: value for key, value in prediction.items() if key not in ("id", "tags")}
    if "continuation" in found:
        return found["continuation"]
    lines = []
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{key}:", *(f"  {_plain(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_plain(value) if value != [] else 'none'}")
    return "\n".join(lines)


def _table(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(*entries[0])
    for entry in entries:
        table.add_row(*(escape(_plain(value)) for value in entry.values()))
    return table


def _plain(value: Any) -> str:
    """A JSON value without brackets and quotes, as far as that stays clear."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(_plain(item) for item in value)
