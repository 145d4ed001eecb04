"""The boundary of the site. Nothing reaches a provider that was not cleared here, for that provider, by a plan.

Two doors: `clear` makes what may be sent and notes that it may; `depart`, which the providers call before each send,
writes the ledger and refuses whatever was not cleared. Any failure in either means: do not send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.errors import BackendError, InvalidRequest, Unavailable
from backends.types import GENERATES, Chunk, Event, Request
from gateway.state import SWITCHED_OFF
from policies.base import Route

if TYPE_CHECKING:
    from gateway.audit import Audit
    from gateway.names import Names
    from policies.detect import Detector
    from policies.redact import Redacted
    from policies.restore import ChoiceRestorer, Restorer

log = logging.getLogger("outstation.egress")

NAME = "name"  # the data class

SEARCHED_AT_ONCE = 32 * 1024  # bytes: a few ms of ordinary text
MOST_SEARCHED = 1024 * 1024  # about a second of hostile text; a longer one is not searched, and stays here


class Seen(NamedTuple):
    """What a search found.

    Attributes:
        classes: declared or found.
        unfound: declared, and nothing in the text bears it out.
        failed: nothing is known.
        unknown: classes of which nothing is known, all others being.
        names: found in it, for its redaction.
    """

    classes: frozenset[str]
    unfound: frozenset[str]
    failed: bool = False
    unknown: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()


class EgressDenied(BackendError):
    """Something was about to leave without a clearance: a defect of ours, stopped at the boundary."""

    code = "egress_denied"


class NotSendable(InvalidRequest):
    """What this provider must not see cannot be taken out; another route may still answer."""

    code = "privacy_denied"


@dataclass(frozen=True, slots=True)
class Clearance:
    """What may be sent, and how its answer is read.

    Attributes:
        request: with placeholders in place of what the provider must not see.
        redacted: whether it has any.
        restorer, additions: for the choices of the answer, and for what is said of it as a whole.
    """

    request: Request
    classes: frozenset[str]
    reserved_usd: float
    restorer: ChoiceRestorer | None = None
    additions: Restorer | None = None
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)

    def going_on(self, messages: Sequence[Mapping[str, Any]], usd: float) -> Clearance:
        """The same conversation with more messages, for the same provider: its own words, and nothing that it may not
        have seen."""
        raw = {**self.request.raw, "messages": [*self.request.raw["messages"], *messages]}
        request = replace(self.request, raw=raw)
        if self.restorer is None:
            return replace(self, request=request, reserved_usd=usd)
        return _redacted_clearance(request, self.classes, usd, self.originals)

    @property
    def redacted(self) -> bool:
        return self.restorer is not None

    def restore(self, event: Event) -> Event:
        """The event with the originals in their places again."""
        if self.restorer is None:
            return event
        if isinstance(event, Chunk):
            return self.restorer.chunk(event)
        if event.wire is None or self.additions is None:
            return event
        return replace(event, wire=_restored(event.wire, self.additions))


@dataclass(slots=True)
class Passage:
    """One attempt's way through the boundary. `sent`: how often something left."""

    clearance: Clearance
    sent: int = 0


class Boundary:
    """Which requests are cleared for which providers now. One for the process: it outlives a reload."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._cleared: dict[tuple[str, str], Passage] = {}
        self._shut = False

    @property
    def passable(self) -> bool:
        """Whether anything may leave at all: not while the operator's switch is on."""
        return not self._shut

    def shut(self, shut: bool) -> None:
        """The operator's switch. It holds at once, for requests under way as well: nothing more of them is sent."""
        self._shut = shut

    @contextmanager
    def open(self, clearance: Clearance, provider: str) -> Iterator[Passage]:
        """For the time of one attempt."""
        key = (clearance.request.id, provider)
        passage = self._cleared[key] = Passage(clearance)
        try:
            yield passage
        finally:
            del self._cleared[key]

    def depart(self, request_id: str, provider: str, host: str, n_bytes: int) -> None:
        """Called before anything is sent, each time.

        Raises:
            EgressDenied: nobody cleared it.
            Unavailable: the operator's switch is on, or the ledger cannot be kept.
        """
        if self._shut:
            raise Unavailable(f"Nothing may leave the site now: {SWITCHED_OFF}.", code="offline")
        passage = self._cleared.get((request_id, provider))
        if passage is None:
            log.error("%s: stopped on its way to %s: it was not cleared", request_id, provider)
            raise EgressDenied("The gateway stopped this request at the site's boundary: nothing was sent.")
        clearance = passage.clearance
        self._audit.depart(
            request_id,
            provider,
            host,
            n_bytes,
            clearance.classes,
            clearance.redacted,
            clearance.reserved_usd,
            clearance.request.key,
        )
        passage.sent += 1


class Egress:
    """One generation's eyes and hands at the boundary."""

    def __init__(self, boundary: Boundary, detector: Detector | None, names: Names | None = None) -> None:
        """`detector`: None where there is no provider, so nothing is looked for. `names`: None: nor are names."""
        self.boundary = boundary
        self._detector = detector
        self._names = names

    async def look(self, request: Request, size: int) -> Seen:
        """What the request holds. `size`: bytes of its body; a large one is searched beside the event loop."""
        if size > MOST_SEARCHED:
            return Seen(request.declared, request.declared, failed=True)
        large = size > SEARCHED_AT_ONCE
        search = self._names
        names = await search.of(request.id, request.raw, trusted=request.trusted, large=large) if search else ()
        return await asyncio.to_thread(self._look, request, names) if large else self._look(request, names)

    def _look(self, request: Request, names: tuple[str, ...] | None) -> Seen:
        if self._detector is None:
            return Seen(request.declared, request.declared, failed=True)
        try:
            found = self._detector.also(NAME, names or ()).classes(request.raw)
            unknown = frozenset({NAME}) if names is None else frozenset[str]()
            return Seen(request.declared | found, request.declared - found, unknown=unknown, names=names or ())
        except Exception as error:  # noqa: BLE001 - whatever it is, it means: do not send
            # The type only: the text may quote what was searched.
            log.error("%s: the search for private data failed: %s", request.id, type(error).__name__)
            return Seen(request.declared, request.declared, failed=True)

    async def clear(
        self,
        request: Request,
        route: Route,
        duty: frozenset[str],
        classes: frozenset[str],
        usd: float,
        size: int,
        names: tuple[str, ...] = (),
    ) -> Clearance:
        """What may be sent on `route`.

        Args:
            duty: the classes to be replaced first.
            classes, usd: for the ledger: what it holds, and what it may cost.
            size: bytes of the body; in a large one they are replaced beside the event loop.
            names: that were found in it.

        Raises:
            NotSendable: something cannot be replaced safely.
        """
        if not duty:
            return Clearance(request, classes, usd)
        if request.kind not in GENERATES:
            raise _not_the_same(route, duty)
        redacted = (
            await asyncio.to_thread(self._redacted, request, route, duty, names)
            if size > SEARCHED_AT_ONCE
            else self._redacted(request, route, duty, names)
        )
        # Only the body that leaves: nothing else of the original may travel with it.
        sent = replace(
            request,
            raw=redacted.raw,
            messages=(),
            prompts=request.prompts and ("",) * len(request.prompts),
            trusted=frozenset(),
            retrieved=frozenset(),
        )
        return _redacted_clearance(sent, classes, usd, redacted.originals)

    def _redacted(self, request: Request, route: Route, duty: frozenset[str], names: tuple[str, ...]) -> Redacted:
        from policies.redact import CannotRedact
        from policies.redact import redact as replace_in

        try:
            assert self._detector is not None
            return replace_in(request.raw, duty, self._detector.also(NAME, names))
        except CannotRedact:
            raise _unredactable(route, duty) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it means: do not send
            log.error("%s: redaction failed: %s", request.id, type(error).__name__)
            raise _unredactable(route, duty) from None


def _redacted_clearance(sent: Request, classes: frozenset[str], usd: float, originals: Mapping[str, str]) -> Clearance:
    from policies.restore import ChoiceRestorer, Restorer

    choices = ChoiceRestorer(originals, json_content=_asks_for_json(sent))
    return Clearance(sent, classes, usd, choices, Restorer(originals), originals)


def _restored(value: Any, restorer: Restorer) -> Any:
    """JSON whose texts each came whole."""
    if isinstance(value, str):
        return restorer.whole(value)
    if isinstance(value, Mapping):
        return {name: _restored(item, restorer) for name, item in value.items()}
    return [_restored(item, restorer) for item in value] if isinstance(value, list) else value


def _asks_for_json(request: Request) -> bool:
    wanted = request.raw.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")


def _not_the_same(route: Route, duty: frozenset[str]) -> BackendError:
    return NotSendable(
        f"This request holds {', '.join(sorted(duty))}, which {route.provider} may see redacted only, and what a model "
        "makes of a redacted text (its vector, its score) is not what was asked for."
    )


def _unredactable(route: Route, duty: frozenset[str]) -> BackendError:
    return NotSendable(
        f"This request holds {', '.join(sorted(duty))} where it cannot be replaced by placeholders, so it may not go "
        f"to {route.provider}."
    )
