"""One picture as numbers: what each kind of file means, by a reckoning of its own."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rinsc.data.pairs.decoding import BadPictureError, decoded, decoding
from tests.data.pairs_made import encoded, noise

SIDE = 16


def half(top: tuple[int, ...], bottom: tuple[int, ...], mode: str) -> Image.Image:
    image = Image.new(mode, (40, 40), top if len(top) > 1 else top[0])
    image.paste(bottom if len(bottom) > 1 else bottom[0], (0, 20, 40, 40))
    return image


def corners(data: bytes) -> list[tuple[int, ...]]:
    """The colours at the middle of the top and of the bottom edge."""
    pixels = decoded(data, SIDE)
    assert pixels.shape == (3, SIDE, SIDE)
    assert pixels.dtype == np.uint8
    return [tuple(int(c) for c in pixels[:, row, SIDE // 2]) for row in (0, -1)]


RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (half(RED, BLUE, "RGB"), "PNG", [RED, BLUE]),
        (half(RED, BLUE, "RGB"), "BMP", [RED, BLUE]),
        (half(RED, BLUE, "RGB"), "TIFF", [RED, BLUE]),
        (half(RED, BLUE, "RGB"), "GIF", [RED, BLUE]),
        (half(RED, BLUE, "RGB").convert("P"), "PNG", [RED, BLUE]),
        (half((0,), (128,), "L"), "PNG", [(0, 0, 0), GREY]),
        (half((0,), (1,), "1"), "PNG", [(0, 0, 0), (255, 255, 255)]),
        (half((255, 0, 0, 255), (255, 0, 0, 0), "RGBA"), "PNG", [RED, (255, 255, 255)]),
        (half((255, 0, 0, 255), (0, 0, 255, 0), "RGBA"), "WEBP", [RED, (255, 255, 255)]),
        (half((0, 255), (0, 0), "LA"), "PNG", [(0, 0, 0), (255, 255, 255)]),
        (half((0, 0, 0, 128), (0, 0, 0, 0), "RGBA"), "PNG", [(127,) * 3, (255,) * 3]),
        (half((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "TIFF", [RED, BLUE]),
    ],
)
def test_colours(image: Image.Image, form: str, expected: list[tuple[int, ...]]) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert corners(encoded(image, form, **options)) == expected


def test_a_transparent_palette_is_on_white() -> None:
    image = half(RED, BLUE, "RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    for form in ("PNG", "GIF"):
        data = encoded(image, form, transparency=int(np.asarray(image)[-1, 0]))
        assert corners(data) == [RED, (255, 255, 255)]


def test_16_bit_grey_is_scaled() -> None:
    numbers = np.repeat(np.array([[0], [32896]], dtype=np.uint16), 20, axis=0).repeat(40, axis=1)
    for form in ("PNG", "TIFF"):
        assert corners(encoded(Image.fromarray(numbers), form)) == [(0, 0, 0), GREY]
    as_float = encoded(Image.fromarray(numbers.astype(np.float32) / 65535), "TIFF")
    assert corners(as_float) == [(0, 0, 0), GREY]
    whole = encoded(Image.fromarray(numbers.astype(np.int32)), "TIFF")
    assert corners(whole) == [(0, 0, 0), GREY]


def test_a_float_that_is_no_number() -> None:
    numbers = np.full((9, 9), np.nan, dtype=np.float32)
    with pytest.raises(BadPictureError, match="not finite"):
        decoded(encoded(Image.fromarray(numbers), "TIFF"), SIDE)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(form: str) -> None:
    frames = [half(RED, RED, "RGB"), half(BLUE, BLUE, "RGB")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert corners(data) == [RED, RED]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_says(orientation: int) -> None:
    upright = half((250, 5, 5), (5, 5, 250), "RGB")
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # undone by a turn of 270 degrees
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    top, bottom = corners(encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0))
    assert top[0] > 240
    assert bottom[2] > 240


def test_damaged_notes_of_a_camera_are_no_damage() -> None:
    data = encoded(half(RED, BLUE, "RGB"), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    with decoding():
        assert decoded(data, SIDE).shape == (3, SIDE, SIDE)


def test_a_picture_is_squashed_as_the_processor_of_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    name = "SiglipImageProcessorPil"
    processor_class = getattr(transformers, name, transformers.SiglipImageProcessor)
    processor = processor_class(size={"height": SIDE, "width": SIDE})
    image = Image.fromarray(noise(3, 40, 90))
    theirs = processor(images=image, return_tensors="np")["pixel_values"][0]
    ours = decoded(encoded(image), SIDE) / 127.5 - 1
    assert np.abs(ours - theirs).max() <= 1.01 / 127.5  # both round to whole numbers


def test_pictures_of_packages() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    sklearn = pytest.importorskip("sklearn.datasets")
    folder = Path(matplotlib.get_data_path())
    files = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(files) > 20
    for path in files:
        assert decoded(path.read_bytes(), SIDE).std() > 0
    photo = sklearn.load_sample_image("china.jpg")
    (path,) = Path(sklearn.__file__).parent.glob("images/china.jpg")
    ours = decoded(path.read_bytes(), SIDE).astype(float)
    height, width = (size // SIDE * SIDE for size in photo.shape[:2])
    blocks = photo[:height, :width].reshape(SIDE, height // SIDE, SIDE, width // SIDE, 3)
    assert np.abs(ours - blocks.mean((1, 3)).transpose(2, 0, 1)).mean() < 12


def test_no_warning_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bomb = encoded(Image.new("1", (10_000, 10_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with decoding(), pytest.raises(BadPictureError, match="100 million pixels"):
            decoded(bomb, SIDE)


def test_every_damage_is_one_error() -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(noise(1, 60, 60))
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encoded(photo, form)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 5):
                data[place] = rng.integers(0, 256)
            cut = bytes(data[: rng.integers(1, len(data))]) if rng.random() < 0.5 else bytes(data)
            with decoding(), suppress(BadPictureError):
                assert decoded(cut, SIDE).shape == (3, SIDE, SIDE)
