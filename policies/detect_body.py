"""What a body says, wherever it stands: the strings, keys and whole numbers in which data is looked for, in JSON within
strings too. Pure; linear in the length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

MEDIA = "media"
"""What cannot be searched: images, sound, files, and prompts given as token ids."""

NESTED = 8
"""JSON in a string in JSON, so deep is looked into; below, escapes are still read as what they stand for."""

MEDIA_TYPES = frozenset({"image_url", "input_audio", "file", "input_image", "input_file", "video_url", "audio_url"})
LITERAL = re.compile(r'(?P<literal>"(?P<body>(?:[^"\\]++|\\.)*+)(?:"|(?P<cut>\\?\Z)))(?P<colon>\s*+:)?', re.DOTALL)
"""A string of JSON, and the colon that makes it a key. One that was cut off goes on to the end: were it no string, each
quotation mark in it would be tried as the beginning of one."""

NAME = "\0"
"""What a name in a body stands under: no name of its own."""

CUT_ESCAPE = 12
"""More characters than two halves of a character take as escapes (`\\ud83d\\udd1`), the second cut off."""

_DATA_URL = re.compile(r"data:[\w.+-]*+(?:/[\w.+-]*+)?(?:;(?!base64,)[\w.+=-]*+)*+;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]{256,}+={0,2}\s*")


class Said(NamedTuple):
    """A string or whole number of a body, and the key that it stands under, if it does."""

    text: str
    key: str = ""


def said_in(raw: Any, opaque: set[str], media: bool = False) -> Iterator[Said]:
    """Every string and whole number of a body, or of a part of it that is in a picture, sound or a file (`media`).

    Adds `media` to `opaque` where something cannot be searched.
    """
    waiting: list[tuple[Any, str, bool]] = [(raw, "", media)]
    while waiting:
        value, key, media = waiting.pop()
        if isinstance(value, str):
            if value.startswith("data:") and (head := _DATA_URL.match(value)):
                opaque.add(MEDIA)
                value, media = value[head.end() :], True
            if not media or len(value) < 256 or not _BASE64.fullmatch(value):
                yield Said(value, key)
        elif isinstance(value, dict):
            if is_media(value):
                opaque.add(MEDIA)
                media = True
            for name, item in value.items():
                yield Said(name, NAME)
                waiting.append((item, name, media))
        elif isinstance(value, list | tuple):
            if key == "prompt" and any(not isinstance(item, str) for item in value):
                opaque.add(MEDIA)
            waiting.extend((item, key, media) for item in value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10_000_000:
            yield from _whole(abs(value), key)
        elif value is not None and not isinstance(value, bool | int | float):
            raise TypeError(f"no JSON: {type(value).__name__}")  # what is not looked into must not pass for clean


def is_media(value: Mapping[str, Any]) -> bool:
    """Whether it is a part of a message that holds a picture, sound or a file."""
    kind = value.get("type")  # in the schema of a tool it may be a list of types
    return isinstance(kind, str) and kind in MEDIA_TYPES


def _whole(value: float, key: str) -> Iterator[Said]:
    if value == value // 1:
        yield Said(str(int(value)), key)


def is_json(text: str) -> bool:
    """Whether it might be JSON: tool arguments, a tool's result."""
    return text.lstrip()[:1] in ("{", "[", '"')


def literals(text: str, depth: int = 0) -> Iterator[Said]:
    """What the string literals with escapes stand for in a text that looks like JSON, and the literals in those."""
    if depth == NESTED or "\\" not in text or not is_json(text):
        return
    key = ""
    for match in LITERAL.finditer(text):
        escaped = "\\" in match["body"]
        inner = _said_by(match) if escaped else match["body"]
        if inner is None:
            continue
        if escaped:
            yield Said(inner, "" if match["colon"] else key)
            yield from literals(inner, depth + 1)
        key = inner if match["colon"] else ""


def _said_by(match: re.Match[str]) -> str | None:
    """The text of a literal that `LITERAL` found; of one that was cut off, as much as there is."""
    if match["cut"] is None:
        return decoded(match["literal"])
    body = match["body"]
    ends = range(len(body), max(0, len(body) - CUT_ESCAPE), -1)
    return next((text for end in ends if (text := decoded(f'"{body[:end]}"')) is not None), None)


def decoded(literal: str) -> str | None:
    """The text of a JSON string literal; None if it is none."""
    try:
        return str(orjson.loads(literal))
    except orjson.JSONDecodeError:
        return None
