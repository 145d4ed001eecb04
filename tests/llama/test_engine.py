"""The step loop over a model that is a function: exact outputs, exact counts, whatever is preempted or cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from backends.errors import EngineFailed, InvalidRequest
from backends.llama.bindings import Context, Model
from backends.llama.constraint import TOO_COMPLEX, Allowed, Constraint, LostError
from backends.llama.engine import Engine
from backends.llama.host_cache import HostCache
from backends.llama.jobs import Job
from backends.llama.kv_cache import KVCache
from backends.llama.process import error_of
from backends.llama.protocol import Began, Failed, Output
from backends.llama.scheduler import Scheduler
from backends.types import Chunk, Grammar, Request, Sampling, Usage
from tests.llama.fake_memory import FakeMemory
from tests.llama.simulation import VOCABULARY, alone, next_token

N_VOCAB = 2000  # prompts use ids that the fake model never says
EOG = 1999


class FakeModel:
    """Token 7 is shown as ` 7`."""

    eog = frozenset({EOG})
    n_vocab = N_VOCAB

    def piece(self, token: int) -> bytes:
        return f" {token}".encode()

    shown = piece


class FakeContext(FakeMemory):
    """`bindings.Context` over the fake memory; says `next_token` of what it sees, or NaN where that has `poison`."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells)
        self.poison: int | None = None
        self.abort_next = False
        self.threads = 0
        self._parts: list[tuple[list[int], int, int, bool]] = []
        self._seen: list[list[int]] = []

    def put(self, at: int, tokens: Sequence[int], position: int, seq: int, *, output: bool) -> int:
        if at == 0:
            self._parts = []
        self._parts.append((list(tokens), position, seq, output))
        return at + len(tokens)

    def decode(self, n: int) -> bool:  # type: ignore[override]
        assert n == sum(len(tokens) for tokens, *_ in self._parts)
        for tokens, position, seq, _ in self._parts:
            super().decode(seq, tokens, position)
        if self.abort_next:  # llama.cpp leaves the cells that it has filled by then
            self.abort_next = False
            return False
        self._seen = [self.tokens(seq) for _, _, seq, output in self._parts if output]
        return True

    def logits(self, rows: int) -> NDArray[np.float32]:
        assert rows == len(self._seen)
        x = np.zeros((rows, N_VOCAB), np.float32)
        for row, seen in zip(x, self._seen, strict=True):
            row[next_token(seen)] = 10.0
            if self.poison in seen:
                row[3] = np.nan
        return x

    def abort(self, wanted: bool) -> None:
        self.abort_next = wanted


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; ten seconds are far more than it takes."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


class Bench:
    """An engine without threads: the test steps it."""

    def __init__(
        self,
        cells: int = 2000,
        *,
        max_sequences: int = 4,
        max_batch: int = 64,
        n_ctx: int = 2000,
        host_tokens: int = 300,
    ) -> None:
        self.quiet: list[list[Output]] = []
        self.out: list[Output] = []
        self.now = 0.0
        self.context = FakeContext(cells)
        host = HostCache(host_tokens) if host_tokens else None
        self.kv = KVCache(cells, max_sequences + 4, self.context, host=host, worth_copying=20, urgent_new=20)
        scheduler = Scheduler(
            self.kv, max_sequences=max_sequences, max_batch=max_batch, step_budget_s=0.1, idle_budget_s=0.3
        )
        self.engine = Engine(
            cast(Model, FakeModel()),
            cast(Context, self.context),
            scheduler,
            None,
            self.out.extend,
            n_ctx=min(n_ctx, cells),
            when_quiet=lambda: self.quiet.append(list(self.out)),
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def submit(
        self, name: str, *prompts: list[int], n: int = 1, generated: Any = None, constraint: Any = None, **params: Any
    ) -> None:
        sampling = Sampling(**{"temperature": 0.0, "max_tokens": 10, **params})
        self.engine.submit(Job(name, prompts, n, sampling, generated or {}, constraint))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            if not self.engine.idle or self.engine._inbox:
                self.engine._intake()
                self.engine.step()

    def run(self) -> None:
        for _ in range(20_000):
            if self.engine.idle and not self.engine._inbox:
                assert self.kv.used == self.kv.evictable == len(self.context.cells)
                return
            self.step()
        raise AssertionError("the engine does not come to an end")

    def of(self, name: str) -> list[object]:
        return [event for key, event in self.out if key == name]

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return [t for e in self.of(name) if isinstance(e, Chunk) and e.index == index for t in e.tokens]

    def text(self, name: str, index: int = 0) -> str:
        return "".join(e.text for e in self.of(name) if isinstance(e, Chunk) and e.index == index)

    def usage(self, name: str) -> Usage:
        """Of a finished request; the contract is checked on the way."""
        first, *events, last = self.of(name)
        assert isinstance(first, Began)
        assert isinstance(last, Usage)
        assert all(isinstance(e, Chunk) for e in events)
        ended = [e.index for e in events if isinstance(e, Chunk) and e.finish_reason]
        assert len(set(ended)) == len(ended)
        assert {e.index for e in events if isinstance(e, Chunk)} == set(ended)
        assert 0 <= last.cached_tokens < last.prompt_tokens
        return last


def prompt(n: int, start: int = 0) -> list[int]:
    return [1000 + start, *range(100, 100 + n - 1)]


def test_one_answer() -> None:
    bench = Bench()
    bench.submit("a", prompt(100), max_tokens=5)
    bench.run()
    expected = alone(prompt(100), 5)
    assert bench.tokens("a") == expected
    assert bench.text("a") == "".join(f" {t}" for t in expected)
    assert bench.usage("a") == Usage(100, 5, 0)


def test_choices_and_prompts_are_numbered_and_counted_once() -> None:
    bench = Bench()
    bench.submit("a", prompt(50), prompt(70, 1), n=3)
    bench.run()
    for index in range(6):
        assert bench.tokens("a", index) == alone(prompt(50) if index < 3 else prompt(70, 1), 10)
    assert bench.usage("a") == Usage(120, 60, 0)


@settings(max_examples=150)
@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 90), st.integers(0, 2), st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=8
    ),
    cells=st.integers(150, 500),
    max_batch=st.sampled_from([8, 64]),
    host_tokens=st.sampled_from([0, 300]),
    aborts=st.sets(st.integers(0, 80)),
    data=st.data(),
)
def test_whatever_is_preempted_aborted_or_cancelled(
    jobs: list[tuple[int, int, int, int]],
    cells: int,
    max_batch: int,
    host_tokens: int,
    aborts: set[int],
    data: st.DataObject,
) -> None:
    bench = Bench(cells, max_batch=max_batch, host_tokens=host_tokens)
    cancels = data.draw(st.dictionaries(st.integers(0, 60), st.integers(0, len(jobs) - 1), max_size=3))
    cancelled = set()
    for i, (length, family, n, max_tokens) in enumerate(jobs):
        bench.submit(f"r{i}", prompt(length, family), n=n, max_tokens=max_tokens)
        bench.step(2)
    for step in range(80):
        if step in cancels:
            bench.engine.cancel(f"r{cancels[step]}")
            cancelled.add(cancels[step])
        bench.context.abort_next = step in aborts
        if bench.engine.idle and not bench.engine._inbox:
            break
        bench.engine._intake()
        bench.context.abort_next = step in aborts
        bench.engine.step()
    bench.context.abort_next = False
    bench.run()
    for i, (length, family, n, max_tokens) in enumerate(jobs):
        expected = alone(prompt(length, family), max_tokens)
        if i in cancelled:
            assert all(bench.tokens(f"r{i}", k) == expected[: len(bench.tokens(f"r{i}", k))] for k in range(n))
            continue
        assert all(bench.tokens(f"r{i}", k) == expected for k in range(n))
        usage = bench.usage(f"r{i}")
        assert (usage.prompt_tokens, usage.completion_tokens) == (length, n * max_tokens)


def test_a_prompt_that_is_preempted_counts_its_cached_tokens_once() -> None:
    bench = Bench(260, max_sequences=2, max_batch=4)
    bench.submit("warm", prompt(30, 1), max_tokens=1)
    bench.run()
    bench.submit("talker", prompt(40, 0), max_tokens=200)
    bench.step(70)
    bench.submit("late", prompt(140, 1), max_tokens=2)
    bench.run()
    assert bench.engine.scheduler.preemptions > 0
    assert bench.tokens("late") == alone(prompt(140, 1), 2)
    assert bench.usage("late").cached_tokens == 30


def test_one_that_comes_back_from_preemption_finds_a_free_cell() -> None:
    """It decodes in the very step that admits it, when all cells hold kept prefixes that somebody has to evict."""
    bench = Bench(150, host_tokens=0)
    jobs = [(1, 0, 1, 22), (1, 0, 1, 26), (1, 0, 2, 10), (34, 1, 2, 39), (21, 0, 3, 26)]
    for i, (length, family, n, max_tokens) in enumerate(jobs):
        bench.submit(f"r{i}", prompt(length, family), n=n, max_tokens=max_tokens)
        bench.step(2)
    bench.run()
    assert bench.engine.scheduler.preemptions > 0
    for i, (length, family, _, max_tokens) in enumerate(jobs):
        assert bench.tokens(f"r{i}") == alone(prompt(length, family), max_tokens)


def test_resuming_says_the_rest() -> None:
    whole = alone(prompt(40), 20)
    bench = Bench()
    bench.submit("a", prompt(40), max_tokens=20, generated={0: whole[:8]})
    bench.run()
    assert bench.tokens("a") == whole[8:]
    assert bench.text("a") == "".join(f" {t}" for t in whole[8:])


def test_the_context_is_the_end() -> None:
    bench = Bench(n_ctx=60)
    bench.submit("a", prompt(50), max_tokens=None)
    bench.run()
    assert bench.tokens("a") == alone(prompt(50), 10)
    assert [e.finish_reason for e in bench.of("a") if isinstance(e, Chunk)][-1] == "length"


def test_a_stop_string_ends_one_choice_and_not_its_sibling() -> None:
    said = alone(prompt(40), 10)
    bench = Bench()
    bench.submit("a", prompt(40), stop=(f" {said[4]} {said[5]}",))
    bench.submit("b", prompt(40))
    bench.run()
    assert bench.text("a") == "".join(f" {t}" for t in said[:4])
    assert [e.finish_reason for e in bench.of("a") if isinstance(e, Chunk)][-1] == "stop"
    assert [e.stopped_by for e in bench.of("a") if isinstance(e, Chunk)][-1] == f" {said[4]} {said[5]}"
    assert not any(e.stopped_by for e in bench.of("b") if isinstance(e, Chunk))
    assert bench.tokens("b") == said


def test_logits_that_are_no_numbers_fail_one_request_and_not_its_neighbour() -> None:
    bench = Bench()
    bench.context.poison = 1001
    bench.submit("bad", prompt(20, 1), n=2)
    bench.submit("good", prompt(20, 2))
    bench.run()
    assert isinstance(bench.of("bad")[-1], Failed)
    assert sum(isinstance(e, Failed) for e in bench.of("bad")) == 1
    assert bench.tokens("good") == alone(prompt(20, 2), 10)


class Lost(Constraint):
    """A grammar that lets everything through, and cannot be followed beyond some tokens."""

    def __init__(self, left: int) -> None:
        self.left = left

    done = False

    def copy(self) -> Lost:
        return Lost(self.left)

    def fill(self) -> None:
        pass

    def allowed(self) -> Allowed:
        return Allowed(added=np.zeros(1, np.float32))

    def take(self, tokens: Sequence[int]) -> None:
        self.left -= len(tokens)
        if self.left < 0:
            raise LostError("it is too complex")


@pytest.mark.parametrize("generated", [None, {0: [1, 2, 3, 4], 1: [1]}, {0: [1], 1: [1, 2, 3, 4]}])
def test_a_grammar_that_fails_on_the_way_fails_for_good(generated: Any) -> None:
    bench = Bench()
    bench.submit("bad", prompt(20, 1), n=2, constraint=Lost(3), generated=generated)
    bench.submit("good", prompt(20, 2))
    bench.run()
    (failed,) = [event for event in bench.of("bad") if isinstance(event, Failed)]
    assert failed is bench.of("bad")[-1]
    assert bench.tokens("good") == alone(prompt(20, 2), 10)
    asked = Request("bad", "m", "chat", grammar=Grammar("regex", "a", "grammar"))
    error = error_of(failed, asked)
    assert isinstance(error, InvalidRequest)
    assert (error.code, error.param, error.retry_after) == (TOO_COMPLEX, "grammar", None)
    assert isinstance(error_of(Failed("The model failed."), asked), EngineFailed)


@pytest.mark.parametrize("when", [0, 1, 3, 8])
def test_cancelling_tells_nobody_and_frees_all(when: int) -> None:
    bench = Bench(max_batch=16)
    bench.submit("a", prompt(100), n=2, max_tokens=50)
    bench.step(when)
    before = len(bench.of("a"))
    bench.engine.cancel("a")
    bench.run()
    assert len(bench.of("a")) == before


def test_cancelling_what_is_unknown_or_over_does_nothing() -> None:
    bench = Bench()
    bench.engine.cancel("nobody")
    bench.submit("a", prompt(10))
    bench.run()
    bench.engine.cancel("a")
    bench.run()
    assert bench.usage("a")


def test_what_was_computed_is_backed_up_while_nothing_happens() -> None:
    """And whoever comes then is answered as ever."""
    bench = Bench(host_tokens=1000)
    thread = threading.Thread(target=bench.engine.run)
    thread.start()
    try:
        for name, prompt in (("a", list(range(100, 200))), ("b", list(range(300, 360)))):
            bench.submit(name, prompt)
            wait_for(
                lambda name=name, prompt=prompt: (
                    bench.kv._backups is not None and bench.kv._backups.host.find(prompt)[1] == len(prompt)
                )
            )
            assert bench.tokens(name) == alone(prompt, 10)
    finally:
        bench.engine.close()
        thread.join(10)
    assert not thread.is_alive()
    assert bench.kv.used == bench.kv.evictable > 0


def test_what_later_requests_need_is_made_ready_once_and_only_when_nobody_asks() -> None:
    bench = Bench()
    bench.submit("a", prompt(10))
    thread = threading.Thread(target=bench.engine.run)
    thread.start()
    try:
        wait_for(lambda: bool(bench.quiet))
        assert any(key == "a" and isinstance(event, Usage) for key, event in bench.quiet[0]), "the answer came first"
        bench.submit("b", prompt(20))
        wait_for(lambda: any(key == "b" and isinstance(event, Usage) for key, event in bench.out))
    finally:
        bench.engine.close()
        thread.join(10)
    assert len(bench.quiet) == 1


def test_a_closed_engine_stops() -> None:
    bench = Bench()
    bench.submit("a", prompt(10), max_tokens=1000)
    bench.engine.close()
    bench.engine.run()
    assert not bench.tokens("a")


def test_an_end_token_ends_it_and_is_not_shown() -> None:
    """The fake model says only ids below its vocabulary; a bias makes it say the end token."""
    assert VOCABULARY < EOG
    bench = Bench()
    bench.submit("a", prompt(10), logit_bias=((EOG, 100.0),))
    bench.submit("b", prompt(10), logit_bias=((EOG, 100.0),), ignore_eos=True)
    bench.run()
    assert (bench.text("a"), bench.tokens("a")) == ("", [EOG])
    assert [e.finish_reason for e in bench.of("a") if isinstance(e, Chunk)] == ["stop"]
    assert bench.tokens("b") == alone(prompt(10), 10)
