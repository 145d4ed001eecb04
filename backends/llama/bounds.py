"""How much a grammar may ask for, told from its text alone: what is beyond it takes what compiles it more stack, or
more time, than there is. Pure, and about linear in the text.

What these bounds let through may still be too much: `trials` finds that out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import orjson

from backends.llama.family import Calls
from backends.llama.references import LISTED, NAMED, SINGLE, resolved, within
from backends.types import Grammar

MOST_PATTERNS = 8
"""That hold for one value. Each further one may double what has to be tried: 22 of them take ten seconds."""
MOST_OPERATORS = 8
"""`&` and `~` of a Lark grammar."""
MOST_DEPTH = 200
"""Of schemas in schemas, and of rules that use rules."""
SMALL_BYTES = 8192

ANNOTATIONS = frozenset(("title", "description", "default", "$schema", "$comment", "$defs", "definitions"))
BESIDE_REFERENCES = ANNOTATIONS | {"$ref"}
PLAIN = ANNOTATIONS.union(
    ("type", "properties", "required", *SINGLE, "anyOf", "enum", "const", "examples"),
    ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
)
NUMBERS = {"minimum": 1e15, "maximum": 1e15, **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), 1e3)}
"""Up to which, either way, they are small."""

_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\\n])+/|<[^<>\n]*>', re.DOTALL)
_QUOTED_GBNF = re.compile(r'"(?:\\.|[^"\\\n])*"|#[^\n]*|\[(?:\\.|[^\]\\\n])*\]', re.DOTALL)
_RULE = re.compile(r"^[ \t]*[?!]?([A-Za-z_][\w-]*)(?:\[[^\]\n]*\]|\.-?\d+|\{[^}\n]*\})*[ \t]*(?:::=|:)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_OPERATOR = re.compile(r"&|~(?!\s*\d)")  # `~ 3` repeats

Key = TypeVar("Key", bound=Hashable)


def excess(grammar: Grammar) -> Iterator[tuple[str, str]]:
    """Why a grammar asks for too much, with the name of the function whose parameters do; nothing: it does not."""
    if grammar.kind in ("lark", "gbnf") and (why := grammar_excess(grammar.source)):
        yield "", why
    with contextlib.suppress(orjson.JSONDecodeError):  # refused in the words of what reads it
        yield from ((name, why) for name, schema in _schemas(grammar) if (why := schema_excess(schema)))


def harmless(grammar: Grammar) -> bool:
    """Whether it is small and of keywords alone that cost what they say: no patterns, nothing that multiplies."""
    if grammar.kind not in ("json_schema", "tools") or len(grammar.source) > SMALL_BYTES:
        return False
    try:
        return all(_harmless(schema) for _, schema in _schemas(grammar))
    except orjson.JSONDecodeError:
        return False


def _schemas(grammar: Grammar) -> list[tuple[str, Any]]:
    """The schemas in it, each with the function whose parameters it is of."""
    if grammar.kind == "json_schema":
        return [("", orjson.loads(grammar.source))]
    if grammar.kind != "tools":
        return []
    calls = Calls.of(grammar)
    functions = [(function.name, function.parameters) for function in calls.functions]
    return functions if calls.otherwise is None else [*functions, ("", calls.otherwise)]


def schema_excess(schema: Any) -> str:
    """Why a JSON schema asks for too much, naming the keyword; empty: it does not."""
    if not isinstance(schema, Mapping):
        return ""
    nodes: dict[int, Mapping[str, Any]] = {}
    targets: dict[str, Any] = {}

    def target(node: Mapping[str, Any]) -> Any:
        reference = node.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        if reference not in targets:
            targets[reference] = resolved(schema, reference)
        return targets[reference]

    def keys(*some: Any) -> list[int]:
        found = [one for one in some if isinstance(one, Mapping)]
        nodes.update((id(one), one) for one in found)
        return [id(one) for one in found]

    def parts(key: int) -> list[int]:
        return keys(*within(nodes[key]), target(nodes[key]))

    patterns: dict[int, int] = {}
    depths: dict[int, int] = {}
    for key in _innermost_first(keys(schema)[0], parts):
        node = nodes[key]
        depths[key] = 1 + max((depths.get(part, 0) for part in parts(key)), default=0)
        if depths[key] > MOST_DEPTH:
            return f"`{'$ref' if '$ref' in node else _deep(node)}`: it leads more than {MOST_DEPTH} schemas deep"
        together = sum(patterns.get(part, 0) for part in keys(*_listed(node, "allOf"), target(node)))
        together += sum(
            max((patterns.get(part, 0) for part in keys(*_listed(node, choice))), default=0)
            for choice in ("anyOf", "oneOf")
        )
        patterns[key] = together + ("pattern" in node) + ("format" in node)
        if patterns[key] > MOST_PATTERNS:
            keyword = "allOf" if "allOf" in node else "pattern"
            return f"`{keyword}`: more than {MOST_PATTERNS} patterns hold for one value"
    return ""


def _deep(node: Mapping[str, Any]) -> str:
    return next((keyword for keyword in (*NAMED, *SINGLE, *LISTED) if keyword in node), "$ref")


def _listed(node: Mapping[str, Any], keyword: str) -> list[Any]:
    listed = node.get(keyword)
    return listed if isinstance(listed, list) else []


def grammar_excess(source: str) -> str:
    """Why a grammar in Lark's or llama.cpp's notation asks for too much; empty: it does not."""
    gbnf = "::=" in source
    bare = (_QUOTED_GBNF if gbnf else _QUOTED).sub(" ", source)
    if not gbnf and len(_OPERATOR.findall(bare)) > MOST_OPERATORS:
        return f"it has more than {MOST_OPERATORS} of the operators `&` and `~`"
    heads = list(_RULE.finditer(bare))
    ends = [*(head.start() for head in heads), len(bare)][1:]
    bodies = {head[1]: bare[head.end() : end] for head, end in zip(heads, ends, strict=True)}
    uses = {name: [used for used in _NAME.findall(body) if used in bodies] for name, body in bodies.items()}
    depths: dict[str, int] = {}
    for start in uses:
        if start in depths:
            continue
        for name in _innermost_first(start, uses.__getitem__, depths):
            depths[name] = 1 + max((depths.get(used, 0) for used in uses[name]), default=0)
            if depths[name] > MOST_DEPTH:
                return f"the rule `{name[:80]}` leads more than {MOST_DEPTH} rules deep"
    return ""


def _innermost_first(
    start: Key, parts: Callable[[Key], list[Key]], known: Mapping[Key, Any] | None = None
) -> Iterator[Key]:
    """All that can be reached and is not known, each after what it leads to, unless that leads back to it."""
    seen = {start}
    stack = [(start, iter(parts(start)))]
    while stack:
        key, rest = stack[-1]
        for part in rest:
            if part not in seen and part not in (known or {}):
                seen.add(part)
                stack.append((part, iter(parts(part))))
                break
        else:
            stack.pop()
            yield key


def _harmless(schema: Any) -> bool:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, Mapping) or not _plain(node):
            return False
        waiting += [node[key] for key in SINGLE if key in node] + _listed(node, "anyOf")
        for key in ("properties", "$defs", "definitions"):
            waiting += named.values() if isinstance(named := node.get(key, {}), Mapping) else [named]
    return True


def _plain(node: Mapping[str, Any]) -> bool:
    if not (PLAIN if "$ref" not in node else BESIDE_REFERENCES).issuperset(node):
        return False
    numbers = ((node.get(key, 0), most) for key, most in NUMBERS.items())
    return all(isinstance(number, int | float) and abs(number) <= most for number, most in numbers)
