"""A headless Chromium, driven through chromedriver's own protocol (W3C WebDriver): no client library needed."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

MISSING = next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)
_OPENER = build_opener(ProxyHandler({}))  # never through a proxy: the driver is on this machine
ENTER, SPACE = "\ue007", "\ue00d"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
          "disable-component-update", "disable-sync", "disable-dev-shm-usage")  # fmt: skip


class Browser:
    """One session."""

    def __init__(self, port: int, profile: Path) -> None:
        self._root = f"http://127.0.0.1:{port}/session"
        options = {"binary": shutil.which("chromium"), "args": [*_FLAGS, f"user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._root += f"/{session}"

    def _call(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        with _OPENER.open(Request(self._root + path, data, method=method), timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self._call("/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        """The value that the script returns."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def _element(self, selector: str) -> str:
        return self._call("/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def click(self, selector: str) -> None:
        self._call(f"/element/{self._element(selector)}/click", {})

    def press(self, selector: str, key: str) -> None:
        """A real key press while the element has the focus."""
        self._call(f"/element/{self._element(selector)}/value", {"text": key})

    def emulate(self, command: str, **parameters: Any) -> None:
        self._call("/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": parameters})

    def prefer(self, scheme: str) -> None:
        self.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        self.emulate("setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 640)

    def complaints(self) -> list[str]:
        """What the page wrote to the console."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._call("", None, "DELETE")


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(
            int(found[1]) for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        browser = Browser(port, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
