"""Notebooks as pages: their words, their code, and what they printed when they were last run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from website.sources import ROOT

EXAMPLES = ROOT / "examples"
FOLDER = "tutorials"
"""Where they stand on the site."""


def notebooks() -> list[Path]:
    """All of them, by name."""
    return sorted(EXAMPLES.glob("*.ipynb"))


def notebook_pages() -> dict[str, str]:
    """Markdown by place on the site."""
    return {
        f"{FOLDER}/{path.stem}.md": "\n".join(_page(json.loads(path.read_text(encoding="utf-8"))))
        for path in notebooks()
    }


def _page(notebook: Mapping[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"{text}\n"
            continue
        yield f"```python\n{text}\n```\n"
        for output in cell["outputs"]:
            yield from _shown(output)


def _shown(output: Mapping[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if "text/html" in data:
        yield "".join(data["text/html"]) + "\n"
        return
    text = "".join(output.get("text", data.get("text/plain", "")))
    if text and output.get("name") != "stderr":
        yield f"```text\n{text.rstrip()}\n```\n"
