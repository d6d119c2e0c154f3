"""Every page of results as text, by its path; nothing in them is typed by hand."""

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from website import measured
from website.measured import merges, reproduction
from website.measured.files import ROOT
from weft.atomic import make_folder, write_text
from weft.reporting.document import Document
from weft.reporting.writers import FIGURES, escaped, to_markdown

README, FOLDER, FINDINGS = "README.md", "docs/results", "docs/findings.md"
MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
MADE = "<!-- made by python -m website.measured from results/ -->"
SHORT = "short"
"""The section of a document that says what was found."""


def documents() -> dict[str, Document]:
    """What there is to show, by the name of its page."""
    modules = {
        info.name: import_module(f"{measured.__name__}.{info.name}")
        for info in iter_modules(measured.__path__)
        if not info.name.startswith("__")
    }
    found = {
        name: module.document() for name, module in modules.items() if hasattr(module, "document")
    }
    return {name: document for name, document in found.items() if document is not None}


def pages() -> dict[str, str]:
    """Text by path from the root: pages, figures, findings, and README with its table."""
    found = documents()
    texts = {}
    for name, document in found.items():
        texts[f"{FOLDER}/{name}.md"] = f"{to_markdown(document)}\n{MADE}\n"
        texts |= {
            f"{FOLDER}/{FIGURES}/{figure.name}.svg": figure.file for figure in document.figures
        }
    texts[f"{FOLDER}/index.md"] = "\n".join([*_index(found), "", MADE, ""])
    texts[FINDINGS] = "\n".join([*_findings(found), "", MADE, ""])
    kept = merges.readme_lines()
    table = "\n".join([*reproduction.readme_lines(), *([""] if kept else []), *kept])
    readme = (ROOT / README).read_text(encoding="utf-8")
    texts[README] = MARKED.sub(lambda found: f"{found[1]}{table}\n{found[2]}", readme)
    return texts


def write() -> None:
    """Write what differs from what is there."""
    for path, text in pages().items():
        make_folder((ROOT / path).parent)
        write_text(ROOT / path, text)


def _index(found: dict[str, Document]) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield (
        "Every number here is made by a script of `benchmarks/`, or by `weft reproduce`, kept as JSON in `results/`, "
        "and written into these pages by `make results`. What they say in short: [findings](../findings.md)."
    )
    yield ""
    for name, document in found.items():
        yield f"- [{escaped(document.title)}]({name}.md)"
    yield "- [The whole report of the study](../../results/small/report.md): its six tables beside ours"


def _findings(found: dict[str, Document]) -> Iterator[str]:
    yield "# Findings"
    yield ""
    yield "What the [results](results/index.md) say in short. What surprised us on the way: [footguns](footguns.md)."
    for name, document in found.items():
        section = next((one for one in document.sections if one.key == SHORT), None)
        if section is None:
            continue
        yield ""
        yield f"## {escaped(document.title)}"
        yield ""
        for words in section.words:
            yield escaped(words)
            yield ""
        yield from (f"- {escaped(note)}" for note in section.notes)
        yield ""
        yield f"[The table](results/{name}.md)"
