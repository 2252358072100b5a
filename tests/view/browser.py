"""Headless Chromium driven through its DevTools protocol; only `websockets` is needed."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_START_SECONDS = 60


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One headless page with software WebGL."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="dexjax-chromium-")
        program = find_chromium()
        assert program is not None
        self._process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
                "--no-first-run", "--disable-extensions", "--disable-background-networking",
                "--disable-component-update", "--disable-renderer-backgrounding",
                "--disable-backgrounding-occluded-windows", "--disable-background-timer-throttling",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        from websockets.sync.client import connect

        self._socket = connect(self._page_address(), max_size=None)
        self._ids = itertools.count(1)
        self.log: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def goto(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """Wait until an expression is true and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.value(script)
            if found:
                return found
            time.sleep(0.2)
        raise TimeoutError(f"not within {seconds:g} s: {script}\n" + "\n".join(self.log[-10:]))

    def click(self, script: str) -> None:
        """Click in the middle of the element that an expression finds."""
        box = self.value(
            f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                clickCount=1,
            )  # fmt: skip

    def focus(self, script: str) -> None:
        """Give the keyboard to the element that an expression finds. A click on a slider would
        also set it, at a moment of its own."""
        self.value(f"{script}.focus()")

    def stir(self) -> None:
        """Move the pointer: a page that draws on demand only draws again."""
        for x in (300, 301):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=170)

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def screenshot(self, path: Path | None = None) -> np.ndarray:
        """The page as an (H, W, 3) uint8 image, also written to `path`."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.log.append(f"exception: {json.dumps(params['exceptionDetails'])[:500]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.log.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.log.append(f"request: {params['request']['url'][:200]}")

    def _page_address(self) -> str:
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if port_file.exists() and len(lines := port_file.read_text().split()) >= 1:
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                    pages = [p for p in json.load(answer) if p["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            if self._process.poll() is not None:
                raise RuntimeError(f"Chromium ended with {self._process.returncode}")
            time.sleep(0.1)
        raise TimeoutError("Chromium did not start")


def main() -> None:
    """`python tests/view/browser.py URL OUT.png [SCRIPT ...]`: a screenshot, after scripts."""
    url, out, *script = sys.argv[1:]
    with Browser() as browser:
        browser.goto(url)
        if not url.startswith("file:"):  # a page of the viewer
            browser.wait("document.querySelector('canvas') !== null")
            time.sleep(8)
            browser.value("document.querySelector('.mantine-Notification-closeButton')?.click()")
            time.sleep(2)
        for line in script:
            browser.value(line)
            time.sleep(4)
        browser.screenshot(Path(out))


if __name__ == "__main__":
    main()
