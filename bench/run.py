"""`make bench`: this gateway and its peers on one model file, interleaved, medians of several rounds."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from bench import report
from bench.load import Load
from bench.peers import Server, available, running, versions
from bench.scenarios import Disconnect, Neighbour, busy_core, disconnect, idle, neighbour, throughput
from bench.stats import Figures

HERE = Path(__file__).parent
PEERS = ["outstation", "llama-server", "llama_cpp.server"]
SCENARIOS = ["throughput", "neighbour", "busy", "disconnect", "idle"]
WAVES = {1: 6, 4: 4, 8: 3}
BUSY_WAVES = {1: 3, 4: 2}


@dataclass(slots=True)
class Results:
    """What the rounds gave, as it comes in."""

    throughput: dict[tuple[str, int], list[Figures]] = field(default_factory=lambda: defaultdict(list))
    busy: dict[tuple[str, int], list[Figures]] = field(default_factory=lambda: defaultdict(list))
    python: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    neighbour: dict[str, list[Neighbour]] = field(default_factory=lambda: defaultdict(list))
    disconnect: dict[str, list[Disconnect]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables in RESULTS.md."""
    args = parse(sys.argv[1:])
    if not args.model.is_file():
        print(f"No model at {args.model}: `make bench` fetches it, or name one with --model.", file=sys.stderr)
        return 2
    where = report.machine(args.model, args.rounds, versions(args.bench_python))
    text = where + "\n\n" + "\n".join(asyncio.run(measure(args)))
    print(text)
    if args.write:
        report.keep(HERE / "RESULTS.md", text)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; --quick only changes the defaults of what was not said."""
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--model", type=Path, default=home / "models" / "smollm2-135m-instruct.gguf")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--peer", action="append", choices=PEERS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 3; 1 with --quick")
    parser.add_argument("--streams", type=int, action="append", help="default: 1, 4 and 8")
    parser.add_argument("--quick", action="store_true", help="one round, one wave: to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    parser.add_argument("--bench-python", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.scenario = args.scenario or SCENARIOS
    args.peer = args.peer or PEERS
    args.model = args.model.resolve()
    return args


async def measure(args: argparse.Namespace) -> list[str]:
    """All that was asked for, as finished tables. A server that fails is named on stderr and left out."""
    results = Results()
    async with contextlib.AsyncExitStack() as stack:
        servers: list[Server] = []
        if set(args.scenario) - {"idle"}:
            peers = available(args.bench_python, args.peer)
            servers = [await stack.enter_async_context(running(peer, args.model, HERE / "out")) for peer in peers]
        for number in range(args.rounds):
            await one_round(args, servers, results, number)
    tables = tables_of(results)
    if "idle" in args.scenario and "outstation" in args.peer:
        starts = 2 if args.quick else 5
        tables.append(report.idle_table(await idle(HERE / "out", starts), starts))
    return [table.markdown() for table in tables]


async def one_round(args: argparse.Namespace, servers: list[Server], results: Results, number: int) -> None:
    """Every scenario on every server in turn: A B C, and in the next round A B C again."""
    for scenario in args.scenario:
        for server in servers:
            load = Load(seed=number + 1, extras={"model": "bench", **server.peer.extras})
            print(f"round {number + 1}: {scenario} on {server.peer.name}", file=sys.stderr)
            try:
                await one_scenario(args, scenario, server, load, results)
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)


async def one_scenario(args: argparse.Namespace, scenario: str, server: Server, load: Load, results: Results) -> None:
    """One scenario on one server, into `results`."""
    name = server.peer.name
    if scenario == "throughput":
        for streams in args.streams or WAVES:
            figures, share = await throughput(server, streams, 1 if args.quick else WAVES.get(streams, 3), load)
            results.throughput[name, streams].append(figures)
            if share is not None:
                results.python[streams].append(share)
    elif scenario == "busy":
        with busy_core():
            for streams in args.streams or BUSY_WAVES:
                figures, _ = await throughput(server, streams, 1 if args.quick else BUSY_WAVES.get(streams, 2), load)
                results.busy[name, streams].append(figures)
    elif scenario == "neighbour":
        results.neighbour[name].append(await neighbour(server, load))
    elif scenario == "disconnect" and (seen := await disconnect(server, load)):
        results.disconnect[name].append(seen)


def tables_of(results: Results) -> list[report.Table]:
    """The tables of what was measured; nothing for what was not."""
    tables = []
    if results.throughput:
        note = "64 tokens an answer; a shared system prompt of 311 tokens, seen before; short questions, no two alike."
        tables.append(report.load_table("Streams at once", note, results.throughput))
    if results.python:
        tables.append(report.python_table(results.python))
    if results.neighbour:
        tables.append(report.neighbour_table(results.neighbour))
    if results.busy:
        note = "The same, while one other process computes without a pause."
        tables.append(report.load_table("On a busy box", note, results.busy))
    if results.disconnect:
        tables.append(report.disconnect_table(results.disconnect))
    return tables


if __name__ == "__main__":
    sys.exit(main())
