"""`make bench-documents`: files that are read in, searches meanwhile, and processes that are killed meanwhile.

The files are this project's documentation and pages that `bench.questions_corpus` fetches. A run may be taken in parts:
`--scenario ingest`, then `--scenario search --more`, and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench import documents_report as report
from bench import results
from bench.documents_kill import kill_gateways, kill_workers
from bench.documents_load import SILENCE_S, Asking, Batches, Files, alone, beside, best, idle
from bench.documents_report import DEFAULT, PLAIN, SILENT, Rounds
from bench.documents_site import Wire, gateway
from bench.peers import running
from bench.questions_corpus import pages, questions

HERE = Path(__file__).parent
INGEST, SEARCH, KILL, KILL_GATEWAY = "ingest", "search", "kill", "kill-gateway"
SCENARIOS = (INGEST, SEARCH, KILL, KILL_GATEWAY)
EACH_PAGE = 12
"""Of so many pages one is read in beside the project's own documentation."""
MOST_PAGE_BYTES = 60_000
AT_ONCE = 10
"""Files that are read in beside searches: the largest."""


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables. 1: a kill has left something wrong."""
    args = parse(sys.argv[1:])
    try:
        documents = corpus(every=args.quick)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    kept = args.out / "documents.json"
    rounds = report.loaded(kept) if args.more else Rounds()
    before = ", ".join(f"{load:.2f}" for load in rounds.loads)
    notes = results.machine(*([f"Load average when earlier parts of it began: {before}"] if before else []))
    rounds.loads.append(os.getloadavg()[0])
    asyncio.run(measure(args, documents, rounds))
    rounds.keep(kept)
    text = f"{notes}\n\n" + "\n".join(table.markdown() for table in report.tables(rounds))
    print(text)
    if args.write:
        report.keep(HERE / "RESULTS.md", text)
    return int(any(one.lost or one.doubled or one.half for one in rounds.killed.values()))


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.documents", description=__doc__)
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    parser.add_argument("--home", type=Path, default=home, help="the store with the models")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--rounds", type=int, help="of ingest, and of searches; default: 3; 1 with --quick")
    parser.add_argument("--searches", type=int, help="of a kind in a round; default: 36; 5 with --quick")
    parser.add_argument("--kills", type=int, help="of processes that only read files in; default: 200; 3 with --quick")
    parser.add_argument("--gateways", type=int, help="kills of whole gateways; default: 20; 2 with --quick")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="for logs, and the rounds that --more adds to")
    parser.add_argument("--more", action="store_true", help="add to what the last run measured")
    parser.add_argument("--quick", action="store_true", help="little of each: to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    args = parser.parse_args(argv)
    args.scenario = args.scenario or SCENARIOS
    for name, usual, quick in (("rounds", 3, 1), ("searches", 36, 5), ("kills", 200, 3), ("gateways", 20, 2)):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else usual)
    args.home = args.home.resolve()
    return args


def corpus(*, every: bool = False) -> dict[str, bytes]:
    """The documents by name. `every`: far fewer of them. Raises RuntimeError where pages cannot be had."""
    found = {path.name: path.read_bytes() for path in sorted((HERE.parent / "docs").glob("*.md"))}
    for name, path in sorted(pages(HERE / "out" / "questions").items())[::EACH_PAGE]:
        if path.stat().st_size <= MOST_PAGE_BYTES:
            found[name.replace("/", "-")] = path.read_bytes()
    return dict(sorted(found.items(), key=lambda one: len(one[1]))[: AT_ONCE if every else None])


async def measure(args: argparse.Namespace, documents: Mapping[str, bytes], to: Rounds) -> None:
    """All that was asked for, added to what is there."""
    models = args.home / "models"
    with tempfile.TemporaryDirectory(prefix="outstation-bench-") as folder:
        if {INGEST, SEARCH} & {*args.scenario}:
            home = Path(folder) / "home"
            async with running(gateway(home, models), Path(), args.out) as server:
                await loads(args, server.port, Files(home, documents), to)
        if KILL in args.scenario:
            kind = "processes that read files in"
            found = await asyncio.to_thread(kill_workers, args.kills, documents, models, Path(folder))
            to.killed[kind] = found.and_also(to.killed.get(kind))
        if KILL_GATEWAY in args.scenario:
            kind = "whole gateways"
            found = await kill_gateways(args.gateways, documents, models, Path(folder), args.out)
            to.killed[kind] = found.and_also(to.killed.get(kind))


async def loads(args: argparse.Namespace, port: int, files: Files, to: Rounds) -> None:
    """Rounds of both, in turn; what is compared changes places from round to round."""
    wire = Wire(port)
    await files.fill(wire)
    to.files, to.tokens = len(files.documents), files.tokens
    if INGEST in args.scenario:
        to.way = await best(port, files.texts)
    for number in range(args.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        if INGEST in args.scenario:
            before = await alone(port, files.texts, to.way) if len(to.ingest) % 2 else None
            one = await files.ingest(wire)
            one.alone = before or await alone(port, files.texts, to.way)
            to.ingest.append(one)
        if SEARCH in args.scenario:
            await searches(wire, files, args.searches, to)


async def searches(wire: Wire, files: Files, count: int, to: Rounds) -> None:
    """One round of each kind."""
    number = len(to.idle.get(DEFAULT, ()))
    asked = [one.text for one in questions()]
    largest = dict(sorted(files.documents.items(), key=lambda one: -len(one[1]))[:AT_ONCE])
    silence = (SILENCE_S, SILENCE_S)
    kinds = {
        DEFAULT: Asking(random.sample(asked, count)),
        PLAIN: Asking(random.sample(asked, count), rerank=False),
        SILENT: Asking(random.sample(asked, count // 3), pause=silence),
    }
    for kind, asking in kinds.items():
        for quiet in (True, False) if number % 2 else (False, True):
            if quiet:
                to.idle.setdefault(kind, []).append(await idle(wire, files.store, asking))
            else:
                batches = Batches(wire, largest)
                to.beside.setdefault(kind, []).append(await beside(wire, files.store, asking, batches))


if __name__ == "__main__":
    sys.exit(main())
