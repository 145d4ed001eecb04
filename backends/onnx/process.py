"""The gateway's end of the small models' worker: speaks `protocol` with it, and hands each request its results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import orjson

from backends.errors import BackendError, EngineFailed, InvalidRequest
from backends.onnx.protocol import Prepared
from backends.onnx.settings import OnnxHostSettings
from backends.processes.process import WorkerProcess
from backends.processes.wire import unpack_error
from backends.types import Result

Rows = list[tuple[int, Result]]


class Again(Exception):
    """What was counted is not kept any more: ask with the whole request."""


class Died(EngineFailed):
    """The process ended under the request, or before it could be asked: another one may answer."""


class OnnxProcess(WorkerProcess):
    """One running worker. Made by `start`; of no use once `ended()` returns."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.figures: Mapping[str, Mapping[str, Any]] = {}
        self._asked_for: dict[str, asyncio.Queue[Mapping[str, Any] | BackendError]] = {}

    @classmethod
    async def start(cls, settings: OnnxHostSettings) -> OnnxProcess:
        """Spawn a worker. Raises `BadModelFile` for an execution provider that is not there, or `EngineFailed`."""
        options = {
            "threads": settings.threads,
            "providers": settings.providers,
            "batch_tokens": settings.batch_tokens,
            "run_timeout_s": settings.run_timeout_s,
        }
        silence_s = max(settings.run_timeout_s, settings.load_timeout_s)
        return await cls.launch("backends.onnx.worker", "small models", options, silence_s)

    async def prepare(self, message: Mapping[str, Any]) -> Prepared:
        """Tokenise what an `ask` holds; it is kept for `run`."""
        answers = self._answers(message)
        try:
            answer = await anext(answers)
            return Prepared(answer["longest"], answer["tokens"])
        finally:
            await answers.aclose()

    async def run(self, message: Mapping[str, Any]) -> AsyncGenerator[Rows | int, None]:
        """The results of each run as they come, in no certain order, and last the prompt tokens of all.

        Closing the iterator cancels the request. Raises `Again` for a `run` of what is not kept.
        """
        answers = self._answers(message)
        try:
            async for answer in answers:
                if answer["op"] == "again":
                    raise Again
                if answer["op"] == "end":
                    yield answer["tokens"]
                    return
                yield [(i, _result(raw)) for i, raw in answer["rows"]]
                if "tokens" in answer:
                    yield answer["tokens"]
                    return
        finally:
            await answers.aclose()

    def forget(self, key: str) -> None:
        """Cancel a request, or drop what was kept for it."""
        if self.open:
            self.send({"op": "cancel", "id": key})

    async def _answers(self, message: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        key = message["id"]
        self.begin_listening()
        queue: asyncio.Queue[Mapping[str, Any] | BackendError] = asyncio.Queue()
        self._asked_for[key] = queue
        finished = False
        try:
            self._tell(message)
            while not finished:
                answer = await queue.get()
                finished = isinstance(answer, BackendError) or answer["op"] != "results" or "tokens" in answer
                if isinstance(answer, BackendError):
                    raise answer
                yield answer
        finally:
            del self._asked_for[key]
            if not finished:
                self.forget(key)

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self.send(message)
        except EngineFailed as error:
            raise _died(error) from None
        except orjson.JSONEncodeError:
            raise InvalidRequest("The input has characters that are not valid text.", param="input") from None

    # -- the wire ------------------------------------------------------------------------------------------------

    @property
    def waited_for(self) -> bool:
        return bool(self._asked_for)

    def receive(self, message: Mapping[str, Any]) -> None:
        if message["op"] == "figures":
            self.figures = message["models"]
        elif "id" in message and (queue := self._asked_for.get(message["id"])):
            refused = message["op"] == "refused"
            queue.put_nowait(unpack_error(message["error"]) if refused else message)

    def lose(self, error: BackendError) -> None:
        for queue in self._asked_for.values():
            queue.put_nowait(_died(error))


def _died(error: BackendError) -> Died:
    return Died(error.message, retry_after=error.retry_after)


def _result(raw: dict[str, Any]) -> Result:
    if "spans" in raw:
        return Result(spans=[(start, end, label, p) for start, end, label, p in raw["spans"]])
    return cast(Result, raw)
