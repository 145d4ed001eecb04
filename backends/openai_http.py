"""A model at a remote provider: any server that speaks OpenAI's API over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import httpx2

from backends.errors import BackendError, DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded, Unavailable
from backends.remote import answers
from backends.remote.events import EventReader, EventTooLargeError
from backends.remote.provider import Endpoint, Provider
from backends.remote.settings import RemoteModel
from backends.types import Event, ModelState, PromptCount, Request, Usage

PATHS = {"chat": "chat/completions", "completion": "completions"}
MAX_BODY_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 16


class OpenAIBackend:
    """`provider/model`. Its endpoints are tried in turn until one begins to answer."""

    def __init__(self, provider: Provider, model: RemoteModel) -> None:
        self.provider = provider
        self.model = model

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.model.id}"

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def capabilities(self) -> frozenset[str]:
        return self.model.capabilities

    @property
    def created(self) -> int:
        return 0

    async def start(self) -> None:
        self.provider.start()

    async def close(self) -> None:
        await self.provider.close()

    async def count(self, request: Request) -> PromptCount:
        raise Unavailable(f"The provider {self.provider.name} has a tokenizer that is not known here.")

    def state(self) -> ModelState:
        reason, _ = self.health()
        return ModelState(self.name, "failed" if reason else "ready", reason, context_length=self.context_length)

    def health(self) -> tuple[str, float | None]:
        """(why it cannot be asked now, seconds until it can); ("", None) while an endpoint can."""
        breakers = [endpoint.breaker for endpoint in self.provider.endpoints]
        if any(breaker.available for breaker in breakers):
            return "", None
        soonest = min(breakers, key=lambda breaker: breaker.retry_after)
        return soonest.reason or "resting after failures", soonest.retry_after

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        body = answers.body(request, self.model.id)
        failure: BackendError | None = None
        for endpoint in self.provider.endpoints:
            if not endpoint.breaker.begin():
                continue
            begun = False
            try:
                async with aclosing(self._answer(endpoint, request, body)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except BackendError as error:
                self._blame(endpoint, error)
                if begun or isinstance(error, InvalidRequest):
                    raise
                failure = error
        reason, wait = self.health()
        raise failure or Unavailable(
            f"The provider {self.provider.name} cannot be asked now: {reason}.", code="provider_down", retry_after=wait
        )

    def _blame(self, endpoint: Endpoint, error: BackendError) -> None:
        """What a failure says of the endpoint."""
        if isinstance(error, InvalidRequest) or error.code == "provider_not_found":
            endpoint.breaker.succeeded()
        elif error.code == "provider_unreachable":
            endpoint.breaker.unreachable("no connection")
        elif isinstance(error, Overloaded) or error.code == "provider_key":
            endpoint.breaker.failed(error.code, error.retry_after)
        else:
            endpoint.breaker.failed(error.code)

    async def _answer(self, endpoint: Endpoint, request: Request, body: bytes) -> AsyncGenerator[Event, None]:
        settings, clock = self.provider.settings, self.provider.clock
        started = clock()
        ends = started + settings.total_timeout_s
        # The head of a whole answer comes when all of it was computed.
        first_s = settings.first_token_timeout_s if request.stream else settings.total_timeout_s
        try:
            async with asyncio.timeout(first_s):
                response = await self.provider.post(endpoint, PATHS[request.kind], request.id, body)
        except TimeoutError:
            raise self._late("had no first token", first_s) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            message = f"The provider {self.provider.name} cannot be reached."
            raise Unavailable(message, code="provider_unreachable", retry_after=2) from error
        except httpx2.TransportError as error:
            raise self._broke(error) from error
        try:
            if response.status_code != 200:
                data = await self._read(response, MAX_ERROR_BYTES, settings.idle_timeout_s)
                raise answers.refusal(response.status_code, response.headers, data, self.provider.name)
            if not request.stream:
                data = await self._read(response, MAX_BODY_BYTES, ends - clock())
                for event in self._whole(data, len(body)):
                    yield event
                endpoint.answered(clock() - started)
                return
            async with aclosing(self._stream(response, endpoint, started, ends, len(body))) as events:
                async for event in events:
                    yield event
        finally:
            await response.aclose()

    def _whole(self, data: bytes, request_bytes: int) -> list[Event]:
        payload = answers.parsed(data, self.provider.name)
        if error := answers.broke(payload, self.provider.name):
            raise error
        chunks = list(answers.whole(payload, self.provider.name))
        text = sum(len(chunk.text.encode()) for chunk in chunks)
        return [*chunks, answers.usage(payload) or answers.guessed(request_bytes, text)]

    async def _stream(
        self, response: httpx2.Response, endpoint: Endpoint, started: float, ends: float, request_bytes: int
    ) -> AsyncGenerator[Event, None]:
        settings, clock, name = self.provider.settings, self.provider.clock, self.provider.name
        usage: Usage | None = None
        first_at, said, deltas = 0.0, 0, 0

        def patience() -> float:
            return clock() + settings.idle_timeout_s if first_at else started + settings.first_token_timeout_s

        async with aclosing(self._payloads(response, lambda: min(patience(), ends))) as payloads:
            async for data in payloads:
                payload = answers.parsed(data, name)
                if "error" in payload and (error := answers.broke(payload, name)):
                    raise error
                usage = answers.usage(payload) or usage
                for chunk in answers.deltas(payload, name) if payload.get("choices") else ():
                    if not first_at:
                        first_at = clock()
                        endpoint.answered(first_at - started)
                    said, deltas = said + len(chunk.text), deltas + 1
                    yield chunk
        endpoint.finished(usage.completion_tokens if usage else deltas, clock() - first_at)
        yield usage or answers.guessed(request_bytes, said)

    async def _payloads(self, response: httpx2.Response, until: Callable[[], float]) -> AsyncGenerator[bytes, None]:
        """The data of each event until `[DONE]` or the end of the stream; `until` is asked before each wait."""
        reader, source = EventReader(), response.aiter_bytes()
        while (data := await self._next(source, until() - self.provider.clock())) is not None:
            try:
                for event in reader.feed(data):
                    if event == b"[DONE]":
                        return
                    yield event
            except EventTooLargeError as error:
                raise self._broke(error) from error
        if (last := reader.end()) and last != b"[DONE]":
            yield last

    async def _next(self, source: AsyncIterator[bytes], wait_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(wait_s):
                return await anext(source, None)
        except TimeoutError:
            raise self._late("sent nothing", wait_s) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise self._broke(error) from error

    async def _read(self, response: httpx2.Response, limit: int, wait_s: float) -> bytes:
        source, parts, size = response.aiter_bytes(), [], 0
        ends = self.provider.clock() + wait_s
        while (data := await self._next(source, ends - self.provider.clock())) is not None:
            size += len(data)
            if size > limit:
                raise EngineFailed(f"The provider {self.provider.name} sent more than {limit} bytes.")
            parts.append(data)
        return b"".join(parts)

    def _late(self, what: str, seconds: float) -> BackendError:
        message = f"The provider {self.provider.name} {what} within {max(seconds, 0):.3g} s."
        return DeadlineExceeded(message, code="provider_timeout", retry_after=5)

    def _broke(self, error: Exception) -> BackendError:
        message = f"The provider {self.provider.name} broke off ({type(error).__name__})."
        return EngineFailed(message, code="provider_broke", retry_after=2)
