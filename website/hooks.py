"""What mkdocs calls while it builds the site: pages that are generated, the order of pages, links to the repository."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website.catalogue import catalogue_pages
from website.chart import with_charts
from website.interface import interface_pages
from website.navigation import INDEX, navigation, unnamed
from website.notebooks import notebook_pages
from website.sources import DOCS, PAGES, ROOT, linked, place_of, source_of, with_links, with_signs

_TEXTS: dict[str, str] = {}
"""Markdown by place on the site, of the build that is under way."""
_GENERATED: set[str] = set()
"""Places of pages that no file of the repository is."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of `docs/`, and files that pages link to; say the order of pages."""
    made = {**catalogue_pages(), **interface_pages(), **notebook_pages()}
    _TEXTS.clear()
    _GENERATED.clear()
    _GENERATED.update(made)
    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        made[place] = (ROOT / path).read_text(encoding="utf-8")
    for place in _GENERATED:
        files.append(File.generated(config, place, content=made[place]))
    for file in files.documentation_pages():
        text = made.get(file.src_uri)
        _TEXTS[file.src_uri] = file.content_string if text is None else text
    _add_indexes(files, config)
    _add_linked(files, config)
    config.nav = navigation(_TEXTS)
    return files


def _add_indexes(files: Files, config: MkDocsConfig) -> None:
    """A folder without an index page gets one; all its pages are listed on it."""
    folders = {place.rpartition("/")[0] for place in _TEXTS if "/" in place}
    for folder in folders:
        index = f"{folder}/{INDEX}"
        if index not in _TEXTS:
            _TEXTS[index] = f"# {folder.rpartition('/')[2].capitalize()}\n"
            _GENERATED.add(index)
            files.append(File.generated(config, index, content=_TEXTS[index]))


def _add_linked(files: Files, config: MkDocsConfig) -> None:
    for place, text in list(_TEXTS.items()):
        if place in _GENERATED:
            continue
        for path in linked(text, source_of(place)):
            own = place_of(path)
            outside = not path.startswith(f"{DOCS}/") and (ROOT / path).is_file()
            if outside and files.get_file_from_path(own) is None:
                files.append(File.generated(config, own, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to where files are on the site, and index pages name every page of their folder."""
    place = page.file.src_uri
    if place not in _GENERATED:
        markdown = with_links(markdown, source_of(place), place)
    markdown = with_signs(with_charts(markdown))
    if place.rpartition("/")[2] == INDEX and "/" in place:
        left = unnamed(place, _TEXTS)
        markdown += "\n" + "\n".join(left) + "\n" if left else ""
    return markdown
