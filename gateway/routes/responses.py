"""`/v1/responses`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request as HTTPRequest

from backends.base import Backend
from backends.errors import BackendError
from backends.types import Request
from gateway.outcome import Outcome
from gateway.responses import asked
from gateway.responses.draft import Draft, blank
from gateway.responses.items import Chat, Item, Placed, chat_of, items_of, new_id
from gateway.responses.turn import Turn
from gateway.routes.answer import Answer
from gateway.routes.chat import chat_request
from gateway.routes.inference import Inference, outcome_of
from gateway.schemas.chat import ChatRequest
from gateway.schemas.parse import check, parse_json, read_body
from gateway.schemas.responses_api import ResponsesRequest


class _Asked(NamedTuple):
    """One request, read.

    Attributes:
        items: its own input, in full.
        chat: all that the model is told.
    """

    wire: ResponsesRequest
    raw: Mapping[str, Any]
    items: Sequence[Item]
    chat: Chat
    request: Request
    names: Mapping[str, str]


def create_endpoint(
    inference: Inference, backends: Mapping[str, Backend]
) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """Makes a response."""

    async def create_response(http: HTTPRequest) -> Answer:
        raw = parse_json(await read_body(http))
        asked.refuse_unsupported(raw)
        wire = check(ResponsesRequest, raw)
        said = _asked(http, wire, raw, inference.key_classes)
        inference.check(wire, said.request)
        outcome = outcome_of(http)
        outcome.stream, outcome.request = said.request.stream, said.request
        draft = Draft(blank(new_id("resp"), asked.echo(wire, raw, store=False)), wants_logprobs=wire.wants_logprobs)
        return _answer(inference, backends, said, draft, outcome)

    return create_response


def _answer(
    inference: Inference, backends: Mapping[str, Backend], said: _Asked, draft: Draft, outcome: Outcome
) -> Answer:
    def own(error: BackendError) -> BackendError:
        if error.param:
            error.param = said.names.get(error.param, error.param)
        return error

    turn = Turn(inference.dispatcher, draft, backends, None, own)
    return Answer(
        turn,
        said.request,
        outcome,
        lambda model: turn,
        names=said.names,
        ping_after_s=inference.ping_after_s,
        last_words=turn.last_words,
    )


def _asked(
    http: HTTPRequest, wire: ResponsesRequest, raw: Mapping[str, Any], key_classes: Mapping[str, frozenset[str]]
) -> _Asked:
    items = items_of(raw.get("input"))
    text = isinstance(raw.get("input"), str)
    placed = [Placed(item, "input" if text else f"input[{at}]") for at, item in enumerate(items)]
    chat = chat_of(wire.instructions, placed)
    body = asked.chat_body(wire, raw, chat)
    outcome = outcome_of(http)
    # What is told besides the body that came is searched as well, and counts as it does.
    outcome.received = max(outcome.received, len(orjson.dumps(body)))
    try:
        request, needs = chat_request(outcome.id, check(ChatRequest, body), body, http, key_classes)
    except BackendError as error:
        raise asked.in_own_words(error, chat) from None
    request = replace(request, template_kwargs=asked.template_kwargs(wire))
    return _Asked(wire, raw, items, chat, request, asked.names_for(needs, chat))
