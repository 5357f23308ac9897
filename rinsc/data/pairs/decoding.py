"""One picture of a file as numbers: a square (3, side, side) of whole numbers from 0 to 255.

    a photo of 640 x 480, turned by its camera   turned back, then squashed to the square
    a drawing with a transparent ground          on white
    an animation                                 its first frame
    grey, 16 bit, palette, CMYK                  as RGB of 8 bit

Pictures are squashed, not cropped, by bicubic resizing with antialias, as SigLIP's processors do.
Whatever is wrong with a picture is a `BadPictureError`: one line, never a crash.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.extras import require

if TYPE_CHECKING:
    from PIL import Image

# What is read at all. Other readers of the library start programs (EPS), or fetch files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm", ".avif", ".jp2", ".ico"),
)
MAX_PIXELS = 89_478_485  # of a picture; where the library begins to warn of bombs
MAX_FILE_BYTES = 1 << 28  # of a picture before it is decoded
WHITE = (255, 255, 255, 255)

Pixels = npt.NDArray[np.uint8]


class BadPictureError(Exception):
    """Why one picture, or its caption, cannot be used; its text is the line that a user reads."""


def decoded(data: bytes, side: int) -> Pixels:
    """The picture of a file as (3, ``side``, ``side``); raises `BadPictureError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _require_size(*image.size)
            square = _as_rgb(_turned(image)).resize((side, side), Image.Resampling.BICUBIC)
            pixels: Pixels = np.asarray(square).transpose(2, 0, 1)
            return pixels
    except BadPictureError:
        raise
    except UnidentifiedImageError:
        raise BadPictureError("it is no picture of a known format") from None
    except Image.DecompressionBombError:
        raise BadPictureError(_too_large(None)) from None
    except Exception as error:  # a decoder may fail in any way on what is damaged
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise BadPictureError(f"the picture is damaged: {reason}") from None


@contextmanager
def decoding() -> Iterator[None]:
    """In the body the library tells nothing by warnings: what is too large is refused here.

    It must be entered before threads decode, as warnings are of all threads. Raises
    MissingExtraError where the library is not installed.
    """
    require("PIL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPictureError(_too_large(width * height))
    if width * height <= 1:
        raise BadPictureError("it has a single pixel, which shows nothing")


def _too_large(pixels: int | None) -> str:
    size = "too many" if pixels is None else f"{pixels / 1e6:.0f} million"
    return f"it has {size} pixels; at most {MAX_PIXELS / 1e6:.0f} million are decoded"


def _turned(image: Image.Image) -> Image.Image:
    """As its camera says that it is to be seen; as it is where that cannot be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, ZeroDivisionError):
        image.load()  # what is damaged for good is told from here
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode[0] in "IF":
        return Image.fromarray(_as_bytes(np.asarray(image), image.mode), "L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        # Two modes have no way to RGBA but through the colours that they stand for.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        drawn = (image.convert(plain) if plain else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", drawn.size, WHITE), drawn).convert("RGB")
    return image.convert("RGB")


def _as_bytes(numbers: npt.NDArray[Any], mode: str) -> npt.NDArray[np.uint8]:
    """Grey of 16 bit, or whole numbers or floats that mean it, as grey of 8 bit."""
    values: npt.NDArray[np.floating[Any]] = numbers.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadPictureError("it has numbers that are not finite")
    highest = float(values.max())
    if mode == "F" and highest <= 1:
        values = values * 255
    elif mode.startswith("I;16") or highest > 255:
        values = values / 257
    return values.round().clip(0, 255).astype(np.uint8)
