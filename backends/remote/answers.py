"""A provider's JSON to `Usage` and errors, and a request to JSON; `choices` reads the rest. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, TypeGuard

import orjson

from backends.errors import BackendError, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.types import Request, Usage

BYTES_A_TOKEN = 4
MOST_TOKENS = 10**9
CODE = re.compile(r"[a-z0-9_.-]{1,40}", re.ASCII)
ENVELOPE = frozenset({"id", "object", "created", "model", "choices", "error", "obfuscation"})
"""Of each event and body, and not passed on: ours to say, empty, or padding."""
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


def usage(said: object, additions: Payload) -> Usage | None:
    """What a provider counted; None if it is no count that anyone could be charged for.

    Args:
        said: its `usage`.
        additions: what else it said of the answer as a whole.
    """
    if not isinstance(said, dict):
        return None
    prompt, completion, total = (said.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total"))
    details = said.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or 0 if isinstance(details, dict) else -1
    if not (_counts(prompt) and _counts(completion) and _counts(cached)):
        return None
    shown = {**said, "total_tokens": total if _counts(total) else prompt + completion}
    if cached > prompt:
        cached = prompt
        shown["prompt_tokens_details"] = {**details, "cached_tokens": cached}
    return Usage(prompt, completion, cached, _writable({**additions, "usage": shown}))


def guessed(request_bytes: int, answer_bytes: int, additions: Payload) -> Usage:
    """For a provider that does not count: about four bytes a token."""
    prompt, completion = (-(-size // BYTES_A_TOKEN) for size in (request_bytes, answer_bytes))
    return Usage(prompt, completion, wire=_writable(additions))


def _counts(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _writable(wire: Payload) -> Payload | None:
    """None for what is nested deeper than can be written."""
    try:
        orjson.dumps(wire)
    except TypeError:
        return None
    return wire or None


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
        return InvalidRequest(message, code=_code(said), param=_param(said))
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
    message = f"The provider {provider} broke off: {said.get('message')}"
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


def _code(said: Payload) -> str:
    """The provider's own word, if it is one: it goes into headers, logs and the audit."""
    value = said.get("code")
    word = value.lower() if isinstance(value, str) else ""
    return word if CODE.fullmatch(word) else "provider_refused"


def _param(said: Payload) -> str | None:
    value = said.get("param")
    return "".join(c for c in value if c.isprintable()) or None if isinstance(value, str) else None
