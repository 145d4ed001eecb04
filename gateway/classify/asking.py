"""One inference, whole: asked through the dispatcher like any other, with all that it lays down."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson

from backends.errors import BackendError, EngineFailed
from backends.types import Request, Usage
from gateway.children import Children
from gateway.dispatch import Dispatcher
from gateway.outcome import Outcome
from gateway.sse import Folded, fold
from policies.base import Route

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """All choices, who answered, and what it took."""

    choices: list[Folded]
    route: Route
    usage: Usage


class Asking:
    """Asks for one HTTP request. Adds up what it took."""

    def __init__(self, dispatcher: Dispatcher, children: Children) -> None:
        self._dispatcher = dispatcher
        self._children = children
        self.usage = Usage(0, 0)

    async def ask(self, request: Request, outcome: Outcome) -> Answered:
        """Under an outcome that somebody else ends. Raises `BackendError`s."""
        outcome.request = request
        choices = [Folded() for _ in range(request.choices)]
        async with aclosing(self._dispatcher.answer(request, outcome)) as events:
            async for event in events:
                if not isinstance(event, Usage):
                    fold(choices, event)
                    continue
                so_far = self.usage
                self.usage = Usage(
                    so_far.prompt_tokens + event.prompt_tokens, so_far.completion_tokens + event.completion_tokens
                )
                assert outcome.route is not None
                return Answered(choices, outcome.route, event)
        raise EngineFailed("The answer has no end.")

    def besides(self, parent: Outcome) -> AbstractContextManager[Outcome]:
        """The outcome of a further inference of that request, booked at the end of the block."""
        return self._children.outcome(parent)

    async def ask_besides(self, request: Request, parent: Outcome) -> Answered:
        """As a further inference of the request of `parent`, with an id and an outcome of its own."""
        with self.besides(parent) as outcome:
            if request.kind == "chat":  # another body than the one that came
                outcome.received = len(orjson.dumps(request.raw))
            return await self.ask(replace(request, id=outcome.id), outcome)


async def together(calls: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """All of them at once. The first that fails ends the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def or_error(call: Coroutine[object, object, T]) -> T | BackendError:
    """What it comes to, its error included; a defect of ours is raised all the same."""
    try:
        return await call
    except BackendError as error:
        return error
