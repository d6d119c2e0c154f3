"""Notebooks run from their first cell to their last, and show what they print."""

import json
from pathlib import Path

import pytest

from tests.website.test_pages_run import said
from website.notebooks import executed, notebook_pages, notebooks

pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")


def printed(notebook: dict) -> list[list[str]]:
    """Lines of every code cell that other machines print too."""
    return [
        said("".join("".join(output.get("text", "")) for output in cell["outputs"]))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


# The kernel's own libraries warn of theirs.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shown = json.loads(path.read_text(encoding="utf-8"))
    assert printed(executed(path, tmp_path)) == printed(shown)
    assert any(cell.get("outputs") for cell in shown["cells"]), "make record"


def test_a_notebook_is_a_page_with_its_outputs() -> None:
    pages = notebook_pages()
    assert len(pages) == len(notebooks())
    page = pages["tutorials/own_model.md"]
    assert page.startswith("# Low-rank terms on a model of your own")
    assert "```python\nterms = weft.adapter_state(model)" in page
    assert "```text\nTrue\n```" in page
