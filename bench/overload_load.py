"""The load of `bench.overload`: requests with deadlines, sent when their time has come however many are still open."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bench.client import Answer, Exchange
from bench.load import QUESTIONS, SYSTEM_PROMPT, WORDS

PATH = "/v1/chat/completions"
GRACE_S = 5.0  # after its deadline; who has no answer then, hangs
SHARE_OF_QUESTIONS = 0.4
UNPAID = frozenset({"provider_busy", "provider_down"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one request. Seconds.

    Attributes:
        sent: by `time.perf_counter`.
        took_s: from its sending to the end of its answer; what is refused ends at once.
        route: who answered, as the response's header says.
        attempts: routes that were asked.
        code: of the error, if it was one, in the body or in the stream.
        retry_s: from `Retry-After`; None: not told.
    """

    sent: float
    deadline_s: float
    stream: bool
    status: int
    took_s: float
    ttft_s: float
    whole: bool
    route: str
    attempts: int
    code: str
    retry_s: float | None

    @property
    def met(self) -> bool:
        """A whole answer before its deadline."""
        return self.status == 200 and self.whole and self.took_s <= self.deadline_s

    @property
    def refused(self) -> bool:
        """By the gateway's own decision: nobody was asked."""
        return self.status in (400, 429, 503) and not self.attempts

    @property
    def turned_away(self) -> bool:
        """A provider was asked and had no room."""
        return self.status in (429, 503) and self.attempts > 0 and self.code in UNPAID

    @property
    def admitted(self) -> bool:
        """Whatever is no refusal: that it fails later is a miss."""
        return not (self.refused or self.turned_away)

    @property
    def local(self) -> bool:
        """Answered on the box."""
        return self.route.startswith("local/")


@dataclass(slots=True)
class Mix:
    """Requests, no two alike: short questions under one system prompt, and prompts of their own of `prompt` tokens,
    log-uniform, that share nothing.

    Attributes:
        deadline: of seconds, uniform; None: no request has one.
    """

    seed: int
    deadline: tuple[float, float] | None = (2.0, 8.0)
    prompt: tuple[int, int] = (30, 800)
    max_tokens: tuple[int, int] = (16, 96)
    locality: str | None = None
    _count: Iterator[int] = field(default_factory=itertools.count)

    def body(self) -> dict[str, Any]:
        """The next request."""
        number = next(self._count)
        draw = random.Random(f"{self.seed}-{number}")
        controls: dict[str, Any] = {} if self.locality is None else {"locality": self.locality}
        if self.deadline is not None:
            controls["deadline_ms"] = round(1000 * draw.uniform(*self.deadline))
        return {
            "model": "auto",
            "messages": self._messages(draw, number),
            "max_tokens": draw.randint(*self.max_tokens),
            "stream": draw.random() < 0.5,
            "temperature": 0.8,
            "seed": number,
            "outstation": controls,
        }

    def _messages(self, draw: random.Random, number: int) -> list[dict[str, str]]:
        if draw.random() < SHARE_OF_QUESTIONS:
            text = f"{draw.choice(QUESTIONS)} Job {self.seed}-{number}."
            return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]
        least, most = self.prompt
        tokens = round(least * (most / least) ** draw.random())
        words = " ".join(draw.choice(WORDS) for _ in range(max(4, tokens - 25)))
        return [{"role": "user", "content": f"{words}. Which part is named most often, and why?"}]


class Call(Exchange):
    """One request of which the response's headers matter too."""

    def header(self, name: bytes) -> str:
        """Empty where there is none."""
        return (self._headers or {}).get(name, b"").decode()


async def send(port: int, body: Mapping[str, Any]) -> Seen:
    """One request, start to end. Never raises for what the server did: status 0 for what has no end."""
    payload = orjson.dumps(body)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    deadline_s = body["outstation"].get("deadline_ms", 600_000) / 1000
    loop = asyncio.get_running_loop()
    call: Call | None = None
    try:
        async with asyncio.timeout(deadline_s + GRACE_S):
            _, call = await loop.create_connection(lambda: Call(head.encode() + payload), "127.0.0.1", port)
            await call.finished
    except (OSError, TimeoutError):
        if call is None:
            now = time.perf_counter()
            return Seen(now, deadline_s, bool(body["stream"]), 0, 0.0, 0.0, False, "", 0, "no connection", None)
        call.abort()
        call.answer.status = 0
        call.answer.ended = time.perf_counter()
    return seen(call, call.answer, deadline_s, bool(body["stream"]))


def seen(call: Call, answer: Answer, deadline_s: float, stream: bool) -> Seen:
    """What came, in figures."""
    wait = call.header(b"retry-after")
    return Seen(
        sent=answer.sent,
        deadline_s=deadline_s,
        stream=stream,
        status=answer.status,
        took_s=answer.ended - answer.sent,
        ttft_s=answer.ttft,
        whole=answer.ok,
        route=call.header(b"x-outstation-route"),
        attempts=int(call.header(b"x-outstation-attempts") or 0),
        code=_code(answer),
        retry_s=float(wait) if wait else None,
    )


def _code(answer: Answer) -> str:
    if answer.error:
        return answer.error[:200]
    if answer.status == 200:
        return ""
    try:
        return str(orjson.loads(answer.body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "no answer" if not answer.status else "no JSON"


async def closed(port: int, mix: Mix, *, callers: int, seconds: float) -> float:
    """Whole answers a second of so many callers, each with its next request as soon as it is answered."""
    began = time.perf_counter()
    whole = 0

    async def caller() -> None:
        nonlocal whole
        while time.perf_counter() - began < seconds:
            answered = await send(port, mix.body())
            whole += answered.whole  # not in one line with the await, which would add to what was there before it

    await asyncio.gather(*(caller() for _ in range(callers)))
    return whole / (time.perf_counter() - began)


async def poisson(
    port: int, mix: Mix, *, rate: float, seconds: float, retry_every: int
) -> tuple[list[Seen], list[Seen]]:
    """Arrivals at `rate` a second for so long, whatever becomes of them; returns when the last has ended.

    Every `retry_every`-th refusal that names a time is tried once more, after that time; those are the second list.
    """
    clock = random.Random(mix.seed)
    first: list[Seen] = []
    again: list[Seen] = []
    refusals = itertools.count()

    async def one(body: dict[str, Any]) -> None:
        result = await send(port, body)
        first.append(result)
        if result.refused and result.retry_s is not None and next(refusals) % retry_every == 0:
            await asyncio.sleep(result.retry_s)
            again.append(await send(port, body))

    began = time.perf_counter()
    at = began
    async with asyncio.TaskGroup() as group:
        while (at := at + clock.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            group.create_task(one(mix.body()))
    return first, again


async def burst(port: int, mix: Mix, count: int) -> tuple[list[Seen], list[Seen]]:
    """So many at one moment; the first of those that were told to come again does so, when it was told to."""
    first: list[Seen] = []
    again: list[Seen] = []
    refusals = itertools.count()

    async def one(body: dict[str, Any]) -> None:
        result = await send(port, body)
        first.append(result)
        if result.refused and result.retry_s is not None and next(refusals) == 0:
            await asyncio.sleep(result.retry_s)
            again.append(await send(port, body))

    await asyncio.gather(*(one(mix.body()) for _ in range(count)))
    return first, again
