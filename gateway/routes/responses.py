"""`POST /v1/responses`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from backends.base import Backend
from backends.errors import BackendError, InvalidRequest, Unavailable
from backends.types import Request
from gateway.documents.asked import search_of
from gateway.documents.frames import Sources
from gateway.documents.grounded import Grounded
from gateway.errors import RefusedError
from gateway.outcome import Outcome
from gateway.responses import asked
from gateway.responses.archive import Archive
from gateway.responses.background import answered_by, job_of
from gateway.responses.conversations import Addition
from gateway.responses.draft import Draft, blank
from gateway.responses.history import History, history_of, resolved
from gateway.responses.items import Chat, Item, Placed, chat_of, items_of, kept_of, new_id, with_thoughts
from gateway.responses.store import Kept
from gateway.responses.turn import Keep, Turn
from gateway.routes.answer import Answer
from gateway.routes.chat import chat_request
from gateway.routes.grounding import grounded
from gateway.routes.inference import Inference, outcome_of
from gateway.routes.site import json_response
from gateway.schemas.chat import ChatRequest
from gateway.schemas.parse import check, parse_json, read_body
from gateway.schemas.responses_api import ResponsesRequest


class _Asked(NamedTuple):
    """One request, read.

    Attributes:
        items: its own input, in full.
        names: what this dialect calls what policies and backends name.
        received: bytes of the chat that it became.
    """

    wire: ResponsesRequest
    raw: Mapping[str, Any]
    items: Sequence[Item]
    request: Request
    names: Mapping[str, str]
    received: int


def create_endpoint(
    inference: Inference, backends: Mapping[str, Backend]
) -> Callable[[HTTPRequest], Awaitable[Answer | Response]]:
    """Makes a response."""

    async def create_response(http: HTTPRequest) -> Answer | Response:
        raw = parse_json(await read_body(http))
        asked.refuse_unsupported(raw)
        wire = check(ResponsesRequest, raw)
        outcome = outcome_of(http)
        history = await history_of(inference.archive, wire.previous_response_id, wire.conversation_id, outcome.key)
        own = await resolved(items_of(raw.get("input")), inference.archive, outcome.key, "input")
        said = _asked(http, wire, raw, own.items, history.told_with(own), inference.key_classes)
        inference.check(wire, said.request)
        said, search = await _with_documents(inference, said)
        stores = inference.stores_responses and wire.store is not False
        fields = blank(new_id("resp"), asked.echo(wire, raw, store=stores))
        if wire.background:
            return await _queue(inference, said, fields, stores, outcome.key)
        keep = _keeper(inference.archive, said, outcome.key, stores=stores)
        return _answer(inference, backends, said, fields, outcome, keep, search)

    return create_response


def _asked(
    http: HTTPRequest,
    wire: ResponsesRequest,
    raw: Mapping[str, Any],
    items: Sequence[Item],
    history: History,
    key_classes: Mapping[str, frozenset[str]],
) -> _Asked:
    outcome, text = outcome_of(http), isinstance(raw.get("input"), str)
    own = [Placed(item, "input" if text else f"input[{at}]") for at, item in enumerate(items)]
    chat = chat_of(wire.instructions, [*(Placed(item, history.place) for item in history.items), *own])
    body = asked.chat_body(wire, raw, chat)
    request, names = _chat_request(http, body, chat, key_classes)
    request = replace(
        request,
        messages=with_thoughts(request.messages, chat.thoughts),
        template_kwargs=asked.template_kwargs(wire),
        declared=request.declared | history.declared,
    )
    if history.local_only:
        request = _here(request)
    # What is told besides the body that came is searched as well, and counts as it does.
    outcome.received = max(outcome.received, len(orjson.dumps(body)))
    return _Asked(wire, raw, items, request, names, outcome.received)


def _chat_request(
    http: HTTPRequest, body: dict[str, Any], chat: Chat, key_classes: Mapping[str, frozenset[str]]
) -> tuple[Request, Mapping[str, str]]:
    try:
        orjson.dumps(body)
        request, needs = chat_request(outcome_of(http).id, check(ChatRequest, body), body, http, key_classes)
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    except BackendError as error:
        raise asked.in_own_words(error, chat) from None
    return request, asked.names_for(needs, chat)


async def _with_documents(inference: Inference, said: _Asked) -> tuple[_Asked, Grounded | None]:
    """What answers from the documents, if that is asked for; the request with the classes of what they hold."""
    if said.wire.search is None:
        return said, None
    at = next(at for at, tool in enumerate(said.raw["tools"]) if tool["type"] == "file_search")
    search = search_of(said.raw["tools"][at], f"tools[{at}]")
    request, through = await grounded(inference, said.request, search, f"tools[{at}].vector_store_ids")
    return said._replace(request=request), through


def _here(request: Request) -> Request:
    """What was said in an `only_local` request must not leave later: what takes it up is `only_local` as well."""
    if request.locality not in (None, "only_local"):
        message = f"What this goes on from, or refers to, is `only_local`; this request says `{request.locality}`."
        raise InvalidRequest(message, param="outstation.locality")
    return replace(request, locality="only_local")


def _answer(
    inference: Inference,
    backends: Mapping[str, Backend],
    said: _Asked,
    fields: dict[str, Any],
    outcome: Outcome,
    keep: Keep | None,
    search: Grounded | None,
) -> Answer:
    def own(error: BackendError) -> BackendError:
        error.param = error.param and said.names.get(error.param, error.param)
        return error

    outcome.stream, outcome.request = said.request.stream, said.request
    draft = Draft(fields, wants_logprobs=said.wire.wants_logprobs)
    turn = Turn(
        search or inference.dispatcher,
        draft,
        backends,
        keep,
        own,
        framed=said.request.stream,
        sources=Sources(search, results=said.wire.wants_results) if search else None,
    )
    return Answer(
        turn,
        said.request,
        outcome,
        lambda model: turn,
        names=said.names,
        ping_after_s=inference.ping_after_s,
        last_words=turn.last_words,
    )


def _kept(said: _Asked, key: str, body: Mapping[str, Any]) -> Kept:
    request, local_only = said.request, said.request.locality == "only_local"
    return Kept(
        body["id"],
        key,
        time.time(),
        said.wire.previous_response_id,
        body,
        said.items,
        request.declared,
        local_only,
        conversation=said.wire.conversation_id,
    )


def _keeper(archive: Archive, said: _Asked, key: str, *, stores: bool) -> Keep | None:
    """What keeps the response, and tells its conversation; None: nobody wants either."""
    conversation = said.wire.conversation_id
    if not stores and conversation is None:
        return None

    async def keep(body: Mapping[str, Any], outcome: Outcome) -> bool:
        """An answer is not thrown away because the disk is full: it says that it is not kept."""
        kept = _kept(said, key, body)
        if outcome.request:  # what was retrieved for it may have got another class meanwhile
            kept = replace(kept, declared=kept.declared | outcome.request.declared)
        try:
            if stores:
                await archive.add(replace(kept, answered=answered_by(outcome)))
            elif conversation:
                items = [*said.items, *kept_of(body)]
                await archive.extend(conversation, key, Addition(items, kept.created, kept.declared, kept.local_only))
        except (Unavailable, RefusedError):  # refused: it was deleted meanwhile
            return False
        return True

    return keep


async def _queue(inference: Inference, said: _Asked, fields: dict[str, Any], stores: bool, key: str) -> Response:
    """Acknowledged means kept: whatever ends the gateway now, the response will be made."""
    if not stores:
        message = "`background`: nothing is kept here (`responses.store`), so nothing could be fetched later."
        raise InvalidRequest(message, code="unsupported", param="background")
    body = {**fields, "status": "queued", "output": []}
    search = said.wire.search and next(tool for tool in said.raw["tools"] if tool["type"] == "file_search")
    job = job_of(said.request, said.received, logprobs=said.wire.wants_logprobs)
    job |= {"search": search, "results": said.wire.wants_results}
    await inference.background.submit(replace(_kept(said, key, body), job=job))
    return json_response(body)
