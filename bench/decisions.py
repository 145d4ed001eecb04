"""`python -m bench.decisions`: what a decision costs in the gateway itself, and what its search for private data finds.

All else here is measured from outside. A decision takes microseconds, which no client can see, so this one calls the
product's own functions: in one process, without a network.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from backends.types import ModelState, Request, Sampling
from bench import decisions_report as report
from bench.decisions_planted import Kind, kinds, planted
from bench.decisions_texts import KINDS, text
from gateway.config import Config, load_config
from gateway.policies import detector_of, policies_of
from gateway.providers import remote_routes
from policies.base import Health, Learned, Policy, Route, Snapshot, Spent, decide
from policies.detect import Detector

HERE = Path(__file__).parent
SIZE = 4096
TEXTS = 40
REQUESTS = 64

SITE = """
[routing]
locality = "prefer_local"
order = ["cost", "latency", "quality"]
first_token_objective_s = 2.0

[budget]
site_day = 5.0
site_month = 50.0
key_day = 1.0
key_month = 10.0
"""
RULES = """
[[rules]]
name = "patients"
when = "'health' in request.data_classes"
locality = "only_local"

[[rules]]
name = "kiosk"
when = "key == 'kiosk' && (request.max_tokens > 1000 || 'tools' in request.needs)"
deny = "The kiosk answers short questions only."

[[rules]]
name = "rush"
when = "site.waiting > 40 && request.deadline_s < 10.0 && site.spent_day < 2.5"
locality = "only_remote"

[[rules]]
name = "long"
when = "request.prompt_tokens > 6000 && !(request.model.startsWith('p0/'))"
locality = "only_remote"
"""
PROVIDER = """
[[providers]]
name = "p{number}"
base_url = "http://127.0.0.1:9/v1"
data = {{ email = "redact", phone = "redact", secret = "deny", default = "allow" }}

[[providers.models]]
name = "m"
context_length = {context}
capabilities = ["tools", "vision", "structured_output"]
quality = {number}
input_price = 0.{number}5
output_price = 1.{number}
"""


class Site:
    """What decides, and what it decides over.

    Args:
        local, remote: how many routes of each.
        rules: the operator's, as TOML.
    """

    def __init__(self, local: int, remote: int, rules: str) -> None:
        rows = "".join(PROVIDER.format(number=number, context=32_768 << number % 3) for number in range(remote))
        self.policies: Sequence[Policy] = policies_of(configured(SITE + rows + rules))
        self.local = tuple(Route(f"local/l{n}", f"l{n}", context_length=8192) for n in range(local))
        self.remote = tuple(remote_routes(configured(SITE + rows)))
        self.routes = self.local + self.remote

    def requests(self, rng: random.Random) -> list[tuple[Request, Snapshot]]:
        """Requests of all sorts, each with the site as it was then."""
        return [(self._request(rng, number), self._snapshot(rng)) for number in range(REQUESTS)]

    def _request(self, rng: random.Random, number: int) -> Request:
        return Request(
            f"r{number}",
            "auto",
            "chat",
            messages=({"role": "user", "content": "The pump hums."},),
            sampling=Sampling(max_tokens=rng.choice((None, 64, 512))),
            needs=rng.choice((frozenset(), frozenset({"structured_output"}))) if self.remote else frozenset(),
            deadline_s=rng.choice((None, 30.0)),
            key="kiosk",
        )

    def _snapshot(self, rng: random.Random) -> Snapshot:
        names = [route.name for route in self.routes]
        tokens = rng.randint(50, 4000)
        return Snapshot(
            states={route.name: busy(route.model, rng) for route in self.local},
            prompt_tokens={route.name: tokens for route in self.local},
            cached_tokens={route.name: tokens // 2 for route in self.local},
            estimated_tokens=tokens,
            learned={name: Learned(rng.randint(40, 400), 1.2, 1.4) for name in names},
            health={route.name: Health(ttft_s=rng.random(), tokens_per_s=60.0) for route in self.remote},
            data_classes=rng.choice((frozenset(), frozenset({"email", "phone"}))),
            spent=Spent(0.2, 1.5, 0.8, 9.0),
            at=1.79e9,
        )


def main() -> int:
    """Measures and prints; with --write keeps the tables in RESULTS.md."""
    args = parse(sys.argv[1:])
    rng = random.Random(args.seed)
    sites = {
        "1 provider's model": Site(0, 1, ""),
        "2 local models, 6 providers' models, 4 rules": Site(2, 6, RULES),
    }
    detector = detector_of(configured(SITE))
    with collecting_seldom():
        results = report.Results(
            {name: plans(site, args.plans, rng) for name, site in sites.items()},
            {kind: scans(kind, args.scans, rng) for kind in KINDS},
            {kind.name: (kind.cls, found(detector, kind, args.planted, rng), args.planted) for kind in kinds()},
        )
    written = f"{report.machine()}\n\n" + "\n".join(table.markdown() for table in report.tables(results, SIZE))
    print(written)
    if args.write:
        report.keep(HERE / "RESULTS.md", written)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.decisions", description=__doc__)
    parser.add_argument("--plans", type=int, default=20_000, help="plans that are decided, of each site")
    parser.add_argument("--scans", type=int, default=2_000, help="searches of each kind of text")
    parser.add_argument("--planted", type=int, default=10_000, help="numbers that are searched for, of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    return parser.parse_args(argv)


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Garbage is collected as in the gateway once it is up."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def plans(site: Site, count: int, rng: random.Random) -> list[float]:
    """Seconds of each decision by all policies."""
    asked = site.requests(rng)

    def one(number: int) -> Callable[[], object]:
        request, snapshot = asked[number % len(asked)]
        return lambda: decide(site.policies, request, site.routes, snapshot)

    return timed(one(number) for number in range(count))


def scans(kind: str, count: int, rng: random.Random) -> list[float]:
    """Seconds of each search of a chat whose question is one text of that kind, by a detector that has seen nothing."""
    bodies = [body(text(kind, rng, SIZE)) for _ in range(TEXTS)]
    custom = configured(SITE).privacy.custom

    def one(number: int) -> Callable[[], object]:
        detector = Detector(custom)  # one that has searched a text before knows that it is clean
        return lambda: detector.classes(bodies[number % TEXTS])

    return timed(one(number) for number in range(count))


def timed(calls: Iterable[Callable[[], object]]) -> list[float]:
    """Seconds of each, but for the first tenth, which warms up."""
    times = []
    for call in calls:
        began = perf_counter_ns()
        call()
        times.append((perf_counter_ns() - began) / 1e9)
    return times[len(times) // 10 :]


def found(detector: Detector, kind: Kind, count: int, rng: random.Random) -> int:
    """How many of the planted numbers are found, whole and under their class."""
    hits = 0
    for _ in range(count):
        said, value = planted(kind, rng)
        start = said.index(value)
        findings = detector.find(said)
        hits += any(f.cls == kind.cls and f.start <= start and f.end >= start + len(value) for f in findings)
    return hits


def body(question: str) -> dict[str, Any]:
    """A chat's."""
    system = "You are the assistant of a service van. Answer in plain words."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "auto", "messages": messages, "max_tokens": 64, "stream": True}


def busy(model: str, rng: random.Random) -> ModelState:
    """A local model that answers some."""
    return ModelState(
        model,
        "ready",
        context_length=8192,
        waiting=rng.randint(0, 2),
        running=rng.randint(0, 4),
        max_sequences=8,
        kv_cells=16_384,
        kv_cells_used=rng.randint(0, 8000),
        prefill_rate=400.0,
        decode_rate=90.0,
        backlog_tokens=rng.randint(0, 2000),
    )


def configured(toml: str) -> Config:
    """A configuration, read as the gateway reads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "outstation.toml")
        file.write_text(toml)
        return load_config(file, to_serve=False, environ={"OUTSTATION_HOME": folder})


if __name__ == "__main__":
    sys.exit(main())
