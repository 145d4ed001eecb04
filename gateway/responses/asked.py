"""A body of `/v1/responses`, read: the chat that says the same, and what the response repeats of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends.errors import BackendError, InvalidRequest
from gateway.responses.items import Chat
from gateway.schemas.file_search import FileSearchTool
from gateway.schemas.items import ITEM_TYPES
from gateway.schemas.responses_api import (
    AllowedChoice,
    FunctionTool,
    NamedChoice,
    Reasoning,
    ResponsesRequest,
    SearchChoice,
    TextFormat,
)

OURS = frozenset(
    """input instructions max_output_tokens max_tool_calls tools tool_choice parallel_tool_calls text reasoning
    truncation top_logprobs include store background previous_response_id conversation prompt metadata stream
    stream_options n model messages""".split()
)
"""Fields that a chat has not, or otherwise; all others go into the chat as they are."""


TOOL_TYPES = ("function", "file_search")
NOT_HERE = (
    "prompt",
    "access_programs",
    "image",
    "input_transformations",
    "moderation",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "prompt_cache_retention",
    "tool_usage",
)
"""Fields of the response object that nothing here gives rise to."""


def refuse_unsupported(raw: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for what the API has and this gateway has not, with its place."""
    if raw.get("prompt") is not None:
        raise _unsupported("prompt", "`prompt` is not supported here")
    if raw.get("truncation") not in (None, "disabled"):
        raise _unsupported("truncation", "only `disabled` is supported, since nothing is ever cut off silently")
    for at, tool in enumerate(_list(raw.get("tools"))):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in TOOL_TYPES:
            wrong = f"there are no tools of the type {kind[:60]!r} here, only `function` and `file_search`"
            raise _unsupported(f"tools[{at}].type", wrong)
    choice = raw.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") not in (*TOOL_TYPES, "allowed_tools", None):
        raise _unsupported("tool_choice.type", f"{str(choice['type'])[:60]!r} cannot be chosen here")
    refuse_items(raw, "input")


def refuse_items(raw: Mapping[str, Any], field: str) -> None:
    """The same for the items of one field."""
    for at, item in enumerate(_list(raw.get(field))):
        if isinstance(item, dict):
            _refuse_item(item, f"{field}[{at}]")


def _refuse_item(item: Mapping[str, Any], place: str) -> None:
    kind = item.get("type")
    if isinstance(kind, str) and kind not in ITEM_TYPES:
        raise _unsupported(f"{place}.type", f"items of the type {kind[:60]!r} are not known here")
    for name in ("content", "output"):
        for at, part in enumerate(_list(item.get(name))):
            for field in ("file_id", "file_url") if isinstance(part, dict) else ():
                if part.get(field) is not None:
                    where = f"{place}.{name}[{at}].{field}"
                    why = "kept and fetched files cannot be put into a message here: send it in the request itself"
                    raise _unsupported(where, f"{why}, or have it searched by `file_search`")


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _unsupported(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"`{param}`: {why}.", code="unsupported", param=param)


def chat_body(wire: ResponsesRequest, raw: Mapping[str, Any], chat: Chat) -> dict[str, Any]:
    """The body of the same request in the words of a chat, which every provider knows.

    Neither `metadata` nor `store` is in it: they are between the client and this gateway.
    """
    body: dict[str, Any] = {"model": raw["model"], "messages": chat.messages}
    body.update((key, value) for key, value in raw.items() if key not in OURS and value is not None)
    if wire.stream:
        body["stream"] = True
    if wire.max_output_tokens is not None:
        body["max_tokens"] = wire.max_output_tokens
    if wire.wants_logprobs:
        body |= {"logprobs": True, "top_logprobs": wire.top_logprobs or 0}
    if wire.reasoning and wire.reasoning.effort:
        body["reasoning_effort"] = wire.reasoning.effort
    if wire.text and wire.text.verbosity:
        body["verbosity"] = wire.text.verbosity
    if wire.text and wire.text.format and wire.text.format.type != "text":
        body["response_format"] = _response_format(raw["text"]["format"])
    return body | _tools(wire, raw, chat)


def _response_format(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["type"] == "json_object":
        return {"type": "json_object"}
    fields = ("name", "description", "strict", "schema")
    return {"type": "json_schema", "json_schema": {key: given[key] for key in fields if given.get(key) is not None}}


def _tools(wire: ResponsesRequest, raw: Mapping[str, Any], chat: Chat) -> dict[str, Any]:
    if not wire.functions:
        return {}
    choice = wire.tool_choice
    allowed = choice.names if isinstance(choice, AllowedChoice) else None
    functions = [(at, tool) for at, tool in enumerate(raw["tools"]) if tool["type"] == "function"]
    chosen = [(at, tool) for at, tool in functions if allowed is None or tool["name"] in allowed]
    if not chosen:
        return {}
    chat.tools[:] = [at for at, _ in chosen]
    fields = ("name", "description", "parameters", "strict")
    said: dict[str, Any] = {
        "tools": [
            {"type": "function", "function": {key: tool[key] for key in fields if tool.get(key) is not None}}
            for _, tool in chosen
        ]
    }
    if isinstance(choice, NamedChoice):
        said["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif isinstance(choice, AllowedChoice):
        said["tool_choice"] = "auto" if wire.search else choice.mode
    elif choice is not None and not isinstance(choice, SearchChoice):
        # A tool that must be used was used already: the documents are always searched.
        said["tool_choice"] = "auto" if choice == "required" and wire.search else choice
    if wire.parallel_tool_calls is not None:
        said["parallel_tool_calls"] = wire.parallel_tool_calls
    return said


def template_kwargs(wire: ResponsesRequest) -> dict[str, Any]:
    """For a local model's template: how much it should think, in the words that templates have for it."""
    effort = wire.reasoning.effort if wire.reasoning else None
    said: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        said["enable_thinking"] = False
    return {**said, **(wire.chat_template_kwargs or {})}


def echo(wire: ResponsesRequest, raw: Mapping[str, Any], *, store: bool) -> dict[str, Any]:
    """The fields of the response object that say what was asked, with what holds where nothing was.

    `None` in one of those that the model that answers has a say in: see `Draft.begin`.
    """
    return {
        "model": wire.model,
        "background": bool(wire.background),
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "max_tool_calls": wire.max_tool_calls,
        "metadata": wire.metadata or {},
        "parallel_tool_calls": wire.parallel_tool_calls is not False,
        "previous_response_id": wire.previous_response_id,
        "conversation": {"id": wire.conversation_id} if wire.conversation_id else None,
        **dict.fromkeys(NOT_HERE),
        "reasoning": _reasoning(wire.reasoning),
        "safety_identifier": wire.safety_identifier,
        "prompt_cache_key": wire.prompt_cache_key,
        "service_tier": "default",
        "store": store,
        "temperature": wire.temperature,
        "top_p": wire.top_p,
        "presence_penalty": wire.presence_penalty,
        "frequency_penalty": wire.frequency_penalty,
        "text": {
            "format": _format(wire.text.format if wire.text else None, raw),
            "verbosity": (wire.text and wire.text.verbosity) or "medium",
        },
        "tool_choice": raw.get("tool_choice") or "auto",
        "tools": [_tool(tool, given) for tool, given in zip(wire.tools or (), raw.get("tools") or (), strict=True)],
        "top_logprobs": wire.top_logprobs or 0,
        "truncation": "disabled",
        "user": wire.user,
    }


def _tool(tool: FunctionTool | FileSearchTool, given: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(tool, FileSearchTool):
        fields = ("vector_store_ids", "filters", "max_num_results", "ranking_options")
        return {"type": "file_search", **{name: given.get(name) for name in fields}}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _reasoning(asked: Reasoning | None) -> dict[str, Any]:
    summary = (asked.summary or asked.generate_summary) if asked else None
    return {"effort": asked.effort if asked else None, "summary": summary}


def _format(asked: TextFormat | None, raw: Mapping[str, Any]) -> dict[str, Any]:
    if asked is None or asked.type != "json_schema":
        return {"type": asked.type if asked else "text"}
    return {
        "type": "json_schema",
        "name": asked.name,
        "description": asked.description,
        "schema": raw["text"]["format"]["schema"],
        "strict": asked.strict,
    }


_MESSAGE = re.compile(r"messages\[([0-9]+)\]")
_TOOL = re.compile(r"^tools\[([0-9]+)\](?:\.function)?(?!\.(?:vector_store_ids|filters))")


def place_of(param: str, chat: Chat) -> str:
    """What a field of the chat is called in the request that it was made from."""
    if (found := _MESSAGE.match(param)) and int(found[1]) < len(chat.places):
        return chat.places[int(found[1])]
    if param == "messages":
        return "input"
    if param == "max_tokens":
        return "max_output_tokens"
    if param.startswith("response_format"):
        return param.replace("response_format", "text.format", 1).replace(".json_schema", "", 1)
    return _TOOL.sub(lambda found: f"tools[{_tool_at(int(found[1]), chat)}]", param)


def _tool_at(number: int, chat: Chat) -> int:
    """Where a function of the chat stands among the request's tools."""
    return chat.tools[number] if number < len(chat.tools) else number


def in_own_words(error: BackendError, chat: Chat) -> BackendError:
    """An error about the chat as one about the request."""
    if error.param:
        place = place_of(error.param, chat)
        error.message = error.message.replace(f"`{error.param}`", f"`{place}`")
        error.param = place
    return error


def names_for(needs: Mapping[str, str], chat: Chat) -> Mapping[str, str]:
    """What this dialect calls what policies and backends name."""
    own = {need: place_of(field, chat) for need, field in needs.items()}
    return _Names({"response_format": "text.format", "logprobs": "top_logprobs", **own}, chat)


class _Names(Mapping[str, str]):
    """These, and for any other field of the chat its place in the request."""

    def __init__(self, own: Mapping[str, str], chat: Chat) -> None:
        self._own, self._chat = own, chat

    def __getitem__(self, param: str) -> str:
        return self._own.get(param) or place_of(param, self._chat)

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
