"""The process of one model: `python -m backends.llama.worker FD`, with one end of the supervisor's socket pair.

The main thread computes; a second one reads messages, renders templates and tokenises. The process ends with its
socket: a gateway that was killed leaves no orphan.
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from backends.errors import BackendError, BadModelFile, InvalidRequest
from backends.llama import protocol
from backends.llama.beside import Beside
from backends.llama.bindings import Context, Model, silence
from backends.llama.cost import Cost
from backends.llama.engine import Engine
from backends.llama.governor import Governor, candidates
from backends.llama.host_cache import HostCache
from backends.llama.kv_cache import KVCache
from backends.llama.preparer import Preparer
from backends.llama.scheduler import Scheduler
from backends.processes.channel import Channel, die_with_parent
from backends.processes.cores import usable_cores
from backends.processes.wire import pack_error

MAX_BATCH = 256  # tokens: prefill is as fast in chunks of 64, and the buffers for attention grow with this
IDLE_BUDGET_S = 0.35  # a newcomer waits at most this long for another prompt's chunk
KEPT_SEQUENCES = 48  # ids for kept prefixes, beside those of live sequences
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
LONG_PROMPT_BYTES = 200_000
CALIBRATION_S = 2.0
STATS_S = 0.1


def main() -> None:
    """Load, say `ready`, and compute until the socket closes."""
    die_with_parent()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = orjson.loads(channel.lines.readline())
    silence()
    try:
        engine, preparer, ready = _load(channel, options)
    except BackendError as e:
        channel.send({"op": "failed", "error": pack_error(e)})
        return
    gc.freeze()  # what the model needs lives for ever: keep the collector from walking it between two steps
    sys.setswitchinterval(0.0005)  # a step must not wait 5 ms for the other thread's template
    channel.send(ready)
    threading.Thread(target=_listen, args=(channel, engine, preparer), daemon=True).start()
    try:
        engine.run()
    except BrokenPipeError:
        pass  # the gateway is gone


def _load(channel: Channel, options: Mapping[str, Any]) -> tuple[Engine, Preparer, dict[str, Any]]:
    started = time.perf_counter()
    model = Model(Path(options["path"]))
    if not model.generates:
        raise BadModelFile("The file holds an encoder, not a language model that generates text.")
    n_ctx = min(options["context_length"] or 8192, model.n_ctx_train or 8192)
    cells = max(options["kv_cells"] or 8192, n_ctx)
    live = min(options["max_sequences"], MAX_SEQUENCES - 1)
    ids = min(live + KEPT_SEQUENCES, MAX_SEQUENCES)
    cores = usable_cores()
    threads = options["threads"] or cores
    context = Context(model, cells=cells, max_sequences=ids, max_batch=MAX_BATCH, threads=threads)
    governor = None
    if not options["threads"]:
        governor = Governor(cores, cores)
        governor.calibrate(lambda: _fastest_threads(context, cores), time.perf_counter)
        context.set_threads(governor.threads)
    host = HostCache(options["prefix_cache_mb"] << 20) if options["prefix_cache_mb"] else None
    kv = KVCache(context.cells, ids, context, reuse=model.shares_prefixes, host=host)
    scheduler = Scheduler(
        kv,
        max_sequences=live,
        max_batch=MAX_BATCH,
        step_budget_s=options["step_budget_s"],
        idle_budget_s=max(IDLE_BUDGET_S, options["step_budget_s"]),
    )
    scheduler.cost = _measured_cost(context)
    stats = Statistics(channel, scheduler, governor, threads)
    preparer = Preparer(model, n_ctx, scheduler.provided)
    engine = Engine(model, context, scheduler, governor, stats.emit, n_ctx=n_ctx, when_quiet=preparer.warm)
    stats.engine = engine
    ready = {
        "op": "ready",
        "n_ctx": n_ctx,
        "cells": context.cells,
        "threads": governor.threads if governor else threads,
        "load_s": time.perf_counter() - started,
    }
    return engine, preparer, ready


def _fastest_threads(context: Context, cores: int) -> int:
    """The thread count that decodes four sequences fastest here and now; at most about `CALIBRATION_S`."""
    best, best_s, began = 1, float("inf"), time.perf_counter()
    _warm(context, 4)
    for n in candidates(cores):
        context.set_threads(n)
        took = min(_warm(context, 4) for _ in range(3))
        if took < best_s:
            best, best_s = n, took
        if time.perf_counter() - began > CALIBRATION_S:
            break
    return best


def _measured_cost(context: Context) -> Cost:
    """What the first steps will take, so that the first long prompt is cut into the right chunks already."""
    decode = _warm(context, 4) / 4
    prompt = _warm(context, 32) / 32
    return Cost(base=prompt, slope=prompt / 2, each=prompt, per_sequence=decode)


def _warm(context: Context, n: int) -> float:
    """Seconds of one step of `n` tokens, each at the start of a sequence."""
    each, at = max(1, n // 4), 0
    while at < n:
        at = context.put(at, [1] * each, 0, at // each, output=True)
    started = time.perf_counter()
    context.decode(n)
    took = time.perf_counter() - started
    context.clear()
    return took


class Statistics:
    """Sends each step's outputs, with the engine's figures a few times a second and whenever it becomes idle."""

    def __init__(self, channel: Channel, scheduler: Scheduler, governor: Governor | None, threads: int) -> None:
        self.engine: Engine | None = None
        self._channel = channel
        self._scheduler = scheduler
        self._governor = governor
        self._threads = threads
        self._next = 0.0

    def emit(self, outputs: list[protocol.Output]) -> None:
        """The engine's `Emit`."""
        message: dict[str, Any] = {"op": "step", "out": protocol.pack_outputs(outputs)}
        now = time.perf_counter()
        assert self.engine is not None
        if now >= self._next or not outputs or self.engine.idle:
            self._next = now + STATS_S
            message["stats"] = self._stats(self.engine)
        self._channel.send(message)

    def _stats(self, engine: Engine) -> dict[str, Any]:
        s = self._scheduler
        return {
            **asdict(engine.counters),
            "waiting": len(s.waiting),
            "running": len(s.live),
            "kv_used": s.kv.used,
            "kv_kept": s.kv.evictable,
            "backlog": s.backlog_tokens(),
            "newest": s.newest(),
            "prefill_rate": s.cost.prefill_rate,
            "preemptions": s.preemptions,
            "threads": self._governor.threads if self._governor else self._threads,
        }


def _listen(channel: Channel, engine: Engine, preparer: Preparer) -> None:
    """Take messages until the gateway closes its end. What takes long is prepared in threads of its own: ten megabytes
    take ten seconds to tokenise, a grammar may take some to try, and nobody else's request or cancellation may wait for
    them. Nor may a common grammar wait for one that nobody has seen."""

    def handle(message: Mapping[str, Any]) -> None:
        _handle(message, channel, engine, preparer)

    long_prompts, grammars, trials = Beside(handle), Beside(handle), Beside(handle)
    for line in channel.lines:
        message = orjson.loads(line)
        if message["op"] == "cancel":
            for beside in (long_prompts, grammars, trials):
                beside.forget(message["id"])
        if message["op"] != "prepare":
            handle(message)
        elif not preparer.quick(message):
            trials.put(message)
        elif message.get("grammar"):
            grammars.put(message)
        elif len(line) > LONG_PROMPT_BYTES:
            long_prompts.put(message)
        else:
            handle(message)
    engine.close()


def _handle(message: Mapping[str, Any], channel: Channel, engine: Engine, preparer: Preparer) -> None:
    try:
        if message["op"] == "prepare":
            channel.send({"op": "prepared", "id": message["id"], **asdict(preparer.prepare(message))})
        elif message["op"] == "submit":
            engine.submit(preparer.job(message))
        else:
            preparer.forget(message["id"])
            engine.cancel(message["id"])
    except BackendError as e:
        channel.send({"op": "refused", "id": message["id"], "error": pack_error(e)})
    except Exception as e:  # noqa: BLE001 - one bad request must not take the others' engine down
        error = InvalidRequest(f"The prompt could not be prepared ({type(e).__name__}: {e}).")
        channel.send({"op": "refused", "id": message["id"], "error": pack_error(error)})


if __name__ == "__main__":
    main()
