"""Chromium without a window: what a page puts out, what its console says, and what sticks out."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

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


def find_chromium() -> str:
    """The browser; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no chromium to open the page with")
    return found


def looked_at(page: Path, folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """What the browser puts out, and what its console says."""
    run = subprocess.run(
        [
            find_chromium(),
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


class PageTests:
    """What holds of every page; a file gives the fixture `opened`, the page's path."""

    @pytest.mark.parametrize("size", SIZES)
    def test_nothing_is_refused(self, opened: Path, size: str, tmp_path: Path) -> None:
        assert_nothing_is_refused(opened, size, tmp_path)

    @pytest.mark.parametrize("size", SIZES)
    def test_nothing_sticks_out(self, opened: Path, size: str, tmp_path: Path) -> None:
        assert_nothing_sticks_out(opened, size, tmp_path)


def assert_nothing_is_refused(page: Path, size: str, folder: Path) -> None:
    """The console is silent, and the picture has the size that was asked for."""
    picture = folder / "page.png"
    arguments = (f"--window-size={SIZES[size]}", f"--screenshot={picture}")
    _, console = looked_at(page, folder, *arguments)
    assert console == []
    # A PNG says its size behind its signature and the name of its first part.
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert f"{width},{height}" == SIZES[size]


def assert_nothing_sticks_out(page: Path, size: str, folder: Path) -> None:
    """Nothing is wider than the window, letters can be read, drawings are drawn, tables are there."""
    # A copy that may measure itself; the page itself runs no script.
    text = re.sub(r"<meta http-equiv=.*?>", "", page.read_text())
    (folder / "measured.html").write_text(text.replace("</body>", f"{MEASURE}</body>"))
    frame = folder / "frame.html"
    width, height = SIZES[size].split(",")
    frame.write_text(FRAME.replace("WIDE", width).replace("HIGH", height))
    shown, _ = looked_at(frame, folder, "--dump-dom")
    found = re.search(r'data-found="([^"]*)"', shown)
    assert found is not None
    inside, wide, letters, drawing, tables = map(float, found[1].split())
    assert inside == int(width)
    assert wide <= inside
    assert letters >= 5
    assert drawing > 80
    assert tables > 5
