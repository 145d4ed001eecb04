"""What the inference endpoints share: request controls, limits, and the hand-over to dispatch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar, cast, get_args

from starlette.requests import Request as HTTPRequest
from starlette.types import Scope

from backends.errors import InvalidRequest
from backends.types import Locality, Request
from gateway.bodies import OneBody, Writer
from gateway.children import Children
from gateway.dispatch import Dispatcher
from gateway.documents.documents import Documents
from gateway.headers import headers_named
from gateway.outcome import Outcome, new_id
from gateway.responses.archive import Archive
from gateway.responses.background import Background
from gateway.routes.answer import PING_AFTER_S, Answer, Dispatching
from gateway.schemas.escalation import EscalationSettings
from gateway.schemas.generation import Asked, Generation
from gateway.schemas.settings import LimitSettings
from gateway.sse import Frames, Head

LOCALITY_HEADER = "x-outstation-locality"
DEADLINE_HEADER = "x-outstation-deadline-ms"
CLASSES_HEADER = "x-outstation-data-classes"
CLASS_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inference:
    """What an inference endpoint needs, as the composition root has it. `archive`, `background`: of responses."""

    dispatcher: Dispatcher
    limits: LimitSettings
    key_classes: Mapping[str, frozenset[str]]
    children: Children
    archive: Archive
    background: Background
    documents: Documents
    escalations: Sequence[EscalationSettings] = ()
    stores_responses: bool = True
    ping_after_s: float = PING_AFTER_S

    def answer(
        self,
        http: HTTPRequest,
        wire: Generation,
        request: Request,
        prefix: str,
        frames: Callable[[Head], Frames],
        names: Mapping[str, str] | None = None,
        through: Dispatching | None = None,
    ) -> Answer:
        """The response for `request`; `prefix` begins its id. `through`: in place of the dispatcher."""
        self.check(wire, request)
        outcome = outcome_of(http)
        outcome.stream, outcome.request = request.stream, request
        include_usage = bool(wire.stream_options and wire.stream_options.include_usage)

        def framed(model: str) -> Frames:
            id_ = f"{prefix}-{new_id()}"
            return frames(Head(id_, int(time.time()), model, request.choices, include_usage))

        dispatcher = through or self.dispatcher
        return Answer(dispatcher, request, outcome, framed, names=names, ping_after_s=self.ping_after_s)

    def whole(
        self,
        http: HTTPRequest,
        request: Request,
        write: Writer,
        names: Mapping[str, str] | None = None,
        through: Dispatching | None = None,
    ) -> Answer:
        """The response for a task that has no stream: `write` makes its one body.

        Args:
            through: in place of the dispatcher.
        """
        outcome = outcome_of(http)
        outcome.request = request
        return Answer(through or self.dispatcher, request, outcome, lambda model: OneBody(model, write), names=names)

    def check(self, wire: Generation, request: Request) -> None:
        """Raises `InvalidRequest` for what no route is needed to refuse."""
        if request.n > self.limits.max_choices:
            raise InvalidRequest(f"`n`: at most {self.limits.max_choices} choices here, got {request.n}.", param="n")
        if wire.stream_options is not None and not wire.stream:
            raise InvalidRequest("`stream_options` needs `stream: true`.", param="stream_options")


def outcome_of(http: HTTPRequest) -> Outcome:
    """The outcome that the outermost middleware began."""
    outcome = http.scope["outcome"]
    assert isinstance(outcome, Outcome)
    return outcome


class Controls(TypedDict):
    """The fields of `Request` that do not depend on the dialect."""

    locality: Locality | None
    deadline_s: float | None
    declared: frozenset[str]
    continue_on_break: bool
    stream: bool
    key: str


def controls(wire: Asked, http: HTTPRequest, key_classes: Mapping[str, frozenset[str]]) -> Controls:
    """From the body, the headers and the key.

    Raises:
        InvalidRequest: a header that makes no sense, or body and header that contradict each other.
    """
    body, scope = wire.outstation, http.scope
    locality: Locality | None = _agree(
        body.locality if body else None, _locality(_once(scope, LOCALITY_HEADER)), "locality"
    )
    deadline = _agree(body.deadline_ms if body else None, _deadline(_once(scope, DEADLINE_HEADER)), "deadline_ms")
    key = outcome_of(http).key
    declared = frozenset((body.data_classes if body else None) or ()) | said_classes(scope)
    return {
        "locality": locality,
        "deadline_s": None if deadline is None else deadline / 1000,
        "declared": declared | key_classes.get(key, frozenset()),
        "continue_on_break": bool(body and body.continue_on_break),
        "stream": isinstance(wire, Generation) and bool(wire.stream),
        "key": key,
    }


def said_classes(scope: Scope) -> frozenset[str]:
    """Data classes that the headers name. Raises `InvalidRequest`."""
    return _classes(headers_named(scope, CLASSES_HEADER.encode()))


def _once(scope: Scope, name: str) -> str | None:
    """A header that says one thing, however often."""
    values = set(headers_named(scope, name.encode()))
    if len(values) > 1:
        raise InvalidRequest(f"The header {name} is given more than once, and the values differ.", param=name)
    return next(iter(values), None)


def _classes(values: Sequence[str]) -> frozenset[str]:
    """Of the headers: `health, email`."""
    names = frozenset(part.strip() for value in values for part in value.split(",") if part.strip())
    for name in names:
        if not CLASS_NAME.fullmatch(name):
            raise InvalidRequest(
                f"The header {CLASSES_HEADER} must list data classes such as `health, email`, found {name[:40]!r}.",
                param=CLASSES_HEADER,
            )
    return names


def _agree(body: T | None, header: T | None, field: str) -> T | None:
    if body is not None and header is not None and body != header:
        raise InvalidRequest(f"`outstation.{field}` and its header contradict each other.", param=f"outstation.{field}")
    return header if body is None else body


def _locality(value: str | None) -> Locality | None:
    if value is None:
        return None
    if value in get_args(Locality):
        return cast("Locality", value)
    raise InvalidRequest(
        f"The header {LOCALITY_HEADER} must be one of {', '.join(get_args(Locality))}.", param=LOCALITY_HEADER
    )


def _deadline(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:12]) <= 86_400_000:
        raise InvalidRequest(
            f"The header {DEADLINE_HEADER} must be a whole number of milliseconds from 1 to 86400000.",
            param=DEADLINE_HEADER,
        )
    return int(value)
