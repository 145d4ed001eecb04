"""The bench of overload: its load over real connections, its provider, its arithmetic."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from bench import overload_report as report
from bench.overload import VARIANTS, Plan, gateway, parse
from bench.overload_load import Mix, Seen, burst, closed, poisson, send
from bench.overload_provider import Pace, Provider
from bench.upstream import CONTENT, texts

pytestmark = pytest.mark.anyio

PACE = Pace(first_s=0.002, interval_s=0.001, deltas=5)
MIX = Mix(1, prompt=(30, 40))
SEEN = Seen(0.0, 2.0, False, 200, 1.0, 0.1, True, "local/m", 1, "", None)


@contextlib.asynccontextmanager
async def providing(pace: Pace = PACE) -> AsyncIterator[int]:
    """The provider in this process."""
    server = await asyncio.start_server(Provider(pace).serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def saying(head: bytes, body: dict[str, object]) -> AsyncIterator[int]:
    """A server that says the same to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        payload = orjson.dumps(body)
        writer.write(head + b"content-length: %d\r\n\r\n" % len(payload) + payload)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nx-outstation-attempts: 0\r\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_provider_answers_at_its_pace(stream: bool) -> None:
    async with providing() as port:
        seen = await send(port, MIX.body() | {"stream": stream})
    assert seen.met
    assert seen.took_s >= PACE.first_s + (PACE.deltas - 1) * PACE.interval_s


async def test_the_providers_stream_is_whole() -> None:
    async with providing() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"stream":true,"stream_options":{"include_usage":true}}'
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        said = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
    assert [said.count(text.encode()) for text in texts(PACE.deltas)] == [1] * PACE.deltas
    assert b'"usage":{' in said
    assert CONTENT.encode() not in said


async def test_a_full_provider_says_so() -> None:
    async with providing(replace(PACE, first_s=0.2, most=1)) as port:
        seen = await asyncio.gather(*(send(port, MIX.body()) for _ in range(3)))
    assert sorted(one.status for one in seen) == [200, 429, 429]
    assert [one.retry_s for one in seen if one.status == 429] == [1.0, 1.0]


async def test_the_capacity_is_that_of_all_callers() -> None:
    served = 0

    class Counting(Provider):
        async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            served += 1
            await super()._answer(request, writer)

    mix, began = Mix(1, prompt=(30, 40)), time.perf_counter()
    server = await asyncio.start_server(Counting(PACE).serve, "127.0.0.1", 0)
    async with server:
        rate = await closed(server.sockets[0].getsockname()[1], mix, callers=4, seconds=0.2)
    assert rate >= served / (time.perf_counter() - began) > 0  # every one is counted, whoever asked


async def test_arrivals_do_not_wait_for_answers() -> None:
    async with providing(replace(PACE, first_s=1.0, deltas=1)) as port:
        first, again = await poisson(port, MIX, rate=100.0, seconds=0.3, retry_every=1)
    assert len(first) > 15
    assert max(one.sent for one in first) < min(one.sent + one.took_s for one in first)
    assert again == []


async def test_a_refusal_is_seen_and_tried_again_when_it_was_told_to() -> None:
    async with saying(REFUSAL, {"error": {"message": "no", "code": "capacity"}}) as port:
        first, again = await burst(port, MIX, 3)
    assert [(one.status, one.code, one.refused, one.admitted) for one in first] == [(503, "capacity", True, False)] * 3
    assert len(again) == 1
    assert again[0].sent >= min(one.sent for one in first) + 1.0


async def test_what_has_no_answer_is_a_miss_and_ends() -> None:
    seen = await send(1, MIX.body())
    assert (seen.status, seen.admitted, seen.met) == (0, True, False)


def test_no_two_requests_are_alike_and_a_seed_repeats_them() -> None:
    bodies = [MIX.body() for _ in range(50)]
    assert len({orjson.dumps(body["messages"]) for body in bodies}) == 50
    again = Mix(1, prompt=(30, 40), _count=Mix(1)._count)
    assert again.body() == Mix(1, prompt=(30, 40)).body()
    assert all(2000 <= body["outstation"]["deadline_ms"] <= 8000 for body in bodies)
    assert all(16 <= body["max_tokens"] <= 96 for body in bodies)
    assert {body["stream"] for body in bodies} == {True, False}


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (SEEN, "met"),
        (replace(SEEN, took_s=2.1), "missed"),
        (replace(SEEN, whole=False, code="broke"), "missed"),
        (replace(SEEN, status=503, code="timeout"), "missed"),
        (replace(SEEN, status=0, whole=False), "missed"),
        (replace(SEEN, status=503, attempts=0, code="capacity"), "refused"),
        (replace(SEEN, status=400, attempts=0, code="capacity"), "refused"),
        (replace(SEEN, status=429, attempts=2, code="provider_busy"), "turned away"),
    ],
)
def test_a_failure_after_admission_is_a_miss(seen: Seen, kind: str) -> None:
    kinds = {"met": seen.met, "missed": seen.admitted and not seen.met, "refused": seen.refused}
    kinds["turned away"] = seen.turned_away
    assert [name for name, holds in kinds.items() if holds] == [kind]


def test_the_tables_say_what_was_seen() -> None:
    late = replace(SEEN, took_s=3.0)
    refused = replace(SEEN, status=503, attempts=0, took_s=0.004, whole=False, route="")
    away = replace(SEEN, route="up/m", ttft_s=math.inf)
    result = report.Result("provider", 1.5, [SEEN, away, SEEN, late, refused], [SEEN])
    text = "\n".join(table.markdown() for table in report.tables([result], Plan()))
    for cell in ("4 (80.0%)", "**75.0%**", "1 here, 0 there", "4.0 ms", "1 of 1", "100.0%"):
        assert f" {cell} " in text
    assert "75.0% met, 1 refused" in report.line(result)


def test_the_estimates_are_read_from_the_page_of_metrics() -> None:
    page = '# HELP x\noutstation_estimate_ttft_within{route="local/bench"} 0.905\noutstation_up 1\n'
    assert report.estimates(page) == {"outstation_estimate_ttft_within": 0.905}


def test_the_results_are_kept_between_their_markers(tmp_path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nothers' words\n")
    for text in ("first", "second"):
        report.keep(path, text)
    kept = path.read_text()
    assert kept.startswith("# Results\n\nothers' words\n\n## Overload\n")
    assert (kept.count("second"), kept.count("first"), kept.count(report.BEGIN)) == (1, 0, 1)


def test_the_command_line_names_the_variants() -> None:
    assert parse([]).variant == VARIANTS
    assert parse(["--variant", "bursts", "--seconds", "5"]).plan.seconds == 5


def test_the_gateways_configuration_names_the_provider(tmp_path) -> None:
    command = gateway(4321).command(1, tmp_path / "m.gguf", tmp_path)
    assert command[0] == "env"
    assert 'base_url = "http://127.0.0.1:4321/v1"' in (tmp_path / "outstation.toml").read_text()
