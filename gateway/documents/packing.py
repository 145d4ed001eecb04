"""As many passages as those models have room for that would be asked now.

What the passages say may change who that is: a provider that must not see an address in one of them is not asked. So
the plan is made again with them, and they are packed again for whoever is new in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.errors import BackendError, ContextLengthExceeded, InvalidRequest
from backends.types import Request
from gateway.documents.prompt import with_sources
from gateway.outcome import Outcome
from gateway.planning import Planner, estimated_tokens
from policies.base import Route
from rag.context import Fitted, Source, block, context, fitted

ANSWER_TOKENS: Final = 512
"""Of the room, for an answer without a limit of its own; a quarter of a small model's."""
MOST_SHARE: Final = 0.5
"""Of a context, for an answer that asks for more."""
BYTES_A_TOKEN: Final = 3
"""Where nobody can count: prose has four."""
MOST_BYTES_A_TOKEN: Final = 6
"""So many are counted for each token that there may be room for."""
WORTHY_SHARE: Final = 0.25
"""Of the room of the model in front. One with less that would only be asked if that fails is not packed for."""
_PLANS: Final = 3
_TRIES: Final = 5
_SLACK: Final = 24
"""Bytes more than are too many: tokens are told by the byte only on average."""


class _Room(NamedTuple):
    """That a model has for passages. `ratio`: tokens a byte, of theirs."""

    route: Route
    tokens: float
    ratio: float


class Packing:
    """Of one request.

    Args:
        most: tokens of retrieved text.
    """

    def __init__(self, planner: Planner, most: int, outcome: Outcome) -> None:
        self._planner = planner
        self._most = most
        self._outcome = outcome
        self._only = False
        self._fronts: set[str] = set()

    async def packed(self, request: Request, told: str, sources: Sequence[Source]) -> tuple[Request, Fitted]:
        """The request with the sources that there is room for.

        Args:
            told: the instructions.

        Raises:
            BackendError: nobody can be asked, or there is no room for any of them.
        """
        bare = with_sources(request, told, ())
        routes, fronts = await self._routes(bare), list[Route]()
        for _ in range(_PLANS):
            fronts = [routes[0], *fronts]
            self._fronts.add(routes[0].name)
            taken = await self._fitting(fronts, routes, bare, sources)
            grounded, packed = await self._for(taken, request, told, sources)
            if self._only:
                break
            try:
                routes = await self._routes(grounded)
            except BackendError:
                break  # the dispatcher is told the same, and tells it
            if routes[0].name in {one.route.name for one in taken}:
                break
        return grounded, packed

    async def _routes(self, request: Request) -> list[Route]:
        """Who would be asked now, and who would be asked on the box if nobody elsewhere answers."""
        said = self._outcome
        trial = Outcome(said.id, key=said.key, received=said.received, started=said.started)
        try:
            decided = await self._planner.decide(request, trial)
        except BackendError:
            said.decided = trial.decided
            said.reasons += trial.reasons
            raise
        self._only = len(decided.candidates) == 1
        front = decided.plan.routes[0]
        here = (route for route in decided.plan.routes if route.location == "local")
        return [front] if front.location == "local" else [front, *(route for route in [next(here, None)] if route)]

    async def _fitting(
        self, fronts: Sequence[Route], others: Sequence[Route], bare: Request, sources: Sequence[Source]
    ) -> list[_Room]:
        """Those that were in front, one way or another, and of the others those that have not much less room."""
        found = {
            route.name: _Room(route, await self._room(route, bare), await self._ratio(route, bare, sources))
            for route in (*fronts, *others)
        }
        ahead = [found[route.name] for route in fronts]
        least = WORTHY_SHARE * min(ahead[0].tokens, self._most)
        return [one for one in found.values() if one in ahead or one.tokens >= least]

    async def _for(
        self, rooms: Sequence[_Room], request: Request, told: str, sources: Sequence[Source]
    ) -> tuple[Request, Fitted]:
        """As much as all of them have room for."""
        room = int(min(min(one.tokens, self._most) / one.ratio for one in rooms))
        for _ in range(_TRIES):
            packed = await asyncio.to_thread(fitted, sources, room, _bytes)  # fifty long passages are megabytes
            grounded = with_sources(request, told, [block(one) for one in packed.sources])
            if not packed.sources:
                break
            over = max([-await self._room(one.route, grounded) / one.ratio for one in rooms])
            if over <= 0:
                return grounded, packed
            room = min(room, _bytes(context(packed.sources))) - int(over) - _SLACK
        raise _no_room(rooms[0].route)

    async def _ratio(self, route: Route, bare: Request, sources: Sequence[Source]) -> float:
        """Tokens a byte, of these very texts where the model can say so."""
        text = await asyncio.to_thread(_sample, sources, MOST_BYTES_A_TOKEN * self._most)
        alone = Request(bare.id, bare.model, "completion", prompts=(text,))
        if self._can_count(route):
            with contextlib.suppress(BackendError):
                return max(1, await self._planner.count(route, alone)) / _bytes(text)
        return 1 / BYTES_A_TOKEN

    async def _room(self, route: Route, request: Request) -> float:
        """Tokens that are left beside the prompt and the answer."""
        whole = route.context_length
        if not whole:
            return float("inf")
        asked = request.sampling.max_tokens
        answer = min(ANSWER_TOKENS, whole // 4) if asked is None else min(asked, int(whole * MOST_SHARE))
        return whole - answer - await self._count(route, request)

    async def _count(self, route: Route, request: Request) -> int:
        """Tokens of a prompt; a guess where nobody here can count, or nobody can now: dispatch will find out."""
        if self._can_count(route):
            with contextlib.suppress(BackendError):
                return await self._planner.count(route, request)
        return estimated_tokens(request)

    def _can_count(self, route: Route) -> bool:
        """Nothing is loaded just in case that a provider fails."""
        return (route.location == "local" and route.name in self._fronts) or self._planner.ready(route)


def _bytes(text: str) -> int:
    return len(text.encode())


def _sample(sources: Sequence[Source], most: int) -> str:
    """The beginning of all that might be shown: `most` characters, from which a token's length is told."""
    found = ""
    for one in sources:
        found += block(one)
        if len(found) >= most:
            break
    return found[:most]


def _no_room(route: Route) -> BackendError:
    return InvalidRequest(
        f"What was said before leaves no room in the context of {route.model} ({route.context_length} tokens) for what "
        "the documents say. Shorten it, ask for a shorter answer, or choose a model with a longer context.",
        code=ContextLengthExceeded.code,
        param="messages",
    )
