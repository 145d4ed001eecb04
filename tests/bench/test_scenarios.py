"""The scenarios against a small server in this process that streams tokens and says what it does."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from bench.load import Load
from bench.peers import Peer, Server, outstation_busy, running
from bench.scenarios import disconnect, neighbour, throughput, tree_memory

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"


class Toy:
    """One token a millisecond for each stream; long prompts begin late. Its status counts what it streams."""

    def __init__(self) -> None:
        self.running = 0
        self.steps = 0
        self.fail = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        body = await reader.readexactly(length)
        gone = asyncio.create_task(reader.read())
        answer = asyncio.create_task(self._answer(head, body, writer))
        await asyncio.wait([gone, answer], return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, answer):
            task.cancel()
        await asyncio.gather(gone, answer, return_exceptions=True)
        writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET"):
            model = {
                "running": self.running,
                "waiting": 0,
                "step_seconds": self.steps,
                "python_seconds": self.steps / 4,
            }
            writer.write(HEAD % b"application/json" + orjson.dumps({"models": [model]}))
            return
        request = orjson.loads(body)
        prompt_tokens = sum(len(message["content"].split()) for message in request["messages"])
        self.running += 1
        try:
            writer.write(HEAD % b"text/event-stream")
            await asyncio.sleep(1.0 if prompt_tokens > 1000 else 0)
            await self._stream(writer, request["max_tokens"], prompt_tokens)
        finally:
            self.running -= 1

    async def _stream(self, writer: asyncio.StreamWriter, tokens: int, prompt_tokens: int) -> None:
        for _ in range(tokens):
            writer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n')
            await asyncio.sleep(0.001)
            self.steps += 1
        if self.fail:
            writer.write(b'data: {"error": {"message": "died"}}\n\n')
            return
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
        writer.write(b"data: %s\n\ndata: [DONE]\n\n" % orjson.dumps({"choices": [], "usage": usage}))


@contextlib.asynccontextmanager
async def toy() -> AsyncIterator[tuple[Toy, Server]]:
    played = Toy()
    listener = await asyncio.start_server(played.serve, "127.0.0.1", 0)
    peer = Peer("outstation", lambda *_: [], "/readyz", status="/outstation/status", busy=outstation_busy)
    async with listener:
        yield played, Server(peer, listener.sockets[0].getsockname()[1], 0, Path("log"), 0.0)


async def test_throughput_counts_tokens_and_the_share_of_python() -> None:
    async with toy() as (_, server):
        figures, share = await throughput(server, streams=2, waves=2, load=Load(tokens=5))
    assert figures.failed == 0
    assert figures.tokens_per_s > 0
    assert 0 < figures.ttft_p50 <= figures.ttft_p95
    assert share == pytest.approx(0.25)


async def test_throughput_counts_what_failed() -> None:
    async with toy() as (played, server):
        played.fail = True
        figures, _ = await throughput(server, streams=2, waves=1, load=Load(tokens=2))
    assert figures.failed == 2
    assert figures.tokens_per_s == 0


async def test_a_neighbour_is_measured_while_the_stream_goes_on() -> None:
    async with toy() as (played, server):
        seen = await neighbour(server, Load(tokens=2))
        assert played.running == 0
    assert seen.prompt_tokens > 3000
    assert seen.neighbour_ttft > 0
    assert seen.longest_gap > 0


async def test_a_disconnect_is_seen_in_the_status() -> None:
    async with toy() as (_, server):
        seen = await disconnect(server, Load(tokens=2))
    assert seen is not None
    assert seen.in_decode > 0
    assert seen.in_prefill > 0


async def test_a_peer_is_started_and_ended(tmp_path: Path) -> None:
    def command(port: int, model: Path, folder: Path) -> list[str]:
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]

    async with running(Peer("web", command, "/"), Path("m"), tmp_path) as server:
        assert tree_memory(server.pid) > 0
        assert server.ready_s > 0
    assert "GET / HTTP/1.1" in (tmp_path / "web.log").read_text()


async def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    def command(port: int, model: Path, folder: Path) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such model')"]

    with pytest.raises(RuntimeError, match="no such model"):
        async with running(Peer("broken", command, "/"), Path("m"), tmp_path):
            pass
