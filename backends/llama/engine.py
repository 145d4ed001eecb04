"""The step loop of one model: intake → plan → decode → sample → emit. Runs in the worker's main thread.

Other threads only `submit` and `cancel`; everything else belongs to the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from backends.llama import sampling
from backends.llama.bindings import Context, Model
from backends.llama.constraint import TOO_COMPLEX, LostError
from backends.llama.governor import Governor
from backends.llama.jobs import Choice, Counters, Job, Running
from backends.llama.protocol import Began, Failed, Output
from backends.llama.scheduler import Scheduler, Sequence, Step
from backends.types import Usage

QUIET_S = 0.05  # without a request before the engine does its own housekeeping
ABORTABLE_S = 0.06  # a step expected to be shorter ends soon enough by itself

Emit = Callable[[list[Output]], None]


class Engine:
    """One model, one context, any number of sequences."""

    def __init__(
        self,
        model: Model,
        context: Context,
        scheduler: Scheduler,
        governor: Governor | None,
        emit: Emit,
        *,
        n_ctx: int,
        when_quiet: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`when_quiet` is called once, at the first moment that nobody asks for anything."""
        self.counters = Counters()
        self.scheduler = scheduler
        self._model = model
        self._context = context
        self._governor = governor
        self._emit = emit
        self._n_ctx = n_ctx
        self._when_quiet: Callable[[], None] | None = when_quiet
        self._clock = clock
        self._jobs: dict[str, Running] = {}
        self._by_key: dict[tuple[str, int], Choice] = {}
        self._wake = threading.Condition()
        self._inbox: list[Job | str] = []
        self._abortable: frozenset[str] = frozenset()
        self._closed = False
        self._beside = ThreadPoolExecutor(1, "masks")

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or computed."""
        return not self._jobs

    # -- from other threads --------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a request; its outputs come through `emit`."""
        with self._wake:
            self._inbox.append(job)
            self._wake.notify()

    def cancel(self, job_id: str) -> None:
        """Forget a request wherever it is; a long prefill is aborted in the middle."""
        with self._wake:
            self._inbox.append(job_id)
            if job_id in self._abortable:
                self._context.abort(True)
            self._wake.notify()

    def close(self) -> None:
        """End the loop after the step that runs now."""
        with self._wake:
            self._closed = True
            self._context.abort(True)
            self._wake.notify()

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Step until closed."""
        while self._intake():
            self.step()

    def step(self) -> None:
        """One pass: choose, compute, sample, emit."""
        started = self._clock()
        plan = self.scheduler.plan(started)
        out: list[Output] = []
        self._note_admitted(plan, out)
        if not plan.parts:
            if out:
                self._emit(out)
            return
        rows = self._fill_batch(plan)
        decoding = self._clock()
        masks = self._fill_masks(rows)
        done = self._decode(plan)
        decoded = self._clock()
        if masks:
            masks.result()
        if done:
            self._advance(plan, rows, out)
            self.scheduler.cost.observe(plan.n_decode, plan.prompt_parts, decoded - decoding)
        if out:
            self._emit(out)
        ended = self._clock()
        if done:
            self._count(plan, ended - started, (decoding - started) + (ended - decoded))
        if self._governor and self._governor.update(ended):
            self._context.set_threads(self._governor.threads)

    def _intake(self) -> bool:
        """Take in what other threads left; sleeps while there is nothing to do. False once closed."""
        self._sleep()
        with self._wake:
            inbox, self._inbox = self._inbox, []
            self._abortable = frozenset()
            self._context.abort(False)
        cancelled = False
        for item in inbox:
            if isinstance(item, Job):
                self._add(item)
            elif running := self._jobs.get(item):
                self._remove(running)
                cancelled = True
        if cancelled:
            self._emit([])  # nobody is left to tell, but the statistics changed
        return not self._closed

    def _sleep(self) -> None:
        """Until there is something to do. Meanwhile, what later requests need is made ready, and what others left in
        the cache is backed up, a prefix at a time."""
        if self._jobs:
            return
        limit: float | None = QUIET_S
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._closed or bool(self._inbox), limit):
                    return
            if self._when_quiet:
                self._when_quiet()
                self._when_quiet, limit = None, 0.0
                continue
            limit = 0.0 if self.scheduler.kv.back_up() else None

    def _add(self, job: Job) -> None:
        running = self._jobs[job.id] = Running(job, {}, prompt_tokens=sum(map(len, job.prompts)))
        self.counters.prompt_tokens += running.prompt_tokens
        for index in range(len(job.prompts) * job.n):
            try:
                choice = Choice.begin(self._model, job, index, self._n_ctx, self._clock())
            except LostError as e:  # by what another engine wrote of it
                self._emit([(job.id, _failed(e))])
                self._remove(running)
                return
            running.choices[index] = choice
            self._by_key[choice.sequence.key] = choice
            self.scheduler.add(choice.sequence)

    def _remove(self, running: Running) -> None:
        for choice in running.choices.values():
            self._end_choice(running, choice)
        del self._jobs[running.job.id]

    def _end_choice(self, running: Running, choice: Choice) -> None:
        s = choice.sequence
        self.scheduler.finish(s)
        del self._by_key[s.key]
        if choice.index % running.job.n == 0:  # like the prompt itself, once for its n choices
            running.cached_tokens += s.n_cached or 0
            self.counters.cached_tokens += s.n_cached or 0

    # -- parts of a step -----------------------------------------------------------------------------------------

    def _note_admitted(self, plan: Step, out: list[Output]) -> None:
        for s in plan.admitted:
            running = self._jobs[s.key[0]]
            if not running.began:
                running.began = True
                out.append((s.key[0], Began()))

    def _fill_batch(self, plan: Step) -> list[Sequence]:
        """Write the step into the batch; returns the sequences whose next token will be sampled, in row order."""
        at, rows = 0, []
        for s, n in plan.parts:
            assert s.seq is not None
            output = n == s.remaining
            at = self._context.put(at, s.tokens[s.n_past : s.n_past + n], s.n_past, s.seq, output=output)
            if output:
                rows.append(s)
        return rows

    def _fill_masks(self, rows: list[Sequence]) -> Future[None] | None:
        """What each constrained sequence may say next, found out while the model computes."""
        wanted = [c for s in rows if (choice := self._by_key.get(s.key)) and (c := choice.constraint)]
        if not wanted:
            return None

        def fill() -> None:
            for constraint in wanted:
                constraint.fill()

        return self._beside.submit(fill)

    def _decode(self, plan: Step) -> bool:
        if plan.expected_s > ABORTABLE_S:
            with self._wake:
                self._abortable = frozenset(s.key[0] for s, _ in plan.parts)
                if self._closed or any(item in self._abortable for item in self._inbox if isinstance(item, str)):
                    return False
        if self._context.decode(sum(n for _, n in plan.parts)):
            return True
        for s, _ in plan.parts:
            assert s.seq is not None
            self._context.rm(s.seq, s.n_past, -1)
        return False

    def _advance(self, plan: Step, rows: list[Sequence], out: list[Output]) -> None:
        for s, n in plan.parts:
            self.scheduler.computed(s, n)
        if not rows:
            return
        logits = self._context.logits(len(rows))
        for row, s in enumerate(rows):
            choice = self._by_key.get(s.key)
            if choice is None:
                continue  # a sibling's failure ended its job in this very step
            try:
                chosen = choice.sample(logits[row])
            except ArithmeticError as e:
                out.append((s.key[0], _failed(e)))
                self._remove(self._jobs[s.key[0]])
                continue
            self._take(choice, chosen, out)

    def _take(self, choice: Choice, chosen: sampling.Choice, out: list[Output]) -> None:
        key = choice.sequence.key[0]
        chunk = choice.take(self._model, chosen)
        out.append((key, chunk))
        running = self._jobs[key]
        running.completion_tokens += 1
        self.counters.completion_tokens += 1
        if chunk.finish_reason:
            self._finish(running, choice, out)

    def _finish(self, running: Running, choice: Choice, out: list[Output]) -> None:
        self._end_choice(running, choice)
        del running.choices[choice.index]
        if not running.choices:
            usage = Usage(running.prompt_tokens, running.completion_tokens, running.cached_tokens)
            out.append((running.job.id, usage))
            del self._jobs[running.job.id]

    def _count(self, plan: Step, seconds: float, python: float) -> None:
        c = self.counters
        c.steps += 1
        c.step_seconds += seconds
        c.python_seconds += python
        if n := plan.n_decode:
            rate = n / seconds
            c.decode_rate += 0.1 * (rate - c.decode_rate) if c.decode_rate else rate


def _failed(error: ArithmeticError) -> Failed:
    if isinstance(error, LostError):
        return Failed(f"The answer cannot be held to its form: {error}.", TOO_COMPLEX)
    return Failed(f"The model failed: {error}.")
