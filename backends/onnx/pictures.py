"""From a picture's file to the tensor that a classifier sees. Untrusted input: bounded before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from backends.errors import InvalidRequest
from backends.onnx.manifest import ImageInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 25_000_000
"""Phones take pictures of 12 or 24 million; decoded, three bytes each, for a moment twice."""
MOST_TOGETHER = 100_000_000
"""Of all pictures of one request: about a second of decoding."""
LEAST_SIDE = 2


@dataclass(slots=True)
class Allowance:
    """Pixels that a request's pictures may still have."""

    left: int = MOST_TOGETHER

    def take(self, pixels: int) -> None:
        """Raises `InvalidRequest` once there are too many."""
        self.left -= pixels
        if self.left < 0:
            raise InvalidRequest(
                f"The pictures up to this one have more than {MOST_TOGETHER:,} pixels in all, the most that one "
                "request may have. Send fewer at once, or smaller ones.",
                param="input",
                code="image_too_large",
            )


def tensor(data: bytes, wanted: ImageInput, allowance: Allowance | None = None) -> npt.NDArray[np.float32]:
    """[3, size, size] of float32.

    Args:
        allowance: what is left of the request's pixels; this picture's are taken from it before it is decoded.

    Raises:
        InvalidRequest: no picture, a broken one, or one with too many pixels.
    """
    import numpy as np

    picture = _square(_decode(data, wanted.size, allowance or Allowance()), wanted)
    values: npt.NDArray[np.float32] = np.array(picture, np.float32)
    values -= np.array(wanted.mean, np.float32)
    values /= np.array(wanted.scale, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _decode(data: bytes, size: int, allowance: Allowance) -> Any:
    """Upright and in RGB; of an animation the first picture."""
    from PIL import Image, ImageOps

    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise _too_large(f"{width} x {height} pixels")
        if min(width, height) < LEAST_SIDE:
            raise InvalidRequest(f"The picture has {width} x {height} pixels.", param="input", code="invalid_image")
        allowance.take(width * height)
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
