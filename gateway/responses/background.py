"""Responses that are computed after their request was answered: begun in their order, and again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request as HTTPRequest

from backends.errors import BackendError, DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from backends.types import Request
from gateway.errors import InternalError, RefusedError
from gateway.outcome import Outcome
from gateway.responses.archive import TIDY_S, Archive
from gateway.responses.draft import Draft
from gateway.responses.items import THOUGHTS, with_thoughts
from gateway.responses.store import Kept
from gateway.responses.turn import Turn
from gateway.routes.answer import Dispatching

if TYPE_CHECKING:
    from gateway.documents.frames import Sources
    from gateway.documents.grounded import Grounded
    from gateway.reload import Generation
    from gateway.routes.inference import Inference

AT_ONCE: Final = 4
MOST_WAITING: Final = 256
MOST_RUNS: Final = 3
"""Times that one is begun. What takes the gateway down with it must not do so for ever."""
TRIES: Final = 5
"""Times that a busy site is asked in one run."""
LONGEST_PAUSE_S: Final = 30.0
STOP_S: Final = 5.0
PATH: Final = "/v1/responses"

Lease = Callable[[], AbstractContextManager["Generation"]]

log = logging.getLogger("outstation.responses")


class Background:
    """One for the process: its work outlives a reload.

    Args:
        pause_s: between tries to reach an archive that is not available.
    """

    def __init__(self, archive: Archive, *, pause_s: float = 2.0) -> None:
        self._archive = archive
        self._pause_s = pause_s
        self._lease: Lease | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._recovery: asyncio.Task[None] | None = None

    def start(self, lease: Lease) -> None:
        """Begins again what an earlier process left."""
        self._lease = lease
        self._recovery = asyncio.create_task(self._recover())

    async def stop(self) -> None:
        """Ends what runs; the next process begins it again."""
        self._lease = None
        tasks = [task for task in (self._recovery, *self._tasks.values()) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S)

    async def submit(self, kept: Kept) -> None:
        """Keeps it, and lets it run. Raises `Unavailable`, `Overloaded`."""
        if self._lease is None:
            raise Unavailable("Nothing runs in the background now.", code="stopping", retry_after=5)
        if len(self._tasks) >= MOST_WAITING:
            message = f"{MOST_WAITING} responses wait in the background already."
            raise Overloaded(message, retry_after=LONGEST_PAUSE_S)
        await self._archive.add(kept)
        self._spawn(kept.id)

    async def cancel(self, kept: Kept) -> None:
        """Ends it, if it has not ended. Raises `Unavailable`."""
        draft = Draft(_fields(kept))
        draft.cancel()
        await self._archive.end(kept.id, draft.object(), kept.answered)
        self.forget(kept.id)

    def forget(self, id_: str) -> None:
        """Nobody wants it any more."""
        if task := self._tasks.get(id_):
            task.cancel()

    async def _recover(self) -> None:
        while True:
            try:
                found = await self._archive.open()
                break
            except Unavailable:
                await asyncio.sleep(self._pause_s)
        if found:
            log.warning("%d responses in the background had not ended; they are begun again", len(found))
        for id_ in found:
            if id_ not in self._tasks:
                self._spawn(id_)
        await self._tidy()

    async def _tidy(self) -> None:
        """What is too old is removed even where nobody asks for anything."""
        while True:
            await asyncio.sleep(TIDY_S)
            with contextlib.suppress(Unavailable):
                await self._archive.open()

    def _spawn(self, id_: str) -> None:
        task = self._tasks[id_] = asyncio.create_task(self._run(id_))
        task.add_done_callback(lambda _: self._tasks.pop(id_, None))

    async def _run(self, id_: str) -> None:
        async with self._slots:
            kept = await self._surely(lambda: self._archive.begin(id_))
            if kept is None:
                return
            fields, answered = await self._answered(kept)
            await self._surely(lambda: self._archive.end(id_, fields, answered))

    async def _surely(self, action: Callable[[], Any]) -> Any:
        """The disk may be full for a while: an answer is not thrown away for that."""
        while True:
            try:
                return await action()
            except Unavailable:
                await asyncio.sleep(self._pause_s)

    async def _answered(self, kept: Kept) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The response as it ended, and who answered."""
        if kept.runs > MOST_RUNS or kept.job is None:
            draft = Draft(_fields(kept))
            message = f"The gateway ended {MOST_RUNS} times while this response was computed. It is not begun again."
            draft.fail(EngineFailed(message, code="interrupted"))
            return draft.object(), {}
        parent = Outcome(kept.job["request_id"], "POST", PATH, key=kept.key, received=kept.job["received"])
        parent.inferences += (kept.runs - 1) * TRIES
        for left in reversed(range(TRIES)):
            draft = Draft(_fields(kept), wants_logprobs=kept.job["logprobs"])
            parent.started = time.monotonic()
            try:
                answered = await self._ask(kept.job, draft, parent)
                return draft.object(), answered
            except Overloaded as error:
                if not left:
                    draft.fail(error)
                    return draft.object(), {}
                await asyncio.sleep(min(error.retry_after or LONGEST_PAUSE_S, LONGEST_PAUSE_S))
            except BackendError as error:
                draft.fail(error)
                return draft.object(), {}
            except Exception as error:  # noqa: BLE001 - a defect must still end it
                # Frames only: an exception's text may quote what the user wrote.
                frames = "".join(traceback.format_tb(error.__traceback__))
                log.error("%s: %s in\n%s", parent.id, type(error).__name__, frames)
                draft.fail(InternalError())
                return draft.object(), {}
        raise AssertionError("the last try returns")

    async def _ask(self, job: Mapping[str, Any], draft: Draft, parent: Outcome) -> Mapping[str, Any]:
        """Fills the draft. Raises `BackendError`s."""
        assert self._lease is not None
        with self._lease() as generation:
            inference, keys = generation.inference, {key.name for key in generation.config.access}
            if keys and parent.key not in keys:
                raise RefusedError(401, "The API key that it came with is not valid any more.", code="invalid_api_key")
            with inference.children.outcome(parent) as outcome:
                request = _request(job, outcome, inference.key_classes)
                dispatcher: Dispatching = inference.dispatcher
                sources: Sources | None = None
                if job.get("search"):
                    request, dispatcher, sources = await _with_documents(inference, request, job)
                outcome.request = request
                turn = Turn(dispatcher, draft, generation.site.backends, None, sources=sources)
                try:
                    async with (
                        asyncio.timeout(turn.bound_s(request)),
                        aclosing(turn.answer(request, outcome)) as events,
                    ):
                        async for _ in events:
                            pass
                except TimeoutError:
                    raise DeadlineExceeded("The response took longer than its bound.") from None
                return answered_by(outcome)


def answered_by(outcome: Outcome) -> dict[str, Any]:
    """Who answered, and why; as the headers say it."""
    route = outcome.route.name if outcome.route else ""
    return {"route": route, "reason": outcome.reason, "attempts": outcome.attempts}


def job_of(request: Request, received: int, *, logprobs: bool) -> dict[str, Any]:
    """All that it takes to make the request again. `received`: bytes of the whole chat."""
    return {
        "chat": request.raw,
        "request_id": request.id,
        "received": received,
        "logprobs": logprobs,
        "locality": request.locality,
        "deadline_s": request.deadline_s,
        "declared": sorted(request.declared),
        "continue_on_break": request.continue_on_break,
        "template_kwargs": request.template_kwargs,
        "thoughts": [(at, m[THOUGHTS]) for at, m in enumerate(request.messages) if THOUGHTS in m],
    }


def _request(job: Mapping[str, Any], outcome: Outcome, key_classes: Mapping[str, frozenset[str]]) -> Request:
    from gateway.routes.chat import chat_request
    from gateway.schemas.chat import ChatRequest
    from gateway.schemas.parse import check

    http = HTTPRequest({"type": "http", "headers": [], "outcome": outcome})
    body = job["chat"]
    request, _ = chat_request(outcome.id, check(ChatRequest, body), body, http, key_classes)
    return replace(
        request,
        locality=job["locality"],
        deadline_s=job["deadline_s"],
        declared=request.declared | frozenset(job["declared"]),
        continue_on_break=job["continue_on_break"],
        template_kwargs=job["template_kwargs"],
        messages=with_thoughts(request.messages, dict(job.get("thoughts", ()))),
    )


async def _with_documents(
    inference: Inference, request: Request, job: Mapping[str, Any]
) -> tuple[Request, Grounded, Sources]:
    from gateway.documents.asked import search_of
    from gateway.documents.frames import Sources
    from gateway.routes.grounding import grounded

    search = search_of(job["search"], "tools")
    request, through = await grounded(inference, request, search, "tools")
    return request, through, Sources(through, results=job["results"])


def _fields(kept: Kept) -> dict[str, Any]:
    """Of the response object, all but what was said: it begins anew."""
    return {name: value for name, value in kept.body.items() if name != "output"}
