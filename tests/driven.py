"""Chromium without a window, driven by its own protocol over a pipe: pages are used as people use them.

Commands and events are those of the Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/),
each a JSON text that a zero byte ends; the browser reads them from its file descriptor 3 and writes them to 4.
"""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import find_chromium

PATIENCE_S = 30.0
KEYS = {
    "Tab": 9,
    "Enter": 13,
    " ": 32,
    "Escape": 27,
    "ArrowDown": 40,
    "ArrowUp": 38,
    "End": 35,
    "Home": 36,
}
"""Numbers of keys, by name."""


class Tab:
    """One page in a browser.

    Attributes:
        said: What its console, its scripts' failures and the network told, as lines.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._number = 0
        self._rest = b""
        self.said: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        own = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str | None = own["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def open(self, url: str) -> None:
        """Go to an address and wait until it is there."""
        self.js("window.isLeft = true")
        self._call("Page.navigate", {"url": url})
        self.wait("!window.isLeft && document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        """What an expression is, as JSON; a promise's value."""
        asked = {"expression": code, "returnByValue": True, "awaitPromise": True}
        found = self._call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            # While a page goes and another comes there is nothing to ask.
            asked = {"expression": f"!!({code})", "returnByValue": True}
            found = self._call("Runtime.evaluate", asked, strict=False)
            if found.get("result", {}).get("value"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never came true: {code}\n{self.said}")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key and let it go."""
        own = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        own["modifiers"] = 8 if shift else 0
        text = {"Enter": "\r", " ": " "}.get(key)
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self._call("Input.dispatchKeyEvent", {**down, **own})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **own})

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self._call("Input.insertText", {"text": text})

    def screen(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Give it a size and a scheme of colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})

    def scripts(self, on: bool) -> None:
        """Let pages run scripts, or not."""
        self._call("Emulation.setScriptExecutionDisabled", {"value": not on})

    def hide(self, is_hidden: bool) -> None:
        """Let the page believe that nobody looks at it, or that somebody does."""
        state = "hidden" if is_hidden else "visible"
        self.js(
            f"Object.defineProperty(document, 'hidden', {{value: {json.dumps(is_hidden)}, configurable: true}});"
            f"Object.defineProperty(document, 'visibilityState', {{value: '{state}', configurable: true}});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )

    def picture(self, path: Path) -> None:
        """Save what the whole page looks like."""
        found = self._call("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, values: dict[str, Any] | None = None, strict: bool = True) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if strict:
                    assert "error" not in found, (method, found["error"])
                return found.get("result", {})

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, f"the browser ended, status {self._process.poll()}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(line)
        self._note(found.get("method", ""), found.get("params", {}))
        return found

    def _note(self, method: str, values: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.said.append(f"{values['type']}: {values['args']}")
        elif method == "Runtime.exceptionThrown":
            self.said.append(f"exception: {values['exceptionDetails']}")
        elif method == "Log.entryAdded":
            entry = values["entry"]
            self.said.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")


@contextmanager
def driven(profile: Path, arguments: Sequence[str] = ()) -> Iterator[Tab]:
    """A page in a browser of its own, which ends with the block.

    Args:
        profile: A folder for the browser.
        arguments: Further ones for it.
    """
    to_browser, from_browser = os.pipe(), os.pipe()
    # A shell puts the ends where the browser looks for them, whatever numbers they have here.
    script = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(
        ["bash", "-c", script, find_chromium(), *flags, *arguments],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Tab(process, to_browser[1], from_browser[0])
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(to_browser[1])
        os.close(from_browser[0])
