"""`kill -9` during ingest, again and again, and what is in the store afterwards: all of it is compared each time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path

import psutil

from bench.documents_report import Killed
from bench.documents_site import EMBEDDER, Wire, database, gateway, renewed
from bench.documents_whole import Sent, Whole
from bench.peers import running
from rag.chunks import Strategy
from rag.ingest import chunking
from rag.store.base import DocumentStore, open_store
from rag.store.records import Entry
from rag.types import Embedder

ROOT = Path(__file__).parents[1]
STRATEGY = Strategy(400, 0, by_structure=True)
"""As `[documents]` has it."""
MADE_UP = Embedder("made-up", "0" * 64, 384)
ALWAYS_LEFT = 12
"""Files in progress when a process begins: more than it can do before it is killed."""
MOST_DONE = 4
MOST_S = 0.25
"""After so many files that are done, and so long, a process is killed."""
GATEWAY_S = 3.0
"""After which a gateway is killed that has read no file in yet. Others are killed after some files."""
MOST_WAIT_S = 20.0
ORPHANS_S = 10.0
END_S = 300.0


def kill_workers(times: int, documents: Mapping[str, bytes], models: Path, folder: Path) -> Killed:
    """Processes that only read files in: real files, really cut; vectors are made up."""
    where, whole = folder / "killed.db", Whole(models / EMBEDDER, STRATEGY, MADE_UP)
    source, store = _endless(documents), open_store(str(where))
    id_ = store.stores.create("killed", MADE_UP).id
    found, sent = Killed(times), Sent(id_)
    for number in range(times):
        for _ in range(ALWAYS_LEFT - store.stores.get(id_).counts.in_progress):
            _add(store, sent, *next(source))
        store.close()
        _kill_one(where, folder / "work", models / EMBEDDER)
        found.during = whole.check(where, sent, found)
        store = open_store(str(where))
        if number % 20 == 19:
            print(f"{number + 1} kills, {len(sent.files)} files, {found}", file=sys.stderr)
    store.close()
    deadline = time.monotonic() + END_S
    while whole.check(where, sent, found) < len(sent.files) and time.monotonic() < deadline:
        subprocess.run(_command(where, folder / "work", models / EMBEDDER), cwd=ROOT, check=True, capture_output=True)
        time.sleep(0.6)
    found.files, found.ended = len(sent.files), whole.check(where, sent, found)
    return found


def _add(store: DocumentStore, sent: Sent, name: str, content: bytes) -> None:
    file = store.files.add(name, "assistants", [content])
    sent.files[file.id] = (name, content)
    store.members.add(sent.store, Entry(file.id, {}, chunking(STRATEGY)))
    sent.members.add(file.id)


def _command(where: Path, work: Path, model: Path) -> list[str]:
    return [sys.executable, "-m", "bench.documents_writer", str(where), str(work), str(model)]


def _kill_one(where: Path, work: Path, model: Path) -> None:
    with subprocess.Popen(_command(where, work, model), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(random.randint(1, MOST_DONE + 1)):  # it says that it has begun, then each file that is done
            process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.0, MOST_S))
        process.kill()


async def kill_gateways(times: int, documents: Mapping[str, bytes], models: Path, folder: Path, logs: Path) -> Killed:
    """Whole gateways, while a client uploads files and puts them into a vector store, and earlier ones are read in."""
    home, source = folder / "killed-home", _endless(documents)
    peer = gateway(home, models, "outstation-killed")
    found, sent, whole = Killed(times), Sent(""), Whole(models / EMBEDDER, STRATEGY, None)
    for _ in range(times):
        async with running(peer, Path(), logs) as server:
            client = asyncio.create_task(_client(server.port, sent, source))
            moment = asyncio.create_task(_moment(server.port, sent))
            await asyncio.wait([client, moment], return_when=asyncio.FIRST_COMPLETED)
            if client.done():  # nobody has killed it yet
                client.result()
            children = psutil.Process(server.pid).children(recursive=True)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.gather(client, moment, return_exceptions=True)
            _, left = await asyncio.to_thread(psutil.wait_procs, children, ORPHANS_S)
            found.orphans += len(left)
        if database(home).exists():
            found.during = await asyncio.to_thread(whole.check, database(home), sent, found)
        print(f"{len(sent.files)} files, {found}", file=sys.stderr)
    async with running(peer, Path(), logs) as server:
        wire, deadline = Wire(server.port), time.monotonic() + END_S
        await _put(wire, sent, [id_ for id_ in sent.files if id_ not in sent.members])
        while await _count(wire, sent) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    found.files = len(sent.files)
    found.ended = await asyncio.to_thread(whole.check, database(home), sent, found)
    return found


async def _client(port: int, sent: Sent, source: Iterator[tuple[str, bytes]]) -> None:
    """Uploads two files and puts them in, for as long as the gateway lives. What was acknowledged is written down."""
    wire = Wire(port)
    if not sent.store:
        sent.store = await wire.store("killed")
    while True:
        ids = []
        for _ in range(2):
            name, content = next(source)
            id_ = await wire.upload(name, content)
            sent.files[id_] = (name, content)
            ids.append(id_)
        await _put(wire, sent, ids)
        while await _count(wire, sent) > ALWAYS_LEFT:  # noqa: ASYNC110 - the wire has no event for it
            await asyncio.sleep(0.05)


async def _moment(port: int, sent: Sent) -> None:
    """Ends when the gateway is to be killed."""
    more, wire, deadline = random.randint(0, MOST_DONE), Wire(port), time.monotonic() + MOST_WAIT_S
    if not more or not sent.store:
        await asyncio.sleep(random.uniform(0.0, GATEWAY_S))
        return
    before = await _count(wire, sent, "completed")
    while await _count(wire, sent, "completed") < before + more and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(random.uniform(0.0, MOST_S))


async def _put(wire: Wire, sent: Sent, ids: list[str]) -> None:
    if ids:
        await wire.batch(sent.store, ids)
        sent.members |= set(ids)


async def _count(wire: Wire, sent: Sent, status: str = "in_progress") -> int:
    return int((await wire.get(f"/v1/vector_stores/{sent.store}"))["file_counts"][status])


def _endless(documents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """The documents over and over, each time as new content, in no order."""
    names = random.sample(sorted(documents), len(documents))
    for number, name in enumerate(cycle(names)):
        yield name, renewed(name, documents[name], str(number))
