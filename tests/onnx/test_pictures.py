"""Pictures: upright, bounded, and refused with the reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from backends.errors import InvalidRequest
from backends.onnx import pictures
from backends.onnx.manifest import ImageInput

WANTED = ImageInput(size=8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def refusal(data: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        pictures.tensor(data, WANTED)
    return caught.value


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_a_picture_is_scaled_and_normalised(kind: str) -> None:
    wanted = ImageInput(size=8, mean=(127, 127, 127), scale=(128, 128, 128))
    made = pictures.tensor(saved(Image.new("RGB", (40, 20), (255, 127, 0)), kind), wanted)
    assert (made.shape, made.dtype) == ((3, 8, 8), np.float32)
    assert made.mean(axis=(1, 2)).tolist() == pytest.approx([1, 0, -0.99], abs=0.03)


def test_only_the_middle_counts() -> None:
    picture = Image.new("RGB", (100, 40), "red")
    picture.paste("blue", (35, 5, 65, 35))
    whole = pictures.tensor(saved(picture), WANTED)
    middle = pictures.tensor(saved(picture), ImageInput(size=8, crop=0.7))
    assert whole[0].max() > 0.9
    assert (middle[0].max(), middle[2].min()) == (0, 1)


def test_a_picture_taken_sideways_is_turned() -> None:
    picture = Image.new("RGB", (40, 40), "black")
    picture.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    made = pictures.tensor(saved(picture, "JPEG", exif=exif), WANTED)
    assert made[:, :3].max() < 0.1
    assert made[:, 5:].min() > 0.9


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert pictures.tensor(saved(Image.new(mode, (9, 9)), kind), WANTED).shape == (3, 8, 8)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"<svg/>", b"%PDF-1.4", saved(Image.new("RGB", (9, 9)))[:45]])
def test_what_is_no_picture(data: bytes) -> None:
    error = refusal(data)
    assert (error.code, error.param) == ("invalid_image", "input")


def test_a_formats_name_is_not_enough() -> None:
    """Formats that need other programs, or that nobody asked for, are not tried."""
    assert refusal(saved(Image.new("RGB", (9, 9)), "PPM")).code == "invalid_image"


def png(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_not_lit(size: tuple[int, int]) -> None:
    """Decoded, the second would fill 10 GB."""
    assert refusal(png(*size)).code == "image_too_large"


def test_the_pictures_of_a_request_are_bounded_together() -> None:
    data = saved(Image.new("1", (5000, 5000)))
    allowance = pictures.Allowance(30_000_000)
    assert pictures.tensor(data, WANTED, allowance).shape == (3, 8, 8)
    with pytest.raises(InvalidRequest, match="in all") as caught:
        pictures.tensor(data, WANTED, allowance)
    assert caught.value.code == "image_too_large"


def test_a_small_file_of_many_pixels_is_not_decoded() -> None:
    data = saved(Image.new("1", (7000, 7000)))
    assert len(data) < 20_000
    assert refusal(data).code == "image_too_large"


@given(st.binary(max_size=64), st.integers(0, 200))
def test_a_broken_picture_is_refused_or_read(noise: bytes, at: int) -> None:
    whole = saved(Image.new("RGB", (20, 20), "green"), "JPEG")
    try:
        made = pictures.tensor(whole[:at] + noise + whole[at + len(noise) :], WANTED)
    except InvalidRequest:
        return
    assert np.isfinite(made).all()
