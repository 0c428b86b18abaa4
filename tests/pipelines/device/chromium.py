"""A headless Chromium that a test steers through two pipes (DevTools protocol), and a folder offered on this machine."""

from __future__ import annotations

import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
WAIT_S = 120.0
"""Longest wait for one answer of the browser, after which a test fails; nothing measures it."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def offered(folder: Path) -> Iterator[str]:
    """The address of a folder, on this machine alone."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Browser:
    """One tab."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self.to_it, self.from_it = to_it, from_it
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to_it, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.from_it], [], [], WAIT_S)
            assert ready, "the browser does not answer"
            data = os.read(self.from_it, 2**20)
            assert data, "the browser ended"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str, ready: str = "document.body?.dataset?.ready") -> str:
        """Go to a page and wait until it says that it is ready, and how."""
        self.ask("Page.navigate", url=url)
        return str(self.until(ready))

    def until(self, expression: str) -> Any:
        """Wait until an expression is neither null nor undefined."""
        return self.run(
            "new Promise((found) => { const look = () => { const value = " + expression + ";"
            " if (value === null || value === undefined) setTimeout(look, 20); else found(value); }; look(); })"
        )

    def choose(self, file: Path, field: str = "#choose") -> Any:
        """Choose a file on the page and wait for what it answers."""
        self.run("delete document.body.dataset.answer")
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=field)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file.resolve())])
        return json.loads(self.until("document.body.dataset.answer"))

    def size(self, width: int, height: int, *, mobile: bool = False, dark: bool = False) -> None:
        """The size of the window, and whether the device likes it dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> str:
        """The whole page as PNG, in base64."""
        return str(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def requested(self) -> list[str]:
        """Every address that was asked for."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def complaints(self) -> list[str]:
        """Errors of the console, of scripts and of the policy of the page."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(str(event["params"]["entry"]["text"]))
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty profile, ended after use."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        its_in, to_it = os.pipe()
        from_it, its_out = os.pipe()
        # The protocol is spoken on descriptors 3 and 4, whatever numbers the pipes have here.
        shell = f'exec 3<&{its_in} 4>&{its_out}; exec "$0" "$@"'
        if {its_in, its_out} & {3, 4}:
            its_in, its_out = os.dup2(its_in, 13), os.dup2(its_out, 14)
            shell = 'exec 3<&13 4>&14; exec "$0" "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(its_in, its_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": profile},
        )
        os.close(its_in)
        os.close(its_out)
        try:
            yield Browser(to_it, from_it)
        finally:
            process.terminate()
            process.wait()
            os.close(to_it)
            os.close(from_it)
