"""Chromium opens the page at phone and desktop width: nothing is refused, and nothing sticks out."""

from pathlib import Path

import pytest

from tests.browser import PageTests, looked_at
from weft.reporting.document import Document
from weft.reporting.writers import write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(said: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(said, tmp_path_factory.mktemp("page"))[0]


class TestThePage(PageTests):
    """The page of this folder."""


def test_a_page_that_asks_for_more_would_be_noticed(opened: Path, tmp_path: Path) -> None:
    copy = tmp_path / "asking.html"
    copy.write_text(opened.read_text().replace("</body>", '<script src="more.js"></script></body>'))
    _, console = looked_at(copy, tmp_path, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)
