"""The links of the documentation: as GitHub shows the sources, and as the built site has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FENCE = re.compile(r"^ *(`{3,}).*?^ *\1`*[ \t]*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"|^#{1,6} .*\{ *#([\w-]+) *\}", re.MULTILINE)
RESOURCES = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
    "embed": "src",
}
"""Elements whose address a browser fetches by itself, beside `link` and the addresses of style sheets."""
_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
_STYLE_ADDRESS = re.compile(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"]((?:https?:)?//[^'\"]+)")


def pages(root: Path) -> list[Path]:
    """The pages of the site: those of the root, of docs/ and of the benchmarks."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), root / "benchmarks" / "README.md"])


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading: lower case, without punctuation, a hyphen for each space."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Every anchor of a page; of headings that are the same, the later ones get a number."""
    text = _FENCE.sub("", text)
    found = {name for match in _ANCHOR.findall(text) for name in match if name}
    counts: dict[str, int] = {}
    for heading in _HEADING.findall(text):
        name = slug(heading)
        found.add(f"{name}-{counts[name]}" if name in counts else name)
        counts[name] = counts.get(name, 0) + 1
    return found


def links(text: str) -> list[str]:
    """The targets of a page's links, outside code."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def linked(root: Path, sources: list[Path]) -> set[Path]:
    """The files of the checkout to which the pages link."""
    return {path for page in sources for link in links(page.read_text()) if (path := _target(page, link)).is_file()}


def _target(page: Path, link: str) -> Path:
    address = urlsplit(link)
    return (page.parent / unquote(address.path)).resolve() if address.path and not address.scheme else page


def faults_of_sources(root: Path, sources: list[Path]) -> list[str]:
    """Links to what is no file of the checkout (a folder is no page of the site), and to anchors that are not there."""
    known = {page: anchors(page.read_text()) for page in sources}
    found = []
    for page in sources:
        for link in links(page.read_text()):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = _target(page, link)
            if not target.is_file() or root not in target.parents:
                found.append(f"{page.relative_to(root)}: {link}: no such file")
            elif address.fragment and address.fragment not in known.get(target, set()):
                found.append(f"{page.relative_to(root)}: {link}: no such anchor")
    return found


class _Page(HTMLParser):
    """The anchors, links and fetched addresses of one built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and _RELATIONS & set(given.get("rel", "").split()):
            self.fetched.append(given.get("href", ""))
        if tag in RESOURCES and given.get("src"):
            self.fetched.append(given["src"])
        self.fetched += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]


def faults_of_site(site: Path) -> list[str]:
    """Links and resources that lead nowhere, and resources of another host, in every built page and style sheet."""
    built = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in built.items():
        if path.name == "404.html":  # its addresses are those of a server's root
            continue
        name = path.relative_to(site)
        found += [f"{name}: fetches {address} from another host" for address in page.fetched if _elsewhere(address)]
        found += [f"{name}: {fault}" for fault in _dead(path, page, built)]
    for sheet in sorted(site.rglob("*.css")):
        for match in _STYLE_ADDRESS.findall(sheet.read_text()):
            found.append(f"{sheet.relative_to(site)}: fetches {''.join(match)} from another host")
    return found


def _elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def _dead(path: Path, page: _Page, built: dict[Path, _Page]) -> Iterator[str]:
    for link in [*page.links, *page.fetched]:
        address = urlsplit(link)
        if address.scheme or address.netloc:
            continue
        target = (path.parent / unquote(address.path)).resolve() if address.path else path
        if not target.is_file():
            yield f"{link}: no such file"
        elif address.fragment and target in built and unquote(address.fragment) not in built[target].ids:
            yield f"{link}: no such anchor"
