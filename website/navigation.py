"""The order of pages: that of folders here, and inside a folder that of the links on its index page."""

import posixpath
from collections.abc import Mapping
from typing import Any

from website.sources import in_order

FOLDERS = ("tutorials", "how-to", "concepts", "reference", "results")
"""Those of their own tab; other folders and pages come in the last one."""
INDEX = "index.md"
LAST = "More"


def navigation(texts: Mapping[str, str]) -> list[Any]:
    """What mkdocs calls `nav`: every page, in order.

    Args:
        texts: Markdown by place on the site.
    """
    loose = [place for place in texts if "/" not in place and place != INDEX]
    others = {place.partition("/")[0] for place in texts if "/" in place} - set(FOLDERS)
    more: list[Any] = sorted(loose, key=lambda place: title_of(texts[place], place))
    more += [_folder(name, texts) for name in sorted(others)]
    return [INDEX, *(_folder(name, texts) for name in FOLDERS), {LAST: more}]


def _folder(name: str, texts: Mapping[str, str]) -> dict[str, list[Any]]:
    """A folder's pages and the folders in it."""
    own = [place for place in texts if posixpath.dirname(place) == name]
    inner = {
        place.removeprefix(f"{name}/").partition("/")[0]
        for place in texts
        if posixpath.dirname(place).startswith(f"{name}/")
    }
    index = f"{name}/{INDEX}"
    names = [posixpath.basename(place) for place in own if place != index]
    names += [f"{folder}/{INDEX}" for folder in inner]
    children: list[Any] = [index]
    for child in in_order(texts[index], names):
        folder = posixpath.dirname(child)
        children.append(_folder(f"{name}/{folder}", texts) if folder else f"{name}/{child}")
    return {title_of(texts[index], index): children}


def title_of(text: str, place: str) -> str:
    """The first heading of a page; its name where it has none."""
    lines = (line for line in text.splitlines() if line.startswith("# "))
    return next(lines, f"# {posixpath.basename(place).removesuffix('.md')}").removeprefix("# ")


def unnamed(place: str, texts: Mapping[str, str]) -> list[str]:
    """The pages beside an index page that it does not link to, as lines of a list."""
    folder = posixpath.dirname(place)
    beside = [one for one in texts if posixpath.dirname(one) == folder and one != place]
    return [
        f"- [{title_of(texts[one], one)}]({posixpath.basename(one)})"
        for one in sorted(beside)
        if f"]({posixpath.basename(one)}" not in texts[place]
    ]
