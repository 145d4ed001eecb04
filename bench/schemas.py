"""`make bench-schemas`: do answers keep to their schemas, and what does it cost?

The model is the real one, in a gateway of its own; everything is asked over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import orjson

from bench import results
from bench import schemas_report as report
from bench.peers import Server, outstation, running
from bench.report import Table
from bench.schemas_load import GRAMMARS, Streams, Wave, fill, forms

HERE = Path(__file__).parent
FORMS, RATES = "forms", "rates"
SCENARIOS = (FORMS, RATES)
MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
TEMPERATURES = {"greedy": 0.0, "temperature 1": 1.0}
CLIENTS = 16


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables in RESULTS.md. 1: an answer is wrong."""
    args = parse(sys.argv[1:])
    wrong = 0
    if FORMS in args.scenario:
        wrong = asyncio.run(filled(args))
    for model in args.model if RATES in args.scenario else ():
        asyncio.run(rates(args, model))
    return 1 if wrong else 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.schemas", description=__doc__)
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    parser.add_argument("--home", type=Path, default=home, help="the store with the models")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--model", action="append", help="whose rates are measured; default: both")
    parser.add_argument("--schemas", type=int, help="each at every temperature; default: 500, 20 with --quick")
    parser.add_argument("--seed", type=int, default=1, help="of the schemas")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, help="of an answer at most; default: 64, 16 with --quick")
    parser.add_argument("--rounds", type=int, help="default: 5; 1 with --quick")
    parser.add_argument("--grammar", action="append", choices=sorted(GRAMMARS), help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="for logs, and the rounds that --more adds to")
    parser.add_argument("--more", action="store_true", help="add the rounds to those of the last run, of the same load")
    parser.add_argument("--quick", action="store_true", help="little of each: to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    args = parser.parse_args(argv)
    args.scenario = args.scenario or SCENARIOS
    args.model = args.model or MODELS
    args.grammar = args.grammar or list(GRAMMARS)
    args.schemas = args.schemas or (20 if args.quick else 500)
    args.tokens = args.tokens or (16 if args.quick else 64)
    args.rounds = args.rounds or (1 if args.quick else 5)
    return args


async def filled(args: argparse.Namespace) -> int:
    """Every form at every temperature; how many answers were wrong."""
    notes = results.machine(f"Model: `{MODELS[0]}`")
    asked = forms(args.schemas, args.seed)
    async with running(outstation(), _file(args, MODELS[0]), args.out) as server:
        rounds = await fill(server.port, asked, list(TEMPERATURES.values()), CLIENTS)
    by_name = dict(zip(TEMPERATURES, rounds, strict=True))
    wrong = 0
    for name, several in by_name.items():
        for form, one in zip(asked, several, strict=True):
            if one.outcome in ("invalid", "failed") or form.enforceable == (one.outcome == "refused"):
                wrong += 1
                print(f"{name}: {one.outcome}: {one.why}\n  {form.schema}", file=sys.stderr)
    _keep(args, "schemas", notes, report.filled_table(asked, by_name, CLIENTS), first=True)
    return wrong


async def rates(args: argparse.Namespace, model: str) -> None:
    """Every grammar in turn, held and free."""
    kept = args.out / f"schemas-{model}.json"
    before = loaded(kept) if args.more else {}
    notes = results.machine(f"Model: `{model}`", rounds=args.rounds + max(map(len, before.values()), default=0))
    async with running(outstation(), _file(args, model), args.out) as server:
        rounds = await paired(server, args)
    rounds = {name: [*before.get(name, ()), *pairs] for name, pairs in rounds.items()}
    kept.write_bytes(orjson.dumps(rounds))
    _keep(args, model, notes, report.rate_table(model, rounds, args.streams, args.tokens))


def loaded(path: Path) -> dict[str, list[report.Pair]]:
    """The rounds of the last run, of each grammar."""
    kept = orjson.loads(path.read_bytes())
    return {
        name: [report.Pair(Wave(**pair["held"]), Wave(**pair["free"])) for pair in pairs]
        for name, pairs in kept.items()
    }


async def paired(server: Server, args: argparse.Namespace) -> dict[str, list[report.Pair]]:
    """Rounds of all grammars. The first waves compile the grammars and tell how long the answers get."""
    streams = Streams(server.port, args.streams)
    lengths = {name: (await streams.held(args.tokens, GRAMMARS[name])).counts for name in args.grammar}
    rounds: dict[str, list[report.Pair]] = {name: [] for name in args.grammar}
    for number in range(args.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        for name in args.grammar:
            if number % 2:
                free = await streams.free(lengths[name])
            held = await streams.held(args.tokens, GRAMMARS[name])
            lengths[name] = held.counts
            if not number % 2:
                free = await streams.free(lengths[name])
            rounds[name].append(report.Pair(held, free))
    return rounds


def _file(args: argparse.Namespace, model: str) -> Path:
    return Path(args.home, "models", f"{model}.gguf").resolve()


def _keep(args: argparse.Namespace, of: str, notes: str, table: Table, *, first: bool = False) -> None:
    text = f"{notes}\n\n{table.markdown()}"
    print(text)
    if args.write:
        report.part(of, first=first).keep(HERE / "RESULTS.md", text)


if __name__ == "__main__":
    sys.exit(main())
