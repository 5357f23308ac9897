"""The files that a path, a folder or a pattern stands for, in one order everywhere."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from rinsc.data.places import expanded
from rinsc.data.problems import cannot_read, data_error


def find_files(where: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files by their names inside the corpus, sorted.

    Of a folder and all below it, the files with one of the suffixes; of a pattern (``*``, ``?``,
    ``**``), every file that matches. Raises DataError where there are none.
    """
    place = expanded(where)
    if place.is_dir():
        return _of_folder(place, suffixes)
    if place.exists():
        if not place.is_file():
            hint = "copy the text into a file"
            raise data_error("not-a-file", "this is not a regular file", place, hint)
        return {place.name: place}
    if glob.has_magic(where):
        return _of_pattern(place)
    raise data_error("no-such-path", "no file or folder of this name", place, "check the path")


def file_facts(files: dict[str, Path]) -> list[list[object]]:
    """Name, size and times of change of each file: what tells a changed file from an old one.

    The time of the contents can be set, as archives and copies do; that of the entry cannot.
    """
    facts: list[list[object]] = []
    for name, path in files.items():
        try:
            status = path.stat()
        except OSError as error:
            raise cannot_read(path, error) from error
        facts.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return facts


def total_size(files: dict[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values())


def _of_folder(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found = []
    # A part that cannot be listed must not be left out silently.
    for place, _, names in os.walk(folder, onerror=_refuse):
        found += [Path(place, name) for name in names if name.lower().endswith(tuple(suffixes))]
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        message = f"no {' or '.join(suffixes)} files in this folder"
        hint = "name a folder that holds some, or a file"
        raise data_error("no-text-files", message, folder, hint)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _of_pattern(pattern: Path) -> dict[str, Path]:
    found = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    paths = [path for path in found if path.is_file()]
    if not paths:
        raise data_error("no-such-path", "no file matches this pattern", pattern, "check it")
    base = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(base).as_posix(): path for path in paths}


def _refuse(error: OSError) -> None:
    raise cannot_read(Path(error.filename or "?"), error) from error
