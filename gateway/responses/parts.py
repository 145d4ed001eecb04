"""The items of a response's output while they grow. Each says its own events: (type, fields)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from backends.types import ToolDelta

Told = list[tuple[str, dict[str, Any]]]


class Growing:
    """An item. `at` is its place in the output."""

    prefix: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.status = "in_progress"
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def object(self) -> dict[str, Any]:
        """The item as it is now."""
        raise NotImplementedError

    def begin(self, at: int) -> Told:
        return [("response.output_item.added", {"output_index": at, "item": self.object()})]

    def add(self, text: str) -> None:
        """More of it, which somebody else tells."""
        self._texts.append(text)

    def grow(self, at: int, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Told:
        """More of it."""
        self.add(text)
        return [(f"response.{self.kind}.delta", {**self._where(at), "delta": text})]

    def close(self, at: int, status: str) -> Told:
        """All of it."""
        self.status = status
        done = (f"response.{self.kind}.done", {**self._where(at), **self._whole()})
        return [done, *self._closed(at), ("response.output_item.done", {"output_index": at, "item": self.object()})]

    def _where(self, at: int) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": at}

    def _whole(self) -> dict[str, Any]:
        return {"text": self.text}

    def _closed(self, at: int) -> Told:
        return []


class _WithPart(Growing):
    """An item with one part of content."""

    def part(self) -> dict[str, Any]:
        raise NotImplementedError

    def begin(self, at: int) -> Told:
        added = ("response.content_part.added", {**self._where(at), "part": self.part()})
        return [*super().begin(at), added]

    def _closed(self, at: int) -> Told:
        return [("response.content_part.done", {**self._where(at), "part": self.part()})]

    def _where(self, at: int) -> dict[str, Any]:
        return {**super()._where(at), "content_index": 0}

    def _content(self) -> list[dict[str, Any]]:
        """Empty when the item is added: the part is told by an event of its own."""
        return [self.part()] if self._texts or self.status != "in_progress" else []


class TextPart(_WithPart):
    """What the assistant says."""

    prefix = "msg"
    kind = "output_text"

    def __init__(self, id_: str) -> None:
        super().__init__(id_)
        self._logprobs: list[Mapping[str, Any]] = []
        self._annotations: list[Mapping[str, Any]] = []

    def part(self) -> dict[str, Any]:
        annotations, logprobs = list(self._annotations), list(self._logprobs)
        return {"type": "output_text", "text": self.text, "annotations": annotations, "logprobs": logprobs}

    def annotate(self, at: int, annotations: Sequence[Mapping[str, Any]]) -> Told:
        """Says where its words come from."""
        before = len(self._annotations)
        self._annotations.extend(annotations)
        return [
            (
                "response.output_text.annotation.added",
                {**self._where(at), "annotation_index": before + n, "annotation": annotation},
            )
            for n, annotation in enumerate(annotations)
        ]

    def object(self) -> dict[str, Any]:
        return {
            "id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": self._content()
        }  # fmt: skip

    def grow(self, at: int, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Told:
        self._logprobs.extend(logprobs)
        ((kind, fields),) = super().grow(at, text, logprobs)
        return [(kind, {**fields, "logprobs": list(logprobs)})]

    def _whole(self) -> dict[str, Any]:
        return {"text": self.text, "logprobs": list(self._logprobs)}


class SearchItem(Growing):
    """What was searched for in the documents, and found, before anything was said."""

    prefix = "fs"
    kind = "file_search_call"

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["id"])
        self._fields = fields

    def object(self) -> dict[str, Any]:
        """What was found is told once it is."""
        found = {} if self.status == "completed" else {"results": None}
        return {**self._fields, **found, "status": self.status}

    def close(self, at: int, status: str) -> Told:
        self.status = "searching"
        done = [(f"response.{self.kind}.{name}", self._where(at)) for name in ("in_progress", "searching", "completed")]
        self.status = status
        return [*done, ("response.output_item.done", {"output_index": at, "item": self.object()})]


class RefusalPart(_WithPart):
    """What the assistant says in declining."""

    prefix = "msg"
    kind = "refusal"

    def part(self) -> dict[str, Any]:
        return {"type": "refusal", "refusal": self.text}

    def object(self) -> dict[str, Any]:
        return {
            "id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": self._content()
        }  # fmt: skip

    def _whole(self) -> dict[str, Any]:
        return {"refusal": self.text}


class ThoughtPart(_WithPart):
    """What the model thinks, as an item of its own."""

    prefix = "rs"
    kind = "reasoning_text"

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def object(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": self._content(),
            "encrypted_content": None,
        }


class CallPart(Growing):
    """A call of a function."""

    prefix = "fc"
    kind = "function_call_arguments"

    def __init__(self, id_: str, call_id: str, name: str) -> None:
        super().__init__(id_)
        self._call_id = call_id
        self._name = name

    def object(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self.text,
        }

    def _whole(self) -> dict[str, Any]:
        return {"name": self._name, "arguments": self.text}


@dataclass(slots=True)
class Wanted:
    """What is known of a call that has not begun."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def take(self, piece: ToolDelta) -> None:
        self.id = self.id or piece.id
        self.name = self.name or piece.name
        self.arguments += piece.arguments
