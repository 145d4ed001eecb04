"""The computing threads: each takes the next run, and tells what became of it.

A lane has cores of its own, so that a short text need not wait for a long one. Runs are short, so that nobody waits
long for one that began before; and the last free lane is not for the model that has all the others, least of all a slow
one.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from backends.errors import BackendError, EngineFailed
from backends.onnx.batching import Row, Turns
from backends.onnx.jobs import Job
from backends.onnx.room import Room
from backends.onnx.sessions import Model, Stop
from backends.processes.channel import Channel
from backends.processes.wire import pack_error

RUN_S = 0.03  # of one run, about
LEAST_RUN = 64  # tokens
SLOW_S = 1.0  # a run of which makes its model a slow one
FIGURES_S = 1.0
MOST_LANES = 4
MOST_THREADS = 4  # of a lane; models as small as these gain little from more


def shape(cores: int, threads: int) -> tuple[int, int]:
    """(lanes, threads of each): as many lanes as there may be, and threads for the cores that are left over.

    Args:
        threads: as configured; 0: not.
    """
    each = min(cores, threads or max(1, min(MOST_THREADS, cores // MOST_LANES)))
    return max(1, min(MOST_LANES, cores // each)), each


@dataclass(slots=True, eq=False)
class Run:
    """What a lane computes now."""

    model: str
    jobs: set[str]
    stop: Stop
    began: float


class Lanes:
    """What waits to be computed, and who still wants it. All but `compute` and `watch` may be called by any thread."""

    def __init__(
        self, channel: Channel, room: Room, batch_tokens: int, run_timeout_s: float, n: int = 1, slow_s: float = SLOW_S
    ) -> None:
        """`n`: how many threads are in `compute`. `slow_s`: a model is slow once a run of it takes longer."""
        self._channel = channel
        self._room = room
        self._most = batch_tokens
        self._timeout_s = run_timeout_s
        self._wake = threading.Condition()  # guards all that follows
        self._turns = Turns()
        self._open: set[str] = set()
        self._runs: set[Run] = set()
        self._slow: set[str] = set()
        self._n = n
        self._slow_s = slow_s
        self._next_figures = 0.0

    def begin(self, key: str) -> None:
        """Somebody wants an answer under that key."""
        with self._wake:
            self._open.add(key)

    def wants(self, key: str) -> bool:
        """Whether somebody still does."""
        return key in self._open

    def drop(self, key: str) -> None:
        """Nobody wants it any more: what waits is forgotten, and a run that is for nobody else ends."""
        with self._wake:
            self._open.discard(key)
            self._turns.drop(key)
            for run in self._runs:
                if key in run.jobs and not run.jobs & self._open:
                    run.stop.say()

    def submit(self, job: Job) -> None:
        """To be computed in its turn. Raises what it is refused for."""
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

    def refuse(self, key: str, error: BackendError) -> None:
        """It has failed."""
        self.drop(key)
        self._channel.send({"op": "refused", "id": key, "error": pack_error(error)})

    def send_figures(self) -> None:
        """Of each model that is loaded."""
        with self._wake:
            self._next_figures = time.monotonic() + FIGURES_S
            figures = {folder: asdict(model.figures) for folder, model in self._room.models.items()}
        self._channel.send({"op": "figures", "models": figures})

    # -- threads -------------------------------------------------------------------------------------------------

    def compute(self) -> None:
        """One lane: runs, as long as the process lives."""
        while True:
            with self._wake:
                while not (rows := self._next(time.monotonic())):
                    self._wake.wait()
                run = Run(rows[0].model, {row.job for row in rows}, Stop(), time.monotonic())
                self._runs.add(run)
            self._compute(rows, run)

    def watch(self) -> None:
        """Ends runs that take too long, and the process if one does not heed that: the gateway starts another."""
        while True:
            time.sleep(min(1.0, self._timeout_s / 4))
            with self._wake:
                longest = max((time.monotonic() - run.began for run in self._runs), default=0.0)
                for run in self._runs:
                    if time.monotonic() - run.began > self._timeout_s:
                        run.stop.say()
            if longest > 2 * self._timeout_s + 1.0:
                os._exit(1)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> list[Row]:
        """What a free lane is to compute. The last free one is kept from a slow model that has the others."""
        models = {run.model for run in self._runs}
        if len(self._runs) < self._n - 1 or len(models) != 1:
            return self._turns.take(self._limit)
        (busy,) = models
        slow = busy in self._slow or any(now - run.began > self._slow_s for run in self._runs)
        return self._turns.take(self._limit, busy, but=slow)

    def _limit(self, folder: str) -> int:
        model = self._room.models.get(folder)
        return max(LEAST_RUN, min(self._most, int(model.rate * RUN_S))) if model else self._most

    def _compute(self, rows: list[Row], run: Run) -> None:
        model: Model = rows[0].work[0].model
        started = time.perf_counter()
        found = model.outcomes([row.work[3] for row in rows], run.stop)
        took = time.perf_counter() - started
        with self._wake:
            self._runs.discard(run)
            (self._slow.add if took > self._slow_s else self._slow.discard)(run.model)
            self._wake.notify()  # a lane that was kept free may take what waits now
            if not run.stop.said:
                _learn(model, rows, took)
        if run.stop.said:
            late = EngineFailed(f"The model took longer than {self._timeout_s:g} s for one run.", code="timeout")
            found = [late if isinstance(one, EngineFailed) else one for one in found]
        self._deliver(rows, found)
        if time.monotonic() >= self._next_figures:
            self.send_figures()

    def _deliver(self, rows: list[Row], found: list[Any]) -> None:
        """Results that are whole now, by job; each job that failed is told once."""
        done: dict[Job, list[tuple[int, dict[str, Any]]]] = {}
        failed: dict[str, BackendError] = {}
        with self._wake:
            for row, value in zip(rows, found, strict=True):
                job, prompt, piece, _ = row.work
                if row.job not in self._open or row.job in failed:
                    continue
                result = value if isinstance(value, BackendError) else _put(job, prompt, piece, value)
                if isinstance(result, BackendError):
                    failed[row.job] = result
                elif result:
                    done.setdefault(job, []).append((prompt, result))
        for key, error in failed.items():
            self.refuse(key, error)
        for job, results in done.items():
            if job.id not in failed:
                self._tell(job, results)

    def _tell(self, job: Job, results: list[tuple[int, dict[str, Any]]]) -> None:
        """The end comes last, whichever lane had the last of it. What is whole at once is told in one message."""
        if len(results) == len(job.pieces):
            with self._wake:
                self._open.discard(job.id)
            self._channel.send({"op": "results", "id": job.id, "rows": results, "tokens": job.tokens})
            return
        self._channel.send({"op": "results", "id": job.id, "rows": results})
        with self._wake:
            job.untold -= len(results)
            ended = not job.untold
        if ended:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        with self._wake:
            self._open.discard(job.id)
        self._channel.send({"op": "end", "id": job.id, "tokens": job.tokens})


def _learn(model: Model, rows: list[Row], took: float) -> None:
    padded = len(rows) * max(row.length for row in rows)
    model.rate += 0.2 * (padded / max(took, 1e-6) - model.rate)
    figures = model.figures
    figures.runs += 1
    figures.rows += len(rows)
    figures.tokens += sum(row.length for row in rows)
    figures.seconds += took


def _put(job: Job, prompt: int, piece: int, value: Any) -> dict[str, Any] | BackendError | None:
    try:
        return job.put(prompt, piece, value)
    except Exception as error:  # noqa: BLE001 - a result of an odd shape must not end the lane
        return EngineFailed(f"The model's result cannot be read ({type(error).__name__}: {error}).")
