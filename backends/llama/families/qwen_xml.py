"""Qwen3-Coder, Qwen3.5 and others: a call is XML, a text in it stands as it is, and any other value as JSON.

Source: their chat templates, https://github.com/QwenLM/Qwen3-Coder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from backends.errors import InvalidRequest
from backends.llama.family import Calls, Family, Function, has
from backends.llama.lark import Lark, quoted
from backends.llama.reader import Reader, Steps

FUNCTION, PARAMETER = "<function=", "<parameter="
END, FUNCTION_END, CLOSE = "</parameter>", "</function>", "</tool_call>"
LITERALS = {"True": "true", "False": "false", "None": "null"}
"""As Python and so the templates write them."""

Schema = Mapping[str, Any]


class QwenXml(Family):
    """Whether a value is text is known from the function's schema alone."""

    name = "qwen-xml"
    open = ("<tool_call>",)
    between = "\n"

    def speaks(self, template: str) -> bool:
        return has(template, r"\btools\b", "<tool_call>", FUNCTION, PARAMETER)

    def marks(self) -> tuple[str, ...]:
        return (*super().marks(), CLOSE)

    # -- the grammar ---------------------------------------------------------------------------------------------

    def calls(self, lark: Lark, calls: Calls) -> str:
        wanted = [lark.rule(f"call_{at}", _call(lark, at, function)) for at, function in enumerate(calls.functions)]
        return f'"\\n" ({" | ".join(wanted)}) "\\n" {lark.mark(CLOSE)}'

    # -- the completion ------------------------------------------------------------------------------------------

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        yield from reader.skip()
        if not (yield from reader.accept((FUNCTION,))):
            return
        name, end = yield from reader.word((">",))
        if not end:
            reader.drop_the_rest()
            return
        reader.begin(name)
        function = next((function for function in calls.functions if function.name == name), Function(name, {}))
        reader.argue("{")
        count = 0
        while (tag := (yield from self._next(reader))) == PARAMETER:
            key, end = yield from reader.word((">",))
            if not end:
                break
            yield from reader.accept(("\n",))
            reader.argue(f"{', ' if count else ''}{_json(key)}: ")
            count += 1
            if not (yield from self._value(reader, _property(function, key))):
                return
        if tag != FUNCTION_END:
            reader.drop_the_rest()
            return
        reader.argue("}")
        reader.finish()
        yield from reader.skip()
        yield from reader.accept((CLOSE,))
        yield from reader.skip()

    def _next(self, reader: Reader) -> Steps[str]:
        yield from reader.skip()
        return (yield from reader.accept((PARAMETER, FUNCTION_END)))

    def _value(self, reader: Reader, schema: Schema) -> Steps[bool]:
        """Up to its end; False: the end of the completion came first."""
        ends = (f"\n{END}", END)
        if schema.get("type") == "string":
            reader.argue('"')
            if not (yield from reader.until(ends, lambda text: reader.argue(_json(text)[1:-1]), trim="")):
                return False
            reader.argue('"')
            return True
        parts: list[str] = []
        if not (yield from reader.until(ends, parts.append, trim="")):
            return False
        reader.argue(_as_json("".join(parts)))
        return True


FAMILIES = (QwenXml(),)


def _call(lark: Lark, at: int, function: Function) -> str:
    required = _resolved(function.parameters, function.parameters).get("required") or ()
    words = [quoted(f"{FUNCTION}{function.name}>\n")]
    for nth, key in enumerate(_properties(function)):
        value = _value_rule(lark, f"value_{at}_{nth}", function, key)
        parameter = lark.rule(f"parameter_{at}_{nth}", f"{quoted(f'{PARAMETER}{key}>' + chr(10))} {value}")
        words.append(parameter if key in required else f"{parameter}?")
    return f"{' '.join(words)} {quoted(FUNCTION_END)}"


def _value_rule(lark: Lark, name: str, function: Function, key: str) -> str:
    """A value with its end."""
    schema, end = _property(function, key), f"\n{END}\n"
    if not _is_text(schema):
        return f"{lark.json(name, _alone(function.parameters, key))} {quoted(end)}"
    known = [schema["const"]] if "const" in schema else schema.get("enum")
    if known:
        texts = [quoted(one if isinstance(one, str) else _json(one)) for one in known]
        return f"{lark.rule(name, ' | '.join(texts))} {quoted(end)}"
    if function.strict and (wanted := {"format", "pattern", "minLength", "maxLength"} & schema.keys()):
        raise InvalidRequest(
            f"The parameters of the function {function.name!r} cannot be enforced: this model writes {key!r} as plain "
            f"text, and {min(wanted)!r} holds for JSON only.",
            param="tools",
            code="unsupported_schema",
        )
    return lark.text_until(name, end)


def _is_text(schema: Schema) -> bool:
    """A schema that says nothing of the type allows text as well."""
    kind = schema.get("type")
    if kind is None:
        known = [schema["const"]] if "const" in schema else schema.get("enum")
        return all(isinstance(one, str) for one in known) if known else not schema.keys() & {"anyOf", "oneOf", "allOf"}
    return "string" in kind if isinstance(kind, list) else bool(kind == "string")


def _properties(function: Function) -> Mapping[str, Any]:
    found = _resolved(function.parameters, function.parameters).get("properties")
    return found if isinstance(found, Mapping) else {}


def _property(function: Function, key: str) -> Schema:
    return _resolved(_properties(function).get(key), function.parameters)


def _resolved(schema: Any, root: Schema) -> Schema:
    """What a reference leads to, within the schema itself."""
    for _ in range(8):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            break
        found: Any = root
        for step in schema["$ref"].removeprefix("#").split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        schema = found
    return schema if isinstance(schema, Mapping) else {}


def _alone(root: Schema, key: str) -> dict[str, Any]:
    """The schema of one property as one of its own, in which all references of the whole still lead somewhere."""
    place = "#/$defs/whole"
    base = root
    path = place
    while isinstance(base.get("$ref"), str) and "properties" not in base:
        path = place + base["$ref"].removeprefix("#")
        base = _resolved(base, root)
    escaped = key.replace("~", "~0").replace("/", "~1")
    return {"$ref": f"{path}/properties/{escaped}", "$defs": {"whole": _moved(root, place)}}


def _moved(schema: Any, root: str) -> Any:
    """A schema at another place: its references begin there now."""
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, root) for key, value in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            moved["$ref"] = root + reference[1:]
        return moved
    return [_moved(item, root) for item in schema] if isinstance(schema, list) else schema


def _as_json(text: str) -> str:
    """A value that is not known to be text: as it is, if it is JSON."""
    text = LITERALS.get(text.strip(), text)
    try:
        json.loads(text)
    except ValueError:
        return _json(text)
    return text.strip()


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
