"""A provider that always says the same: `python -m bench.upstream --port P`. Behind each gateway of `bench.gateways`.

It must never be what limits a gateway, so it is one protocol over bytes made beforehand, on uvloop: it finds where a
request ends, sees whether it asks for a stream, and writes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any, cast

import orjson

MODEL = "m"
CONTENT = (
    "Check that the inlet valve is open, then look at the strainer for dirt. If the pump still hums without turning, "
    "isolate the supply, lock the switch, and turn the shaft by hand to see whether it is free."
)
USAGE = {"prompt_tokens": 60, "completion_tokens": 48, "total_tokens": 108}
DELTAS = 64
INTERVAL_S = 0.020
MADE = 1_750_000_000


def texts(deltas: int) -> list[str]:
    """The pieces that a stream brings, in order and no two alike: one that is lost, doubled or moved is seen."""
    return [f"w{number:03} " for number in range(deltas)]


class Script:
    """All that is ever sent, as bytes.

    Attributes:
        body: a whole answer, head and body.
        head: the head of a stream, with its first event, which carries the role.
        events: one chunk of HTTP a delta.
        end, end_with_usage: what closes a stream; with a usage chunk if the request asked for one.
    """

    def __init__(self, deltas: int = DELTAS) -> None:
        message = {"role": "assistant", "content": CONTENT, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        answer = orjson.dumps(
            {
                "id": "chatcmpl-bench",
                "object": "chat.completion",
                "created": MADE,
                "model": MODEL,
                "choices": [choice],
                "usage": USAGE,
            }
        )
        self.body = _head(b"application/json", b"content-length: %d" % len(answer)) + answer
        first = _event([_choice({"role": "assistant", "content": ""})])
        self.head = _head(b"text/event-stream", b"transfer-encoding: chunked") + first
        self.events = [_event([_choice({"content": text})]) for text in texts(deltas)]
        stop = _event([_choice({}, "stop")])
        done = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.end = stop + done
        self.end_with_usage = stop + _event([], USAGE) + done


class Upstream(asyncio.Protocol):
    """One connection, kept alive. A request whose body contains `"stream":true` gets the stream."""

    __slots__ = ("_buffer", "_interval", "_loop", "_script", "_timer", "_transport")

    def __init__(self, script: Script, interval_s: float = INTERVAL_S) -> None:
        self._script = script
        self._interval = interval_s
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and (end := request_end(self._buffer)):
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        assert self._transport is not None
        if b'"stream":true' in request or b'"stream": true' in request:
            usage = b'"include_usage":true' in request or b'"include_usage": true' in request
            self._transport.write(self._script.head)
            self._after(self._loop.time(), 1, usage)
        else:
            self._transport.write(self._script.body)

    def _after(self, began: float, number: int, usage: bool) -> None:
        # Each delta has its own moment after the request: a late timer does not delay those behind it.
        self._timer = self._loop.call_at(began + number * self._interval, self._delta, began, number, usage)

    def _delta(self, began: float, number: int, usage: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(self._script.events[number - 1])
        if number < len(self._script.events):
            self._after(began, number + 1, usage)
        else:
            self._transport.write(self._script.end_with_usage if usage else self._script.end)


def request_end(data: bytes) -> int:
    """Where the first request in `data` ends, in bytes; 0: not yet. Bodies are counted or chunked."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return 0
    fields = data[: head + 2].lower()
    head += 4
    at = fields.find(b"\r\ncontent-length:")
    if at >= 0:
        end = head + int(fields[at + 17 : fields.index(b"\r\n", at + 17)])
        return end if len(data) >= end else 0
    if b"\r\ntransfer-encoding: chunked" in fields:
        last = data.find(b"0\r\n\r\n", head)
        return last + 5 if last >= 0 else 0
    return head


async def serve(port: int, deltas: int, interval_s: float) -> None:
    """Serves on loopback until the process is ended."""
    script = Script(deltas)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(script, interval_s), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _event(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": MADE,
        "model": MODEL,
        "choices": choices,
    }
    return _chunk(b"data: " + orjson.dumps(chunk if usage is None else chunk | {"usage": usage}) + b"\n\n")


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def _head(media_type: bytes, framing: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s\r\n\r\n" % (media_type, framing)


def main() -> int:
    """Parses the command line and serves."""
    import uvloop

    parser = argparse.ArgumentParser(prog="bench.upstream", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deltas", type=int, default=DELTAS, help="pieces of text in a stream")
    parser.add_argument("--interval-ms", type=float, default=INTERVAL_S * 1000, help="between two of them")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(args.port, args.deltas, args.interval_ms / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
