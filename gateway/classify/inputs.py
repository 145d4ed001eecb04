"""From what a client sent to what a classifier sees."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

from backends.errors import InvalidRequest
from backends.onnx.manifest import Manifest
from backends.types import Features, Image, Prompt
from gateway.schemas.classify import Given

Input = str | Image | Features | Mapping[str, float]
"""One input; features by name have their order only once the model is known."""

DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))
TAKES = {"text": "texts", "embedding": "texts", "image": "images", "features": "feature vectors"}


def inputs_of(given: str | Given | Sequence[str] | Sequence[Given]) -> tuple[Input, ...]:
    """The shapes as one.

    Raises:
        InvalidRequest: an image that is no data URL.
    """
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Given):
        return (_input(given, "input"),)
    several: Sequence[str | Given] = given
    return tuple(_input(one, f"input[{index}]") for index, one in enumerate(several))


def _input(given: str | Given, place: str) -> Input:
    if isinstance(given, str):
        return given
    if given.image is not None:
        return Image(_decoded(given.image, f"{place}.image"))
    assert given.features is not None
    return given.features if isinstance(given.features, dict) else Features(tuple(map(float, given.features)))


def _decoded(url: str, place: str) -> bytes:
    head = DATA_URL.match(url)
    try:
        data = b64decode(url[head.end() :], validate=True) if head else b""
    except binascii.Error:
        data = b""
    if not data:
        wanted = "expected an image as `data:image/png;base64,…`"
        raise InvalidRequest(f"`{place}`: {wanted}.", param=place, code="invalid_image")
    return data


def prompts_for(inputs: Sequence[Input], manifest: Manifest) -> tuple[Prompt, ...]:
    """The inputs as that model takes them.

    Raises:
        InvalidRequest: it takes something else, or another number of features, or others.
    """
    several = len(inputs) > 1
    return tuple(_prompt(one, manifest, f"input[{i}]" if several else "input") for i, one in enumerate(inputs))


def _prompt(given: Input, manifest: Manifest, place: str) -> Prompt:
    wanted = str if manifest.input in ("text", "embedding") else Image if manifest.input == "image" else None
    if (wanted is None and isinstance(given, str | Image)) or (wanted is not None and not isinstance(given, wanted)):
        kind = "a text" if isinstance(given, str) else "an image" if isinstance(given, Image) else "a feature vector"
        wrong = f"the model {manifest.name} takes {TAKES[manifest.input]}, got {kind}"
        raise InvalidRequest(f"`{place}`: {wrong}.", param=place, code="wrong_input")
    if isinstance(given, Mapping):
        given = _ordered(given, manifest, f"{place}.features")
    if isinstance(given, Features) and len(given.values) != len(manifest.features):
        raise InvalidRequest(
            f"`{place}.features`: the model {manifest.name} takes {len(manifest.features)} numbers "
            f"({', '.join(manifest.features[:8])}{', …' if len(manifest.features) > 8 else ''}), "
            f"got {len(given.values)}.",
            param=f"{place}.features",
            code="invalid_features",
        )
    return given


def _ordered(given: Mapping[str, float], manifest: Manifest, place: str) -> Features:
    missing = [name for name in manifest.features if name not in given]
    unknown = [name for name in given if name not in manifest.features]
    if missing or unknown:
        wrong = f"{missing[0]!r} is missing" if missing else f"{unknown[0][:100]!r} is unknown"
        raise InvalidRequest(
            f"`{place}`: of the features of {manifest.name}, {wrong}.", param=place, code="invalid_features"
        )
    return Features(tuple(float(given[name]) for name in manifest.features))


def data_url(image: Image) -> str:
    """As language models that can see want it."""
    kind = next((kind for signature, kind in SIGNATURES if image.data.startswith(signature)), "image/png")
    return f"data:{kind};base64,{b64encode(image.data).decode()}"
