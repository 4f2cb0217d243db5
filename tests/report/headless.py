"""A headless Chromium, spoken to by the WebDriver protocol: nothing to install beside it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
# without these it asks for hosts on the internet at every start
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"),
)

# every text that is seen, with its colour, that of what lies behind it, and its size
CONTRASTS = """
const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
const found = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), svg = e.closest("svg");
  if (svg && e.classList.contains("n")) continue;
  const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(behind(svg ? svg : e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const name = `${e.tagName}.${e.getAttribute("class")} ${e.textContent.slice(0, 30)}`;
  if (ratio < 4.5) found.push(`${name} ${ratio.toFixed(2)}`);
}
return found;
"""

# what reaches out of the window, but for what scrolls in a box of its own
OUTSIDE = """
return [...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .filter((e) => !e.closest(".scroll,.lists,nav,pre,.skip"))
  .map((e) => e.outerHTML.slice(0, 120));
"""


def missing() -> str:
    """Why there is no browser here; empty where there is one."""
    if not any(map(shutil.which, CHROMIUMS)):
        return f"no browser: none of {', '.join(CHROMIUMS)} is installed"
    if not shutil.which("chromedriver"):
        return "no browser: chromedriver is not installed (Debian: chromium-driver)"
    return ""


class Browser:
    """One window. Everything raises RuntimeError with what the browser said."""

    def __init__(self, address: str) -> None:
        self._address = address
        binary = next(found for name in CHROMIUMS if (found := shutil.which(name)))
        options = {"binary": binary, "args": list(QUIET)}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        found = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{found['sessionId']}"

    def open(self, page: Path | str) -> None:
        """A file, or an address."""
        self._post("/url", url=page if isinstance(page, str) else page.resolve().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            mobile=phone,
            deviceScaleFactor=2 if phone else 1,
        )

    def prefers(self, scheme: str) -> None:
        """light or dark; and no smooth scrolling, under which a click would miss."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def scripts(self, allowed: bool) -> None:
        self.devtools("Emulation.setScriptExecutionDisabled", value=not allowed)

    def click(self, selector: str) -> None:
        """A real click, as of a mouse: it fails where something lies above."""
        found = self._post("/element", using="css selector", value=selector)
        (element,) = found.values()
        self._post(f"/element/{element}/click")

    def press(self, keys: str) -> None:
        """Keys one after the other, into whatever has the focus."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", actions=[{"type": "key", "id": "keyboard", "actions": steps}])

    def log(self) -> list[str]:
        """Errors and warnings since the last call."""
        entries = self._post("/se/log", type="browser")
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def close(self) -> None:
        self._call("DELETE", self._session)

    def _post(self, place: str, **values: Any) -> Any:
        return self._call("POST", self._session + place, values)

    def _call(self, method: str, place: str, values: Any = None) -> Any:
        data = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(self._address + place, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser with an empty profile, and its driver; both are gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--log-level=OFF"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": home, "TMPDIR": home},
        )
        try:
            _wait_for(port)
            browser = Browser(f"http://127.0.0.1:{port}")
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
            driver.wait(timeout=20)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("chromedriver does not answer")
