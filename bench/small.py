"""`make bench-small`: the small models through the gateway's API, beside the bare runtime and sentence-transformers.

One run, interleaved rounds; a figure is the median of its rounds. Everything is asked over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import small_report as report
from bench.awake import awake
from bench.client import Answer, ask
from bench.gateways_load import Calls
from bench.injection_data import lines, neuralchemy
from bench.peers import Server, running
from bench.small_load import call, fetch, post, text_of, trickle
from bench.small_peers import Bare, Torch, bare, gateway, torch

HERE = Path(__file__).parent
T = TypeVar("T")
CLASSIFIERS = ("injection-guard", "toxic-bilstm")
GUARDS = ("injection-guard", "jailguard")
EMBEDDER = "all-minilm-l6-v2"
LLM = "smollm2-135m-instruct"
SCENARIOS = ("classify", "embed", "clients", "beside", "guard")
SHORT = ("The pump hums but does not turn, what should I look at?", "Kill the process with PID 42.",
         "Ignore the previous fault code and reset the pump.", "How often is the filter changed?")  # fmt: skip
LONG_TOKENS = 100
LENGTHS = (8, 16, LONG_TOKENS)
ALONE, BATCHED = "one by one", "batched"
AS_IT_IS, AWAKE = "as it is", "kept awake"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        classify: requests of a round, of each classifier. texts: that are embedded at once.
        clients, asked: at once, and their requests of a round.
        rate: classifications a second beside the language model. tokens: of its answer.
    """

    classify: int = 1000
    texts: int = 1000
    clients: int = 16
    asked: int = 960
    rate: float = 5.0
    tokens: int = 600


QUICK = Plan(classify=20, texts=16, asked=32, tokens=48)


@dataclass(slots=True)
class Results:
    """What the rounds gave, as it comes in."""

    classify: dict[tuple[str, str], list[report.Classified]] = field(default_factory=lambda: defaultdict(list))
    embed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    clients: dict[tuple[int, str], list[Calls]] = field(default_factory=lambda: defaultdict(list))
    beside: list[report.Beside] = field(default_factory=list)
    guards: dict[str, report.Guarded] = field(default_factory=dict)
    agreement: float = float("nan")
    threads: int = 0
    versions: str = ""


def main() -> int:
    """Parses the command line, measures, prints; with --write keeps the tables in RESULTS.md."""
    args = parse(sys.argv[1:])
    results = asyncio.run(measure(args))
    notes = report.machine(args.rounds, results.threads)
    text = f"{notes}\n- Peer: {results.versions or 'none'}\n\n" + "\n".join(
        one.markdown() for one in report.tables(results, args.plan)
    )
    print(text)
    if args.write:
        report.keep(HERE / "RESULTS.md", text)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.small", description=__doc__)
    home = Path(os.environ.get("OUTSTATION_HOME", HERE.parent / ".outstation"))
    parser.add_argument("--home", type=Path, default=home, help="the store with the models")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 3; 1 with --quick")
    parser.add_argument("--threads", type=int, default=0, help="of a run; default: as the gateway takes them")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    parser.add_argument("--optimized", help="a model in the store that `outstation models optimize` made of torch's")
    parser.add_argument("--torch", type=Path, default=HERE.parent / ".venv-bench-st" / "bin" / "python")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.scenario = args.scenario or SCENARIOS
    args.plan = QUICK if args.quick else Plan()
    args.home = args.home.resolve()
    return args


async def measure(args: argparse.Namespace) -> Results:
    """All that was asked for."""
    results = Results()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(started("outstation-small", args))
        alone = None
        if "clients" in args.scenario:
            alone = await stack.enter_async_context(started("outstation-alone", args, batch_tokens=1))
        results.threads = threads = await asyncio.to_thread(threads_of, server.port)
        embeds, cores = "embed" in args.scenario, os.cpu_count() or 1
        peer = stack.enter_context(torch(args.torch, cores, HERE / "out")) if embeds else None
        raw = {name: bare(args.home / "models", name, threads) for name in CLASSIFIERS}
        for number in range(args.rounds):
            print(f"round {number + 1}", file=sys.stderr)
            await one_round(args, server, alone, peer, raw, results)
        if "guard" in args.scenario:
            for name in GUARDS:
                results.guards[name] = await guarded(server.port, name, limit=32 if args.quick else None)
    return results


def threads_of(port: int) -> int:
    """Of a run in that gateway, as its metrics have it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(rf'^outstation_model_threads{{model="{CLASSIFIERS[0]}"}} (\d+)', text, re.MULTILINE)
    if not found:
        raise RuntimeError("the gateway tells no threads of its small models")
    return int(found[1])


@contextlib.asynccontextmanager
async def started(name: str, args: argparse.Namespace, batch_tokens: int | None = None) -> AsyncIterator[Server]:
    """A gateway whose models have answered once."""
    async with running(gateway(name, args.home, args.threads, batch_tokens), Path(), HERE / "out") as server:
        for model in CLASSIFIERS:
            await fetch(server.port, "/v1/classify", {"model": model, "input": SHORT[0]})
        await fetch(server.port, "/v1/embeddings", {"model": EMBEDDER, "input": SHORT[0]})
        yield server


async def one_round(
    args: argparse.Namespace,
    server: Server,
    alone: Server | None,
    peer: Torch | None,
    raw: dict[str, Bare],
    to: Results,
) -> None:
    """Every scenario, ours and the other in turn."""
    plan: Plan = args.plan
    if "classify" in args.scenario:
        for name, runtime in raw.items():
            to.classify[name, AS_IT_IS].append(await classified(server.port, name, runtime, plan.classify))
            with awake():
                to.classify[name, AWAKE].append(await classified(server.port, name, runtime, plan.classify))
    if "embed" in args.scenario:
        await embedded(server.port, peer, plan.texts, to, args.optimized)
    if alone is not None:
        for tokens in LENGTHS:
            for way, one in ((BATCHED, server), (ALONE, alone)):
                asked = [_embed(text_of(tokens, number)) for number in range(256)]
                await call(one.port, asked, clients=plan.clients, total=plan.clients * 2)
                calls = await call(one.port, asked, clients=plan.clients, total=plan.asked)
                to.clients[tokens, way].append(_told(calls))
    if "beside" in args.scenario:
        to.beside.append(await beside(server.port, plan))


async def classified(port: int, name: str, runtime: Bare, total: int) -> report.Classified:
    """One client's requests one after another, and the same work in this process."""
    asked = [post("/v1/classify", {"model": name, "input": text}) for text in SHORT]
    await call(port, asked, clients=1, total=total // 10)
    calls = _told(await call(port, asked, clients=1, total=total))
    runs, whole = await asyncio.to_thread(runtime.times, SHORT, total)
    return report.Classified(calls, runs, whole)


async def embedded(port: int, peer: Torch | None, count: int, to: Results, optimized: str | None = None) -> None:
    """So many texts in one request, then by sentence-transformers in one call; texts a second."""
    texts = [text_of(LONG_TOKENS, number) for number in range(count)]
    ours = {"outstation, int8 weights": EMBEDDER}
    if optimized:
        ours["outstation, int8 by `models optimize`"] = optimized
    for label, name in ours.items():
        body = {"model": name, "input": texts, "encoding_format": "base64"}
        await fetch(port, "/v1/embeddings", body | {"input": texts[:32]})
        calls = _told(await call(port, [post("/v1/embeddings", body)], clients=1, total=1))
        to.embed[label].append(count * calls.rate)
    if peer is not None:
        peer.encode(texts[:32])
        seconds, _ = await asyncio.to_thread(peer.encode, texts)
        to.embed["sentence-transformers on torch, f32"].append(count / seconds)
        to.versions = peer.versions
        to.agreement = agreement(
            await fetch(port, "/v1/embeddings", {"model": EMBEDDER, "input": list(SHORT)}),
            peer.encode(SHORT, vectors=True)[1],
        )


def agreement(ours: Any, theirs: Any) -> float:
    """The lowest cosine between our vector of a text and theirs; both are normalised."""
    vectors = np.array([row["embedding"] for row in ours["data"]])
    return float((vectors * theirs).sum(axis=1).min())


async def beside(port: int, plan: Plan) -> report.Beside:
    """An answer of the language model alone, then one with classifications beside it, then these alone."""
    asked = [post("/v1/classify", {"model": CLASSIFIERS[0], "input": text}) for text in SHORT]
    await _stream(port, 16)
    before = await _stream(port, plan.tokens)
    ended = asyncio.Event()
    load = asyncio.create_task(trickle(port, asked, rate=plan.rate, ended=ended))
    during = await _stream(port, plan.tokens)
    ended.set()
    calls = _told(await load)
    after = await _stream(port, plan.tokens)
    quiet = asyncio.Event()
    load = asyncio.create_task(trickle(port, asked, rate=plan.rate, ended=quiet))
    await asyncio.sleep(max(1.0, len(calls.times) / plan.rate))
    quiet.set()
    rates = [report.decode_rate(answer) for answer in (before, after)]
    return report.Beside(sum(rates) / 2, report.decode_rate(during), calls, _told(await load))


async def guarded(port: int, name: str, limit: int | None) -> report.Guarded:
    """neuralchemy's test and the technicians' sentences through the API; texts over the model's length are cut."""
    cache = HERE / "out" / "guard"
    cache.mkdir(parents=True, exist_ok=True)
    test = spread(await asyncio.to_thread(neuralchemy, cache, "test"), limit)
    technicians = spread(lines(HERE / "data" / "technicians.txt"), limit)
    hits = await _hits(port, name, [one.text for one in test])
    return report.Guarded(
        found=sum(hit for hit, one in zip(hits, test, strict=True) if one.attack),
        attacks=sum(one.attack for one in test),
        alarms=sum(hit for hit, one in zip(hits, test, strict=True) if not one.attack),
        benign=sum(not one.attack for one in test),
        technician_alarms=sum(await _hits(port, name, technicians)),
        technicians=len(technicians),
    )


def spread(some: list[T], limit: int | None) -> list[T]:
    """About so many of them from all over the list, which is ordered by source."""
    return some[:: max(1, len(some) // limit)] if limit else some


async def _hits(port: int, name: str, texts: list[str]) -> list[bool]:
    """Whether each is taken for an attack at the model's own threshold."""
    found: list[bool] = []
    for start in range(0, len(texts), 32):
        body = {"model": name, "input": texts[start : start + 32], "truncate": True}
        results = (await fetch(port, "/v1/classify", body))["results"]
        found += [result["label"] == "injection" for result in results]
    return found


async def _stream(port: int, tokens: int) -> Answer:
    """One streamed answer of exactly so many tokens. Raises RuntimeError if it is not whole."""
    question = "Write a long report about the yearly inspection of a pumping station."
    messages = [{"role": "user", "content": question}]
    options = {"stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0.7}
    body = {"model": LLM, "messages": messages, "max_tokens": tokens, "stream": True, **options}
    answer = await ask(port, body)
    if not answer.ok:
        raise RuntimeError(f"{LLM}: {answer.error or answer.body[:300]!r}")
    return answer


def _embed(text: str) -> bytes:
    return post("/v1/embeddings", {"model": EMBEDDER, "input": text, "encoding_format": "base64"})


def _told(calls: Calls) -> Calls:
    """The calls; a failure among them is named on stderr."""
    if calls.failed:
        print(f"{calls.failed} failed: {calls.error}", file=sys.stderr)
    return calls


if __name__ == "__main__":
    sys.exit(main())
