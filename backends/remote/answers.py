"""A provider's JSON to `Chunk`s, `Usage` and errors. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, cast

import orjson

from backends.errors import BackendError, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.types import Chunk, FinishReason, Request, Usage

BYTES_A_TOKEN = 4
PLAIN = frozenset({"content", "role", "refusal"})
NO_KEY_S = 60.0
UNSAID_S = 5.0


def parsed(data: bytes, provider: str) -> dict[str, Any]:
    """A JSON object. Raises `EngineFailed` for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise EngineFailed(f"The provider {provider} answered with something that is no JSON object.", retry_after=2)
    return value


def deltas(payload: Mapping[str, Any], provider: str) -> Iterator[Chunk]:
    """The chunks of one event of a stream. Deltas that say nothing (a role alone) are left out."""
    for choice in _choices(payload, provider):
        delta = choice.get("delta")
        finish = cast("FinishReason | None", choice.get("finish_reason") or None)
        index = int(choice.get("index") or 0)
        if delta is None:  # a completion
            text = choice.get("text") or ""
            wire = choice if choice.get("logprobs") else None
        else:
            text = delta.get("content") or ""
            more = any(value for key, value in delta.items() if key not in PLAIN) or delta.get("refusal")
            wire = _without_role(choice, delta) if more or choice.get("logprobs") else None
        if text or finish or wire:
            yield Chunk(index, text, finish_reason=finish, wire=wire)


def whole(payload: Mapping[str, Any], provider: str) -> Iterator[Chunk]:
    """The chunks of a whole answer: one for each choice."""
    for choice in _choices(payload, provider):
        message = choice.get("message") or {}
        text = (message.get("content") if "message" in choice else choice.get("text")) or ""
        finish = cast("FinishReason", choice.get("finish_reason") or "stop")
        yield Chunk(int(choice.get("index") or 0), text, finish_reason=finish, wire=choice)


def usage(payload: Mapping[str, Any]) -> Usage | None:
    """The usage in an event or a body, if it has one."""
    said = payload.get("usage")
    if not isinstance(said, dict):
        return None
    details = said.get("prompt_tokens_details") or {}
    return Usage(
        int(said.get("prompt_tokens") or 0),
        int(said.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
        {key: value for key, value in payload.items() if key not in ("id", "object", "created", "model", "choices")},
    )


def guessed(request_bytes: int, answer_bytes: int) -> Usage:
    """For a provider that does not count: about four bytes a token."""
    return Usage(-(-request_bytes // BYTES_A_TOKEN), -(-answer_bytes // BYTES_A_TOKEN))


def body(request: Request, model: str) -> bytes:
    """What is sent: the client's own body, unknown fields and all, under the provider's name for the model."""
    raw = {key: value for key, value in request.raw.items() if key != "outstation"}
    raw["model"] = model
    if request.stream:
        raw["stream_options"] = {**(raw.get("stream_options") or {}), "include_usage": True}
    return orjson.dumps(raw)


def refusal(status: int, headers: Mapping[str, str], data: bytes, provider: str) -> BackendError:
    """A status that is not 200, in our terms; the provider's own words where they are the client's business."""
    said = _error(data)
    wait = retry_after(headers)
    if status in (400, 413, 415, 422):
        message = f"{provider}: {said.get('message') or f'it refuses the request with status {status}.'}"
        return InvalidRequest(
            message, code=_word(said.get("code")) or "provider_refused", param=_word(said.get("param"))
        )
    if status in (401, 402, 403):
        # Its words may quote the key.
        return Unavailable(
            f"The provider {provider} does not accept this site's key or account (status {status}).",
            code="provider_key",
            retry_after=NO_KEY_S,
        )
    if status == 404:
        return Unavailable(f"The provider {provider} does not know this model or path.", code="provider_not_found")
    if status == 429:
        return Overloaded(f"The provider {provider} has too many requests.", code="provider_busy", retry_after=wait)
    return Unavailable(
        f"The provider {provider} failed with status {status}.",
        code="provider_error",
        retry_after=UNSAID_S if wait is None else wait,
    )


def broke(payload: Mapping[str, Any], provider: str) -> BackendError | None:
    """The error that an event carries, if it does."""
    error = payload.get("error")
    if not error:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    return EngineFailed(
        f"The provider {provider} broke off: {str(message)[:500]}", code="provider_error", retry_after=2
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `Retry-After` in either of its forms."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _choices(payload: Mapping[str, Any], provider: str) -> list[dict[str, Any]]:
    choices = payload.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise EngineFailed(f"The provider {provider} answered without `choices`.", retry_after=2)
    return choices


def _without_role(choice: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Clients add up what comes twice, and the role is ours to say."""
    return {**choice, "delta": {key: value for key, value in delta.items() if key != "role"}}


def _error(data: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _word(value: object) -> str | None:
    return str(value)[:100] if value is not None else None
