"""An engine without a model: the real scheduler and KV index over a fake memory and a clock that the steps advance.

The "model" says a token that depends on every token that attention would see, so that one wrong cell anywhere changes
the answer; the answer of a sequence alone is the reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from backends.llama.host_cache import HostCache
from backends.llama.kv_cache import KVCache
from backends.llama.scheduler import MIN_CHUNK, Scheduler, Sequence, Step
from tests.llama.fake_memory import FakeMemory

VOCABULARY = 50
STEP_BUDGET_S = 0.1
IDLE_BUDGET_S = 0.35


def next_token(seen: Iterable[int]) -> int:
    """The fake model."""
    value = 7
    for token in seen:
        value = (value * 31 + token + 1) % 1_000_003
    return value % VOCABULARY


def alone(prompt: list[int], n: int) -> list[int]:
    """What a sequence must say, whatever else is going on."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@dataclass
class Simulation:
    """Steps the scheduler as the engine does, and checks each step."""

    cells: int = 4096
    max_sequences: int = 8
    max_batch: int = 256
    reuse: bool = True
    host_tokens: int = 0
    seconds_per_prompt_token: float = 1 / 1000
    seconds_per_decode: float = 0.005
    now: float = 0.0
    finished: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    computed_tokens: int = 0
    steps: int = 0
    arrivals: list[tuple[float, Sequence]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = FakeMemory(self.cells)
        host = HostCache(self.host_tokens) if self.host_tokens else None
        self.kv = KVCache(
            self.cells,
            self.max_sequences + 8,
            self.memory,
            reuse=self.reuse,
            host=host,
            worth_copying=10,
            urgent_new=10,
        )
        self.scheduler = Scheduler(
            self.kv,
            max_sequences=self.max_sequences,
            max_batch=self.max_batch,
            step_budget_s=STEP_BUDGET_S,
            idle_budget_s=IDLE_BUDGET_S,
        )

    def add(self, name: str, prompt: list[int], n: int, *, at: float | None = None) -> Sequence:
        """A sequence that arrives at time `at` (now, if not given) and wants `n` tokens."""
        arrived = self.now if at is None else at
        s = Sequence((name, 0), list(prompt), len(prompt), n, arrived)
        if arrived <= self.now:
            self.scheduler.add(s)
        else:
            self.arrivals.append((arrived, s))
            self.arrivals.sort(key=lambda a: a[0])
        return s

    @property
    def busy(self) -> bool:
        return bool(self.scheduler.live or self.scheduler.waiting or self.arrivals)

    def run(self, limit: int = 50_000) -> None:
        """Until everything has finished; a scheduler that stops getting on fails."""
        for _ in range(limit):
            if not self.busy:
                self.check_idle()
                return
            if not (self.scheduler.live or self.scheduler.waiting):
                self.now = self.arrivals[0][0]
            self.step()
        raise AssertionError(f"not finished after {limit} steps: {len(self.scheduler.waiting)} wait")

    def step(self) -> Step:
        """One pass, as `Engine.step` does it."""
        while self.arrivals and self.arrivals[0][0] <= self.now:
            self.scheduler.add(self.arrivals.pop(0)[1])
        cost = self.scheduler.cost
        plan = self.scheduler.plan(self.now)
        if not plan.parts:
            assert not self.scheduler.live, "live sequences, and nothing to do: this would spin for ever"
            assert not self.scheduler.waiting, "sequences wait, nobody is live, and nobody is admitted"
            return plan
        n_decode, n_prefill = plan.n_decode, plan.n_prefill
        self.check(plan, n_decode, n_prefill)
        sampled = []
        for s, n in plan.parts:
            assert s.seq is not None
            self.memory.decode(s.seq, s.tokens[s.n_past : s.n_past + n], s.n_past)
            if n == s.remaining:
                sampled.append(s)
        said = {s.key: next_token(self.memory.tokens(s.seq)) for s in sampled if s.seq is not None}
        for s, n in plan.parts:
            self.scheduler.computed(s, n)
        seconds = self.seconds_per_decode * (n_decode > 0) + self.seconds_per_prompt_token * n_prefill
        for s in sampled:
            s.tokens.append(said[s.key])
            if s.generated >= s.max_tokens:
                self.finished[s.key] = s.tokens[s.n_prompt :]
                self.scheduler.finish(s)
        cost.observe(n_decode, plan.prompt_parts, seconds)
        self.now += seconds
        self.steps += 1
        self.computed_tokens += n_decode + n_prefill
        return plan

    def check(self, plan: Step, n_decode: int, n_prefill: int) -> None:
        """What holds for every step."""
        assert len({s.key for s, _ in plan.parts}) == len(plan.parts)
        assert all(1 <= n <= s.remaining for s, n in plan.parts)
        assert n_decode + n_prefill == sum(n for _, n in plan.parts) <= self.max_batch
        assert len(self.scheduler.live) <= self.max_sequences
        if n_decode:
            assert n_prefill <= MIN_CHUNK or plan.expected_s <= STEP_BUDGET_S + 1e-9
        decoding = [s for s in self.scheduler.live if s.remaining == 1 and s.generated > 0]
        assert n_decode == len(decoding), "a decoding sequence was left out of a step"
        for s in self.scheduler.live:
            assert s.seq is not None
            assert self.memory.tokens(s.seq) == s.tokens[: s.n_past]

    def check_idle(self) -> None:
        """Nothing is live: every cell can be had again."""
        assert self.kv.used == self.kv.evictable == len(self.memory.cells)
        assert self.kv.available == self.cells
