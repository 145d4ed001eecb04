"""A backend that plays a script, for tests: any event, delay or error at any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from backends.types import GENERATES, Chunk, Event, Kind, ModelState, ModelStatus, PromptCount, Request, Usage

Step = Event | float | BaseException | asyncio.Event
"""An event to yield, seconds to sleep, an error to raise, or an `asyncio.Event` to wait for."""

Script = Callable[[Request], Sequence[Step]]


def say(*texts: str, prompt_tokens: int = 3, cached_tokens: int = 0) -> Script:
    """A script that answers every choice with `texts`, one chunk each, and stops."""

    def script(request: Request) -> Sequence[Step]:
        chunks: list[Step] = []
        for text in texts:
            chunks += [Chunk(index, text, tokens=(1,)) for index in range(request.choices)]
        chunks += [Chunk(index, finish_reason="stop") for index in range(request.choices)]
        return [*chunks, Usage(prompt_tokens, len(texts) * request.choices, cached_tokens)]

    return script


@dataclass(slots=True)
class FakeBackend:
    """Plays `script` for each request and keeps count of how the requests ended.

    Attributes:
        count_tokens: what `count` answers; an error is raised.
        requests: those that came to `generate`, in order.
        ended: how each left: `done`, `error` or `cancelled`.
    """

    name: str = "fake"
    script: Script = field(default_factory=lambda: say("Hello", " world"))
    context_length: int = 4096
    capabilities: frozenset[str] = frozenset({"logprobs"})
    kinds: frozenset[Kind] = GENERATES
    created: int = 1_700_000_000
    count_tokens: int | BaseException = 3
    status: ModelStatus = "ready"
    start_step: Step = 0.0
    requests: list[Request] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    closed: bool = False

    async def count(self, request: Request) -> PromptCount:
        if isinstance(self.count_tokens, BaseException):
            raise self.count_tokens
        return PromptCount(self.count_tokens)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        ending = "cancelled"
        try:
            for step in self.script(request):
                event = await _play(step)
                if event is not None:
                    yield event
            ending = "done"
        except Exception:
            ending = "error"
            raise
        finally:
            self.ended.append(ending)

    def state(self) -> ModelState:
        running = len(self.requests) - len(self.ended)
        return ModelState(self.name, self.status, context_length=self.context_length, running=running)

    async def start(self) -> None:
        await _play(self.start_step)

    async def close(self) -> None:
        self.closed = True


async def _play(step: Step) -> Event | None:
    if isinstance(step, BaseException):
        raise step
    if isinstance(step, asyncio.Event):
        await step.wait()
    elif isinstance(step, float | int):
        await asyncio.sleep(step)
    else:
        return step
    return None
