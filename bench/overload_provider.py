"""A provider with a pace and a limit: `python -m bench.overload_provider --port P`. For `bench.overload`.

A stream's first text comes after a while and the others evenly after it; a whole answer comes when its stream would
have ended. Beyond so many answers at once it says 429, as providers do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass

from bench.upstream import Script, request_end

RETRY_AFTER_S = 1
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: %d\r\n" % RETRY_AFTER_S
    + b'content-length: 49\r\n\r\n{"error":{"message":"Slow down.","type":"limit"}}'
)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `most`: answers at once; None: any number."""

    first_s: float = 0.3
    interval_s: float = 0.02
    deltas: int = 60
    most: int | None = None

    @property
    def total_s(self) -> float:
        """From a request to the end of its answer."""
        return self.first_s + self.deltas * self.interval_s


class Provider:
    """All connections of one port."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._script = Script(pace.deltas)
        self._answering = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive until its client leaves."""
        buffer = b""
        try:
            while data := await reader.read(1 << 16):
                buffer += data
                while end := request_end(buffer):
                    request, buffer = buffer[:end], buffer[end:]
                    await self._answer(request, writer)
        except ConnectionError:
            pass  # a client that leaves in the middle of its answer
        finally:
            writer.close()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        if self._pace.most is not None and self._answering >= self._pace.most:
            writer.write(BUSY)
            return
        self._answering += 1
        try:
            await (self._stream if b'"stream":true' in request else self._whole)(request, writer)
        finally:
            self._answering -= 1

    async def _whole(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._pace.total_s)
        writer.write(self._script.body)
        await writer.drain()

    async def _stream(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, event in enumerate(self._script.events):
            # Each delta has its own moment: a late one does not delay those behind it.
            at = began + self._pace.first_s + number * self._pace.interval_s
            await asyncio.sleep(max(0.0, at - loop.time()))
            writer.write(event if number else self._script.head + event)
            await writer.drain()
        writer.write(self._script.end_with_usage if b'"include_usage":true' in request else self._script.end)
        await writer.drain()


async def serve(port: int, pace: Pace) -> None:
    """Serves on loopback until the process is ended."""
    provider = Provider(pace)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> int:
    """Parses the command line and serves."""
    import uvloop

    usual = Pace()
    parser = argparse.ArgumentParser(prog="bench.overload_provider", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first-s", type=float, default=usual.first_s, help="until the first text")
    parser.add_argument("--interval-s", type=float, default=usual.interval_s, help="between two pieces of text")
    parser.add_argument("--deltas", type=int, default=usual.deltas, help="pieces of text")
    parser.add_argument("--most", type=int, help="answers at once; beyond them 429")
    args = parser.parse_args()
    pace = Pace(args.first_s, args.interval_s, args.deltas, args.most)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(args.port, pace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
