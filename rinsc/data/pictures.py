"""Labelled pictures: digits and garments of packages, or arrays in a file of numpy."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError, did_you_mean, plural
from rinsc.extras import require

HELD_OUT_EVERY = 5  # pictures
FASHION_PACKAGE = "dataset-fashion-mnist"  # of Debian
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_FILES = (
    *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures (count, height, width, channels) with numbers from 0 to 1, and what they
    were. The last ``tests`` of them are held out; else every fifth is."""

    name: str
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    tests: int | None = None

    @property
    def is_held_out(self) -> npt.NDArray[np.bool_]:
        if self.tests is not None:
            is_last: npt.NDArray[np.bool_] = np.arange(len(self.labels))[::-1] < self.tests
            return is_last
        of_each: npt.NDArray[np.bool_] = (
            np.arange(len(self.labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        )
        return of_each

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def record(self) -> Mapping[str, object]:
        sides = (("train", ~self.is_held_out), ("held_out", self.is_held_out))
        shape = list(self.images.shape[1:])
        return {
            "corpus": {
                "name": self.name,
                "shape": shape,
                "classes": self.classes,
                **{name: self._part_record(chosen) for name, chosen in sides},
            }
        }

    def _part_record(self, chosen: npt.NDArray[np.bool_]) -> dict[str, object]:
        data = self.images[chosen].tobytes() + self.labels[chosen].tobytes()
        return {"pictures": int(chosen.sum()), "sha256": sha256(data).hexdigest()}


def load_digits(name: str) -> Pictures:
    """The 1,797 digits of 8 x 8 that scikit-learn brings along."""
    require("sklearn")
    from sklearn.datasets import load_digits as load

    digits = load()
    images = (digits.images[..., None] / 16).astype(np.float32)
    return Pictures(name, images, np.asarray(digits.target, dtype=np.int64))


def load_file(name: str) -> Pictures:
    """``npz:PATH``: arrays ``images`` (count, height, width) or with channels behind, whole numbers
    from 0 to 255 or floats, and ``labels`` (count,)."""
    path = Path(name.partition(":")[2])
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = np.asarray(file["images"]), np.asarray(file["labels"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        hint = "write it with numpy.savez(path, images=..., labels=...)"
        message = f"cannot read images and labels: {str(error).splitlines()[0]:.100}"
        raise DataError("bad-pictures", message, place=str(path), hint=hint) from None
    is_whole = np.issubdtype(images.dtype, np.integer)
    fits = images.ndim in (3, 4) and images.size > 0 and labels.shape == images.shape[:1]
    fits = fits and np.issubdtype(labels.dtype, np.integer) and int(labels.min()) >= 0
    if not fits or not (is_whole or np.issubdtype(images.dtype, np.floating)):
        message = "images must be (count, height, width) or with channels, labels (count,) from 0"
        hint = "write it with numpy.savez(path, images=..., labels=...)"
        raise DataError("bad-pictures", message, place=str(path), hint=hint)
    scaled = (images / (255 if is_whole else 1)).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise DataError("bad-pictures", "images must be finite", place=str(path), hint="mend them")
    with_channels = scaled if scaled.ndim == 4 else scaled[..., None]
    return Pictures(name, with_channels, labels.astype(np.int64))


def load_fashion(name: str) -> Pictures:
    """The 70,000 garments of Fashion-MNIST, 28 x 28, as a Debian package carries them; its 10,000
    pictures for tests are held out."""
    train, train_labels, test, test_labels = (_of_idx(FASHION / file) for file in FASHION_FILES)
    fits = train.shape[1:] == test.shape[1:] == (28, 28)
    if not fits or (len(train), len(test)) != (len(train_labels), len(test_labels)):
        message = "the files do not fit together"
        raise DataError("bad-pictures", message, place=str(FASHION), hint="install them anew")
    images = np.concatenate([train, test])[..., None].astype(np.float32)
    images /= 255
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return Pictures(name, images, labels, len(test))


def _of_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array in a file of MNIST's form: its type, its number of axes, its sizes, its numbers."""
    try:
        data = gzip.decompress(path.read_bytes())
        axes = data[3]
        sizes = [int(size) for size in np.frombuffer(data, ">u4", axes, 4)]
        return np.frombuffer(data, np.uint8, math.prod(sizes), 4 + 4 * axes).reshape(sizes)
    except FileNotFoundError:
        hint = f"sudo apt-get install --no-install-recommends {FASHION_PACKAGE}"
        message = "Fashion-MNIST comes from a Debian package, which is not installed"
        raise DataError("package-not-installed", message, place=str(path), hint=hint) from None
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        message = f"the file is damaged: {str(error).partition(chr(10))[0]:.100}"
        raise DataError("damaged-file", message, place=str(path), hint="install it anew") from None


DATA: Mapping[str, Callable[[str], Pictures]] = {
    "digits": load_digits,
    "fashion": load_fashion,
    "npz": load_file,
}


def load_pictures(name: str) -> Pictures:
    """The pictures that ``--data`` names; raises DataError."""
    load = DATA.get(name.partition(":")[0])
    if load is None:
        message = f"'{name:.60}' is no set of labelled pictures"
        hint = did_you_mean(name, ("digits", "fashion", "npz:PATH"))
        raise DataError("unknown-corpus", message, place=name, hint=hint)
    pictures = load(name)
    if pictures.is_held_out.sum() < 1 or (~pictures.is_held_out).sum() < 1:
        message = f"{plural(len(pictures.labels), 'picture')} are too few to hold some out"
        raise DataError("too-few-pictures", message, place=name, hint="give at least five")
    return pictures
