"""A provider's JSON to `Chunk`s, `Usage` and errors. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, cast

import orjson

from backends.errors import BackendError, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.types import Chunk, FinishReason, Request, Usage

BYTES_A_TOKEN = 4
PLAIN = frozenset({"content", "role", "refusal"})
KNOWN = frozenset({"index", "delta", "text", "finish_reason", "logprobs"})
ENVELOPE = frozenset({"id", "object", "created", "model", "choices"})
ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError)
"""What reading JSON of an unexpected shape raises."""
NO_KEY_S = 60.0
LONGEST_S = 86_400.0

Payload = dict[str, Any]


def parsed(data: bytes, provider: str) -> Payload:
    """A JSON object. Raises `EngineFailed` for anything else, and the error that it carries, if it does."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if type(value) is not dict:
        raise strange(provider, "something that is no JSON object")
    if value.get("error"):
        raise _carried(value["error"], provider)
    return value


def deltas(payload: Payload, provider: str) -> Sequence[Chunk]:
    """The chunks of one event of a stream. Deltas that say nothing (a role alone) are left out."""
    try:
        choices = payload.get("choices")
        if not choices:  # the usage alone
            return ()
        if len(choices) == 1:
            choice = choices[0]
            delta = choice.get("delta")
            if delta is not None and len(delta) == 1 and len(choice) <= 4 and "content" in delta:
                text = delta["content"]
                if text and type(text) is str and not choice.get("finish_reason") and not choice.get("logprobs"):
                    index = choice["index"]
                    if type(index) is int and choice.keys() <= KNOWN:
                        return (Chunk(index, text),)
        return [chunk for choice in choices if (chunk := _delta(choice)) is not None]
    except ODD:
        raise strange(provider, "an event of an unknown shape") from None


def _delta(choice: Payload) -> Chunk | None:
    delta = choice.get("delta")
    finish = cast("FinishReason | None", choice.get("finish_reason") or None)
    more = bool(choice.get("logprobs")) or any(value for key, value in choice.items() if key not in KNOWN)
    if delta is None:  # a completion
        text, wire = choice.get("text") or "", choice
    else:
        text = delta.get("content") or ""
        more = more or bool(delta.get("refusal")) or any(value for key, value in delta.items() if key not in PLAIN)
        # Clients add up what comes twice, and the role is ours to say.
        wire = choice if "role" not in delta else {**choice, "delta": {k: v for k, v in delta.items() if k != "role"}}
    if not text and not finish and not more:
        return None
    return Chunk(int(choice.get("index") or 0), _text(text), finish_reason=finish, wire=wire if more else None)


def whole(payload: Payload, provider: str) -> list[Chunk]:
    """The chunks of a whole answer: one for each choice, each finished."""
    try:
        return [_choice(choice) for choice in payload["choices"]]
    except ODD:
        raise strange(provider, "a body of an unknown shape") from None


def _choice(choice: Payload) -> Chunk:
    text = choice["message"].get("content") if "message" in choice else choice["text"]
    finish = choice["finish_reason"]
    if not finish:
        raise ValueError("not finished")
    return Chunk(int(choice.get("index") or 0), _text(text or ""), finish_reason=finish, wire=choice)


def usage(payload: Payload, provider: str) -> Usage | None:
    """The usage in an event or a body, if it has one."""
    said = payload.get("usage")
    if not said:
        return None
    try:
        details = said.get("prompt_tokens_details") or {}
        return Usage(
            int(said.get("prompt_tokens") or 0),
            int(said.get("completion_tokens") or 0),
            int(details.get("cached_tokens") or 0),
            {key: value for key, value in payload.items() if key not in ENVELOPE},
        )
    except ODD:
        raise strange(provider, "a usage of an unknown shape") from None


def guessed(request_bytes: int, answer_bytes: int) -> Usage:
    """For a provider that does not count: about four bytes a token."""
    return Usage(-(-request_bytes // BYTES_A_TOKEN), -(-answer_bytes // BYTES_A_TOKEN))


def body(request: Request, model: str) -> bytes:
    """What is sent: the client's own body, unknown fields and all, under the provider's name for the model."""
    raw = {key: value for key, value in request.raw.items() if key != "outstation"}
    raw["model"] = model
    if request.stream:
        raw["stream"] = True
        raw["stream_options"] = {**(raw.get("stream_options") or {}), "include_usage": True}
    try:
        return orjson.dumps(raw)
    except TypeError as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from None


def strange(provider: str, what: str) -> BackendError:
    """An answer that nobody can read."""
    return EngineFailed(f"The provider {provider} answered with {what}.", code="provider_garbage", retry_after=2)


def refusal(status: int, headers: Mapping[str, str], data: bytes, provider: str) -> BackendError:
    """A status that is not 200, in our terms; the provider's own words where they are the client's business."""
    return _refusal(status, _error(data), retry_after(headers), provider)


def _refusal(status: int, said: Payload, wait: float | None, provider: str) -> BackendError:
    if status in (400, 413, 415, 422):
        message = f"{provider}: {said.get('message') or f'it refuses the request with status {status}.'}"
        code, param = _word(said.get("code")), _word(said.get("param"))
        return InvalidRequest(message[:2000], code=code or "provider_refused", param=param)
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
        retry_after=wait,
    )


def _carried(error: object, provider: str) -> BackendError:
    """An error that came with status 200, or in the middle of a stream."""
    said = error if isinstance(error, dict) else {"message": error}
    status = said.get("status") or said.get("code")
    if isinstance(status, int) and 400 <= status < 500:
        return _refusal(status, said, None, provider)
    if said.get("type") == "invalid_request_error":
        return _refusal(400, said, None, provider)
    message = f"The provider {provider} broke off: {str(said.get('message'))[:500]}"
    return EngineFailed(message, code="provider_error")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `Retry-After` in either of its forms; a day at most."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_S) if math.isfinite(seconds) else None


def _error(data: bytes) -> Payload:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError("no text")
    return value


def _word(value: object) -> str | None:
    return str(value)[:100] if value is not None else None
