# SPDX-License-Identifier: MIT
"""Check a built site: its own links lead somewhere, and it needs nothing else.

    python check_site.py DIRECTORY

Sphinx has checked the links between the pages' sources.  This is about what came out:
every file and place that a page links to is there, pages load nothing from the network,
and the path of this checkout is nowhere in them.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHECKOUT = str(Path(__file__).resolve().parent.parent)


class Page(HTMLParser):
    """The places and the links of a page."""

    def __init__(self, path: Path) -> None:
        """Read it."""
        super().__init__()
        self.places = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what the tag links to, loads, or can be linked to by."""
        values = {name: value or "" for name, value in attrs}
        self.places.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values[name] for name in ("src", "data") if name in values]
        if tag == "link":
            self.loaded.append(values.get("href", ""))


def problems(directory: Path) -> list[str]:
    """Return what is wrong with the site."""
    pages = {path.resolve(): Page(path) for path in directory.rglob("*.html")}
    found = [] if pages else [f"{directory}: no pages"]
    for path, page in pages.items():
        name = path.relative_to(directory.resolve())
        if CHECKOUT in path.read_text(encoding="utf-8"):
            found.append(f"{name}: has the path of the checkout")
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{name}: loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = target if parts.path else path
            if not target.is_file():
                found.append(f"{name}: {link} is not there")
            elif (
                target in pages and unquote(parts.fragment) not in pages[target].places
            ):
                found.append(f"{name}: {link} has no such place")
    return found


def main(directory: str) -> int:
    """Print what is wrong; return the exit status."""
    found = problems(Path(directory))
    print("\n".join(found) or "the site is complete")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
