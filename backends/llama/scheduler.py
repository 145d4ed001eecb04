"""What the next step computes: continuous batching with chunked prefill. Pure: time comes in as an argument.

Each step carries one token of every decoding sequence and as many prompt tokens as the time budget leaves. Sequences
wait until the cells that their prompt needs (not their worst case) can be had; one that does not fit yet does not hold
up the ones behind it. If the cache runs out in decode, the youngest sequence is preempted: its cells become kept
prefixes and it is resumed from its own tokens later, unseen by its client (as vLLM's recomputation does).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backends.llama.cost import Cost
from backends.llama.kv_cache import ALWAYS_COMPUTED, KVCache
from backends.llama.radix import common_prefix

DECODE_RESERVE = 16  # cells a newcomer leaves free beyond its prompt, so that it is not preempted at once
WORTH_WAITING = 32  # prompt tokens: less than this is computed twice rather than waited for
PASSED_OVER_S = 2.0  # a sequence that waited this long for cells lets nobody younger take them
MIN_CHUNK = 8  # prompt tokens a step takes on however little time is left, so that a prompt always gets on
AGING = 0.5  # of the prefill rate: how fast waiting makes up for a long prompt


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice of one request. `tokens` grows from the prompt by what is sampled.

    Attributes:
        n_prompt: leading tokens that are the prompt as the client sent it.
        max_tokens: completion tokens after which it ends.
        n_past: tokens whose cells are in the cache.
        seq: llama.cpp's sequence id; None while waiting.
        n_cached: prompt tokens found in the cache at the first admission; None before.
        shared: tokens that are in the radix tree; the rest of n_past is private.
    """

    key: tuple[str, int]
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    arrived: float
    seq: int | None = None
    n_past: int = 0
    shared: int = 0
    n_cached: int | None = None
    waits_for: tuple[Sequence, int] | None = None

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 is a decode step."""
        return len(self.tokens) - self.n_past

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.n_prompt


@dataclass(frozen=True, slots=True)
class Step:
    """(sequence, how many of its next tokens) in batch order. A part that reaches the end of the tokens is sampled.

    Figures are taken when it is planned; the sequences themselves change while it is carried out.

    Attributes:
        n_decode: parts that carry only the token sampled last.
        prompt_parts: (tokens, depth of the first) of the others.
        expected_s: seconds that it should take.
    """

    parts: tuple[tuple[Sequence, int], ...]
    admitted: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]
    n_decode: int
    prompt_parts: tuple[tuple[int, int], ...]
    expected_s: float

    @property
    def n_prefill(self) -> int:
        """Prompt tokens in it."""
        return sum(n for n, _ in self.prompt_parts)


class Scheduler:
    """The waiting line, the live sequences, and the plan of each step."""

    def __init__(
        self, kv: KVCache, *, max_sequences: int, max_batch: int, step_budget_s: float, idle_budget_s: float
    ) -> None:
        """`step_budget_s` bounds a step that others' tokens wait for, `idle_budget_s` one that newcomers wait for."""
        self.kv = kv
        self.cost = Cost()
        self.waiting: list[Sequence] = []
        self.live: list[Sequence] = []
        self.preemptions = 0
        self._max_sequences = max_sequences
        self._max_batch = max_batch
        self._step_budget_s = step_budget_s
        self._idle_budget_s = idle_budget_s

    def add(self, s: Sequence) -> None:
        self.waiting.append(s)

    def plan(self, now: float) -> Step:
        """Choose the next step's parts and make room for their cells. An empty step means: nothing to do."""
        preempted = list(self._make_room_for_decode())
        admitted = tuple(self._admit(now))
        # A prefix that came back from the host took cells that were free; others can be had, but are not free yet.
        preempted.extend(self._make_room_for_decode())
        # With nobody left to compute for, there is time for the copies first; and one that was preempted comes back.
        if self.live and not any(s.generated for s in self.waiting):
            self.kv.spill()
        decoding = [s for s in self.live if s.remaining == 1 and s.generated > 0]
        prefilling = list(self._prefill_parts(now, len(decoding)))
        parts = (*((s, 1) for s in decoding), *prefilling)
        prompt_parts = tuple((n, s.n_past) for s, n in prefilling)
        expected_s = self.cost.step_seconds(len(decoding), prompt_parts)
        return Step(parts, admitted, tuple(preempted), len(decoding), prompt_parts, expected_s)

    def computed(self, s: Sequence, n: int) -> None:
        """The step's part is in the cache: share prompt tokens, keep completion tokens private."""
        assert s.seq is not None
        prompt = min(s.n_past + n, s.n_prompt) - s.n_past
        if prompt > 0 and s.shared == s.n_past:
            self.kv.computed(s.seq, s.tokens[s.n_past : s.n_past + prompt])
            s.shared += prompt
            self.kv.grow(s.seq, n - prompt)
        else:
            self.kv.grow(s.seq, n)
        s.n_past += n

    def finish(self, s: Sequence) -> None:
        """The sequence ended or was cancelled, wherever it was. Its computed prefix stays in the cache."""
        if s in self.waiting:
            self.waiting.remove(s)
        if s.seq is not None:
            self._release(s)

    def backlog_tokens(self) -> int:
        """Prompt tokens that are still to be computed, cached prefixes not counted."""
        live = sum(s.remaining for s in self.live if s.remaining > 1 or not s.generated)
        return live + sum(len(s.tokens) - self._provided(s) for s in self.waiting)

    def newest(self) -> str:
        """Id of the job that came last, of those that wait or are computed; empty: there is none."""
        return max((s.arrived, s.key[0]) for s in (*self.live, *self.waiting))[1] if self.live or self.waiting else ""

    def provided(self, tokens: list[int]) -> int:
        """How many leading tokens of a prompt need no computing of their own: they are in the cache, can be copied
        back into it, or belong to the prompt of somebody who came before.

        For any thread: it only reads, one object at a time, and what the engine's thread changes meanwhile can make
        the figure a little wrong, never fail.
        """
        if not self.kv.reuse:
            return 0
        others = [min(common_prefix(tokens, s.tokens), s.n_prompt) for s in (*self.live, *self.waiting)]
        return max(0, min(max(self.kv.match(tokens), *others, 0), len(tokens) - ALWAYS_COMPUTED))

    def _provided(self, s: Sequence) -> int:
        """How many tokens of a waiting sequence it need not compute."""
        return max(self.kv.match(s.tokens), s.waits_for[1] if s.waits_for else 0)

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> Iterator[Sequence]:
        promised = sum(s.remaining for s in self.live)
        for s in list(self.waiting):
            if len(self.live) >= self._max_sequences:
                return
            if self._waits_for_prefix(s):
                continue
            if self.live and self.kv.cost(s.tokens) + DECODE_RESERVE + promised > self.kv.available:
                if now - s.arrived > PASSED_OVER_S:
                    return
                continue
            opened = self.kv.open(s.tokens)
            if opened is None:
                return
            self.waiting.remove(s)
            s.seq, s.n_past = opened
            s.shared = s.n_past
            if s.n_cached is None:
                s.n_cached = min(s.n_past, s.n_prompt)
            self.live.append(s)
            promised += s.remaining
            yield s

    def _waits_for_prefix(self, s: Sequence) -> bool:
        """Whether a live sequence is about to compute a prefix that `s` shares: then waiting is the faster way."""
        if not self.kv.reuse:
            return False
        if s.waits_for is not None:
            other, upto = s.waits_for
            if other.seq is not None and other.shared < upto:
                return True
            s.waits_for = None
        have = self.kv.match(s.tokens)
        for other in self.live:
            if other.shared >= other.n_prompt or other.shared < other.n_past:
                continue
            upto = min(common_prefix(s.tokens, other.tokens), other.n_prompt, len(s.tokens) - 1)
            if upto - max(have, other.shared) >= WORTH_WAITING:
                s.waits_for = (other, upto)
                return True
        return False

    # -- the parts of a step -------------------------------------------------------------------------------------

    def _prefill_parts(self, now: float, n_decoding: int) -> Iterator[tuple[Sequence, int]]:
        prefilling = [s for s in self.live if s.remaining > 1 or s.generated == 0]
        if not prefilling:
            return
        left_s = self._step_budget_s - self.cost.decode_seconds(n_decoding) if n_decoding else self._idle_budget_s
        room = self._max_batch - n_decoding
        taken = n_decoding  # cells are taken in `computed`; until then the step's parts must fit together
        rate = AGING / self.cost.each
        prefilling.sort(key=lambda s: s.remaining - (now - s.arrived) * rate)
        least = MIN_CHUNK
        for s in prefilling:
            n = min(s.remaining, room, max(self.cost.tokens_in(left_s, s.n_past), least))
            if n <= 0:
                return
            if s.remaining - n == 1 and n > 1:
                n -= 1  # a last part of one token would be computed by other kernels: see `kv_cache.ALWAYS_COMPUTED`
            if not self.kv.make_room(taken + n):
                continue
            taken, room, least = taken + n, room - n, 0
            left_s -= self.cost.prompt_seconds(n, s.n_past)
            yield s, n

    def _make_room_for_decode(self) -> Iterator[Sequence]:
        while True:
            decoding = sum(1 for s in self.live if s.remaining == 1)
            if self.kv.make_room(decoding) or len(self.live) <= 1:
                return
            youngest = max(self.live, key=lambda s: s.arrived)
            self._release(youngest)
            self.waiting.insert(0, youngest)
            self.preemptions += 1
            yield youngest

    def _release(self, s: Sequence) -> None:
        assert s.seq is not None
        self.live.remove(s)
        self.kv.close(s.seq, s.tokens[s.shared : s.n_past])
        s.seq, s.n_past, s.shared = None, 0, 0
