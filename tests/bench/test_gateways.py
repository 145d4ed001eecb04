"""The bench of routing: its upstream, its load, its bare apps and its tables, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tomllib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import gateways_report as report
from bench.client import Answer
from bench.gateways import Plan, measure, parse
from bench.gateways_load import Calls, Streams, answer_whole, call, fault, request_of, stream, summary
from bench.gateways_peers import GATEWAYS, KEY_VARIABLE, OUTSTATION, Pins, Places, available, bare
from bench.peers import running
from bench.upstream import CONTENT, MODEL, Script, Upstream, request_end, texts

pytestmark = pytest.mark.anyio

PLAN = Plan(requests=20, clients=4, seconds=0.2, streams=(3,), deltas=5, interval_s=0.001, warm_s=0.05)
NOWHERE = Places(Path("/nowhere/litellm"), Path("/nowhere/portkey"))


@contextlib.asynccontextmanager
async def listening(script: Script, *, made: list[Upstream] | None = None) -> AsyncIterator[int]:
    """The upstream in this process, with deltas a millisecond apart."""
    made = [] if made is None else made

    def connection() -> Upstream:
        made.append(Upstream(script, 0.001))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


REQUEST = request_of(8484, "m", {"x-more": "1"})
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{ }\r\n0\r\n\r\n"


@given(st.data())
def test_a_request_ends_where_it_ends(data: st.DataObject) -> None:
    """Never before its last byte, and there whatever follows."""
    request = data.draw(st.sampled_from([REQUEST, CHUNKED, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]))
    cut = data.draw(st.integers(0, len(request) - 1))
    assert request_end(request[:cut]) == 0
    assert request_end(request + data.draw(st.sampled_from([b"", REQUEST]))) == len(request)


@given(st.data())
def test_an_answer_is_whole_at_its_last_byte(data: st.DataObject) -> None:
    counted = Script(1).body
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = data.draw(st.sampled_from([counted, counted.replace(b"content-length", b"Content-Length"), body]))
    assert not answer_whole(answer[: data.draw(st.integers(0, len(answer) - 1))])
    assert answer_whole(answer)


async def test_the_upstream_speaks_openai() -> None:
    async with listening(Script(3)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for cut in (0, 40, len(REQUEST) - 1):  # one connection, requests in two pieces
            writer.write(REQUEST[:cut])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(REQUEST[cut:])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = orjson.loads(await reader.readexactly(length))
            assert answer["choices"][0]["message"]["content"] == CONTENT
            assert answer["usage"]["total_tokens"] == 108
        writer.close()
        await writer.wait_closed()


async def test_usage_comes_only_when_it_is_asked_for() -> None:
    script = Script(2)
    assert b"usage" not in script.end
    assert b'"choices":[],"usage"' in script.end_with_usage
    seen = []
    asked = request_of(1, "m", {}, stream=True)
    with_usage = asked.replace(b'"stream":true}', b'"stream":true,"stream_options":{"include_usage":true}}')
    with_usage = with_usage.replace(b"Length: %d" % len(_body(asked)), b"Length: %d" % len(_body(with_usage)))
    async with listening(script) as port:
        for request in (asked, with_usage):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            seen.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
            writer.close()
            await writer.wait_closed()
    assert [b"usage" in answer for answer in seen] == [False, True]
    assert all(answer.count(b'"content":"w') == 2 for answer in seen)


async def test_a_client_that_leaves_ends_its_stream() -> None:
    made: list[Upstream] = []
    async with listening(Script(1000), made=made) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_of(port, "m", {}, stream=True))
        await reader.readuntil(b"w000 ")
        writer.close()
        await writer.wait_closed()
        while made[0]._transport is not None:
            await asyncio.sleep(0.001)
        assert made[0]._timer is not None
        assert made[0]._timer.cancelled()


async def test_calls_are_counted_and_timed() -> None:
    async with listening(Script()) as port:
        calls = await call(port, request_of(port, "m", {}), clients=3, seconds=30.0, at_most=50)
    assert (len(calls.times), calls.failed, calls.error) == (50, 0, "")
    assert 0 < calls.at(50) <= calls.at(99) <= calls.seconds


async def test_an_answer_that_is_not_the_upstreams_is_a_failure() -> None:
    script = Script()
    script.body = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    async with listening(script) as port:
        calls = await call(port, request_of(port, "m", {}), clients=1, seconds=30.0, at_most=5)
    assert (len(calls.times), calls.failed) == (0, 5)
    assert calls.error.startswith("HTTP/1.1 200")


async def test_a_connection_that_is_closed_is_a_failure_and_no_hang() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        calls = await call(port, request_of(port, "m", {}), clients=2, seconds=30.0)
    assert (len(calls.times), calls.failed) == (0, 2)


async def test_streams_are_whole_and_every_frame_is_counted() -> None:
    async with listening(Script(7)) as port:
        seen = await stream(port, request_of(port, "m", {}, stream=True), streams=20, deltas=7)
    assert (seen.whole, seen.frames, seen.expected, seen.error) == (20, 140, 140, "")
    assert seen.seconds >= 7 * 0.001


def whole(pieces: Sequence[str]) -> Answer:
    return Answer(sent=0.0, ended=1.0, status=200, arrivals=[0.5] * len(pieces), text=list(pieces), complete=True)


@given(st.integers(0, 8), st.sampled_from(["lost", "doubled", "moved", "cut", "failed"]))
def test_no_lost_frame_is_overlooked(at: int, how: str) -> None:
    pieces = texts(10)
    assert fault(whole(pieces), pieces) == ""
    answer = whole(pieces)
    if how == "lost":
        del answer.text[at]
    elif how == "doubled":
        answer.text.insert(at, pieces[at])
    elif how == "moved":
        answer.text[at], answer.text[at + 1] = answer.text[at + 1], answer.text[at]
    elif how == "cut":
        answer.complete = False
    else:
        answer.status = 502
    assert fault(answer, pieces)
    assert summary([answer, whole(pieces)], 3, 10, 0.0).whole == 1


@pytest.mark.parametrize("name", ["asgi-aiohttp", "asgi-httpx2"])
async def test_a_bare_app_passes_answers_and_streams(name: str, tmp_path: Path) -> None:
    async with listening(Script(5)) as behind:
        gateway = bare(name, f"http://127.0.0.1:{behind}")
        assert gateway.peer is not None
        async with running(gateway.peer, Path(), tmp_path) as server:
            calls = await call(server.port, request_of(server.port, "m", {}), clients=2, seconds=30.0, at_most=10)
            request = request_of(server.port, "m", {}, stream=True)
            streams = await stream(server.port, request, streams=4, deltas=5)
    assert (len(calls.times), calls.error) == (10, "")
    assert (streams.whole, streams.error) == (4, "")


async def test_a_run_from_start_to_tables() -> None:
    rounds = await measure(PLAN, ["direct", "litellm"], 2, NOWHERE, Pins())
    assert [len(rounds["direct"]), *rounds] == [2, "direct"], "LiteLLM is not there, and left out"
    assert all(len(one.latency.times) == 20 and one.streams[3].whole == 3 for one in rounds["direct"])
    text = "\n".join(table.markdown() for table in report.tables(rounds, PLAN))
    assert "6 of 6" in text
    assert "0 of 30" in text


def one_round(times: list[float], lost: int = 0) -> report.Round:
    streams = {2: Streams(2 - bool(lost), 2, 128 - lost, 128, 1.3, 0.01, 0.02)}
    return report.Round(Calls(times, 1.0), Calls(times, 1.0, 1), streams, 0.0002, 0.5, (50 << 20, 60 << 20))


def test_the_tables() -> None:
    rounds = {"outstation": [one_round([0.001]), one_round([0.003] * 3, lost=2), one_round([0.002] * 2)]}
    latency, throughput, streams, start = report.tables(rounds, PLAN)
    assert latency.rows == [["outstation", "2.00 ms (1.00 ms–3.00 ms)", "2.00 ms", "6", "0"]]
    assert throughput.rows[0][1] == "2 (1–3)"
    assert throughput.rows[0][-2:] == ["0.20 ms", "3"]
    assert streams.rows[0][2:4] == ["5 of 6", "2 of 384"]
    assert start.rows[0][2:] == ["50 MiB", "60 MiB"]


def test_the_upstream_has_no_start_and_no_memory() -> None:
    direct = replace(one_round([0.001]), memory=None, ready_s=math.nan, cpu_s=math.nan)
    tables = report.tables({"direct": [direct]}, PLAN)
    assert tables[-1].rows == []
    assert tables[1].rows[0][4] == "–"


def test_results_keep_all_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n")
    report.keep(path, "new")
    assert path.read_text() == f"Before.\n{report.BEGIN}\n\nnew\n{report.END}\nAfter.\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        report.keep(path, "new")


def test_the_file_of_results_has_a_place_for_the_gateways() -> None:
    text = (Path(report.__file__).parent / "RESULTS.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_the_configuration_is_one_that_the_gateway_takes() -> None:
    from gateway.schemas.settings import FileConfig

    text = OUTSTATION.format(base="http://127.0.0.1:1", key=KEY_VARIABLE, model=MODEL)
    config = FileConfig.model_validate(tomllib.loads(text))
    assert len(config.rules) == 2
    assert config.budget.site_day
    assert config.providers[0].data


def test_what_is_pinned_is_said() -> None:
    where = Pins(frozenset({0}), frozenset({1, 2}))
    assert str(where) == "the gateway alone on core 0; upstream and load on core 1,2"
    assert where.command(["node"], where.load) == ["taskset", "--cpu-list", "1,2", "node"]
    assert Pins().command(["node"], None) == ["node"]
    assert "nothing is pinned" in str(Pins())


def test_the_command_line() -> None:
    assert parse([]).plan == Plan(requests=None, clients=32, seconds=5.0, streams=(300,))
    assert parse([]).gateway == GATEWAYS
    quick = parse(["--quick", "--streams", "0", "--gateway", "portkey"])
    assert (quick.rounds, quick.plan.streams, quick.gateway) == (1, (), ["portkey"])


def test_the_gateway_has_its_core(tmp_path: Path) -> None:
    where = Pins(frozenset({0}), frozenset({1}))
    gateways = available("http://127.0.0.1:1", ["direct", "outstation", *GATEWAYS[-2:]], NOWHERE, where)
    assert [gateway.name for gateway in gateways] == ["direct", "outstation", *GATEWAYS[-2:]]
    for gateway in gateways[1:]:
        assert gateway.peer is not None
        assert gateway.peer.command(1, Path(), tmp_path)[:3] == ["taskset", "--cpu-list", "0"]


def _body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]
