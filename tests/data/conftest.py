"""A data home of one's own for each test, and a small web server that misbehaves on demand."""

import http.server
import io
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty data folder; the user's own cache is out of reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CTML_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@dataclass
class Page:
    """What the server gives for one path."""

    body: bytes
    kind: str = "application/octet-stream"
    cut_after: int | None = None  # break the connection after so many bytes, once
    takes_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)  # Range header of each request so far


class Server:
    """`http.server` on the loopback; `pages` maps paths to what they give, anything else is 404."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        pages = self.pages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path)
                if page is None:
                    self.send_error(404, "Not Found")
                    return
                asked = self.headers.get("Range")
                page.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and page.takes_ranges else 0
                if start and start >= len(page.body):
                    self.send_error(416, "Range Not Satisfiable")
                    return
                rest = page.body[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", page.kind)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                if page.cut_after is not None:
                    rest, page.cut_after = rest[: page.cut_after], None
                self.wfile.write(rest)

            def log_message(self, *_) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, path: str, body: bytes, **details) -> str:
        """Give `body` at `path` from now on; returns the address. `details` are the fields of `Page`."""
        self.pages[path] = Page(body, **details)
        return self.url + path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    """A running `Server`."""
    running = Server()
    yield running
    running.close()


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """Pack files into a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], link: str | None = None) -> bytes:
    """Pack files into a tar.gz, and with them a symbolic link `b/link` to `link`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("b/link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def pack():
    """What makes small archives: `pack.png(pixels)`, `pack.zip(files)` and `pack.tar(files)`."""

    class Pack:
        png = staticmethod(png)
        zip = staticmethod(zipped)
        tar = staticmethod(tarred)

    return Pack


@pytest.fixture
def placed(home):
    """Write a file below the data home: `placed("omniglot/x.zip", data)`."""

    def place(name: str, data: bytes) -> Path:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return place
