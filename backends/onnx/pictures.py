"""From a picture's file to the tensor that a classifier sees. Untrusted input: bounded before it is decoded."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from backends.errors import InvalidRequest
from backends.onnx.manifest import ImageInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 50_000_000
"""A phone's camera has 12 to 50 million; decoded, three bytes each."""
LEAST_SIDE = 2


def tensor(data: bytes, wanted: ImageInput) -> npt.NDArray[np.float32]:
    """[3, size, size] of float32.

    Raises:
        InvalidRequest: no picture, a broken one, or one with too many pixels.
    """
    import numpy as np

    picture = _square(_decode(data, wanted.size), wanted)
    values: npt.NDArray[np.float32] = np.array(picture, np.float32)
    values -= np.array(wanted.mean, np.float32)
    values /= np.array(wanted.scale, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _decode(data: bytes, size: int) -> Any:
    """Upright and in RGB; of an animation the first picture."""
    from PIL import Image, ImageOps

    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise _too_large(f"{width} x {height} pixels")
        if min(width, height) < LEAST_SIDE:
            raise InvalidRequest(f"The picture has {width} x {height} pixels.", param="input", code="invalid_image")
        if picture.format == "JPEG":
            picture.draft("RGB", (2 * size, 2 * size))  # decodes at a fraction of its size, many times as fast
        upright = ImageOps.exif_transpose(picture)
        return upright.convert("RGB")
    except InvalidRequest:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("far more pixels") from None
    except Exception as error:  # noqa: BLE001 - its decoders raise whatever they like at broken files
        raise InvalidRequest(
            f"That is not a picture that can be read ({', '.join(FORMATS)}): {type(error).__name__}.",
            param="input",
            code="invalid_image",
        ) from None


def _too_large(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The picture has {what}; at most {MOST_PIXELS:,} are taken.", param="input", code="image_too_large"
    )


def _square(picture: Any, wanted: ImageInput) -> Any:
    """The shorter side scaled to `size / crop`, the middle cut out."""
    from PIL import Image

    width, height = picture.size
    side = min(width, height) * wanted.crop
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((wanted.size, wanted.size), Image.Resampling.BICUBIC, box=box)
