"""Write into pages what their commands print, and into notebooks what their cells do: `make record`.

python -m website.record [PAGE...]
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from website.blocks import Block, blocks_of, folder_of, own_test_of
from website.notebooks import notebooks
from website.notebooks import record as record_notebook
from website.playing import Maker, play, recorded
from website.sources import DOCS, ROOT
from weft.atomic import write_text


def pages() -> list[str]:
    """Every page with something to run that has no test of its own, by its path from the root."""
    found = ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / DOCS).rglob("*.md"))]
    texts = {page: text_of(page) for page in found}
    return sorted(
        page
        for page, text in texts.items()
        if own_test_of(text) is None and any(block.is_run for block in blocks_of(text))
    )


def text_of(page: str) -> str:
    """The Markdown of a page, by its path from the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def before(page: str) -> list[str]:
    """The pages that are played first, in order."""
    earlier = folder_of(text_of(page))
    return [*before(earlier), earlier] if earlier else []


class Reader:
    """Plays pages, each once, in folders below one: a page that comes after another starts from a copy of its folder.

    Args:
        root: The folder.
        slow: Whether to run what takes long.
    """

    def __init__(self, root: Path, *, slow: bool) -> None:
        self._root = root
        self._slow = slow
        self._played: dict[str, tuple[Path, list[tuple[Block, str]]]] = {}

    def play(self, page: str) -> list[tuple[Block, str]]:
        """What the blocks of a page print."""
        if page not in self._played:
            folder = Path(mkdtemp(dir=self._root))
            for earlier in before(page)[-1:]:
                self.play(earlier)
                shutil.copytree(self._played[earlier][0], folder, dirs_exist_ok=True)
            make = self.prepare(page, folder)
            printed = play(text_of(page), folder, name=page, slow=self._slow, make=make)
            self._played[page] = folder, printed
        return self._played[page][1]

    def prepare(self, page: str, folder: Path) -> Maker | None:
        """Lay out what a reader of a page has before its first block, and say what `make` does there."""


def record(chosen: Iterable[str]) -> None:
    """Play pages, and write what they printed."""
    with TemporaryDirectory() as root:
        reader = Reader(Path(root), slow=True)
        for page in chosen:
            print(page)
            write_text(ROOT / page, recorded(text_of(page), reader.play(page)))


if __name__ == "__main__":
    for notebook in [] if sys.argv[1:] else notebooks():
        print(notebook.name)
        record_notebook(notebook)
    shown = [page for page in pages() if any(b.is_output for b in blocks_of(text_of(page)))]
    record(sys.argv[1:] or shown)
