"""The process of all small models: `python -m backends.onnx.worker FD`, with one end of the supervisor's socket pair.

One thread reads messages and prepares what is short; others prepare what is long, decode pictures, load models, and
compute (`lanes`).
The process ends with its socket.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from backends.errors import BackendError, InvalidRequest
from backends.onnx import jobs, protocol
from backends.onnx.jobs import Job
from backends.onnx.lanes import Lanes, shape
from backends.onnx.room import Room
from backends.onnx.sessions import Model
from backends.processes.channel import Channel, die_first, die_with_parent
from backends.processes.cores import usable_cores
from backends.processes.wire import pack_error

QUICK_BYTES = 20_000  # a message that is prepared where it is read
# Requests counted and not run (a policy may have dropped this route since): how many, and how many numbers in all.
KEPT = 256
KEPT_NUMBERS = 4_000_000


def main() -> None:
    """Say `ready`, and compute until the socket closes."""
    die_with_parent()
    die_first()
    sys.setswitchinterval(0.0005)  # a short text must not wait 5 ms for a thread that reads a long one
    # Before tokenizers is imported: its own threads would take the cores from everyone else.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = orjson.loads(channel.lines.readline())
    n, threads = shape(usable_cores(), options["threads"])
    try:
        room = Room(threads=threads, providers=options["providers"], alive=lambda: channel.send({"op": "alive"}))
    except BackendError as error:
        channel.send({"op": "failed", "error": pack_error(error)})
        return
    lanes = Lanes(channel, room, options["batch_tokens"], options["run_timeout_s"], n)
    for i in range(n):
        threading.Thread(target=lanes.compute, name=f"lane {i}", daemon=True).start()
    threading.Thread(target=lanes.watch, name="watch", daemon=True).start()
    worker = Worker(channel, room, lanes)
    channel.send({"op": "ready", "lanes": n, "threads": threads})
    for line in channel.lines:
        worker.hear(orjson.loads(line), len(line))
    os._exit(0)  # nobody is there to hear what still computes


class Worker:
    """What is asked for, read, and kept until it is to run."""

    def __init__(self, channel: Channel, room: Room, lanes: Lanes) -> None:
        self._channel = channel
        self._room = room
        self._lanes = lanes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "load")
        self._preparer = ThreadPoolExecutor(2, "prepare")
        # One at a time: decoded, a picture of a few kB may take 75 MB.
        self._viewer = ThreadPoolExecutor(1, "view")

    def hear(self, message: Mapping[str, Any], size: int) -> None:
        """One message, in the reading thread."""
        match message["op"]:
            case "ask":
                self._lanes.begin(message["id"])
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
                self._channel.send({"op": "alive"})  # the gateway takes silence for a hang

    def _ask(self, message: Mapping[str, Any], size: int) -> None:
        key, model = message["id"], self._room.models.get(message["folder"])
        if model is None:
            self._loader.submit(self._guarded, key, lambda: self._load_and_ask(message, size))
        elif any(isinstance(prompt, Mapping) and "image" in prompt for prompt in message["prompts"]):
            self._viewer.submit(self._guarded, key, lambda: self._prepare(model, message))
        elif size <= QUICK_BYTES:
            self._guarded(key, lambda: self._prepare(model, message))
        else:
            self._preparer.submit(self._guarded, key, lambda: self._prepare(model, message))

    def _load_and_ask(self, message: Mapping[str, Any], size: int) -> None:
        self._room.load(message["folder"], message["base"])
        self._lanes.send_figures()
        self._ask(message, size)

    def _load(self, message: Mapping[str, Any]) -> None:
        self._room.load(message["folder"], message["base"])
        self._lanes.send_figures()
        self._channel.send({"op": "end", "id": message["id"], "tokens": 0})

    def _prepare(self, model: Model, message: Mapping[str, Any]) -> None:
        key = message["id"]
        prompts = [protocol.unpack(raw) for raw in message["prompts"]]
        job = jobs.prepare(model, message, prompts, lambda: self._lanes.wants(key))
        if job is None:
            return
        if message["run"]:
            self._lanes.submit(job)
            return
        with self._lock:
            self._kept[key] = job
            numbers = sum(kept.numbers for kept in self._kept.values())
            while len(self._kept) > KEPT or (numbers > KEPT_NUMBERS and len(self._kept) > 1):
                old, forgotten = self._kept.popitem(last=False)
                numbers -= forgotten.numbers
                self._lanes.drop(old)
        self._channel.send({"op": "prepared", "id": key, "longest": job.longest, "tokens": job.tokens})

    def _run(self, key: str) -> None:
        with self._lock:
            job = self._kept.pop(key, None)
        if job is None:
            self._channel.send({"op": "again", "id": key})
        else:
            self._guarded(key, lambda: self._lanes.submit(job))

    def _forget(self, key: str) -> None:
        with self._lock:
            self._kept.pop(key, None)
        self._lanes.drop(key)

    def _guarded(self, key: str, do: Callable[[], None]) -> None:
        """One bad request must not take down the process of the others."""
        try:
            do()
        except BackendError as error:
            self._lanes.refuse(key, error)
        except Exception as error:  # noqa: BLE001
            self._lanes.refuse(key, InvalidRequest(f"The input could not be read ({type(error).__name__}: {error})."))


if __name__ == "__main__":
    main()
