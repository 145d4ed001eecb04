"""A model at a remote provider: any server that speaks OpenAI's API over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import httpx2

from backends.errors import BackendError, DeadlineExceeded, EngineFailed, InvalidRequest, Unavailable
from backends.remote import answers, embeddings
from backends.remote.choices import Choices
from backends.remote.events import EventReader, EventTooLargeError
from backends.remote.provider import Endpoint, Provider, StoppedAtBoundaryError
from backends.remote.reply import Reply
from backends.remote.settings import RemoteModel
from backends.remote.standing import Pace, blame, left
from backends.types import Chunk, Event, Kind, ModelState, PromptCount, Request

PATHS = {"chat": "chat/completions", "completion": "completions", "embedding": "embeddings"}
MAX_BODY_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 16
ERROR_BODY_S = 2.0
LONGEST_MESSAGE, LONGEST_PARAM = 2000, 100


class _Streamed(NamedTuple):
    """An answer that has begun: its reply, and when it was asked for (the loop's time)."""

    reply: Reply
    started: float


class OpenAIBackend:
    """`provider/model`. Its endpoints are tried in turn until one begins to answer."""

    def __init__(self, provider: Provider, model: RemoteModel) -> None:
        self.provider = provider
        self.model = model
        self._paces = {endpoint.base_url: Pace() for endpoint in provider.endpoints}

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.model.id}"

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def kinds(self) -> frozenset[Kind]:
        return self.model.kinds

    @property
    def capabilities(self) -> frozenset[str]:
        return self.model.capabilities

    @property
    def created(self) -> int:
        return 0

    @property
    def pace(self) -> Pace:
        """At the endpoint that would be asked now, or at the first if none can."""
        return self._paces[(self.provider.available or self.provider.endpoints[0]).base_url]

    async def start(self) -> None:
        self.provider.start()

    async def close(self) -> None:
        await self.provider.close()

    async def count(self, request: Request) -> PromptCount:
        raise Unavailable(f"The provider {self.provider.name} has a tokenizer that is not known here.")

    def state(self) -> ModelState:
        reason, _ = self.provider.health()
        return ModelState(self.name, "failed" if reason else "ready", reason, context_length=self.context_length)

    def health(self) -> tuple[str, float | None, float, float]:
        """(why it cannot be asked now, empty while an endpoint can; seconds until it can, None while it can; seconds to
        the first token of late; tokens/s of late), as `policies.base.Health` has them."""
        pace = self.pace
        return *self.provider.health(), pace.ttft_s, pace.tokens_per_s

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        body = answers.body(request, self.model.id)
        failure: BackendError | None = None
        for endpoint in self.provider.endpoints:
            if not endpoint.breaker.begin():
                continue
            begun = settled = False
            asked_at = self.provider.clock()
            try:
                answer = await self._ask(endpoint, request, body)
                if isinstance(answer, list):
                    settled = begun = True
                    for event in answer:
                        yield event
                    return
                async with aclosing(self._stream(answer, endpoint, request, len(body))) as events:
                    async for event in events:
                        begun = settled = True
                        yield event
                return
            except StoppedAtBoundaryError as stopped:
                settled = True
                endpoint.breaker.abandoned()
                raise stopped.error from None
            except BackendError as error:
                settled = True
                blame(endpoint, error)
                if begun or isinstance(error, InvalidRequest):
                    raise
                failure = error
            finally:
                if not settled:
                    self._left(endpoint, request, self.provider.clock() - asked_at)
        reason, wait = self.provider.health()
        raise failure or Unavailable(
            f"The provider {self.provider.name} cannot be asked now: {reason}.", code="provider_down", retry_after=wait
        )

    def _left(self, endpoint: Endpoint, request: Request, waited_s: float) -> None:
        patience_s = self.provider.settings.first_token_timeout_s
        if request.stream:
            patience_s = min(patience_s, self._paces[endpoint.base_url].patience_s)
        left(endpoint, waited_s, patience_s)

    async def _ask(self, endpoint: Endpoint, request: Request, body: bytes) -> list[Event] | _Streamed:
        """Sends to one endpoint. Returns a whole answer's events, or a stream that has begun: the caller's to close."""
        started = asyncio.get_running_loop().time()
        reply, streams = await self._head(endpoint, request, body, started), False
        try:
            if reply.status != 200:
                raise await self._refused(reply)
            if not request.stream or reply.headers.get("content-type", "").startswith("application/json"):
                data = await self._read(reply, MAX_BODY_BYTES, started + self.provider.settings.total_timeout_s)
                return self._whole(request, endpoint, data, len(body), started)
            streams = True
            return _Streamed(reply, started)
        except httpx2.TransportError as error:
            raise self._cut(error) from error
        finally:
            if not streams:
                await reply.aclose()

    async def _head(self, endpoint: Endpoint, request: Request, body: bytes, started: float) -> Reply:
        settings = self.provider.settings
        # The head of a whole answer comes when all of it was computed.
        patience_s = settings.first_token_timeout_s if request.stream else settings.total_timeout_s
        try:
            return await self.provider.post(endpoint, PATHS[request.kind], request.id, body, started + patience_s)
        except httpx2.ReadTimeout:
            raise self._late(f"had no answer within {patience_s:.3g} s") from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            message = f"The provider {self.provider.name} cannot be reached."
            raise Unavailable(message, code="provider_unreachable", retry_after=2) from error
        except httpx2.TransportError as error:
            raise self._broke(error) from error

    def _whole(
        self, request: Request, endpoint: Endpoint, data: bytes, request_bytes: int, started: float
    ) -> list[Event]:
        name = self.provider.name
        payload = self._parsed(data)
        if request.stream:
            raise answers.strange(name, "a whole body in place of a stream")
        if request.kind == "embedding":
            vectors = embeddings.events(payload, request.choices, name, request_bytes)
            endpoint.breaker.succeeded()
            return vectors
        said = Choices(request.kind, name)
        chunks = said.whole(payload)
        if sorted(chunk.index for chunk in chunks) != list(range(request.choices)):
            raise answers.strange(name, f"{len(chunks)} choices in place of {request.choices}")
        usage = answers.usage(said.usage, said.additions)
        if usage is None:
            size = sum(len(chunk.text.encode()) for chunk in chunks)
            usage = answers.guessed(request_bytes, size, said.additions)
        endpoint.breaker.succeeded()
        pace = self._paces[endpoint.base_url]
        pace.ended(usage.completion_tokens, asyncio.get_running_loop().time() - started - pace.ttft_s)
        return [*chunks, usage]

    async def _stream(
        self, streamed: _Streamed, endpoint: Endpoint, request: Request, request_bytes: int
    ) -> AsyncGenerator[Event, None]:
        """What a stream says. Closing the generator closes the connection."""
        settings, name, now = self.provider.settings, self.provider.name, asyncio.get_running_loop().time
        reply, started = streamed
        ends, patient_until = started + settings.total_timeout_s, started + settings.first_token_timeout_s
        reader, pace = EventReader(), self._paces[endpoint.base_url]
        open_choices, said = set(range(request.choices)), Choices(request.kind, name)
        first_at, size, n_deltas, done = 0.0, 0, 0, False
        try:
            while not done:
                if first_at:
                    patient_until = now() + settings.idle_timeout_s
                data = await reply.read(min(ends, patient_until))
                events = reader.feed(data) if data else [last] if (last := reader.end()) else []
                done = not data
                for event in events:
                    if event == b"[DONE]":
                        done = True
                        break
                    for chunk in said.deltas(self._parsed(event)):
                        if not first_at:
                            first_at = now()
                            endpoint.breaker.succeeded()
                            pace.began(first_at - started)
                        if not self._belongs(chunk, open_choices, request):
                            continue
                        size, n_deltas = size + len(chunk.text), n_deltas + 1
                        yield chunk
            if open_choices:
                raise self._broke(None)
            reply.finish()
        except (EventTooLargeError, httpx2.TransportError) as error:
            raise self._cut(error) from error
        finally:
            await reply.aclose()
        usage = answers.usage(said.usage, said.additions)
        pace.ended((usage.completion_tokens if usage else n_deltas) - 1, now() - first_at)
        yield usage or answers.guessed(request_bytes, size, said.additions)

    def _belongs(self, chunk: Chunk, open_choices: set[int], request: Request) -> bool:
        """Whether the delta is of an open choice; the last one closes it. False: an afterthought that says nothing."""
        if chunk.index not in open_choices:
            if chunk.text or not 0 <= chunk.index < request.choices:
                raise answers.strange(self.provider.name, f"a delta of choice {chunk.index}, which is not open")
            return False
        if chunk.finish_reason:
            open_choices.discard(chunk.index)
        return True

    async def _refused(self, reply: Reply) -> BackendError:
        until = asyncio.get_running_loop().time() + min(ERROR_BODY_S, self.provider.settings.idle_timeout_s)
        try:
            data = await self._read(reply, MAX_ERROR_BYTES, until)
        except (httpx2.TransportError, BackendError):
            data = b""  # the status says enough
        return self._scrubbed(answers.refusal(reply.status, reply.headers, data, self.provider.name))

    async def _read(self, reply: Reply, limit: int, until: float) -> bytes:
        parts, size = [], 0
        while data := await reply.read(until):
            size += len(data)
            if size > limit:
                raise answers.strange(self.provider.name, f"more than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    def _parsed(self, data: bytes) -> answers.Payload:
        try:
            return answers.parsed(data, self.provider.name)
        except BackendError as error:
            raise self._scrubbed(error) from None

    def _scrubbed(self, error: BackendError) -> BackendError:
        """No provider's words show the site's key, nor the half of it that a cut leaves; and they are no books."""
        if key := self.provider.settings.key:
            error.message = error.message.replace(key, "[key]")
            error.param = error.param and error.param.replace(key, "[key]")
            if isinstance(error, InvalidRequest) and key.lower() in error.code:
                error.code = "provider_refused"
        error.message = error.message[:LONGEST_MESSAGE]
        error.param = error.param and error.param[:LONGEST_PARAM]
        error.args = (error.message,)
        return error

    def _late(self, what: str) -> BackendError:
        message = f"The provider {self.provider.name} {what}."
        return DeadlineExceeded(message, code="provider_timeout", retry_after=5)

    def _cut(self, error: Exception) -> BackendError:
        """What went wrong with the connection, in our words."""
        return self._late("stopped sending") if isinstance(error, httpx2.ReadTimeout) else self._broke(error)

    def _broke(self, error: Exception | None) -> BackendError:
        why = type(error).__name__ if error else "no finish_reason"
        message = f"The provider {self.provider.name} broke off ({why})."
        return EngineFailed(message, code="provider_broke", retry_after=2)
