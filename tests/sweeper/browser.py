"""Debian's Chromium without a window, driven by its DevTools protocol through two pipes; and axe-core, which examines accessibility.

`make browser` installs both. Where one is missing, tests are skipped and name it; in CI (`CI=true`) they fail.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[2] / ".browser" / "package" / "axe.min.js"
"""Where `make browser` puts axe-core."""

TIMEOUT_S = 60.0


def require(*, axe: bool = False) -> str:
    """The path of the browser; without it, or without axe-core where it is needed, the test is skipped, in CI it fails."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = [name for name, found in (("chromium", binary), ("axe-core", not axe or AXE.exists())) if not found]
    if not missing:
        return str(binary)
    text = f"{' and '.join(missing)} is missing: `make browser` installs it (from Debian and npm)"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(text)
    pytest.skip(text)


class Browser:
    """One browser process.

    Args:
        binary: Its path.
        profile: A folder for its files, which is its own.
    """

    def __init__(self, binary: str, profile: Path) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        theirs_in, self._in = os.pipe()
        self._out, theirs_out = os.pipe()
        quiet = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2)]
        # Copied out of the way first, as 3 and 4 may be among them.
        high = [os.dup(theirs_in), os.dup(theirs_out)]
        actions += [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
        self._pid = os.posix_spawn(binary, [binary, *flags, "about:blank"], os.environ, file_actions=actions, setpgroup=0)
        for file in (theirs_in, theirs_out, quiet, *high):
            os.close(file)
        self._numbers, self._buffer = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result. Events that come meanwhile are added to `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._in, content) :]
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise TimeoutError(method)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._out, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, url: str) -> Page:
        """Open a page in a tab of its own and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, url)

    def close(self) -> None:
        """End it, with the processes that it started."""
        for file in (self._in, self._out):
            os.close(file)
        with_children = os.getpgid(self._pid)
        os.killpg(with_children, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class Page:
    """A page in a tab."""

    def __init__(self, browser: Browser, session: str, url: str) -> None:
        self._browser, self._session, self.url = browser, session, url
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        is_there = "document.readyState === 'complete' && location.href !== 'about:blank'"
        self.evaluate(f"new Promise(done => {is_there} ? done(1) : addEventListener('load', done))")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on this page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of this page by a name."""
        self.evaluate("1")  # what has happened so far has then arrived
        return [event["params"] for event in self._browser.events if event.get("sessionId") == self._session and event["method"] == method]

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the size of the window, and whether it is light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str) -> None:
        """Press a key."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {})
            )

    def screenshot(self, *, whole: bool = False) -> bytes:
        """A picture of the window, or of the whole page, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def violations(self) -> list[str]:
        """What axe-core finds against the accessibility of the page, one line for each element."""
        self.evaluate(AXE.read_text() + ";0")
        found = self.evaluate("axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)")
        return [f"{rule['id']}: {node['target']}: {node['failureSummary']}" for rule in found for node in rule["nodes"]]
