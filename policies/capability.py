"""Drops routes that cannot do what the request needs: see, hear, call tools, hold the prompt, or run here at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.errors import BackendError, ContextLengthExceeded, InvalidRequest
from backends.types import GENERATES, Kind, Request
from policies.base import Drop, Route, Snapshot, Verdict

NEEDS = {
    "vision": "cannot see images",
    "audio": "cannot hear audio",
    "files": "cannot read attached files",
    "tools": "cannot call tools",
    "functions": "takes `tools`, not the older `functions`",
    "structured_output": "cannot be held to a response format",
    "grammar": "cannot be held to a grammar",
    "audio_output": "cannot speak",
    "web_search": "cannot search the web",
    "logprobs": "gives no log-probabilities",
    "continuation": "cannot go on from the beginning of an answer",
}
"""What a request may need, and how to say that a model lacks it."""

TASKS: Mapping[Kind, str] = {
    "chat": "chat",
    "completion": "complete a prompt",
    "embedding": "make embeddings",
    "rerank": "rerank documents",
    "moderation": "moderate",
    "classification": "classify",
}
"""What a model is asked to do, and how to say so."""

ESTIMATE_MARGIN = 1.25
"""An estimate refuses a prompt only if it is so many times the context: tokenizers differ by 20% on plain text."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Keeps the routes that have every needed capability and room for the prompt and one completion token.

    A local prompt that has not been counted passes: its backend counts before it computes. A remote one is estimated,
    and refused only if it is hopeless. Whether the *asked* completion has room too is a matter of order: `has_room`.

    Attributes:
        max_parameters_b: the site's limit on local models (billions of parameters); None: any. A model whose size is
            not known passes.
    """

    max_parameters_b: float | None = None

    def __call__(self, request: Request, routes: tuple[Route, ...], snapshot: Snapshot) -> Verdict:
        """Drops with `wrong_task`, `unsupported_capability`, `model_too_large` and `context_length_exceeded`."""
        needs = request.needs if request.sampling.top_logprobs is None else request.needs | {"logprobs"}
        drops = tuple(drop for route in routes if (drop := self._drop(request, needs, route, snapshot)))
        if not drops:
            return Verdict(routes)
        dropped = {drop.route.name for drop in drops}
        return Verdict(tuple(route for route in routes if route.name not in dropped), drops)

    def _drop(self, request: Request, needs: frozenset[str], route: Route, snapshot: Snapshot) -> Drop | None:
        if request.kind not in route.kinds:
            return Drop(route, "capability", f"cannot {TASKS[request.kind]}", wrong_task(request.kind, route))
        if not needs <= route.capabilities:
            return _lacks(route, min(needs - route.capabilities))
        if (
            self.max_parameters_b is not None
            and route.location == "local"
            and route.parameters_b > self.max_parameters_b
        ):
            return _too_large(route, self.max_parameters_b)
        counted = snapshot.prompt_tokens.get(route.name)
        param = "messages" if request.kind == "chat" else "prompt"
        error: BackendError
        if request.kind not in GENERATES and route.location == "local":
            return None  # what computes it says which input is too long, and may have been told to cut it
        if counted is not None:
            if counted < route.context_length:
                return None
            error = ContextLengthExceeded(counted, route.context_length, param=param)
            return Drop(route, "capability", f"prompt {counted} of context {route.context_length}", error)
        estimated = snapshot.estimated_tokens
        if route.location == "local" or estimated <= route.context_length * ESTIMATE_MARGIN:
            return None
        error = InvalidRequest(
            f"The prompt has about {estimated} tokens, far more than the {route.context_length} of {route.name}'s "
            "context. Shorten the prompt or choose a model with a longer context.",
            code=ContextLengthExceeded.code,
            param=param,
            extra={"n_prompt_tokens": estimated, "n_ctx": route.context_length},
        )
        return Drop(route, "capability", f"prompt about {estimated} of context {route.context_length}", error)


def has_room(request: Request, route: Route, snapshot: Snapshot) -> bool:
    """Whether the route's context holds the prompt together with the completion that was asked for."""
    return snapshot.tokens(route) + (request.sampling.max_tokens or 1) <= route.context_length


def wrong_task(kind: Kind, route: Route) -> InvalidRequest:
    """What a client is told who asks a model to do something that it was not made for."""
    able = " and ".join(sorted(TASKS[other] for other in route.kinds))
    return InvalidRequest(
        f"The model {route.model} cannot {TASKS[kind]}: it can {able}. Choose another model.",
        code="wrong_task",
        param="model",
    )


def _lacks(route: Route, need: str) -> Drop:
    error = InvalidRequest(
        f"The model {route.model} {NEEDS.get(need, 'lacks ' + need)}. Leave it out or choose another model.",
        code="unsupported_capability",
        param=need,
    )
    return Drop(route, "capability", f"no {need}", error)


def _too_large(route: Route, limit_b: float) -> Drop:
    error = InvalidRequest(
        f"The model {route.model} has {route.parameters_b:g} billion parameters, and this site runs at most "
        f"{limit_b:g} billion (`routing.max_parameters_b`). Choose a smaller model.",
        code="model_too_large",
        param="model",
    )
    return Drop(route, "capability", f"{route.parameters_b:g}B of {limit_b:g}B parameters", error)
