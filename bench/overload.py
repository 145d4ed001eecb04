"""`python -m bench.overload`: the gateway under three times the load that its box can bear, with a provider and none.

First the box's own capacity is measured, in a closed loop; then requests with deadlines arrive at three times that
rate, at random, whether or not the ones before them are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench import overload_report as report
from bench.client import get
from bench.overload_load import Mix, Seen, burst, closed, poisson
from bench.overload_provider import Pace
from bench.peers import Peer, outstation, running
from bench.upstream import MODEL as PROVIDERS_MODEL

HERE = Path(__file__).parent
VARIANTS = ["provider", "full provider", "only_local", "bursts"]
CALLERS = 8
BURSTS = 6

PROVIDER = """
[[providers]]
name = "up"
base_url = "http://127.0.0.1:{port}/v1"
data = {{ default = "allow" }}

[[providers.models]]
name = "{model}"
context_length = 32768
input_price = 0.5
output_price = 1.5
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Seconds.

    Attributes:
        warm_s: of the closed loop that tells the box's capacity.
        seconds: so long that the last 200 local answers, of which the gateway tells the share in time, are of the load.
        most: answers at once of a provider that can be full.
        over: times the capacity.
        retry_every: of so many refusals one is tried again.
    """

    warm_s: float = 30.0
    seconds: float = 240.0
    most: int = 2
    over: float = 3.0
    retry_every: int = 10
    seed: int = 1
    pace: Pace = field(default_factory=Pace)


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables in RESULTS.md."""
    import uvloop

    args = parse(sys.argv[1:])
    if not args.model.is_file():
        print(f"No model at {args.model}: `make bench` fetches it, or name one with --model.", file=sys.stderr)
        return 2
    notes = report.machine(args.model)
    results = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for variant in args.variant:
            result = runner.run(measure(variant, args.plan, args.model))
            print(f"{variant}: {report.line(result)}", file=sys.stderr)
            results.append(result)
    text = notes + "\n\n" + "\n".join(table.markdown() for table in report.tables(results, args.plan))
    print(text)
    if args.write:
        report.keep(HERE / "RESULTS.md", text)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    usual = Plan()
    parser = argparse.ArgumentParser(prog="bench.overload", description=__doc__)
    parser.add_argument("--model", type=Path, default=home / "models" / "smollm2-135m-instruct.gguf")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of load in each variant")
    parser.add_argument("--warm-s", type=float, default=usual.warm_s, help="of the closed loop before")
    parser.add_argument("--over", type=float, default=usual.over, help="times the box's capacity")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    args = parser.parse_args(argv)
    args.variant = args.variant or VARIANTS
    args.model = args.model.resolve()
    args.plan = Plan(warm_s=args.warm_s, seconds=args.seconds, over=args.over, seed=args.seed)
    return args


async def measure(variant: str, plan: Plan, model: Path) -> report.Result:
    """One variant, with a gateway and a provider of its own, from their start to their end."""
    most = plan.most if variant == "full provider" else None
    locality = None if "provider" in variant else "only_local"
    async with (
        running(provider(plan.pace, most), Path(), HERE / "out") as behind,
        running(gateway(behind.port), model, HERE / "out") as server,
    ):
        # No deadline, so that nothing is refused and nothing moved: what the box can do.
        alone = Mix(plan.seed, deadline=None, locality="only_local")
        capacity = await closed(server.port, alone, callers=CALLERS, seconds=plan.warm_s)
        mix = Mix(plan.seed + 1, locality=locality)
        first: list[Seen] = []
        again: list[Seen] = []
        if variant == "bursts":
            for _ in range(BURSTS):
                some, retried = await burst(server.port, mix, round(plan.over * CALLERS))
                first, again = first + some, again + retried
        else:
            rate = plan.over * capacity
            first, again = await poisson(
                server.port, mix, rate=rate, seconds=plan.seconds, retry_every=plan.retry_every
            )
        figures = report.estimates((await get(server.port, "/metrics")).body.decode())
    return report.Result(variant, capacity, first, again, figures)


def provider(pace: Pace, most: int | None) -> Peer:
    """The provider, as a process of its own."""
    options = ["--first-s", str(pace.first_s), "--interval-s", str(pace.interval_s), "--deltas", str(pace.deltas)]
    if most is not None:
        options += ["--most", str(most)]

    def command(port: int, model: Path, folder: Path) -> list[str]:
        return [sys.executable, "-m", "bench.overload_provider", "--port", str(port), *options]

    return Peer("provider", command, "/", environment={"PYTHONPATH": str(HERE.parent)})


def gateway(provider_port: int) -> Peer:
    """This gateway with the model and the provider, in a home of its own."""
    plain = outstation()

    def command(port: int, model: Path, folder: Path) -> list[str]:
        line = plain.command(port, model, folder)
        config = folder / "outstation.toml"
        row = PROVIDER.format(port=provider_port, model=PROVIDERS_MODEL)
        config.write_text(config.read_text() + '\n[logging]\nlevel = "warning"\n' + row)
        return ["env", f"OUTSTATION_HOME={folder / 'home'}", *line]

    return Peer("outstation", command, "/readyz", status=plain.status, busy=plain.busy)


if __name__ == "__main__":
    sys.exit(main())
