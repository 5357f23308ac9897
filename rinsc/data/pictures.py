"""Labelled pictures: digits that a package brings along, or arrays in a file of numpy."""

from __future__ import annotations

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

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures (count, height, width, channels) with numbers from 0 to 1, and what they
    were."""

    name: str
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def is_held_out(self) -> npt.NDArray[np.bool_]:
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


DATA: Mapping[str, Callable[[str], Pictures]] = {"digits": load_digits, "npz": load_file}


def load_pictures(name: str) -> Pictures:
    """The pictures that ``--data`` names; raises DataError."""
    load = DATA.get(name.partition(":")[0])
    if load is None:
        message = f"'{name:.60}' is no set of labelled pictures"
        hint = did_you_mean(name, ("digits", "npz:PATH"))
        raise DataError("unknown-corpus", message, place=name, hint=hint)
    pictures = load(name)
    if pictures.is_held_out.sum() < 1 or (~pictures.is_held_out).sum() < 1:
        message = f"{plural(len(pictures.labels), 'picture')} are too few to hold some out"
        raise DataError("too-few-pictures", message, place=name, hint="give at least five")
    return pictures
