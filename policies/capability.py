"""Drops routes that cannot do what the request needs: see, hear, call tools, or hold the prompt."""

from __future__ import annotations

from backends.errors import BackendError, ContextLengthExceeded, InvalidRequest
from backends.types import Request
from policies.base import Drop, Route, Snapshot, Verdict

NEEDS = {
    "vision": "cannot see images",
    "audio": "cannot hear audio",
    "files": "cannot read attached files",
    "tools": "cannot call tools",
    "structured_output": "cannot be held to a response format",
    "audio_output": "cannot speak",
    "web_search": "cannot search the web",
}
"""What a request may need, and how to say that a model lacks it."""


def capability(request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
    """Keeps the routes that have every needed capability and room for the prompt and one completion token.

    A route whose prompt has not been counted passes: its backend counts before it computes.
    """
    drops = tuple(drop for route in routes if (drop := _drop(request, route, snapshot)))
    if not drops:
        return Verdict(routes)
    dropped = {drop.route.name for drop in drops}
    return Verdict(tuple(route for route in routes if route.name not in dropped), drops)


def _drop(request: Request, route: Route, snapshot: Snapshot) -> Drop | None:
    error: BackendError
    missing = sorted(request.needs - route.capabilities)
    if missing:
        need = missing[0]
        error = InvalidRequest(
            f"The model {route.model} {NEEDS.get(need, 'lacks ' + need)}. Leave it out or choose another model.",
            code="unsupported_capability",
            param=need,
        )
        return Drop(route, "capability", f"no {need}", error)
    tokens = snapshot.prompt_tokens.get(route.name)
    if tokens is not None and tokens + 1 > route.context_length:
        param = "messages" if request.kind == "chat" else "prompt"
        error = ContextLengthExceeded(tokens, route.context_length, param=param)
        return Drop(route, "capability", f"prompt {tokens} of context {route.context_length}", error)
    return None
