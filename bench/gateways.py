"""`make bench-gateways`: this gateway and its peers before one upstream that always says the same, in one run.

Each round starts every gateway in turn (A B C, A B C, …) and measures it alone; a figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import gateways_report as report
from bench.gateways_load import Streams, call, request_of, stream
from bench.gateways_peers import GATEWAYS, Gateway, Pins, Places, available, cpu_seconds, pins, upstream, versions
from bench.peers import Server, running
from bench.scenarios import tree_memory
from bench.upstream import DELTAS, INTERVAL_S

HERE = Path(__file__).parent
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Seconds.

    Attributes:
        warm_s: load before anything counts: connections are made, Node compiles.
        latency_s: the longest that the latency of one gateway may take.
    """

    requests: int | None
    clients: int
    seconds: float
    streams: tuple[int, ...]
    deltas: int = DELTAS
    interval_s: float = INTERVAL_S
    warm_s: float = 2.0
    latency_s: float = 20.0


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables in RESULTS.md."""
    import uvloop

    args = parse(sys.argv[1:])
    where = pins()
    if where.load is not None:
        os.sched_setaffinity(0, where.load)
    places = Places(args.litellm.resolve(), args.portkey.resolve())
    notes = report.machine(args.rounds, versions(places), str(where), args.plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = runner.run(measure(args.plan, args.gateway, args.rounds, places, where))
    text = notes + "\n\n" + "\n".join(table.markdown() for table in report.tables(rounds, args.plan))
    print(text)
    if args.write:
        report.keep(HERE / "RESULTS.md", text)
    return 0 if rounds else 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; --quick only changes the defaults of what was not said."""
    parser = argparse.ArgumentParser(prog="bench.gateways", description=__doc__)
    parser.add_argument("--gateway", action="append", choices=GATEWAYS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 3; 1 with --quick")
    parser.add_argument(
        "--requests", type=int, help="for the latency; default: 2000 (LiteLLM: 300), a tenth with --quick"
    )
    parser.add_argument("--clients", type=int, default=32, help="at once, for the throughput; default: 32")
    parser.add_argument("--seconds", type=float, help="of throughput; default: 5; 1 with --quick")
    parser.add_argument("--streams", type=int, action="append", help="at once; default: 300; 50 with --quick; 0: none")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    parser.add_argument("--litellm", type=Path, default=HERE.parent / ".venv-bench-litellm")
    parser.add_argument("--portkey", type=Path, default=HERE.parent / ".venv-bench-portkey")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.gateway = args.gateway or GATEWAYS
    streams = args.streams if args.streams is not None else [50 if args.quick else 300]
    args.plan = Plan(
        requests=args.requests or (200 if args.quick else None),
        clients=args.clients,
        seconds=args.seconds or (1.0 if args.quick else 5.0),
        streams=tuple(count for count in streams if count),
        warm_s=0.5 if args.quick else 2.0,
    )
    return args


async def measure(
    plan: Plan, wanted: list[str], rounds: int, places: Places, where: Pins
) -> Mapping[str, list[report.Round]]:
    """All rounds of all gateways. One that fails is named on stderr, and its round left out."""
    results: dict[str, list[report.Round]] = defaultdict(list)
    extra = ("--deltas", str(plan.deltas), "--interval-ms", str(plan.interval_s * 1000))
    async with running(upstream(where, *extra), Path(), HERE / "out") as behind:
        gateways = available(f"http://127.0.0.1:{behind.port}", wanted, places, where)
        for number in range(rounds):
            for gateway in gateways:
                print(f"round {number + 1}: {gateway.name}", file=sys.stderr)
                try:
                    results[gateway.name].append(await one_round(plan, gateway, behind))
                except (RuntimeError, OSError) as error:
                    print(f"left out: {error}", file=sys.stderr)
    return results


async def one_round(plan: Plan, gateway: Gateway, behind: Server) -> report.Round:
    """One gateway from its start to its end. Raises RuntimeError if it does not start or gives no answer at all."""
    async with _started(gateway, behind) as server:
        await asyncio.sleep(SETTLE_S)
        rest = tree_memory(server.pid)
        request = request_of(server.port, gateway.model, gateway.headers)
        warm = await call(server.port, request, clients=8, seconds=plan.warm_s)
        if not warm.times:
            raise RuntimeError(f"{gateway.name} gives no answer: {warm.error}")
        requests = min(plan.requests or gateway.requests, gateway.requests)
        latency = await call(server.port, request, clients=1, seconds=plan.latency_s, at_most=requests)
        spent = cpu_seconds(server.pid)
        throughput = await call(server.port, request, clients=plan.clients, seconds=plan.seconds)
        spent = cpu_seconds(server.pid) - spent
        streams = await _streams(plan, gateway, server.port)
        said = [calls.error for calls in (latency, throughput) if calls.error]
        said += [seen.error for seen in streams.values() if seen.error]
        for error in said:
            print(f"{gateway.name}: {error}", file=sys.stderr)
        own = gateway.peer is not None
        return report.Round(
            latency=latency,
            throughput=throughput,
            streams=streams,
            cpu_s=spent / len(throughput.times) if own and throughput.times else float("nan"),
            ready_s=server.ready_s if own else float("nan"),
            memory=(rest, tree_memory(server.pid)) if own else None,
        )


async def _streams(plan: Plan, gateway: Gateway, port: int) -> dict[int, Streams]:
    """Each number of streams in turn, after a few that warm the way of streams."""
    if not (gateway.streams and plan.streams):
        return {}
    request = request_of(port, gateway.model, gateway.headers, stream=True)
    await stream(port, request, streams=4, deltas=plan.deltas)
    return {count: await stream(port, request, streams=count, deltas=plan.deltas) for count in plan.streams}


@contextlib.asynccontextmanager
async def _started(gateway: Gateway, behind: Server) -> AsyncIterator[Server]:
    """The gateway's process; for `direct` the upstream, which runs already."""
    if gateway.peer is None:
        yield behind
        return
    async with running(gateway.peer, Path(), HERE / "out") as server:
        yield server


if __name__ == "__main__":
    sys.exit(main())
