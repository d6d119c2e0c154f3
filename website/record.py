"""Write into pages what their commands print, and into notebooks what their cells do: `make record`.

python -m website.record [PAGE...]
"""

import sys
import tempfile
from pathlib import Path

from website.blocks import blocks_of, folder_of
from website.playing import play, recorded
from website.sources import DOCS, ROOT
from weft.atomic import write_text


def pages() -> list[str]:
    """Every page with something to run, by its path from the root."""
    found = ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / DOCS).rglob("*.md"))]
    return sorted(page for page in found if any(block.is_run for block in blocks_of(text_of(page))))


def text_of(page: str) -> str:
    """The Markdown of a page, by its path from the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def before(page: str) -> list[str]:
    """The pages that are played first, in order."""
    earlier = folder_of(text_of(page))
    return [*before(earlier), earlier] if earlier else []


def record(page: str) -> None:
    """Play a page, with those before it, and write what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        for own in [*before(page), page]:
            printed = play(text_of(own), Path(folder), name=own, slow=True)
    write_text(ROOT / page, recorded(text_of(page), printed))


if __name__ == "__main__":
    for chosen in sys.argv[1:] or pages():
        print(chosen)
        record(chosen)
