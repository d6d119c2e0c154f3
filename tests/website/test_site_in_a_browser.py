"""The built site in Chromium: nothing is wider than the window, on a phone and on a desk."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import FRAME, SIZES, looked_at
from website.sources import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed")
pytestmark = pytest.mark.slow
PAGES = (
    *("", "tutorials/first-expert", "tutorials/your-own-data", "how-to/attach"),
    *("reference/settings", "reference/recipes/kasa", "reference/python/Predictor"),
    *("results/variants", "results/report", "coming-from", "architecture", "footguns"),
)
MEASURE = """<script>
parent.postMessage([innerWidth, document.documentElement.scrollWidth,
  [...document.images].filter(image => !image.naturalWidth).length].join(" "), "*");
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from this tree."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_nothing_sticks_out_and_every_picture_is_there(
    site: Path, page: str, size: str, tmp_path: Path
) -> None:
    folder = site / page
    text = (folder / "index.html").read_text(encoding="utf-8")
    (folder / "measured.html").write_text(text.replace("</body>", f"{MEASURE}</body>"))
    frame = folder / "frame.html"
    width, height = SIZES[size].split(",")
    frame.write_text(FRAME.replace("WIDE", width).replace("HIGH", height))
    shown, _ = looked_at(frame, tmp_path, "--dump-dom", "--allow-file-access-from-files")
    found = re.search(r'data-found="([^"]*)"', shown)
    assert found is not None
    inside, wide, missing = map(int, found[1].split())
    assert inside == int(width)
    assert wide <= inside
    assert missing == 0
