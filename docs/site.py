"""Hooks of MkDocs: pages that stand elsewhere in the repository, and the reference.

A link from one page to another stays a link. One to a file that is no page becomes its text:
``[zoo/](../zoo)`` is shown as ``zoo/``.
"""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

import rinsc

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")

# File of the repository: page of the site.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "BENCHMARKS.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "examples/gated-convolution/README.md": "gated-convolution.md",
}
PLACES = {page: file for file, page in MOVED.items()}


def on_files(files: Files, config: Any) -> Files:
    for file, page in MOVED.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    name = page.file.src_uri
    folder = posixpath.dirname(PLACES.get(name, f"docs/{name}"))
    return LINK.sub(lambda link: _moved(link, folder), markdown)


def _moved(link: re.Match[str], folder: str) -> str:
    mark, label, target, anchor = link.groups()
    file = posixpath.normpath(posixpath.join(folder, target))
    page = MOVED.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    return f"{mark}[{label}]({page}{anchor or ''})" if page else label


def reference() -> str:
    """A page with every public name, from its docstring."""
    names = sorted((name for name in rinsc.__all__ if name[0] != "_"), key=str.lower)
    entries = "\n".join(_entry(name, getattr(rinsc, name)) for name in names)
    return f"# Reference\n\nEvery name of `import rinsc`.\n\n{entries}"


def _entry(name: str, value: Any) -> str:
    """The object, and not the module of the same name, which some packages have beside it."""
    paths = (f"{value.__module__}.{value.__qualname__}", f"rinsc.{name}")
    path = next(path for path in paths if _is_object(path))
    return f"::: {path}\n    options:\n      heading: rinsc.{name}\n      toc_label: {name}\n"


def _is_object(path: str) -> bool:
    try:
        return not _package()[path.removeprefix("rinsc.")].is_module
    except KeyError:
        return False


@cache
def _package() -> griffe.Object | griffe.Alias:
    return griffe.load("rinsc", search_paths=[ROOT])
