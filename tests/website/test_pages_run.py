"""What a page tells its reader to type runs, and prints what the page shows.

Commands of weft run in this process. Blocks that take long are left to a slow test, which plays whole pages.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from website.blocks import blocks_of, own_test_of
from website.playing import PageError, play, recorded
from website.record import Reader, pages, text_of
from website.sources import ROOT
from weft.catalogue.shipped import lay_out
from weft.demo.minute import minute

README = "README.md"
BRIEF = {"choices": (24, 8), "spans": (24, 8), "entities": (24, 8)}
"""Rows of a demo that leaves the same folders in seconds."""
SLOW = [page for page in pages() if any(block.said == "slow" for block in blocks_of(text_of(page)))]


def targets() -> dict[str, str]:
    """Commands of the Makefile by target."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+):.*\n((?:\t.*\n)*)", text, flags=re.MULTILINE))


class ReaderHere(Reader):
    """Plays README too: in a folder with what weft brings, where `make demo` leaves what the demo does."""

    def prepare(self, page: str, folder: Path) -> Callable[[str], None]:
        if page == README:
            lay_out(folder)

        def make(target: str) -> None:
            assert target in targets()
            if target == "demo":
                assert "weft demo" in targets()[target]
                sizes = {} if self._slow else {"rows": BRIEF, "training": {"max_steps": 2}}
                minute(folder / "runs" / "demo", **sizes)

        return make


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return ReaderHere(tmp_path_factory.mktemp("pages"), slow=False)


def said(text: str) -> list[str]:
    """Lines of an output without numbers: those that other machines print too."""
    lines = (" ".join(re.sub(r"[^\w.,:;()'-]+", " ", line).split()) for line in text.splitlines())
    return [line for line in lines if line and not re.search(r"\d", line)]


# PEFT asks transformers for a name that changes.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("page", pages())
def test_a_page_runs_and_prints_what_it_shows(page: str, reader: Reader) -> None:
    text = text_of(page)
    now = [block for block in blocks_of(recorded(text, reader.play(page))) if block.is_output]
    shown = [block for block in blocks_of(text) if block.is_output]
    for old, new in zip(shown, now, strict=True):
        assert old.text.strip(), f"{page}:{old.line} shows nothing: make record"
        assert [line for line in said(old.text) if line not in said(new.text)] == [], (
            f"{page}:{old.line}"
        )


def test_a_page_that_says_another_test_runs_it_is_read_by_that_test() -> None:
    found = {page: own_test_of(page.read_text("utf-8")) for page in (ROOT / "docs").rglob("*.md")}
    named = {page.name: name for page, name in found.items() if name is not None}
    assert "embeddings.md" in named
    assert [
        page for page, name in named.items() if page not in (ROOT / name).read_text("utf-8")
    ] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("page", SLOW)
def test_a_page_runs_with_what_takes_long(page: str, tmp_path: Path) -> None:
    ReaderHere(tmp_path, slow=True).play(page)


def test_a_command_that_fails_and_python_that_raises_are_found(tmp_path: Path) -> None:
    def run(page: str) -> list[str]:
        return [out for _, out in play(page, tmp_path, name="p.md", slow=False)]

    for wrong in ("```sh\nweft lits recipes\n```", "```python\n\n1 / 0\n```", "```sh\nfalse\n```"):
        with pytest.raises(PageError, match=r"p\.md:2"):
            run(wrong)
    assert "lits" in run("<!-- fails -->\n```sh\nweft lits recipes\n```")[0]
    with pytest.raises(PageError):
        run("<!-- fails -->\n```sh\ntrue\n```")
    assert (
        run("<!-- slow -->\n```sh\nfalse\n```\n<!-- not run: no hub -->\n```sh\nfalse\n```") == []
    )


def test_files_are_written_pipes_are_joined_and_outputs_are_put_in_their_place(
    tmp_path: Path,
) -> None:
    page = (
        '```csv title="in/a.csv"\nb\na\n```\n\n```sh\ncat in/a.csv | sort  # a comment\nsort < in/a.csv\n```\n\n'
        "```text\nold\n```\n\n```text\nno output\n```\n\n```python\nprint('two words')\n```\n\n```text\n```\n"
    )
    printed = play(page, tmp_path, name="p.md", slow=False)
    assert [out for _, out in printed] == ["a\nb\na\nb\n", "two words\n"]
    written = recorded(page, printed)
    assert "```text\na\nb\na\nb\n```\n\n```text\nno output\n```" in written
    assert written.endswith("```text\ntwo words\n```\n")
    assert recorded(written, printed) == written


def test_no_folder_of_this_machine_is_shown(tmp_path: Path) -> None:
    page = "```python\nimport os\nprint(f'│ {os.getcwd()}/runs/a │ 1 │', f'{os.getcwd()}/b')\n```"
    ((_, out),) = play(page, tmp_path, name="p.md", slow=False)
    assert out == f"│ runs/a{' ' * len(f'{tmp_path}/')} │ 1 │ b\n"
