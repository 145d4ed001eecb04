"""What a schema's references lead to: within it, somewhere, and in the end to something finite. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MOST_STEPS = 100_000
"""What takes more is left to llguidance's own limits."""
NAMED = ("properties", "patternProperties")
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE = ("items", "additionalProperties")

Node = Mapping[str, Any]


def trouble(schema: Any) -> str:
    """Why the references of a schema cannot be followed, naming the keyword; empty: they can.

    A schema has an end if a finite value may satisfy it: not if it is nothing but itself, nor if it needs a property or
    an item that is again the same. Each schema that can be reached must have one, for the model may come upon it.
    """
    if not isinstance(schema, Mapping):
        return ""
    nodes: dict[int, Node] = {}
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Mapping) or id(node) in nodes:
            continue
        nodes[id(node)] = node
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            return f"`$ref`: {reference[:80]!r} is not within the schema, and nothing is fetched"
        if reference == "#" or (isinstance(reference, str) and reference.startswith("#/")):
            target = resolved(schema, reference)
            if target is None:
                return f"`$ref`: {reference[:80]!r} leads nowhere"
            waiting.append(target)
        waiting += within(node)
    return "" if _all_end(schema, list(nodes.values())) else "`$ref`: it leads back to itself without end"


def within(node: Node) -> Iterator[Any]:
    """What stands for schemas in a schema's own keywords, references aside."""
    for keyword in SINGLE:
        yield node.get(keyword)
    for keyword in NAMED:
        if isinstance(named := node.get(keyword), Mapping):
            yield from named.values()
    for keyword in LISTED:
        if isinstance(listed := node.get(keyword), list):
            yield from listed


def resolved(root: Any, reference: str) -> Any:
    """What a reference that begins with `#` leads to; None: nowhere."""
    place = root
    for key in reference[1:].split("/")[1:]:
        name = unquote(key).replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping):
            place = place.get(name)
        elif isinstance(place, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(place):
            place = place[int(name)]
        else:
            return None
    return place


def _all_end(root: Node, nodes: list[Node]) -> bool:
    """The least set of those that have an end: one more may be found as long as another was."""
    ending: set[int] = set()
    steps, left = 0, nodes
    while left:
        left = left[::-1]  # a long chain is one pass in one of the two directions
        steps += len(left)
        rest = [node for node in left if not _add(node, root, ending)]
        if len(rest) == len(left):
            return False
        if steps > MOST_STEPS:
            return True
        left = rest
    return True


def _add(node: Node, root: Node, ending: set[int]) -> bool:
    """Whether the schema has an end, as far as is known now; if so, it is known from now on."""

    def ends(schema: Any) -> bool:
        return not isinstance(schema, Mapping) or id(schema) in ending

    reference = node.get("$ref")
    parts = [*_listed(node, "allOf"), *([resolved(root, reference)] if isinstance(reference, str) else [])]
    choices = [some for keyword in ("anyOf", "oneOf") if (some := _listed(node, keyword))]
    fine = all(map(ends, parts)) and all(any(map(ends, some)) for some in choices) and all(map(ends, _needed(node)))
    if fine:
        ending.add(id(node))
    return fine


def _listed(node: Node, keyword: str) -> list[Any]:
    listed = node.get(keyword)
    return listed if isinstance(listed, list) else []


def _needed(node: Node) -> Iterator[Any]:
    """Properties and items that its value cannot be without."""
    kind = node.get("type")
    kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    if "const" in node or "enum" in node:
        return
    properties, required = node.get("properties"), node.get("required")
    if kind == "object" and isinstance(properties, Mapping) and isinstance(required, list):
        yield from (properties[name] for name in required if isinstance(name, str) and name in properties)
    least = node.get("minItems")
    if kind == "array" and isinstance(least, int) and least > 0:
        first = _listed(node, "prefixItems")
        yield from first[:least]
        if least > len(first):
            yield node.get("items")
