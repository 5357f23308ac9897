"""The site of the docs: it builds, and every link and anchor in it leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import rinsc

pytest.importorskip("mkdocstrings", reason="needs the extra docs")

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if value is not None and key in ("href", "src"):
                self.links.append(value)
            elif value is not None and key in ("id", "name"):
                self.anchors.add(value)


def broken_links(site: Path) -> list[tuple[str, str]]:
    """Page and link, for each link without a scheme that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target == site:
                target = site / "index.html"
            exists = target.exists()
            if not exists or (url.fragment and unquote(url.fragment) not in pages[target].anchors):
                broken.append((path.name, link))
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs").resolve() / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_link_of_the_site_is_broken(site: Path) -> None:
    assert len(list(site.glob("*.html"))) > 20
    assert broken_links(site) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html">b</a><a href="#here">h</a><p id="there">')
    assert broken_links(tmp_path) == [("a.html", "b.html"), ("a.html", "#here")]


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    contents = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}.html"' in contents for name in pages)


def test_the_reference_has_every_public_name(site: Path) -> None:
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for name in rinsc.__all__:
        if name != "__version__":
            assert f"rinsc.{name}" in reference, name


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'src="http' not in text
        assert '<link rel="stylesheet" href="http' not in text
