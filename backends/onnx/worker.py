"""The process of all small models: `python -m backends.onnx.worker FD`, with one end of the supervisor's socket pair.

One thread reads messages and prepares what is short; others prepare what is long, load models, and compute. Each that
computes is a lane with cores of its own, so that a short text need not wait for a long one. The process ends with its
socket.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import orjson

from backends.errors import BackendError, EngineFailed, InvalidRequest
from backends.onnx import jobs, protocol
from backends.onnx.batching import Row, Turns
from backends.onnx.jobs import Job
from backends.onnx.sessions import Model, Room
from backends.processes.channel import Channel, die_first, die_with_parent
from backends.processes.cores import usable_cores
from backends.processes.wire import pack_error

QUICK_BYTES = 20_000  # a message that is prepared where it is read
RUN_S = 0.03  # of one run, about: nobody waits longer for a run that began before
LEAST_RUN = 64  # tokens
KEPT = 256  # requests counted and not run; a policy may have dropped this route since
FIGURES_S = 1.0
MOST_LANES = 4


def main() -> None:
    """Say `ready`, and compute until the socket closes."""
    die_with_parent()
    die_first()
    sys.setswitchinterval(0.0005)  # a short text must not wait 5 ms for a thread that reads a long one
    # Before tokenizers is imported: its own threads would take the cores from everyone else.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = orjson.loads(channel.lines.readline())
    cores = usable_cores()
    threads = min(options["threads"] or 1, cores)
    try:
        room = Room(threads=threads, providers=options["providers"], alive=lambda: channel.send({"op": "alive"}))
    except BackendError as error:
        channel.send({"op": "failed", "error": pack_error(error)})
        return
    lanes = max(1, min(MOST_LANES, cores // threads))
    worker = Worker(channel, room, options["batch_tokens"])
    for i in range(lanes):
        threading.Thread(target=worker.compute, name=f"lane {i}", daemon=True).start()
    channel.send({"op": "ready", "lanes": lanes, "threads": threads})
    for line in channel.lines:
        worker.hear(orjson.loads(line), len(line))
    os._exit(0)  # nobody is there to hear what still computes


class Worker:
    """What is asked, kept, waiting and computed."""

    def __init__(self, channel: Channel, room: Room, batch_tokens: int) -> None:
        self._channel = channel
        self._room = room
        self._most = batch_tokens
        self._turns = Turns()
        self._wake = threading.Condition()  # guards all that follows, and the turns
        self._open: set[str] = set()
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._next_figures = 0.0
        self._loader = ThreadPoolExecutor(1, "load")
        self._preparer = ThreadPoolExecutor(2, "prepare")

    # -- messages ------------------------------------------------------------------------------------------------

    def hear(self, message: Mapping[str, Any], size: int) -> None:
        """One message, in the reading thread."""
        match message["op"]:
            case "ask":
                self._open.add(message["id"])
                self._ask(message, size)
            case "run":
                self._run(message["id"])
            case "load":
                self._loader.submit(self._guarded, message["id"], lambda: self._load(message))
            case "unload":
                self._room.unload(message["folder"])  # what is asked next is for what lies there now
                self._loader.submit(self._room.unload, message["folder"])  # and if it is being loaded just now
            case "cancel":
                self._forget(message["id"])

    def _ask(self, message: Mapping[str, Any], size: int) -> None:
        key, model = message["id"], self._room.models.get(message["folder"])
        if model is None:
            self._loader.submit(self._guarded, key, lambda: self._load_and_ask(message, size))
        elif size <= QUICK_BYTES:
            self._guarded(key, lambda: self._prepare(model, message))
        else:
            self._preparer.submit(self._guarded, key, lambda: self._prepare(model, message))

    def _load_and_ask(self, message: Mapping[str, Any], size: int) -> None:
        self._room.load(message["folder"], message["base"])
        self._send_figures()
        self._ask(message, size)

    def _load(self, message: Mapping[str, Any]) -> None:
        self._room.load(message["folder"], message["base"])
        self._send_figures()
        self._channel.send({"op": "end", "id": message["id"], "tokens": 0})

    def _prepare(self, model: Model, message: Mapping[str, Any]) -> None:
        key = message["id"]
        prompts = [protocol.unpack(raw) for raw in message["prompts"]]
        job = jobs.prepare(model, message, prompts, lambda: key in self._open)
        if job is None:
            return
        if message["run"]:
            self._submit(job)
            return
        with self._wake:
            self._kept[key] = job
            if len(self._kept) > KEPT:
                self._open.discard(self._kept.popitem(last=False)[0])
        self._channel.send({"op": "prepared", "id": key, "longest": job.longest, "tokens": job.tokens})

    def _run(self, key: str) -> None:
        with self._wake:
            job = self._kept.pop(key, None)
        if job is None:
            self._channel.send({"op": "again", "id": key})
        else:
            self._guarded(key, lambda: self._submit(job))

    def _submit(self, job: Job) -> None:
        if job.refusal:
            raise job.refusal
        rows = job.rows()
        if not rows:
            self._finish(job)
            return
        with self._wake:
            if job.id in self._open:
                self._turns.add(rows)
                self._wake.notify(len(rows))

    def _forget(self, key: str) -> None:
        with self._wake:
            self._open.discard(key)
            self._kept.pop(key, None)
            self._turns.drop(key)

    def _guarded(self, key: str, do: Callable[[], None]) -> None:
        """One bad request must not take down the process of the others."""
        try:
            do()
        except BackendError as error:
            self._refuse(key, error)
        except Exception as error:  # noqa: BLE001
            self._refuse(key, InvalidRequest(f"The input could not be read ({type(error).__name__}: {error})."))

    def _refuse(self, key: str, error: BackendError) -> None:
        self._forget(key)
        self._channel.send({"op": "refused", "id": key, "error": pack_error(error)})

    # -- runs ----------------------------------------------------------------------------------------------------

    def compute(self) -> None:
        """One lane: runs, as long as the process lives."""
        while True:
            with self._wake:
                while not (run := self._turns.take(self._limit)):
                    self._wake.wait()
            self._compute(run)

    def _limit(self, folder: str) -> int:
        model = self._room.models.get(folder)
        return max(LEAST_RUN, min(self._most, int(model.rate * RUN_S))) if model else self._most

    def _compute(self, run: list[Row]) -> None:
        model: Model = run[0].work[0].model
        started = time.perf_counter()
        found = model.outcomes([row.work[3] for row in run])
        self._learn(model, run, time.perf_counter() - started)
        self._deliver(run, found)
        if time.monotonic() >= self._next_figures:
            self._send_figures()

    def _learn(self, model: Model, run: list[Row], took: float) -> None:
        padded = len(run) * max(row.length for row in run)
        with self._wake:
            model.rate += 0.2 * (padded / max(took, 1e-6) - model.rate)
            figures = model.figures
            figures.runs += 1
            figures.rows += len(run)
            figures.tokens += sum(row.length for row in run)
            figures.seconds += took

    def _deliver(self, run: list[Row], found: list[Any]) -> None:
        """Results that are whole now, by job; each job that failed is told once."""
        done: dict[Job, list[tuple[int, dict[str, Any]]]] = {}
        failed: dict[str, BackendError] = {}
        with self._wake:
            for row, value in zip(run, found, strict=True):
                job, prompt, piece, _ = row.work
                if row.job not in self._open or row.job in failed:
                    continue
                result = value if isinstance(value, BackendError) else _put(job, prompt, piece, value)
                if isinstance(result, BackendError):
                    failed[row.job] = result
                elif result:
                    done.setdefault(job, []).append((prompt, result))
        for key, error in failed.items():
            self._refuse(key, error)
        for job, results in done.items():
            if job.id not in failed:
                self._tell(job, results)

    def _tell(self, job: Job, results: list[tuple[int, dict[str, Any]]]) -> None:
        """The end comes last, whichever lane had the last of it."""
        self._channel.send({"op": "results", "id": job.id, "rows": results})
        with self._wake:
            job.untold -= len(results)
            ended = not job.untold
        if ended:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self._open.discard(job.id)
        self._channel.send({"op": "end", "id": job.id, "tokens": job.tokens})

    def _send_figures(self) -> None:
        self._next_figures = time.monotonic() + FIGURES_S
        with self._wake:
            figures = {folder: asdict(model.figures) for folder, model in self._room.models.items()}
        self._channel.send({"op": "figures", "models": figures})


def _put(job: Job, prompt: int, piece: int, value: Any) -> dict[str, Any] | BackendError | None:
    try:
        return job.put(prompt, piece, value)
    except Exception as error:  # noqa: BLE001 - a result of an odd shape must not end the lane
        return EngineFailed(f"The model's result cannot be read ({type(error).__name__}: {error}).")


if __name__ == "__main__":
    main()
