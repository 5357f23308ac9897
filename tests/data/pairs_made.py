"""Pictures and captions that the tests make: small, plain, and wrong in known ways."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rinsc.data.pairs import PicturePairs, open_pairs
from rinsc.progress import SilentProgress

SIDE = 8


def noise(number: int, height: int = 11, width: int = 17) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(number: int, form: str = "PNG") -> bytes:
    return encoded(Image.fromarray(noise(number)), form)


def folder_of_pairs(folder: Path, count: int = 30) -> Path:
    """``0.png`` … with a caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / f"{number}.txt").write_text(f"Picture, the {number}th!")
    return folder


def tar_of(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def opened(where: Path | str, side: int = SIDE) -> tuple[PicturePairs, str]:
    """The pairs, and the notes."""
    progress = SilentProgress()
    pairs = open_pairs(f"pairs:{where}", side, progress=progress)
    return pairs, "\n".join(progress.notes)


def by_name(pairs: PicturePairs) -> dict[str, tuple[str, ...]]:
    return {pairs.picture_name(i): pairs.captions(i) for i in range(len(pairs))}


def squashed(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = Image.fromarray(noise(number)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)
