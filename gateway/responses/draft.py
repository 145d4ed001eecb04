"""A response as it grows: pieces of an answer in, events out, and the whole object at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.errors import BackendError
from backends.types import Chunk, FinishReason, Sampling, TokenLogprob, Usage
from gateway.responses.items import new_id
from gateway.responses.parts import CallPart, Growing, RefusalPart, SearchItem, TextPart, ThoughtPart, Told, Wanted
from gateway.said import Said, said_of

Event = dict[str, Any]
Clock = Callable[[], float]
CUT: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons for which an answer ends early, and what they are called here."""


def blank(id_: str, echo: Mapping[str, Any], clock: Clock = time.time) -> dict[str, Any]:
    """The fields of a response that has not begun. `clock`: Unix time (s)."""
    return {
        "id": id_,
        "object": "response",
        "created_at": int(clock()),
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        **echo,
    }


class Draft:
    """One response.

    Args:
        fields: all but its output; changed as it goes on.
        wants_logprobs: of the text.
        clock: Unix time (s).
    """

    def __init__(self, fields: dict[str, Any], *, wants_logprobs: bool = False, clock: Clock = time.time) -> None:
        self._clock = clock
        self._wants_logprobs = wants_logprobs
        self._fields = fields
        self._items: list[Growing] = []
        self._open: Growing | None = None
        self._calls: dict[int, CallPart] = {}
        self._waiting: dict[int, Wanted] = {}
        self._finish: FinishReason | None = None
        self._number = 0

    @property
    def id(self) -> str:
        found: str = self._fields["id"]
        return found

    def object(self) -> dict[str, Any]:
        """The response as it is now."""
        return {**self._fields, "output": [item.object() for item in self._items]}

    def forgotten(self) -> None:
        """It could not be kept, and is no part of any conversation."""
        self._fields["store"], self._fields["conversation"] = False, None

    def begin(self, model: str, defaults: Sampling, *, enforced: bool) -> list[Event]:
        """Somebody answers.

        Args:
            defaults: what holds where the request says nothing.
            enforced: functions' schemas hold whatever was asked for; a format's always does, enforced or validated.
        """
        fields = self._fields
        fields["model"] = model
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            if fields[name] is None:
                set_ = getattr(defaults, name)
                fields[name] = (1.0 if name in ("temperature", "top_p") else 0.0) if set_ is None else set_
        for tool in fields["tools"]:
            if tool["type"] == "function":
                tool["strict"] = enforced or bool(tool["strict"])
        if (form := fields["text"]["format"])["type"] == "json_schema":
            form["strict"] = True
        return [self._lifecycle("created"), self._lifecycle("in_progress")]

    def searched(self, call: dict[str, Any]) -> list[Event]:
        """The documents were searched before anybody answered. `call`: the item that says so."""
        item = SearchItem(call)
        return self._begin(item) + self._close(item, "completed")

    @property
    def saying(self) -> str:
        """The text of the message that is open; empty: none is."""
        return self._open.text if isinstance(self._open, TextPart) else ""

    def cite(self, annotations: Sequence[Mapping[str, Any]]) -> list[Event]:
        """Says of the message that is open where its words come from."""
        item = self._open
        assert isinstance(item, TextPart)
        return self._told(item.annotate(self._items.index(item), annotations))

    def feed(self, chunk: Chunk) -> list[Event]:
        """The events of one more piece."""
        said = said_of(chunk)
        self._finish = said.finish_reason or self._finish
        events: list[Event] = []
        if said.reasoning:
            events += self._grow(ThoughtPart, said.reasoning, ())
        logprobs = _logprobs(chunk) if self._wants_logprobs else ()
        if said.text or logprobs:
            events += self._grow(TextPart, said.text, logprobs)
        if said.refusal:
            events += self._grow(RefusalPart, said.refusal, ())
        return events + self._call(said)

    def more(self, chunk: Chunk) -> tuple[str, int, int] | None:
        """The hottest path: nothing but more text of the message that is open.

        Returns:
            What its one event holds besides the text: the item's id, its place, the event's number. None: it is more
            than that; `feed` it.
        """
        item = self._open
        if type(item) is not TextPart or self._wants_logprobs or not chunk.text or chunk.wire is not None:
            return None
        if chunk.reasoning or chunk.tools or chunk.finish_reason:
            return None
        item.add(chunk.text)
        number, self._number = self._number, self._number + 1
        return item.id, self._items.index(item), number

    def end(self, usage: Usage) -> list[Event]:
        """The answer is whole, or was cut off: its own finish reason tells. `last` is still to be said."""
        events = [event for place in sorted(self._waiting) for event in self._begin_call(place)]
        cut = CUT.get(self._finish or "")
        events += self._close_all("incomplete" if cut else "completed")
        if not cut and all(isinstance(item, SearchItem) for item in self._items):
            # Nothing was said: a client still finds the message that it looks for.
            events += self._opened(TextPart) + self._close_all("completed")
        self._fields["usage"] = usage_object(usage)
        self._fields["status"] = "incomplete" if cut else "completed"
        if cut:
            self._fields["incomplete_details"] = {"reason": cut}
        else:
            self._fields["completed_at"] = int(self._clock())
        return events

    def last(self) -> Event:
        """What its end is called, with all of it."""
        return self._lifecycle(self._fields["status"])

    def fail(self, error: BackendError) -> list[Event]:
        """It broke off: what was said so far stays, and does not look whole."""
        self._stop("failed")
        self._fields["error"] = {"code": error.code, "message": error.message}
        told = self._event("error", code=error.code, message=error.message, param=error.param)
        return [told, self.last()]

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._stop("cancelled")

    def _stop(self, status: str) -> None:
        self._fields["status"] = status
        for item in (*([self._open] if self._open else []), *self._calls.values()):
            item.status = "incomplete"

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _lifecycle(self, what: str) -> Event:
        return self._event(f"response.{what}", response=self.object())

    def _grow(self, kind: type[Growing], text: str, logprobs: Sequence[Mapping[str, Any]]) -> list[Event]:
        """Adds to the item that is open if it is of that kind; else that one is closed, and another begun."""
        events = [] if type(self._open) is kind else self._opened(kind)
        assert self._open is not None
        return events + self._told(self._open.grow(self._items.index(self._open), text, logprobs))

    def _opened(self, kind: type[Growing]) -> list[Event]:
        events = self._close(self._open, "completed")
        self._open = kind(new_id(kind.prefix))
        return events + self._begin(self._open)

    def _told(self, told: Told) -> list[Event]:
        return [self._event(name, **fields) for name, fields in told]

    def _begin(self, item: Growing) -> list[Event]:
        self._items.append(item)
        return self._told(item.begin(len(self._items) - 1))

    def _close(self, item: Growing | None, status: str) -> list[Event]:
        if item is None:
            return []
        if item is self._open:
            self._open = None
        return self._told(item.close(self._items.index(item), status))

    def _close_all(self, status: str) -> list[Event]:
        """Of what is open, only the last item was cut off."""
        left = [*([self._open] if self._open else []), *self._calls.values()]
        left.sort(key=self._items.index)
        self._calls.clear()
        return [event for item in left for event in self._close(item, status if item is left[-1] else "completed")]

    def _call(self, said: Said) -> list[Event]:
        """Pieces of calls. A call begins once its name is known, and its id or the first of its arguments."""
        events: list[Event] = []
        for piece in said.tools:
            call = self._calls.get(piece.index)
            if call is None:
                waiting = self._waiting.setdefault(piece.index, Wanted())
                waiting.take(piece)
                if waiting.name and (waiting.id or waiting.arguments):
                    events += self._begin_call(piece.index)
            elif piece.arguments:
                events += self._told(call.grow(self._items.index(call), piece.arguments, ()))
        return events

    def _begin_call(self, place: int) -> list[Event]:
        wanted = self._waiting.pop(place)
        if not wanted.name:
            return []
        events = self._close(self._open, "completed")
        call = self._calls[place] = CallPart(new_id("fc"), wanted.id or new_id("call"), wanted.name)
        events += self._begin(call)
        if wanted.arguments:
            events += self._told(call.grow(self._items.index(call), wanted.arguments, ()))
        return events


def usage_object(usage: Usage) -> dict[str, Any]:
    """What it took."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or _reasoning_tokens(usage.wire)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _reasoning_tokens(wire: Mapping[str, Any] | None) -> int:
    """Of a provider's own `usage`."""
    said = wire.get("usage") if wire else None
    details = said.get("completion_tokens_details") if isinstance(said, Mapping) else None
    count = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    return count if isinstance(count, int) else 0


def _logprobs(chunk: Chunk) -> list[dict[str, Any]]:
    if chunk.wire is None:
        return [{**_token(entry), "top_logprobs": [_token(top) for top in entry.top]} for entry in chunk.logprobs]
    said = chunk.wire.get("logprobs")
    content = said.get("content") if isinstance(said, Mapping) else None
    return [
        {**token, "top_logprobs": list(filter(None, map(_given, entry.get("top_logprobs") or ())))}
        for entry in content or ()
        if (token := _given(entry))
    ]


def _given(entry: Any) -> dict[str, Any] | None:
    """A provider's; None: it is no token."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return None
    bytes_, logprob = entry.get("bytes"), entry.get("logprob")
    spelled = bytes_ if isinstance(bytes_, list) else list(entry["token"].encode())
    return {"token": entry["token"], "logprob": logprob if isinstance(logprob, int | float) else 0.0, "bytes": spelled}


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes)}
