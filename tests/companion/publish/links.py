"""What a built site links to, and which of it is not there."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") in {"stylesheet", "preload", "icon", "shortcut icon"}:
            self.loaded.append(given["href"])


def pages(site: Path) -> dict[Path, _Reader]:
    """Read every page that is linked to."""
    read = {}
    for path in sorted(site.rglob("*.html")):
        if "_static" not in path.parts:
            read[path] = _Reader()
            read[path].feed(path.read_text(encoding="utf-8"))
    return read


def faults(site: Path) -> list[str]:
    """Return the links that lead nowhere within the site, and what it would load from elsewhere."""
    found = []
    read = pages(site)
    for path, page in read.items():
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme in {"http", "https", "data", "mailto"} or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    found.append(f"{path.relative_to(site)} loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{path.relative_to(site)} links to {address}")
            elif parts.fragment and target in read and unquote(parts.fragment) not in read[target].names:
                found.append(f"{path.relative_to(site)} links to {address}, a place that is not on that page")
    return found
