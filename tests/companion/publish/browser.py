"""A real browser without a window, driven over its debugging protocol: what a page says, asks for, and looks like."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import websocket  # comes with JupyterLab

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
READY = """new Promise(done => {
  const wait = () => document.readyState !== "complete" ? setTimeout(wait, 20)
    : (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() => requestAnimationFrame(() => done(true)));
  wait();
})"""


class Browser:
    """One page of a headless Chromium; use it as a context."""

    def __init__(self) -> None:
        """Start the browser and attach to a page of it.

        Raises:
            TimeoutError: when it does not say within 30 seconds where it listens.
        """
        self.folder = tempfile.mkdtemp()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += ["--remote-allow-origins=*", f"--user-data-dir={self.folder}", "--allow-file-access-from-files"]
        assert BROWSER is not None
        self.process = subprocess.Popen([BROWSER, *options, "about:blank"], stderr=subprocess.DEVNULL)
        self.socket = websocket.create_connection(self._address(), timeout=60)
        self.number, self.events = 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _address(self) -> str:
        written = Path(self.folder) / "DevToolsActivePort"
        for _ in range(300):
            if written.is_file() and len(lines := written.read_text().split()) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.1)
        raise TimeoutError(f"{BROWSER} did not start")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its answer; what the page tells meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, address: str, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        """Open a page at a width and wait until its equations are set."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        self.ask(READY)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Return the errors of the console, uncaught exceptions, and what could not be loaded."""
        found = []
        for event in self.events:
            name, told = event.get("method"), event.get("params", {})
            if name == "Runtime.exceptionThrown" or (name == "Runtime.consoleAPICalled" and told["type"] == "error"):
                found.append(json.dumps(told)[:500])
            if name == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        return found

    def asked_for(self) -> list[str]:
        """Return the addresses that the page loaded."""
        named = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in named]

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as png."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
