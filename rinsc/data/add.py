"""``rinsc data add``: gets a corpus out of its package, makes plain text of it, compares."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from html.parser import HTMLParser
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from rinsc.data.corpora import RECORD, Added, Entry, added_folder, folder_sha256
from rinsc.data.names import cannot_read, damaged, data_error
from rinsc.data.text_files import plain_text
from rinsc.storage.folders import folder_aside, one_process, temporary_folder

DOWNLOAD_SECONDS = 600
MAX_ARCHIVE_BYTES = 1 << 28
MAX_UNPACKED_BYTES = 1 << 30
PIP = (sys.executable, "-P", "-m", "pip")  # -P: a pip.py in the folder where you are is not run
PYPI = "https://pypi.org/simple"
SYSTEM_ROOT = Path("/")


def add(entry: Entry) -> Added:
    """Put the texts of ``entry`` into the data folder, in the place of what was there.

    Raises DataError where the package cannot be had, is of a version whose text is not known, or
    gives another text; OutputError where the folder cannot be written. Nothing is changed then.
    """
    target = added_folder(entry.name)
    with one_process(target), _package(entry) as (root, version), folder_aside(target) as part:
        added = _write_texts(entry, version, root, part)
        _compare(entry, added)
        (part / RECORD).write_text(json.dumps(asdict(added), indent=2), encoding="utf-8")
    return added


def _write_texts(entry: Entry, version: str, root: Path, part: Path) -> Added:
    for name, path in _files(entry, root):
        for suffix, text in _read(entry, path):
            output = part / f"{name}{suffix}.txt"
            if ".." in output.parts:  # a database names its books
                raise damaged(path, ValueError("a text has a name outside of its folder"))
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8", newline="\n")
    sha256, files, size = folder_sha256(part)
    if not files:
        message = f"version {version} of {entry.package} holds no such files"
        raise data_error("no-text-files", message, root, f"known versions: {entry.versions}")
    return Added(version, files, size, sha256)


def _read(entry: Entry, path: Path) -> list[tuple[str, str]]:
    try:
        return list(READERS[entry.reader](path))
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, sqlite3.Error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _compare(entry: Entry, added: Added) -> None:
    expected = entry.sha256.get(added.version)
    if expected is None:
        message = f"no sha256 is known of '{entry.name}' in version {added.version}"
        hint = f"known: {entry.versions}; or name its files with text:PATTERN"
        raise data_error("unknown-version", message, entry.package, hint)
    if expected != added.sha256:
        message = f"the text has the sha256 {added.sha256}, not {expected}"
        hint = "the package was changed, or is not whole; install it anew"
        raise data_error("other-text", message, f"{entry.package} {added.version}", hint)


def _files(entry: Entry, root: Path) -> Iterator[tuple[str, Path]]:
    """Files that match, by their names below the part of the pattern without wildcards."""
    for pattern in entry.files:
        fixed = pattern.split("*")[0].rpartition("/")[0]
        base = root / fixed
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(base).as_posix()
            if path.is_file() and not any(fnmatch.fnmatch(name, no) for no in entry.without):
                yield name, path


@contextmanager
def _package(entry: Entry) -> Iterator[tuple[Path, str]]:
    """The folder below which the package's files lie, and its version."""
    match entry.get:
        case "pip":
            with temporary_folder() as folder:
                yield _downloaded(entry, folder), next(iter(entry.sha256))
        case "debian":
            yield SYSTEM_ROOT, _debian_version(entry)
        case "python":
            yield Path(sysconfig.get_path("stdlib")), platform.python_version()


def _downloaded(entry: Entry, folder: Path) -> Path:
    """The package from the index that pip is set up for, unpacked, not installed.

    Nothing of it runs: pip gets wheels alone, as it would run the ``setup.py`` of a source package
    to learn its name, and a package without a wheel is fetched here.
    """
    requirement = f"{entry.package}=={next(iter(entry.sha256))}"
    if entry.source_archive is not None:
        return _unpacked(_source_archive(entry, folder), folder / "unpacked")
    command = [*PIP, "download", "--quiet", "--only-binary", ":all:"]
    command += ["--no-deps", "--dest", str(folder), requirement]
    done = _run_pip(command, requirement)
    archives = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(archives) != 1:
        messages = done.stderr.strip().splitlines()
        message = f"pip cannot get it: {messages[-1] if messages else 'no file came'}"
        raise data_error(
            "download-failed", message, requirement, "check the network and pip's index"
        )
    return _unpacked(archives[0], folder / "unpacked")


def _run_pip(command: list[str], requirement: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        hint = "check the network, and try again"
        raise data_error("download-failed", "pip takes too long", requirement, hint) from None


def _source_archive(entry: Entry, folder: Path) -> Path:
    """The source package whose name and SHA-256 the catalog has, from pip's index."""
    ((name, sha256),) = (entry.source_archive or {}).items()
    index = os.environ.get("PIP_INDEX_URL")
    if index is None:
        answer = _run_pip([*PIP, "config", "get", "global.index-url"], entry.package)
        index = answer.stdout.strip() if answer.returncode == 0 else PYPI
    page = f"{index.rstrip('/')}/{entry.package}/"
    try:
        listed = _fetched(f"{page}index.html" if page.startswith("file:") else page)
        # In the index's JSON as in its HTML, the address is a string in quotes.
        links = re.findall(rf'"([^"]*/)?({re.escape(name)})[#"]', listed.decode("utf-8", "replace"))
        if not links:
            raise OSError(f"the index has no {name}")
        data = _fetched(urljoin(page, "".join(links[-1])))
    except (OSError, ValueError, HTTPException) as error:
        message = f"cannot get {name}: {str(error).partition(chr(10))[0]:.120}"
        hint = "check the network and pip's index"
        raise data_error("download-failed", message, entry.package, hint) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        message = f"{name} has the sha256 {digest}, not {sha256}"
        hint = "the package was changed on its way; check pip's index"
        raise data_error("other-archive", message, entry.package, hint)
    archive = folder / name
    archive.write_bytes(data)
    return archive


def _fetched(url: str) -> bytes:
    """What is at the address; raises OSError, ValueError or HTTPException."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "file"):
        raise ValueError(f"the address of the index begins with '{parts.scheme}:'")
    headers = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1"}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    with urlopen(Request(url, headers=headers), timeout=DOWNLOAD_SECONDS) as answer:
        data: bytes = answer.read(MAX_ARCHIVE_BYTES + 1)
    if len(data) > MAX_ARCHIVE_BYTES:
        raise ValueError(f"more than {MAX_ARCHIVE_BYTES} bytes came")
    return data


def _unpacked(archive: Path, folder: Path) -> Path:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                _require_room(archive, (member.file_size for member in wheel.infolist()))
                wheel.extractall(folder)
        else:
            with tarfile.open(archive) as source:
                _require_room(archive, (member.size for member in source))
                source.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise damaged(archive, error) from error
    return folder


def _require_room(archive: Path, sizes: Iterable[int]) -> None:
    """Raises DataError where files of these sizes are more than any corpus is."""
    if any(total > MAX_UNPACKED_BYTES for total in accumulate(sizes)):
        message = f"the package unpacks to more than {MAX_UNPACKED_BYTES} bytes"
        raise data_error("too-much-text", message, archive.name, "check pip's index")


def _debian_version(entry: Entry) -> str:
    hint = f"sudo apt-get install --no-install-recommends {entry.package}"
    command = ["dpkg-query", f"--admindir={SYSTEM_ROOT / 'var/lib/dpkg'}", "--show"]
    try:
        done = subprocess.run(
            [*command, "--showformat=${db:Status-Abbrev}${Version}", entry.package],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        message = "this corpus comes from a Debian package, and there is no dpkg here"
        raise data_error("not-debian", message, entry.package, "use another corpus") from None
    if done.returncode or not done.stdout.startswith("ii"):
        message = f"the Debian package {entry.package} is not installed"
        raise data_error("package-not-installed", message, entry.name, hint)
    return done.stdout[2:].strip()


# A reader yields the texts of one file, each with what is added to the file's name, mostly "".
Reader: TypeAlias = Callable[[Path], Iterator[tuple[str, str]]]

GCIDE_ENTRY_LINES = 20_000  # one dictionary becomes some dozens of files

_BLOCKS = frozenset(
    (
        *("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "dt", "dd"),
        *("div", "tr", "table", "blockquote", "pre", "br", "hr"),
    )
)
_VERSE_NUMBER = re.compile(r"(?<!\S)\d+:\d+\S* ?")
_HIDDEN = frozenset(("script", "style", "head", "title"))


def read_utf8(path: Path) -> Iterator[tuple[str, str]]:
    yield "", path.read_text(encoding="utf-8")


def read_latin1(path: Path) -> Iterator[tuple[str, str]]:
    yield "", path.read_text(encoding="latin-1")


def read_markdown(path: Path) -> Iterator[tuple[str, str]]:
    yield "", plain_text(path.read_text(encoding="utf-8"))


def read_html(path: Path) -> Iterator[tuple[str, str]]:
    collector = _TextOfHtml()
    collector.feed(path.read_text(encoding="utf-8", errors="replace"))
    collector.close()
    yield "", collector.text()


def read_dictionary(path: Path) -> Iterator[tuple[str, str]]:
    """A dictionary of dictd: gzip; cut at the empty lines between entries into equal files."""
    with gzip.open(path, "rt", encoding="cp1252", newline="\n") as file:
        lines: list[str] = []
        number = 0
        for line in file:
            lines.append(line)
            if len(lines) >= GCIDE_ENTRY_LINES and not line.strip():
                yield f"-{number:03}", "".join(lines)
                lines, number = [], number + 1
        yield f"-{number:03}", "".join(lines)


def read_bible(path: Path) -> Iterator[tuple[str, str]]:
    """A database of verses: one text a book, one line a row of verses, without their numbers."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
        base.execute("PRAGMA trusted_schema = OFF")  # its views call no functions with effects
        books = base.execute(
            "SELECT TestamentID, BookID, ShortName, LongName FROM Books ORDER BY 1, 2"
        )
        for number, (testament, book, short, title) in enumerate(books.fetchall(), start=1):
            rows = base.execute(
                "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID = ? AND BookID = ?"
                " ORDER BY ChapterID, VerseID",
                (testament, book),
            )
            lines = (" ".join(part for part in row if part) for row in rows)
            text = "\n".join(_VERSE_NUMBER.sub("", line) for line in lines)
            yield f"/{number:02}-{short.replace(' ', '-')}", f"{title}\n\n{text}\n"


READERS: Mapping[str, Reader] = {
    "utf8": read_utf8,
    "latin1": read_latin1,
    "markdown": read_markdown,
    "html": read_html,
    "dictionary": read_dictionary,
    "bible": read_bible,
}


class _TextOfHtml(HTMLParser):
    """Collects what a browser would show: text, with a line end around each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        joined = re.sub(r" *\n *", "\n", "".join(self._parts))
        return re.sub(r"\n{3,}", "\n\n", joined).strip() + "\n"
