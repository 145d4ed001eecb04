"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's dialect over the same request.

A provider is asked by its chat completions, so the conversation is written as such a body once; it is `Request.raw`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.errors import ContextLengthExceeded, InvalidRequest
from backends.types import Grammar, NamedTool, PromptCount, Request, Sampling, ToolChoice
from gateway.messages_chat import Conversation, blocks_of, conversation_of
from gateway.messages_frames import MessageFrames, MessageHead
from gateway.outcome import Outcome
from gateway.routes.answer import Answer
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.routes.site import json_response
from gateway.schemas.messages import CountRequest, MessagesRequest
from gateway.schemas.parse import check, parse_json, read_body
from gateway.state import Site
from gateway.voices import THREADS
from policies.base import Route

OWN = frozenset(
    "model messages system max_tokens metadata stop_sequences stream temperature top_p top_k tools tool_choice "
    "thinking output_config outstation cache_control container context_management diagnostics inference_geo "
    "mcp_servers service_tier speed user_profile_id".split()
)
"""Fields that are Anthropic's: a provider that speaks OpenAI's chat is told in that dialect, or not at all."""
SHAPING = frozenset(
    "n stream_options functions function_call response_format logprobs top_logprobs max_completion_tokens modalities "
    "audio".split()
)
"""Fields of OpenAI's chat that would make an answer which this dialect cannot say."""
TOOL_CHOICES: Mapping[str, ToolChoice] = {"auto": "auto", "any": "required", "none": "none"}
THINKING = {"enabled": True, "adaptive": True, "disabled": False}


def messages_endpoint(inference: Inference) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""

    async def messages(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        wire = check(MessagesRequest, raw)
        request, names = message_request(wire, raw, http, inference.key_classes)
        outcome = outcome_of(http)
        outcome.stream, outcome.request = request.stream, request

        def framed(model: str) -> MessageFrames:
            return MessageFrames(MessageHead(model, request.sampling.stop, _counted(outcome)))

        ping_after_s = inference.ping_after_s
        return Answer(inference.dispatcher, request, outcome, framed, names=names, ping_after_s=ping_after_s)

    return messages


def _counted(outcome: Outcome) -> PromptCount | None:
    """The prompt's tokens, where they were counted to decide."""
    route, decided = outcome.route, outcome.decided
    return decided.counts.get(route.name) if route and decided else None


def count_endpoint(inference: Inference, site: Site) -> Callable[[HTTPRequest], Awaitable[Response]]:
    """The endpoint's function. Nothing is generated, nothing leaves the site, and nothing is written to the audit."""

    async def count_tokens(http: HTTPRequest) -> Response:
        raw = parse_json(await read_body(http))
        wire = check(CountRequest, raw)
        request, _ = message_request(wire, raw, http, inference.key_classes)
        outcome = Outcome(request.id, received=outcome_of(http).received, key=request.key)
        route, tokens, exact = await _count(inference, site, request, outcome)
        response = json_response({"input_tokens": tokens, "exact": exact})
        response.headers["x-outstation-route"] = route.name
        response.headers["x-outstation-reason"] = outcome.reason
        return response

    return count_tokens


async def _count(inference: Inference, site: Site, request: Request, outcome: Outcome) -> tuple[Route, int, bool]:
    """The route that would answer, the prompt's tokens there, and whether they were counted or estimated."""
    try:
        decided = await inference.dispatcher.planner.decide(request, outcome)
        route = decided.plan.routes[0]
        if route.location == "remote":
            return route, decided.snapshot.tokens(route), False
        counted = decided.counts.get(route.name)
    except ContextLengthExceeded as error:
        # A prompt that is too long is what a client counts for: it is told by how much.
        return _too_long(outcome, error)
    try:
        return route, (counted or await site.backends[route.model].count(request)).tokens, True
    except ContextLengthExceeded as error:
        return route, int(error.extra["n_prompt_tokens"]), True


def _too_long(outcome: Outcome, error: ContextLengthExceeded) -> tuple[Route, int, bool]:
    decided = outcome.decided
    tokens = int(error.extra["n_prompt_tokens"])
    for route in decided.candidates if decided else ():
        if decided and (count := decided.counts.get(route.name)) and count.tokens == tokens:
            return route, tokens, True
    raise error


def message_request(
    wire: CountRequest, raw: Mapping[str, Any], http: HTTPRequest, key_classes: Mapping[str, frozenset[str]]
) -> tuple[Request, Mapping[str, str]]:
    """The domain request, and which field of the body gave rise to each of its needs."""
    if wire.thread is not None:
        message = "Conversations are not kept here: send all of it each time, without `thread`."
        raise InvalidRequest(message, code=THREADS, param="thread")
    conversation = conversation_of(raw)
    body = _chat_body(wire, raw, conversation)
    grammar = _grammar(raw)
    needs = _needs(wire, raw, conversation.beginning)
    common = controls(wire, http, key_classes)
    common["stream"] = isinstance(wire, MessagesRequest) and bool(wire.stream)
    continuation = conversation.beginning
    # Another model's half would be lost on the one that goes on from it.
    common["continue_on_break"] = common["continue_on_break"] and not continuation
    choice = wire.tool_choice
    request = Request(
        id=outcome_of(http).id,
        model=wire.model,
        kind="chat",
        messages=tuple(conversation.local),
        sampling=_sampling(wire),
        needs=frozenset(needs),
        tools=tuple(body.get("tools", ())),
        tool_choice=_tool_choice(wire),
        parallel_tools=not (choice and choice.disable_parallel_tool_use),
        grammar=grammar,
        template_kwargs=_template_kwargs(wire),
        raw=body,
        continuation=continuation,
        **common,
    )
    return request, needs


def _chat_body(wire: CountRequest, raw: Mapping[str, Any], conversation: Conversation) -> dict[str, Any]:
    """What a provider is sent. Fields that nobody here knows ride along."""
    body = {name: value for name, value in raw.items() if name not in OWN and name not in SHAPING}
    body |= {"model": wire.model, "messages": conversation.sent}
    body |= {name: raw[name] for name in ("max_tokens", "temperature", "top_p", "top_k") if raw.get(name) is not None}
    if raw.get("stop_sequences"):
        body["stop"] = raw["stop_sequences"]
    if isinstance(wire, MessagesRequest) and wire.metadata and wire.metadata.user_id:
        body["user"] = wire.metadata.user_id
    if wire.tools:
        body["tools"] = [_tool(tool) for tool in raw["tools"]]
        body |= _sent_choice(wire)
    if schema := _schema(raw):
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return body


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: tool[key] for key in ("name", "description", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _sent_choice(wire: CountRequest) -> dict[str, Any]:
    if wire.tool_choice is None:
        return {}
    choice = _tool_choice(wire)
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice
    once = {"parallel_tool_calls": False} if wire.tool_choice.disable_parallel_tool_use else {}
    return {"tool_choice": named, **once}


def _tool_choice(wire: CountRequest) -> ToolChoice:
    choice = wire.tool_choice
    if choice is None:
        return "auto"
    return NamedTool(choice.name) if choice.type == "tool" and choice.name else TOOL_CHOICES[choice.type]


def _sampling(wire: CountRequest) -> Sampling:
    if not isinstance(wire, MessagesRequest):
        return Sampling()
    stop = tuple(wire.stop_sequences or ())
    return Sampling(
        temperature=wire.temperature, top_p=wire.top_p, top_k=wire.top_k, max_tokens=wire.max_tokens, stop=stop
    )


def _template_kwargs(wire: CountRequest) -> dict[str, Any]:
    switch = THINKING.get(wire.thinking.type) if wire.thinking else None
    return {} if switch is None else {"enable_thinking": switch}


def _schema(raw: Mapping[str, Any]) -> Any:
    """As received: properties are written in the order that they have there."""
    return ((raw.get("output_config") or {}).get("format") or {}).get("schema")


def _grammar(raw: Mapping[str, Any]) -> Grammar | None:
    schema = _schema(raw)
    if schema is None:
        return None
    return Grammar("json_schema", orjson.dumps(schema).decode(), "output_config.format.schema")


def _needs(wire: CountRequest, raw: Mapping[str, Any], beginning: str) -> dict[str, str]:
    """Each need, with the first field that gives rise to it."""
    needs: dict[str, str] = {}
    for i, turn in enumerate(raw["messages"]):
        for j, block in enumerate(blocks_of(turn["content"])):
            inner = blocks_of(block.get("content") or "") if block["type"] == "tool_result" else []
            if any(one["type"] == "image" for one in (block, *inner)):
                needs.setdefault("vision", f"messages[{i}].content[{j}]")
    if wire.tools and not (wire.tool_choice and wire.tool_choice.type == "none"):
        needs["tools"] = "tools"
    if _schema(raw) is not None:
        needs["structured_output"] = "output_config.format"
    if beginning:
        needs["continuation"] = f"messages[{len(raw['messages']) - 1}]"
    return needs
