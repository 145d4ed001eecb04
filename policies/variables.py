"""What an operator's rule may name: variables and functions of its CEL expression. https://github.com/google/cel-spec"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.types import ModelState, Request, Sampling
from policies.base import Snapshot, Spent
from policies.signals import JUDGED, UNKNOWN

if TYPE_CHECKING:
    import cel


class Variable(NamedTuple):
    """One thing that a rule may read: its CEL type, and where it comes from."""

    type: str
    value: Callable[[Request, Snapshot], Any]


def _judged() -> list[str]:
    return [f"{name}{part}" for name in JUDGED for part in ("", "_user", "_retrieved")]


def _signal(name: str, otherwise: float | str) -> Callable[[Request, Snapshot], float | str]:
    return lambda request, site: site.signals.get(name, otherwise)


VARIABLES: Mapping[str, Variable] = {
    "key": Variable("string", lambda request, site: request.key),
    "request.model": Variable("string", lambda request, site: request.model),
    "request.kind": Variable("string", lambda request, site: request.kind),
    "request.stream": Variable("bool", lambda request, site: request.stream),
    "request.needs": Variable("list(string)", lambda request, site: sorted(request.needs)),
    "request.data_classes": Variable(
        "list(string)", lambda request, site: sorted(request.declared | site.data_classes)
    ),
    "request.locality": Variable("string", lambda request, site: request.locality or ""),
    "request.deadline_s": Variable(
        "double", lambda request, site: math.inf if request.deadline_s is None else float(request.deadline_s)
    ),
    "request.prompt_tokens": Variable(
        "int", lambda request, site: max(site.prompt_tokens.values(), default=site.estimated_tokens)
    ),
    "request.max_tokens": Variable("int", lambda request, site: request.sampling.max_tokens or 0),
    "request.choices": Variable("int", lambda request, site: request.choices),
    **{f"signals.{name}": Variable("double", _signal(name, 0.0)) for name in _judged()},
    "signals.language": Variable("string", _signal("language", UNKNOWN)),
    "signals.language_confidence": Variable("double", _signal("language_confidence", 0.0)),
    "signals.difficulty": Variable("double", _signal("difficulty", 0.0)),
    "site.offline": Variable("bool", lambda request, site: bool(site.offline)),
    "site.hour": Variable("int", lambda request, site: int(site.at // 3600 % 24)),
    # The first of January 1970 was a Thursday; 0 is Sunday, as in CEL's getDayOfWeek.
    "site.weekday": Variable("int", lambda request, site: int((site.at // 86400 + 4) % 7)),
    "site.spent_day": Variable("double", lambda request, site: float(site.spent.site_day)),
    "site.spent_month": Variable("double", lambda request, site: float(site.spent.site_month)),
    "site.waiting": Variable("int", lambda request, site: sum(state.waiting for state in site.states.values())),
    "site.running": Variable("int", lambda request, site: sum(state.running for state in site.states.values())),
}

FUNCTIONS = frozenset(
    "bytes contains double duration dyn endsWith int matches size startsWith string timestamp type uint getDate "
    "getDayOfMonth getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth "
    "getSeconds".split()
)
TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
ROOMS = frozenset({"request", "signals", "site"})

_LITERAL = re.compile(
    r"""//[^\n]*"""
    r"""|(?<!\w)(?:[bB]?[rR]|[rR][bB])(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*")"""
    r"""|'''(?:\\.|.)*?'''|\"\"\"(?:\\.|.)*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\"""",
    re.DOTALL,
)
_ROOM = re.compile(r"(?<![\w.])(request|signals|site)\b(?:\s*\.\s*(\w+)\b(?!\s*\())?")
_BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)\s*,")


def reads_of(source: str, program: cel.Program) -> frozenset[str]:
    """The `VARIABLES` that an expression names; operands that a short circuit hides are seen as well.

    Raises:
        ValueError: it names something else.
    """
    text = _LITERAL.sub("''", source)
    rooms = [(match[1], match[2]) for match in _ROOM.finditer(text)]
    for room, name in rooms:
        if not name:
            raise ValueError(f"`{room}` cannot be used as a whole, only by its fields: {_listed(room)}")
        if f"{room}.{name}" not in VARIABLES:
            raise ValueError(f"there is no `{room}.{name}`; `{room}` has {_listed(room)}")
    names = frozenset(program.variables())
    if unknown := sorted(names - ROOMS - {"key"} - TYPES - frozenset(_BOUND.findall(text))):
        raise ValueError(f"there is no `{unknown[0]}`; a rule can name `request`, `signals`, `site` and `key`")
    called = [name for name in program.functions() if name.isidentifier() and not name.startswith("_")]
    if unknown := sorted(set(called) - FUNCTIONS):
        raise ValueError(f"there is no function `{unknown[0]}`; there are {', '.join(sorted(FUNCTIONS))}")
    return frozenset(f"{room}.{name}" for room, name in rooms) | (names & {"key"})


def _listed(room: str) -> str:
    return ", ".join(name.partition(".")[2] for name in VARIABLES if name.startswith(f"{room}."))


def values_of(reads: Iterable[str], request: Request, snapshot: Snapshot) -> dict[str, Any]:
    """Only what is read: turning Python values into CEL's is most of a rule's cost."""
    values: dict[str, Any] = {}
    for path in reads:
        room, _, name = path.partition(".")
        if room == "signals" and name in snapshot.late_signals:
            values.setdefault(room, {})  # there is none: an expression that needs it fails, any other does not
            continue
        value = VARIABLES[path].value(request, snapshot)
        if name:
            values.setdefault(room, {})[name] = value
        else:
            values[room] = value
    return values


def _samples() -> tuple[tuple[Request, Snapshot], ...]:
    """A bare and a full request at different hours, so that wrong types are found when the rules are read."""
    full = Request(
        "r",
        "acme/large",
        "completion",
        prompts=("a", "b"),
        sampling=Sampling(max_tokens=2000),
        needs=frozenset({"tools", "vision"}),
        locality="only_local",
        deadline_s=5.0,
        stream=True,
        key="kiosk",
        declared=frozenset({"health"}),
    )
    busy = Snapshot(
        states={"local/a": ModelState("a", "ready", waiting=20, running=16)},
        estimated_tokens=8000,
        offline="no link",
        data_classes=frozenset({"email"}),
        signals={**dict.fromkeys(_judged(), 1.0), "language": "de", "language_confidence": 1.0, "difficulty": 1.0},
        spent=Spent(1.0, 10.0, 5.0, 50.0),
        at=1_700_000_000.0,
    )
    bare, idle = Request("r", "auto", "chat"), Snapshot()
    return (bare, idle), (full, busy), (bare, busy), (full, idle)


SAMPLES = _samples()
