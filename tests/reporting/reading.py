"""Pages as a reader that knows nothing of them takes them: tables, names and addresses of HTML and Markdown."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
MARKED = {"mark": "[", "span": ":"}
"""How a marked part and its label begin where there is only text."""


class Page(HTMLParser):
    """An HTML page, refused where an element is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.targets: list[str] = []
        self.addresses: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {key: value or "" for key, value in attrs}
        self._note(tag, own)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        elif tag in MARKED and self._in_cell:
            self.tables[-1][-1][-1] += MARKED[tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, {key: value or "" for key, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "mark" and self._in_cell:
            self.tables[-1][-1][-1] += "]"
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def _note(self, tag: str, own: dict[str, str]) -> None:
        self.elements.append((tag, own))
        self.names += [own["id"]] if "id" in own else []
        for key in ("href", "xlink:href"):
            if own.get(key, "").startswith("#"):
                self.targets.append(own[key][1:])
            elif key in own:
                self.addresses.append(own[key])
        self.addresses += [own[key] for key in ("src", "srcset", "action", "data") if key in own]
        self.targets += own.get("aria-labelledby", "").split()
        self.targets += re.findall(r"url\(#([^)]*)\)", " ".join(own.values()))


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, without escapes."""
    tables: list[list[list[str]]] = []
    previous = False
    for line in text.splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            if not previous:
                tables.append([])
            if not all(re.fullmatch("-+:?", cell) for cell in cells):
                tables[-1].append(
                    [re.sub(r"\\(.)", r"\1", cell.replace("<br>", "\n")) for cell in cells]
                )
        previous = line.startswith("| ")
    return tables
