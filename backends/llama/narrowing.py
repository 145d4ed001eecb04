"""A schema made a little narrower, where llguidance would let through what a validator refuses. Pure.

What is left out is valid as well, but nothing that anybody would miss: a NUL in a string, the tenth digit of a bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from backends.llama.one_of import LITERAL

NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords that hold schemas by name."""

ESCAPES = 'nrbtf\\"'
"""After a backslash in JSON. A name that is spelled in `\\u` would not be seen to be a property's own name."""

DAYS = (
    r"^((000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-((0[13-9]|1[0-2])-[0-9]{2}|02-([01][0-9]|2[0-8]))"
    r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)"
)
FORMATS: Mapping[str, Mapping[str, Any]] = {
    # The months' lengths are known to llguidance; leap years, the year 0 and the length of a name are not.
    "date": {"pattern": DAYS},
    "date-time": {"pattern": DAYS},
    "hostname": {"maxLength": 253},
}

CONTROL = (
    r"\\x(?:0[0-7bBeEfF]|1[0-9a-fA-F]|7[fF])|\\u00(?:0[0-7bBeEfF]|1[0-9a-fA-F]|7[fF])|\\[acv]"
    r"|[\x00-\x07\x0b\x0e-\x1f\x7f]"
)
"""Characters that JSON can only spell in `\\u`, as regular expressions write them."""
FOREIGN = {"\\w": r"\w\x80-\x{10FFFF}", "\\d": r"\p{Nd}"}
"""All that somebody takes for letters and digits, and what takes too long to tell from them."""

UNWRITABLE = "a control character that JSON can only spell in `\\u`"

_CONTROL = re.compile(CONTROL)
_ALONE = re.compile(rf"\[(?:{CONTROL})\]")
_TOKEN = re.compile(r"\\P(\{[^{}]*\}|[A-Za-z])|\\(?:x00|u0000)-|\\x..|\\u....|\\.|\[\^?([\]-]?)|.", re.DOTALL)


def narrowed(schema: Any, wrong: list[str]) -> Any:
    """The schema, so that all that llguidance allows satisfies it; what would not be enforced is added to `wrong`.

    Raises:
        RecursionError: it is nested some hundred deep.
    """
    if isinstance(schema, list):
        return [narrowed(item, wrong) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    new = {key: _inside(key, value, wrong) for key, value in schema.items()}
    new.pop("x-guidance", None)  # llguidance's own settings
    if isinstance(new.get("pattern"), str):
        new["pattern"] = _exact(new["pattern"], wrong)
    _close(new, "exclusiveMinimum", "minimum", 1)
    _close(new, "exclusiveMaximum", "maximum", -1)
    if _counts_names(new):
        wrong.append("`minProperties`: it can be at most one more than the properties that are `required`")
    if isinstance(form := new.get("format"), str) and form in FORMATS:
        others = new.get("allOf")
        new["allOf"] = [*(others if isinstance(others, list) else ()), FORMATS[form]]
    return new


def _inside(key: str, value: Any, wrong: list[str]) -> Any:
    if key in ("const", "enum") and _unwritable(value):
        wrong.append(f"`{key}`: {UNWRITABLE}")
    if key in LITERAL:
        return value
    if key in NAMED and isinstance(value, Mapping):
        inside = {name: narrowed(one, wrong) for name, one in value.items()}
        return {_exact(n, wrong, names=True): s for n, s in inside.items()} if key == "patternProperties" else inside
    return narrowed(value, wrong)


def _unwritable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_unwritable(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return any(map(_unwritable, value))
    return isinstance(value, str) and _CONTROL.search(value.replace("\\", "")) is not None


def _exact(pattern: str, wrong: list[str], *, names: bool = False) -> str:
    """The regular expression, so that it allows only what it means everywhere.

    To a class of characters that has all control characters, llguidance adds the quote and the backslash, whether they
    are in it or not: none has NUL. A control character by itself it would leave out. Whether `\\W` has foreign letters
    is told one way by ECMA, and another way by Python and Rust: it has none; but in a pattern of `names` it stays
    ECMA's, since what does not match it is an additional property.
    """
    alone = _ALONE.search(pattern) is not None
    parts: list[str] = []
    negated: list[bool] = []  # the classes of characters that are open
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text[0] == "[":
            negated.append(text.startswith("[^"))
            text = ("[^\\x00" if negated[-1] else "[") + (f"\\{token[2]}" if token[2] else "")
        elif text == "]" and negated:
            negated.pop()
        elif not negated and _CONTROL.match(text):
            alone = True
        elif not names or text.lower() not in FOREIGN:
            text = _either_way(text, token[1], within=any(negated))
        parts.append(text)
    if alone:
        wrong.append(f"`pattern`: {UNWRITABLE}")
    return "".join(parts)


def _either_way(token: str, named: str | None, *, within: bool) -> str:
    """An escape; `within`: in a class that is negated. `named`: of `\\P`, what it is not."""
    if named:
        return f"[^\\x00\\p{named}]"
    if token in ("\\x00-", "\\u0000-"):
        return "\\x01-"
    if token in ("\\W", "\\D") and not within:
        return f"[^\\x00{FOREIGN[token.lower()]}]"
    return FOREIGN.get(token, token) if within else token


def _close(schema: dict[str, Any], exclusive: str, inclusive: str, sign: int) -> None:
    """A bound that is excluded becomes one that is not, in its tenth digit: with more digits than a float has, what
    stands beside an excluded bound is read as the bound itself. Integers and multiples have no such neighbours."""
    bound = schema.get(exclusive)
    whole = set(said if isinstance(said := schema.get("type"), list) else [said]) & {"integer", "number"} == {"integer"}
    if whole or "multipleOf" in schema or isinstance(bound, bool) or not isinstance(bound, int | float):
        return
    at = Decimal(repr(bound))
    nearest = at + sign * Decimal(1).scaleb(at.adjusted() - 9 if at else -30)
    choices: list[dict[str, Any]] = [{inclusive: float(nearest)}]
    if at * sign < 0:
        # llguidance's range from 0 to 0.999 has 0.5 and 0.90, but not 0.9 and 0.99.
        choices.append({"enum": _shorter(nearest)})
    del schema[exclusive]
    others = schema.get("allOf")
    schema["allOf"] = [*(others if isinstance(others, list) else ()), {"anyOf": choices}]


def _shorter(number: Decimal) -> list[float]:
    """The number, with one decimal, with two, and so on; those that are nothing but zeros count as one."""
    digits = f"{number:f}"
    whole, _, decimals = digits.partition(".")
    first = max(-number.adjusted(), 1) if int(whole) == 0 else 1
    return [float(f"{whole}.{decimals[:end] or 0}") for end in (1, *range(max(first, 2), len(decimals) + 1))]


def _counts_names(schema: Mapping[str, Any]) -> bool:
    """Whether a property that is written twice, which is one property, may be counted as two."""
    least, required = schema.get("minProperties"), schema.get("required")
    return isinstance(least, int) and least > 1 + len(set(map(str, required)) if isinstance(required, list) else ())
