"""Check the site in build/site: no link within it is dead, and every public name of the library is on it.

Exits with 1 and a line for each link that names no page or no place on one, for each public name that no page
describes, and for each public name, method or property without a docstring.
"""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import griffe

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"


class _Page(HTMLParser):
    """The places of a page, and where it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and links."""
        for name, value in attrs:
            if value is None:
                continue
            if name in {"id", "name"}:
                self.places.add(value)
            elif name in {"href", "src"} and not urlsplit(value).scheme and not value.startswith("//"):
                self.links.add(value)


def dead_links(pages: dict[str, _Page]) -> Iterator[str]:
    """Yield a line for each link that leads nowhere. The 404 page may be at any depth, so it is left out."""
    for name, page in sorted(pages.items()):
        for link in sorted(page.links if name != "404.html" else ()):
            parts = urlsplit(link)
            path = unquote(parts.path)
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            target = f"{target}/index.html" if (SITE / target).is_dir() else target
            if not (SITE / target).exists():
                yield f"{name}: {link}: there is no such page"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].places | {"__top"}:
                yield f"{name}: {link}: the page has no such place"


def undocumented(places: set[str]) -> Iterator[str]:
    """Yield a line for each public name of the library that no page has, and for each without a docstring."""
    package = griffe.load("windshift", search_paths=[ROOT / "src"], resolve_aliases=True)
    assert isinstance(package, griffe.Module)  # noqa: S101 -- for the type checker
    for name in sorted(package.exports or ()):
        found = package[str(name)]
        if isinstance(found, griffe.Alias):
            found = found.final_target
        if isinstance(found, griffe.Module):
            continue
        if f"windshift.{name}" not in places:
            yield f"{found.path}: no page in docs/reference/python describes windshift.{name}"
        if not found.has_docstring:
            yield f"{found.path}: has no docstring"
        for member in found.members.values() if isinstance(found, griffe.Class) else ():
            public = not member.name.startswith("_") and not member.is_alias
            if public and member.is_function and not member.has_docstring and not _overloaded(member):
                yield f"{member.path}: has no docstring"


def _overloaded(member: griffe.Object | griffe.Alias) -> bool:
    return isinstance(member, griffe.Function) and bool(member.overloads)


def main() -> int:
    """Check, report, and return the exit status."""
    files = {str(path.relative_to(SITE)): path.read_text() for path in SITE.rglob("*.html")}
    pages = {name: _Page(text) for name, text in files.items()}
    places = set().union(*(page.places for page in pages.values()))
    found = [*dead_links(pages), *undocumented(places)]
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
