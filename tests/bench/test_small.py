"""The pure parts of `bench.small`, and its callers against a small server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from bench import small_report as report
from bench.client import Answer
from bench.gateways_load import Calls
from bench.small import QUICK, Results, agreement, parse, spread
from bench.small_load import call, fetch, post, text_of, trickle

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server(status: str = "200 OK", at_once: list[int] | None = None) -> AsyncIterator[int]:
    """A server that answers every request with `{"n": …}`; `at_once` gets how many it had at a time."""
    busy = count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, count
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            busy, count = busy + 1, count + 1
            if at_once is not None:
                at_once.append(busy)
            await asyncio.sleep(0)
            busy -= 1
            body = b'{"n": %d}' % count
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    open_ones: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.gather(*open_ones)


async def test_every_request_is_asked_once_by_so_many_clients() -> None:
    at_once: list[int] = []
    async with server(at_once=at_once) as port:
        calls = await call(port, [post("/v1/x", {"a": 1})], clients=4, total=20)
    assert (len(calls.times), calls.failed, len(at_once)) == (20, 0, 20)
    assert calls.rate > 0


async def test_an_error_is_counted_and_told() -> None:
    async with server("500 Oops") as port:
        calls = await call(port, [post("/v1/x", {})], clients=1, total=3)
        with pytest.raises(RuntimeError, match="500 Oops"):
            await fetch(port, "/v1/x", {})
    assert (len(calls.times), calls.failed) == (0, 3)
    assert "500 Oops" in calls.error


async def test_a_trickle_ends_when_it_is_told_to() -> None:
    ended = asyncio.Event()
    ended.set()
    async with server() as port:
        calls = await trickle(port, [post("/v1/x", {})], rate=100.0, ended=ended)
    assert (len(calls.times), calls.failed) == (1, 0)


async def test_an_answer_is_read_as_json() -> None:
    async with server() as port:
        assert await fetch(port, "/v1/x", {}) == {"n": 1}


def test_texts_have_so_many_tokens_and_differ() -> None:
    texts = [text_of(100, number) for number in range(1000)]
    assert {len(text.split()) for text in texts} == {98}
    assert len(set(texts)) == 1000


def test_agreement_is_the_worst_cosine() -> None:
    ours = {"data": [{"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]}]}
    assert agreement(ours, np.array([[1.0, 0.0], [0.6, 0.8]])) == pytest.approx(0.8)


def test_the_decode_rate_leaves_the_first_token_out() -> None:
    answer = Answer(ended=3.0, arrivals=[1.0, 2.0, 3.0], usage={"completion_tokens": 21})
    assert report.decode_rate(answer) == 10.0


def a_results() -> Results:
    results = Results(agreement=0.99)
    calls = Calls([0.002, 0.004], 1.0)
    results.classify["guard", "as it is"] = [report.Classified(calls, [0.002], [0.0025])]
    results.embed["ours"] = [300.0, 330.0, 360.0]
    results.embed["torch"] = [100.0, 110.0, 120.0]
    results.clients[16, "batched"] = [Calls([0.01] * 90, 1.0)]
    results.clients[16, "one by one"] = [Calls([0.02] * 30, 1.0)]
    results.beside = [report.Beside(100.0, 95.0, calls, calls)]
    results.guards = {"guard": report.Guarded(9, 10, 1, 20, 3, 30)}
    return results


def test_each_figure_stands_beside_what_it_is_compared_with() -> None:
    classify, embed, clients, beside, guard = report.tables(a_results(), QUICK)
    assert classify.rows[0][7:9] == ["1.50", "1.00 ms"]
    assert [row[2] for row in embed.rows] == ["3.00", "1.00"]
    assert "0.9900" in embed.note
    assert [row[3] for row in clients.rows] == ["3.00", "1.00"]
    assert beside.rows[1][1] == "95.0 (-5.0%)"
    assert list(guard.rows[0]) == ["guard", "90.0% of 10", "5.0% of 20", "10.0% of 30"]


def test_what_was_not_measured_has_no_table() -> None:
    assert report.tables(Results(), QUICK) == []


def test_the_figures_have_a_place_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n")
    report.keep(path, "1: old")
    report.keep(path, "2: new")
    text = path.read_text()
    assert "## Small models" in text
    assert "2: new" in text
    assert "1: old" not in text


def test_some_of_a_list_are_from_all_over_it() -> None:
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread([1, 2], None) == spread([1, 2], 5) == [1, 2]


def test_quick_is_one_short_round() -> None:
    args = parse(["--quick"])
    assert (args.rounds, args.plan) == (1, QUICK)
    assert parse([]).rounds == 3
