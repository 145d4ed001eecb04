"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request as HTTPRequest

from backends.types import NamedTool, Request, ToolChoice
from gateway.documents.asked import search_of
from gateway.documents.frames import GroundedChatFrames
from gateway.routes.answer import Answer
from gateway.routes.grounding import grounded
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.chat import ChatRequest, NamedChoice
from gateway.schemas.parse import check, parse_json, read_body
from gateway.sse import ChatFrames

PART_NEEDS = {"image_url": "vision", "input_audio": "audio", "file": "files"}


def chat_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def chat_completions(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(ChatRequest, raw)
        request, names = chat_request(outcome_of(http).id, wire, raw, http, inference.key_classes)
        if wire.outstation is None or wire.outstation.vector_store_ids is None:
            return inference.answer(http, wire, request, "chatcmpl", ChatFrames, names)
        search = search_of(raw["outstation"], "outstation")
        request, through = await grounded(inference, request, search, "outstation.vector_store_ids")
        frames = partial(GroundedChatFrames, grounded=through)
        return inference.answer(http, wire, request, "chatcmpl", frames, names, through)

    return chat_completions


def chat_request(
    request_id: str,
    wire: ChatRequest,
    raw: Mapping[str, Any],
    http: HTTPRequest,
    key_classes: Mapping[str, frozenset[str]],
) -> tuple[Request, Mapping[str, str]]:
    """The domain request, and which field of the body gave rise to each of its needs."""
    grammar, form_needs = wire.form(raw)
    needs = {**_content_needs(raw["messages"]), **_field_needs(wire), **form_needs}
    max_tokens = wire.max_completion_tokens if wire.max_completion_tokens is not None else wire.max_tokens
    request = Request(
        id=request_id,
        model=wire.model,
        kind="chat",
        messages=tuple(_message(message) for message in raw["messages"]),
        sampling=wire.sampling(max_tokens, (wire.top_logprobs or 0) if wire.logprobs else None),
        n=wire.n or 1,
        needs=frozenset(needs),
        tools=tuple(raw.get("tools") or ()),
        tool_choice=_tool_choice(wire),
        parallel_tools=wire.parallel_tool_calls is not False,
        grammar=grammar,
        template_kwargs=_template_kwargs(wire),
        raw=raw,
        **controls(wire, http, key_classes),
    )
    return request, needs


def _template_kwargs(wire: ChatRequest) -> dict[str, Any]:
    """For a local model's template: how much it should think, in the words that templates have for it."""
    effort = wire.reasoning_effort
    said: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        said["enable_thinking"] = False
    return {**said, **(wire.chat_template_kwargs or {})}


def _tool_choice(wire: ChatRequest) -> ToolChoice:
    choice = wire.tool_choice
    return NamedTool(choice.function.name) if isinstance(choice, NamedChoice) else choice or "auto"


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As received, with the text parts flattened and the developer's role in the word that local templates know."""
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": _flat(message.get("content"))}


def _flat(content: Any) -> Any:
    """One text if all parts are; parts that are more than text stay as they are."""
    if content is None:
        return ""
    if isinstance(content, str) or any(part["type"] in PART_NEEDS for part in content):
        return content
    return "\n".join(part.get("text") or part.get("refusal") or "" for part in content)


def _content_needs(messages: list[Mapping[str, Any]]) -> dict[str, str]:
    """Each need that content parts give rise to, with the first part that does."""
    needs: dict[str, str] = {}
    for i, message in enumerate(messages):
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            if need := PART_NEEDS.get(part["type"]):
                needs.setdefault(need, f"messages[{i}].content[{j}]")
    return needs


def _field_needs(wire: ChatRequest) -> dict[str, str]:
    needs: dict[str, str] = {}
    if wire.tools and wire.tool_choice != "none":
        needs["tools"] = "tools"
    if wire.functions:
        needs["functions"] = "functions"
    if wire.modalities and "audio" in wire.modalities:
        needs["audio_output"] = "modalities"
    if wire.web_search_options is not None:
        needs["web_search"] = "web_search_options"
    return needs
