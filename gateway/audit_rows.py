"""What the audit keeps: one `Decision` a request, one `Departure` a send. Never a text.

Each row becomes a JSON object (the body, its names sorted) and is chained to the row before by a hash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

import orjson

Ending = Literal["success", "error", "cancelled", "crashed"]
Kind = Literal["decision", "egress"]

FIRST: Final = bytes(32)
LONGEST_BODY: Final = 16_384
LONGEST_TEXT: Final = 200
MOST_ITEMS: Final = 32


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one inference request, and why. Times are in seconds.

    Attributes:
        at: Unix time of its arrival.
        key: name of the API key that it came with; empty: none.
        model: as the client asked for it.
        ending: `crashed`: the gateway ended while something of it had left the site.
        error: code of the error that ended it; empty: none.
        status: HTTP status; 0: none was sent.
        route: who answered; empty: nobody.
        attempts: (route, result code, seconds), in order.
        drops: (route, policy, reason).
        ttft_s: from arrival to the first token; None: there was none.
        total_s: from arrival to the end.
        cached_tokens: among the prompt's.
        cost: US dollars.
        model_hash, policy_hash: of the model file that answered, and of the configuration that decided.
        data_classes: declared or found, sorted.
        redacted: something was replaced before it left.
        continued: the local model went on where a provider broke off.
        facts: JSON, for deciding it anew; kept as it is.
    """

    request_id: str
    at: float
    endpoint: str = ""
    key: str = ""
    model: str = ""
    stream: bool = False
    ending: Ending = "success"
    error: str = ""
    status: int = 0
    route: str = ""
    reasons: tuple[str, ...] = ()
    attempts: tuple[tuple[str, str, float], ...] = ()
    drops: tuple[tuple[str, str, str], ...] = ()
    ttft_s: float | None = None
    total_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model_hash: str = ""
    policy_hash: str = ""
    data_classes: tuple[str, ...] = ()
    redacted: bool = False
    continued: bool = False
    facts: bytes = b""


@dataclass(frozen=True, slots=True)
class Departure:
    """Something that was about to leave the site: written before it was sent.

    Attributes:
        number: counts the departures of this home.
        at: Unix time (s).
        key: name of the API key of the request; empty: none.
        host: of the endpoint.
        bytes: of the body.
        classes: data classes of the request, sorted.
        redacted: what the provider must not see was replaced before.
        reserved_usd: what this send may cost, in US dollars.
    """

    number: int
    request_id: str
    at: float
    provider: str
    host: str
    bytes: int
    classes: tuple[str, ...]
    redacted: bool
    reserved_usd: float
    key: str = ""


class Row(NamedTuple):
    """A row on its way to the file.

    Attributes:
        charge: (UTC day, key, US dollars) where it cost something.
    """

    kind: Kind
    request_id: str
    at: float
    body: bytes
    facts: bytes = b""
    charge: tuple[str, str, float] | None = None
    number: int = 0


_NAMES: Final = tuple(sorted(field.name for field in fields(Decision) if field.name != "facts"))
_VALUES: Final = attrgetter(*_NAMES)
_DEPARTURE_NAMES: Final = tuple(sorted(field.name for field in fields(Departure)))
_DEPARTURE_VALUES: Final = attrgetter(*_DEPARTURE_NAMES)


def day_of(unix: float) -> str:
    """The UTC day, as `2026-01-31`."""
    return _day(int(unix // 86_400))


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(number * 86_400))


def chained(before: bytes, kind: Kind, body: bytes, facts: bytes) -> bytes:
    """The hash of a row that follows one whose hash is `before`: SHA-256 of that, the kind's first letter, the body's
    length (8 bytes, big-endian), the body and the facts."""
    return hashlib.sha256(
        b"%b%b%b%b%b" % (before, kind[0].encode(), len(body).to_bytes(8, "big"), body, facts)
    ).digest()


def decision_row(decision: Decision) -> Row:
    """As it is stored. What a client may have made endless is cut.

    Raises:
        TypeError, ValueError: a value that JSON or SQLite cannot hold.
    """
    try:
        body = orjson.dumps(dict(zip(_NAMES, _VALUES(decision), strict=True)))
    except TypeError:  # half a surrogate pair, from a client's JSON
        body = b""
    if not body or len(body) > LONGEST_BODY:
        body = orjson.dumps({name: _cut(value) for name, value in zip(_NAMES, _VALUES(decision), strict=True)})
    if not (isfinite(decision.at) and isfinite(decision.cost)):
        raise ValueError("a time or a cost that is no number")
    if not isinstance(decision.facts, bytes):
        raise TypeError("facts that are no bytes")
    # Charged to the day on which it ended, as `Spending` does.
    ended = decision.at + decision.total_s
    charge = (day_of(ended), decision.key, decision.cost) if decision.cost > 0 else None
    return Row("decision", decision.request_id, float(decision.at), body, decision.facts, charge)


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, tuple):
        return tuple(_cut(item) for item in value[:MOST_ITEMS])
    return value


def to_decision(body: bytes | str, facts: bytes) -> Decision:
    """Raises `ValueError`, `TypeError` or `KeyError` for a body that is none."""
    data: dict[str, Any] = orjson.loads(body)
    if data.keys() != set(_NAMES):
        raise KeyError("not the members of a decision")
    data["reasons"] = tuple(data["reasons"])
    data["data_classes"] = tuple(data["data_classes"])
    data["attempts"] = tuple((route, code, seconds) for route, code, seconds in data["attempts"])
    data["drops"] = tuple((route, policy, reason) for route, policy, reason in data["drops"])
    return Decision(**data, facts=facts)


def departure_line(departure: Departure) -> bytes:
    """One line of the journal; without its end, the body of the row. Raises `TypeError` for what JSON cannot hold."""
    return orjson.dumps(
        dict(zip(_DEPARTURE_NAMES, _DEPARTURE_VALUES(departure), strict=True)), option=orjson.OPT_APPEND_NEWLINE
    )


def departure_row(departure: Departure, line: bytes) -> Row:
    """The row of a line that `departure_line` made."""
    return Row("egress", departure.request_id, departure.at, line[:-1], number=departure.number)


def to_departure(body: bytes | str) -> Departure:
    """Raises `ValueError`, `TypeError` or `KeyError` for a body that is none."""
    data: Mapping[str, Any] = orjson.loads(body)
    if not isinstance(data, dict) or data.keys() != set(_DEPARTURE_NAMES):
        raise KeyError("not the members of a departure")
    return Departure(**{**data, "at": float(data["at"]), "classes": tuple(data["classes"])})


def crashed(departures: list[Departure]) -> Decision:
    """The outcome of a request that departed, as the process ended under it: all that it may have cost is charged."""
    first = departures[0]
    return Decision(
        request_id=first.request_id,
        at=first.at,
        key=first.key,
        ending="crashed",
        error="crashed",
        reasons=("the gateway ended while the request was under way",),
        attempts=tuple((departure.provider, "crashed", 0.0) for departure in departures),
        cost=sum(departure.reserved_usd for departure in departures),
        data_classes=tuple(sorted({name for departure in departures for name in departure.classes})),
        redacted=all(departure.redacted for departure in departures),
    )
