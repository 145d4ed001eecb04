"""How families of models call tools: told by their chat template, one row each. Pure.

Sources: the chat templates of the models named, as their authors publish them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.errors import InvalidRequest
from backends.types import Grammar, NamedTool, ToolChoice


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands around a call in the model's text.

    Attributes:
        marks: of the chat template's text, one of them tells the family.
        open, close: around each call; `array`: around the list of all calls.
        arguments: the key of a call's arguments, beside `name`.
        template: the chat template takes `tools` and `tool_calls`; otherwise they are written into the messages.
        bare: models of the family forget the marks: a completion that begins as a call's object is one.
        id_length: letters and digits of a call's id, where the template is particular about it.
    """

    name: str
    marks: tuple[str, ...]
    open: str
    close: str
    arguments: str = "arguments"
    array: bool = False
    template: bool = True
    bare: bool = False
    id_length: int = 24

    def new_id(self) -> str:
        """Of a call."""
        letters = "".join(secrets.choice(_LETTERS) for _ in range(self.id_length))
        return letters if self.id_length < 24 else f"call_{letters}"


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

FORMATS = (
    # Mistral 7B Instruct v0.3 and later: ids of nine letters, or their template refuses the conversation.
    ToolFormat("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]", "", array=True, id_length=9),
    # Granite 3.
    ToolFormat("granite", ("<|tool_call|>",), "<|tool_call|>", "", array=True),
    # Hermes 2 Pro, Qwen 2.5 and 3.
    ToolFormat("hermes", ("<tool_call>",), "<tool_call>\n", "\n</tool_call>", bare=True),
    # Llama 3.1 to 3.3: a bare object, with nothing before it.
    ToolFormat("llama3", ("<|python_tag|>", '"parameters": '), "", "", arguments="parameters"),
)
GENERIC = ToolFormat("generic", (), "<tool_call>\n", "\n</tool_call>", template=False, bare=True)
"""For a template that knows no tools: asked for in Hermes' words, which most models have seen."""

INSTRUCTIONS = """

# Tools

You may call one or more functions. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>

For each call, answer with a JSON object within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def format_of(template: str | None) -> ToolFormat:
    """The family that a chat template tells."""
    found = (form for form in FORMATS if template and "tools" in template and any(m in template for m in form.marks))
    return next(found, GENERIC)


@dataclass(frozen=True, slots=True)
class Function:
    """One tool. `parameters` is a JSON schema; `strict`: all of it must be enforced, or the request is refused."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False


def functions_of(tools: Sequence[Mapping[str, Any]]) -> tuple[Function, ...]:
    """The functions among a request's tools."""
    return tuple(
        Function(said["name"], said.get("parameters") or {"type": "object", "properties": {}}, bool(said.get("strict")))
        for said in (tool["function"] for tool in tools)
    )


def grammar(
    form: ToolFormat,
    functions: Sequence[Function],
    choice: ToolChoice,
    *,
    parallel: bool,
    otherwise: Grammar | None = None,
) -> Grammar:
    """What the completion may be: any text first, unless a call is required; then calls, and nothing after them.

    Args:
        otherwise: what it must be in place of calls; only a schema can be.

    Raises:
        InvalidRequest: a grammar beside tools.
    """
    if otherwise and otherwise.kind != "json_schema":
        raise InvalidRequest("`grammar` cannot be combined with `tools`.", param="grammar")
    name = choice.name if isinstance(choice, NamedTool) else None
    wanted = [function for function in functions if name in (None, function.name)]
    calls = [_call(form, function, f"f{at}") for at, function in enumerate(wanted)]
    call = {
        **({"anyOf": calls} if len(calls) > 1 else calls[0]),
        "$defs": {f"f{at}": _rooted(function.parameters, f"#/$defs/f{at}") for at, function in enumerate(wanted)},
    }
    spec = {
        "open": form.open,
        "close": form.close,
        "array": form.array,
        "required": choice != "auto",
        "parallel": parallel and name is None,
        "call": call,
        "bare": form.bare,
        "functions": [[function.name, function.parameters, function.strict] for function in wanted],
        "arguments": form.arguments,
        "otherwise": orjson.loads(otherwise.source) if otherwise else None,
    }
    return Grammar("tools", orjson.dumps(spec).decode(), "tools")


def _call(form: ToolFormat, function: Function, place: str) -> dict[str, Any]:
    """One call, the name first, so that its arguments can be streamed."""
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, form.arguments: {"$ref": f"#/$defs/{place}"}},
        "required": ["name", form.arguments],
        "additionalProperties": False,
    }


def _rooted(schema: Any, root: str) -> Any:
    """A schema at another place: its references begin there now."""
    if isinstance(schema, Mapping):
        moved = {key: _rooted(value, root) for key, value in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            moved["$ref"] = root + reference[1:]
        return moved
    return [_rooted(item, root) for item in schema] if isinstance(schema, list) else schema


def local_messages(
    messages: Sequence[Mapping[str, Any]], form: ToolFormat, tools: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages as the template wants them, and its further variables.

    OpenAI's arguments are JSON in a string; templates want the object.
    """
    if form.template:
        return [_with_objects(message) for message in messages], {"tools": list(tools)} if tools else {}
    written = [_in_words(message) for message in messages]
    if tools:
        signatures = "\n".join(orjson.dumps(tool).decode() for tool in tools)
        said = INSTRUCTIONS.format(tools=signatures)
        if written and written[0]["role"] == "system":
            written[0] = {**written[0], "content": written[0]["content"] + said}
        else:
            written.insert(0, {"role": "system", "content": "You are a helpful assistant." + said})
    return written, {}


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {
        **message,
        "tool_calls": [{**call, "function": {**call["function"], "arguments": _object(call)}} for call in calls],
    }


def _object(call: Mapping[str, Any]) -> Any:
    text = call["function"]["arguments"]
    try:
        return orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return text


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    """For a template of plain turns."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = "".join(
        "\n<tool_call>\n"
        + orjson.dumps({"name": call["function"]["name"], "arguments": _object(call)}).decode()
        + "\n</tool_call>"
        for call in message.get("tool_calls") or ()
    )
    return (
        {"role": message["role"], "content": ((message.get("content") or "") + calls).strip()}
        if calls
        else dict(message)
    )
