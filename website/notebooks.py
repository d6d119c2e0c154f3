"""Notebooks as pages: their words, their code, and what they printed when they were last run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from website.sources import ROOT
from weft.atomic import write_text

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


def executed(path: Path, folder: Path) -> Any:
    """A notebook with what its cells do now.

    Args:
        path: The notebook.
        folder: Where its cells run.

    Raises:
        nbclient.exceptions.CellExecutionError: At the first cell that raises.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        # When a cell ran is of no use to a reader, and differs each time.
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def record(path: Path) -> None:
    """Run a notebook, and write what its cells did into it."""
    import nbformat

    with TemporaryDirectory() as folder:
        write_text(path, nbformat.writes(executed(path, Path(folder))) + "\n")


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
