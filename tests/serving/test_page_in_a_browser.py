"""The page in Chromium: every kind of task, gates, two side by side, refusals, keys, load; by keyboard, dark, small."""

import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.driven import Tab, driven
from tests.serving.conftest import READERS
from tests.serving.pages import TYPED
from tests.serving.served import KEYS, PREDICT, app_of, listening

pytestmark = pytest.mark.slow
ONE = "token_classification"
STATUS = "document.getElementById('status').textContent"
QUIET = "document.getElementById('answers').getAttribute('aria-busy') === 'false'"
FOCUSED = (
    "document.activeElement.id || document.activeElement.value || document.activeElement.tagName"
)
STOP = """new Promise(done => {
  const stop = document.getElementById("stop");
  const look = () => {
    if (document.querySelector("article > .said")?.textContent !== "writing") return setTimeout(look, 2);
    const wasHidden = stop.hidden;
    stop.click();
    done(wasHidden);
  };
  look();
})"""
"""Stops what is written as soon as it begins; whether there was nothing to stop it with."""
AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with driven(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """A page whose console has to stay silent."""
    browser.screen(1280, 900)
    browser.said.clear()
    yield browser
    browser.js("1")
    assert browser.said == []


def enter(tab: Tab, name: str, value: str, *, changed: bool = False) -> None:
    """Put something into a field, as if it had been typed and left."""
    event = "e.dispatchEvent(new Event('change', {bubbles: true}))" if changed else ""
    tab.js(
        f"(e => {{ e.value = {json.dumps(value)}; {event} }})(document.getElementById('{name}'))"
    )


def choose(tab: Tab, name: str, which: str = "expert") -> None:
    enter(tab, which, name, changed=True)
    tab.wait(QUIET)


def fill(tab: Tab, kind: str) -> None:
    for name, value in TYPED[kind].items():
        enter(tab, f"in-{name}", value.replace("\r", ""))


def click(tab: Tab, selector: str = "button.first") -> None:
    tab.js(f"document.querySelector({json.dumps(selector)}).click()")
    tab.wait(QUIET)


def texts(tab: Tab, selector: str) -> list[str]:
    return tab.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")


def count(tab: Tab, selector: str) -> int:
    return tab.js(f"document.querySelectorAll({json.dumps(selector)}).length")


def assert_fits(tab: Tab) -> None:
    """Nothing is wider than the window, and what is pressed is large enough (WCAG 2.2, 2.5.8)."""
    assert tab.js("document.documentElement.scrollWidth <= innerWidth")
    small = tab.js(
        "[...document.querySelectorAll('button, input, select, textarea, summary')]"
        ".filter(e => e.checkVisibility() && !e.matches('.unseen'))"
        ".filter(e => e.getBoundingClientRect().height < 24 || e.getBoundingClientRect().width < 24)"
        ".map(e => e.outerHTML)"
    )
    assert small == []


@pytest.mark.parametrize("kind", READERS)
def test_every_kind_is_answered_without_leaving_the_page(
    kind: str, tab: Tab, page_server: str
) -> None:
    tab.open(page_server)
    tab.js("window.stays = true")
    choose(tab, kind)
    fill(tab, kind)
    click(tab)
    assert count(tab, "article") == 1
    assert count(tab, ".bars rect:not(.ground)") > 0
    marked = kind in ("token_classification", "span_extraction", "masked_lm")
    assert (count(tab, "mark.said") > 0) == marked
    assert tab.js(STATUS).startswith(f"{kind}: ")
    assert tab.js("window.stays")
    for name, value in TYPED[kind].items():
        kept = tab.js(f"document.getElementById('in-{name}').value")
        assert kept == value.replace("\r", "")


def test_text_streams_in_and_can_be_stopped(tab: Tab, writing_server: str) -> None:
    tab.open(writing_server)
    choose(tab, "writer")
    choose(tab, "other", "beside")
    enter(tab, "in-text", "the good dog")
    enter(tab, "max_new_tokens", "12")
    click(tab)
    for number, name in enumerate(("writer", "other")):
        body = {"model": name, "prompt": "the good dog", "max_tokens": 12}
        right = httpx.post(f"{writing_server}/v1/completions", json=body, timeout=60).json()
        assert texts(tab, "[data-written]")[number] == right["choices"][0]["text"]
        assert (
            texts(tab, "article > .said")[number]
            == f"{right['usage']['completion_tokens']} tokens written"
        )
    enter(tab, "max_new_tokens", "120")
    tab.js("document.querySelector('button.first').click()")
    assert tab.js(STOP) is False
    tab.wait(QUIET)
    assert texts(tab, "article > .said") == ["stopped", "stopped"]
    assert tab.js(STATUS) == "Stopped."
    assert tab.js("document.getElementById('stop').hidden")


def test_two_stand_beside_each_other(tab: Tab, page_server: str) -> None:
    tab.open(page_server)
    choose(tab, ONE)
    choose(tab, "sequence_classification", "beside")
    fill(tab, ONE)
    click(tab)
    boxes = tab.js("[...document.querySelectorAll('article')].map(e => { const b = e.getBoundingClientRect();"
                   " return [b.top, b.left]; })")  # fmt: skip
    assert boxes[0][0] == boxes[1][0]
    assert boxes[0][1] < boxes[1][1]


def test_gates_are_walked_through_map_by_map(tab: Tab, page_server: str) -> None:
    tab.open(page_server)
    choose(tab, f"blend/{ONE}")
    fill(tab, ONE)
    click(tab, "button[value=gates]")
    assert count(tab, "table.heat") == 2
    before = texts(tab, "table.heat td")
    tab.js("document.getElementById('map-2').focus()")
    tab.press("Enter")
    tab.wait("document.querySelector('#map-2[aria-current]')")
    assert tab.js(FOCUSED) == "map-2"
    assert texts(tab, "table.heat")[0] != before
    shades = tab.js("[...document.querySelectorAll('.heat td.s9, .heat td.s10')].map(e =>"
                    " getComputedStyle(e).backgroundColor)")  # fmt: skip
    assert shades
    assert "rgba(0, 0, 0, 0)" not in shades


def test_what_is_refused_is_announced_and_goes_with_the_next_answer(
    browser: Tab, page_server: str
) -> None:
    browser.screen(1280, 900)
    browser.said.clear()
    browser.open(page_server)
    choose(browser, "auto")
    click(browser)
    assert count(browser, "#answers [role=alert]") == 1
    assert "fits none of the tasks" in texts(browser, ".refused")[0]
    enter(browser, "in-text", "a good film")
    click(browser)
    assert count(browser, "[role=alert]") == 0
    assert count(browser, "article") == 1
    # The browser's own line about the status of the answer, which is that of the refusal.
    [line] = browser.said
    assert line.startswith(
        "network: Failed to load resource: the server responded with a status of 422"
    )


def test_a_server_that_is_gone_is_said(browser: Tab, page_folder: Path) -> None:
    with listening(app_of(page_folder)) as url:
        browser.open(url)
        choose(browser, ONE)
        fill(browser, ONE)
    click(browser)
    assert texts(browser, ".refused") == ["The server cannot be reached; ask again when it runs."]
    browser.open("about:blank")


def test_the_keyboard_alone_will_do(tab: Tab, page_server: str) -> None:
    tab.open(f"{page_server}/?expert={ONE}")
    order = []
    while "BODY" not in order:
        tab.press("Tab")
        order.append(tab.js(FOCUSED))
        assert len(order) < 10
        if order[-1] != "BODY":
            assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid", order
        if order[-1] == "in-text":
            tab.type("John was in New-Paris")
    # Behind the last there is the browser's own frame: nobody is caught in the page.
    assert order == ["A", "expert", "beside", "in-text", "answer", "BODY"]
    tab.press("Tab", shift=True)
    tab.js("document.querySelector('button.first').focus()")
    tab.press("Enter")
    tab.wait("document.querySelector('article')")
    tab.wait(QUIET)
    assert tab.js(FOCUSED) == "answer"
    tab.press("Tab")
    assert tab.js(FOCUSED) == "SUMMARY"
    tab.press("Enter")
    assert tab.js("document.querySelector('details').open")
    tab.press("Tab")
    assert tab.js(FOCUSED) == "PRE"
    tab.js("document.getElementById('expert').focus()")
    tab.press("ArrowUp")
    tab.wait(f"document.getElementById('expert').value !== '{ONE}' && {QUIET}")
    assert tab.js(FOCUSED) == "expert"


def test_the_return_key_asks(tab: Tab, page_server: str) -> None:
    tab.open(f"{page_server}/?expert=span_extraction")
    enter(tab, "in-context", TYPED["span_extraction"]["context"])
    tab.js("document.getElementById('in-question').focus()")
    tab.type("who")
    tab.press("Enter")
    tab.wait("document.querySelector('article')")
    assert count(tab, "mark.said") == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_it_fits_and_can_be_read(
    width: int, height: int, dark: bool, tab: Tab, page_server: str, tmp_path: Path
) -> None:
    tab.screen(width, height, dark=dark, mobile=width < 500)
    tab.open(page_server)
    assert_fits(tab)
    grounds = []
    for kind in ("span_extraction", "multiple_choice", "masked_lm"):
        choose(tab, kind)
        fill(tab, kind)
        click(tab)
        assert_fits(tab)
    choose(tab, ONE, "beside")
    choose(tab, "blend/span_extraction")
    fill(tab, "span_extraction")
    click(tab, "button[value=gates]")
    assert_fits(tab)
    grounds = tab.js("getComputedStyle(document.body).backgroundColor")
    assert (grounds == "rgb(20, 23, 27)") == dark
    tab.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_key_opens_the_page_and_is_nowhere_but_in_its_field(
    browser: Tab, page_folder: Path
) -> None:
    with listening(app_of(page_folder, keys=KEYS)) as url:
        browser.said.clear()
        browser.open(url)
        assert count(browser, "#expert") == 0
        enter(browser, "key", PREDICT, changed=True)
        browser.wait("document.getElementById('expert')")
        choose(browser, ONE)
        fill(browser, ONE)
        click(browser)
        assert count(browser, "mark.said") > 0
        browser.wait("!document.getElementById('busy').hidden")
        assert PREDICT not in browser.js("document.documentElement.outerHTML")
        assert (
            browser.js("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        )
        assert PREDICT not in browser.js("location.href")
        browser.open(url)
        assert browser.js("document.getElementById('key').value") == ""
        assert browser.said == []
        browser.open("about:blank")


def test_load_is_looked_at_while_somebody_looks(tab: Tab, page_server: str) -> None:
    looks = (
        "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/page/load')).length"
    )
    tab.open(page_server)
    tab.wait(f"{looks} >= 2")
    assert tab.js("document.querySelector('#busy polyline').points.length") >= 1
    tab.hide(True)
    time.sleep(2.5)
    before = tab.js(looks)
    time.sleep(3)
    assert tab.js(looks) == before
    tab.hide(False)
    tab.wait(f"{looks} > {before}")


def test_without_script_the_form_does_the_same(tab: Tab, page_server: str) -> None:
    tab.open(f"{page_server}/?expert={ONE}")
    tab.scripts(False)
    try:
        tab.open(f"{page_server}/?expert={ONE}")
        assert (
            tab.js("getComputedStyle(document.querySelector('[data-scriptless]')).display")
            == "block"
        )
        enter(tab, "in-text", TYPED[ONE]["text"])
        tab.js("document.querySelector('button.first').click()")
        tab.wait("document.querySelector('article')")
        assert count(tab, "mark.said") > 0
        enter(tab, "expert", "multiple_choice")
        tab.js("document.querySelector('button[value=choose]').click()")
        tab.wait("document.getElementById('in-choices')")
    finally:
        tab.scripts(True)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm's registry; skips where that cannot be had."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm to get axe-core with")
    run = subprocess.run(
        ["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, timeout=90, check=False
    )
    packed = next(folder.glob("*.tgz"), None)
    if run.returncode or packed is None:
        pytest.skip(f"{AXE} cannot be had from npm's registry")
    with tarfile.open(packed) as archive:
        found = archive.extractfile("package/axe.min.js")
        assert found is not None
        return found.read().decode()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(dark: bool, tab: Tab, page_server: str, axe: str) -> None:
    tab.screen(1280, 900, dark=dark)

    def check() -> None:
        tab.js(axe + "; 1")
        found = tab.js(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>"
            " [v.id, v.impact, v.help, v.nodes.map(n => n.html.slice(0, 200))]))"
        )
        assert found == []

    tab.open(page_server)
    check()
    for kind in ("token_classification", "span_extraction", "multiple_choice"):
        choose(tab, kind)
        fill(tab, kind)
        click(tab)
        tab.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        check()
    choose(tab, "blend")
    enter(tab, "in-text", "John was in New-Paris")
    click(tab, "button[value=gates]")
    check()
