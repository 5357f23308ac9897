"""``rinsc data add pictures``: sets of pictures out of their packages, with captions.

A set becomes a folder of pictures with `TRAINING`, the lines of what is trained on, and `UNSEEN`,
those of the concepts that never are.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rinsc.data.corpora import RECORD, Added, added_folder, files_sha256
from rinsc.data.names import cannot_read, damaged, data_error
from rinsc.data.packages import files_of, opened_package
from rinsc.data.pairs.captions import canonical
from rinsc.data.pairs.sets import (
    READERS,
    TRAINING,
    UNSEEN,
    Described,
    PictureSet,
    names_unseen,
    row_of,
    unseen_concepts,
)
from rinsc.errors import plural
from rinsc.extras import require
from rinsc.progress import Progress, ShownProgress
from rinsc.storage.folders import folder_aside, one_process

DRAWN_SIDE = 320  # of a drawing, before it is cut to what is on it
KEPT_SIDE = 224
_LINK = re.compile(r"""(\bhref\s*=\s*)("(?!#|data:)[^"]*"|'(?!#|data:)[^']*')""")


@dataclass(frozen=True)
class AddedSet:
    """A set as it lies in the data folder: ``files`` and ``bytes`` are of the package."""

    name: str
    version: str
    files: int
    bytes: int
    sha256: str
    pictures: int
    unseen: int
    left_out: int


def add_pictures(entry: PictureSet, progress: Progress | None = None) -> AddedSet:
    """Put the pictures of a set into the data folder, in the place of what was there.

    Raises DataError where the package cannot be had, is of a version whose files are not known, or
    has other files; OutputError where the folder cannot be written. Nothing is changed then.
    """
    require("PIL", "resvg_py")
    progress = progress or ShownProgress()
    target = added_folder(entry.name)
    with one_process(target), opened_package(entry) as (root, version):
        files = list(files_of(entry, root))
        found = _compared(entry, version, dict(files))
        with folder_aside(target) as part:
            added = _write(entry, found, files, part, progress)
            (part / RECORD).write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
    return added


def _compared(entry: PictureSet, version: str, files: dict[str, Path]) -> Added:
    """What the files of a package are; raises DataError where they are not the known ones."""
    if not files:
        message = f"version {version} of {entry.package} holds no such files"
        raise data_error("no-pictures", message, entry.name, f"known versions: {entry.versions}")
    try:
        sha256, count, size = files_sha256(files)
    except OSError as error:
        raise cannot_read(Path(error.filename or entry.package), error) from error
    known = entry.sha256.get(version)
    if known is None:
        message = f"no sha256 is known of '{entry.name}' in version {version}"
        hint = f"known: {entry.versions}; or name the folder of its pictures with pairs:PATH"
        raise data_error("unknown-version", message, entry.package, hint)
    if known != sha256:
        message = f"the pictures have the sha256 {sha256}, not {known}"
        hint = "the package was changed, or is not whole; install it anew"
        raise data_error("other-pictures", message, f"{entry.package} {version}", hint)
    return Added(version, count, size, sha256)


def _write(
    entry: PictureSet,
    found: Added,
    files: Sequence[tuple[str, Path]],
    part: Path,
    progress: Progress,
) -> AddedSet:
    try:
        described = list(READERS[entry.reader](files))
    except (ValueError, KeyError, StopIteration) as error:
        raise damaged(Path(entry.package), error) from error
    (part / "pictures").mkdir()
    counts = {"training": 0, "unseen": 0, "left out": 0}
    with (
        (part / TRAINING).open("w", encoding="utf-8") as training,
        (part / UNSEEN).open("w", encoding="utf-8") as unseen,
        progress.task(f"drawing {entry.name}") as observe,
    ):
        for number, one in enumerate(described, start=1):
            kind = _kind(one)
            data = None if kind == "left out" else _picture(one.path)
            kind = "left out" if data is None else kind
            counts[kind] += 1
            if data is not None:
                suffix = ".png" if one.path.suffix == ".svg" else one.path.suffix
                name = f"pictures/{number:05}{suffix}"
                (part / name).write_bytes(data)
                (training if kind == "training" else unseen).write(row_of(one, name))
            done = f"{number:,} of {plural(len(described), 'picture', f'{len(described):,}')}"
            observe(number / len(described), done)
    return AddedSet(
        entry.name,
        **asdict(found),
        pictures=counts["training"],
        unseen=counts["unseen"],
        left_out=counts["left out"],
    )


def _kind(described: Described) -> str:
    """Concepts that are never trained on stand apart; what else names one is left out."""
    if not names_unseen(described.title):
        return "training"
    is_concept = canonical(described.title) in unseen_concepts()
    return "unseen" if is_concept and described.group and not described.variant else "left out"


def _picture(path: Path) -> bytes | None:
    """The file of a picture as it is, and a drawing as PNG; None for one that shows nothing."""
    try:
        return drawn(path.read_bytes()) if path.suffix == ".svg" else path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error


def drawn(svg: bytes) -> bytes | None:
    """A drawing as PNG: what is on it, in the middle of a square without a ground.

    None for one that cannot be drawn, or shows nothing.
    """
    import resvg_py
    from PIL import Image

    try:
        # Nothing beside the file is read: no fonts of the system, and no pictures it names.
        text = _LINK.sub(r'\1""', svg.decode("utf-8", "replace"))
        data = resvg_py.svg_to_bytes(
            svg_string=text, width=DRAWN_SIDE, dpi=96.0, skip_system_fonts=True
        )
    except ValueError:
        return None
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        whole = image.convert("RGBA")
    box = whole.getbbox()
    if box is None:
        return None
    inner = whole.crop(box)
    side = max(inner.size)
    square = Image.new("RGBA", (side, side))
    square.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    file = io.BytesIO()
    small = square.resize((KEPT_SIDE, KEPT_SIDE), Image.Resampling.BICUBIC)
    small.save(file, "PNG", compress_level=1)
    return file.getvalue()
