"""Chromium opens the page at phone and desktop width: nothing is refused, and nothing sticks out."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from weft.reporting.contents import Report
from weft.reporting.writing import write_report

pytestmark = pytest.mark.slow
SIZES = {"phone": "390,844", "desktop": "1280,900"}
MEASURE = """<script>
const texts = [...document.querySelectorAll("figure text")].map(t => t.getBoundingClientRect());
const drawings = [...document.querySelectorAll("figure svg")].map(t => t.getBoundingClientRect());
parent.postMessage([innerWidth, document.documentElement.scrollWidth,
  Math.min(...texts.map(box => Math.max(box.height, box.width))).toFixed(1),
  Math.min(...drawings.map(box => box.height)).toFixed(1),
  document.querySelectorAll("table").length].join(" "), "*");
</script>"""
FRAME = """<!DOCTYPE html><title>frame</title>
<script>onmessage = said => { document.documentElement.dataset.found = said.data; };</script>
<iframe src="measured.html" style="border: 0; width: WIDEpx; height: HIGHpx"></iframe>"""
"""A browser's window has a smallest width, a frame has not."""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None:
        pytest.skip("no chromium to open the page with")
    return found


@pytest.fixture(scope="module")
def opened(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("page"))[0]


def looked_at(chromium: str, page: Path, folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """What the browser puts out, and what its console says."""
    run = subprocess.run(
        [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"),
            *("--hide-scrollbars", *arguments, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_refused(chromium: str, opened: Path, size: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    arguments = (f"--window-size={SIZES[size]}", f"--screenshot={picture}")
    _, console = looked_at(chromium, opened, tmp_path, *arguments)
    assert console == []
    # A PNG says its size behind its signature and the name of its first part.
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert f"{width},{height}" == SIZES[size]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_sticks_out(chromium: str, opened: Path, size: str, tmp_path: Path) -> None:
    # A copy that may measure itself; the page itself runs no script.
    text = re.sub(r"<meta http-equiv=.*?>", "", opened.read_text())
    (tmp_path / "measured.html").write_text(text.replace("</body>", f"{MEASURE}</body>"))
    frame = tmp_path / "frame.html"
    width, height = SIZES[size].split(",")
    frame.write_text(FRAME.replace("WIDE", width).replace("HIGH", height))
    shown, _ = looked_at(chromium, frame, tmp_path, "--dump-dom")
    found = re.search(r'data-found="([^"]*)"', shown)
    assert found is not None
    inside, wide, letters, drawing, tables = map(float, found[1].split())
    assert inside == int(width)
    assert wide <= inside
    assert letters >= 5
    assert drawing > 80
    assert tables > 5


def test_a_page_that_asks_for_more_would_be_noticed(
    chromium: str, opened: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "asking.html"
    copy.write_text(opened.read_text().replace("</body>", '<script src="more.js"></script></body>'))
    _, console = looked_at(chromium, copy, tmp_path, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)
