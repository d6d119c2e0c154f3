"""Which file of the repository is which page of the site, and links from one to the other.

Pages link to files as the repository's host shows them: `../CONTRIBUTING.md`, `../../examples/own_task/reviews.yaml`.
On the site a file of `docs/` is a page, those of `PAGES` are pages too, and any other that a page links to is a file
below `files/`.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "results/small/report.md": "results/report.md",
}
"""Files beside `docs/` that are pages of the site."""
FILES = "files"
"""Where other files lie on the site."""
_FENCE = re.compile(r"(^(`{3,}).*?^\2$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
_ELSEWHERE = re.compile(r"[a-z]+:|/")


def source_of(place: str) -> str:
    """The file of the repository that a page of the site is made from."""
    return next((path for path, page in PAGES.items() if page == place), f"{DOCS}/{place}")


def place_of(path: str) -> str:
    """Where on the site a file or folder of the repository is."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith(f"{DOCS}/"):
        inside = path.removeprefix(f"{DOCS}/")
        return f"{inside}/index.md" if (ROOT / path).is_dir() else inside
    return f"{FILES}/{path}"


def linked(text: str, source: str) -> set[str]:
    """The files of the repository that a text links to, by their paths from its root.

    Args:
        text: Markdown.
        source: The path of the file that it is from.
    """
    found: set[str] = set()

    def note(path: str) -> str:
        found.add(path)
        return path

    _each_link(text, source, note)
    return found


def with_links(text: str, source: str, place: str) -> str:
    """A text whose links lead to where files are on the site.

    Args:
        text: Markdown.
        source: The path of the file that it is from.
        place: Where the text is on the site.
    """
    here = posixpath.dirname(place) or "."
    return _each_link(text, source, lambda path: posixpath.relpath(place_of(path), here))


def with_signs(text: str) -> str:
    """A text for Markdown in Python, which takes a backslash before some signs for a sign itself."""
    parts = _FENCE.split(text)
    parts[::3] = [part.replace("\\<", "&lt;") for part in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def _each_link(text: str, source: str, target: Callable[[str], str]) -> str:
    here = posixpath.dirname(source)

    def replace(found: re.Match[str]) -> str:
        if _ELSEWHERE.match(found["target"]):
            return found[0]
        path = posixpath.normpath(posixpath.join(here, found["target"]))
        return target(path) + (found["anchor"] or "")

    # Every third part is a fenced block, followed by its fence.
    parts = _FENCE.split(text)
    parts[::3] = [_LINK.sub(replace, part) for part in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def in_order(index: str, pages: Iterable[str]) -> list[str]:
    """The pages of a folder as its index page names them; those that it does not name come after, by name.

    Args:
        index: The text of `index.md`.
        pages: Names of files of the folder.
    """
    named = [found["target"] for found in _LINK.finditer(index)]
    return sorted(
        pages, key=lambda page: (named.index(page) if page in named else len(named), page)
    )
