"""Puts back what `policies/redact.py` took out, in whatever pieces the answer comes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from backends.types import Chunk
from policies.redact import DEEPEST, PLACEHOLDER

STREAMED = frozenset(
    "content refusal reasoning reasoning_content arguments text transcript thinking summary input".split()
)
"""Fields of a delta that come in pieces, to be put together by the client."""

FIXED = frozenset({"role", "id", "type", "index", "finish_reason"})
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Originals:
    """What the placeholders of one request stand for. Capitals and small letters are the same in a placeholder.

    Attributes:
        values: by placeholder in capitals.
        beginnings: every proper beginning of a placeholder, in capitals.
    """

    values: Mapping[str, str]
    beginnings: frozenset[str]

    @classmethod
    def of(cls, originals: Mapping[str, str]) -> Originals:
        """From `Redacted.originals`."""
        values = {name.upper(): value for name, value in originals.items()}
        return cls(values, frozenset(name[:end] for name in values for end in range(1, len(name))))


class Restorer:
    """One text of an answer, fed in pieces.

    Args:
        json_escaped: the text is JSON: what is put back is escaped as within a string literal.
    """

    __slots__ = ("_escaped", "_held", "_originals")

    def __init__(self, originals: Mapping[str, str] | Originals, *, json_escaped: bool = False) -> None:
        self._originals = originals if isinstance(originals, Originals) else Originals.of(originals)
        self._escaped = json_escaped
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be passed on now. A possible beginning of a placeholder is kept until more is known."""
        if self._held:
            text, self._held = self._held + text, ""
        at = text.rfind("[")
        if at < 0:
            return text
        if len(text) - at < 64 and text[at:].isascii() and text[at:].upper() in self._originals.beginnings:
            text, self._held = text[:at], text[at:]
        return PLACEHOLDER.sub(self._original, text)

    def flush(self) -> str:
        """What is still kept, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def whole(self, text: str) -> str:
        """A text that comes in one piece."""
        return PLACEHOLDER.sub(self._original, text) if "[" in text else text

    def _original(self, match: re.Match[str]) -> str:
        value = self._originals.values.get(match[0].upper())
        if value is None:
            return match[0]
        return orjson.dumps(value).decode()[1:-1] if self._escaped else value


class ChoiceRestorer:
    """A whole answer, chunk by chunk: every text of every choice.

    What is kept back comes out with the chunk that carries the choice's `finish_reason`, at the latest. A chunk's
    log-probabilities are left out if something in it was changed, for they would spell the placeholder.

    Args:
        json_content: the answer itself is JSON (`response_format`), so originals come back as parts of JSON strings.
    """

    __slots__ = ("_escaped", "_originals", "_texts")

    def __init__(self, originals: Mapping[str, str], *, json_content: bool = False) -> None:
        self._originals = Originals.of(originals)
        self._escaped = frozenset({"arguments", "content"} if json_content else {"arguments"})
        self._texts: dict[tuple[int, Path], Restorer] = {}

    def chunk(self, chunk: Chunk) -> Chunk:
        """The same chunk with the originals in it; the chunk itself if there is nothing to do."""
        if not self._originals.values:
            return chunk
        content = self._feed(chunk.index, ("content",), chunk.text) if chunk.text else ""
        wire = None if chunk.wire is None else self._wire(chunk.wire, chunk, content)
        if chunk.finish_reason is not None:
            content, wire = self._end(chunk, content, wire)
        if content == chunk.text and wire == chunk.wire:
            return chunk
        if wire is not None and wire.get("logprobs"):
            wire = {**wire, "logprobs": None}
        return replace(chunk, text=content, wire=wire, logprobs=())

    def _feed(self, index: int, path: Path, text: str) -> str:
        restorer = self._texts.get((index, path))
        if restorer is None:
            restorer = Restorer(self._originals, json_escaped=path[-1] in self._escaped)
            self._texts[index, path] = restorer
        return restorer.feed(text)

    def _wire(self, wire: Mapping[str, Any], chunk: Chunk, content: str) -> dict[str, Any]:
        """A choice whose texts are restored. `content` is what `chunk.text` became."""
        new = dict(wire)
        if isinstance(delta := wire.get("delta"), Mapping):
            new["delta"] = self._tree(delta, chunk.index, (), content)
        elif isinstance(message := wire.get("message"), Mapping):
            new["message"] = self._tree(message, chunk.index, (), content)
        elif isinstance(wire.get("text"), str):
            new["text"] = content
        return new

    def _tree(self, value: Any, index: int, path: Path, content: str) -> Any:
        if path == ("content",) and isinstance(value, str):
            return content
        if isinstance(value, str):
            if path[-1] in FIXED:
                return value
            if path[-1] in STREAMED:
                return self._feed(index, path, value)
            return Restorer(self._originals).whole(value)
        if len(path) > DEEPEST:
            return value
        if isinstance(value, Mapping):
            return {name: self._tree(item, index, (*path, name), content) for name, item in value.items()}
        if isinstance(value, list):
            return [self._tree(item, index, (*path, _place(item, i)), content) for i, item in enumerate(value)]
        return value

    def _end(self, chunk: Chunk, content: str, wire: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
        """The last chunk of a choice takes along all that was kept back."""
        held = {path: text for path, text in self._flushed(chunk.index) if text}
        rest = held.pop(("content",), "")
        content += rest
        if not held and not (rest and wire):
            return content, wire
        new = (
            dict(wire)
            if wire is not None
            else {"index": chunk.index, "delta": {}, "finish_reason": chunk.finish_reason}
        )
        if isinstance(new.get("text"), str):
            new["text"] = content
            return content, new
        part = "message" if "message" in new and not isinstance(new.get("delta"), Mapping) else "delta"
        said: Any = new[part] if isinstance(new.get(part), Mapping) else {}
        if content:
            said = {**said, "content": content}
        for path, text in held.items():
            said = _added(said, path, text)
        new[part] = said
        return content, new

    def _flushed(self, index: int) -> Iterator[tuple[Path, str]]:
        for of, path in [key for key in self._texts if key[0] == index]:
            yield path, self._texts.pop((of, path)).flush()


def _place(item: Any, position: int) -> int:
    """Tool calls are told apart by their `index`; what has none, by where it stands."""
    index = item.get("index") if isinstance(item, Mapping) else None
    return index if isinstance(index, int) else position


def _added(value: Any, path: Path, text: str) -> Any:
    """A copy with the text appended at the path; the value itself where something else than before stands there."""
    if not path:
        return (value or "") + text if isinstance(value, str | None) else value
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if not isinstance(value, Mapping | None):
            return value
        value = value or {}
        return {**value, step: _added(value.get(step), rest, text)}
    if not isinstance(value, list | None):
        return value
    items = list(value or [])
    for position, item in enumerate(items):
        if _place(item, position) == step:
            items[position] = _added(item, rest, text)
            return items
    added = _added(None, rest, text)
    return [*items, {"index": step, **added} if isinstance(added, dict) else added]
