"""The radix index against a model of llama.cpp's memory: whatever happens, in whatever order, its books are true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from backends.llama.host_cache import HostCache
from backends.llama.kv_cache import ALWAYS_COMPUTED, KVCache
from backends.llama.radix import Node, common_prefix
from tests.llama.fake_memory import FakeMemory

CELLS, SEQUENCES = 48, 5
PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=14)


@dataclass(eq=False, slots=True)
class Live:
    """A sequence as the scheduler keeps it: all of `tokens[:n_past]` is computed, `tokens[:shared]` in the tree."""

    seq: int
    tokens: list[int]
    n_prompt: int
    n_past: int
    shared: int


class CacheMachine(RuleBasedStateMachine):
    """Random interleavings of all that a scheduler may do."""

    reuse = True
    lives = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self.memory = FakeMemory(CELLS)
        self.kv = KVCache(CELLS, SEQUENCES, self.memory, reuse=self.reuse)
        self.live: list[Live] = []

    # -- what a scheduler does -----------------------------------------------------------------------------------

    @rule(target=lives, prompt=PROMPTS)
    def open(self, prompt: list[int]) -> object:
        expected = self.most_that_may_match(prompt[:-ALWAYS_COMPUTED])
        before = self.kv.available
        opened = self.kv.open(prompt)
        if opened is None:
            assert len(self.live) == SEQUENCES
            return multiple()
        seq, cached = opened
        assert seq not in {s.seq for s in self.live}
        # Freeing an id may have evicted what would have matched, so `expected` is a bound then and exact otherwise.
        assert cached <= expected
        assert before - self.kv.available <= cached
        live = Live(seq, list(prompt), len(prompt), cached, cached)
        self.live.append(live)
        return live

    @rule(s=lives, n=st.integers(1, 14))
    def prefill(self, s: Live, n: int) -> None:
        n = min(n, s.n_prompt - s.n_past)
        if s not in self.live or n <= 0 or not self.kv.make_room(n):
            return
        part = s.tokens[s.n_past : s.n_past + n]
        self.memory.decode(s.seq, part, s.n_past)
        self.kv.computed(s.seq, part)
        s.n_past += n
        s.shared += n

    @rule(s=lives, token=st.integers(0, 2))
    def decode(self, s: Live, token: int) -> None:
        if s not in self.live or s.n_past < s.n_prompt or not self.kv.make_room(1):
            return
        s.tokens.append(token)
        self.memory.decode(s.seq, [token], s.n_past)
        self.kv.grow(s.seq)
        s.n_past += 1

    @rule(s=consumes(lives))
    def close(self, s: Live) -> None:
        if s not in self.live:
            return
        self.live.remove(s)
        self.kv.close(s.seq, s.tokens[s.shared : s.n_past])

    @rule(n=st.integers(0, CELLS + 2))
    def make_room(self, n: int) -> None:
        possible = self.kv.available >= n
        assert self.kv.make_room(n) is possible
        if possible:
            assert CELLS - len(self.memory.cells) >= n

    @rule()
    def clear_kept(self) -> None:
        self.kv.clear_kept()
        assert self.kv.evictable == 0

    @rule(prompt=PROMPTS)
    def match(self, prompt: list[int]) -> None:
        assert self.kv.match(prompt) == self.expected_match(prompt)

    @precondition(lambda self: len(self.live) < SEQUENCES)
    @rule(prompt=PROMPTS, chunk=st.integers(1, 14))
    def cost_is_what_it_costs(self, prompt: list[int], chunk: int) -> None:
        before, cost = self.kv.available, self.kv.cost(prompt)
        if cost + 1 > before:  # the last token's cell is computed before it turns out to be a duplicate
            return
        opened = self.kv.open(prompt)
        assert opened is not None
        s = Live(opened[0], list(prompt), len(prompt), opened[1], opened[1])
        self.live.append(s)
        while s.n_past < s.n_prompt:
            done = s.n_past
            self.prefill(s, min(chunk, max(1, self.kv.available)))
            assert s.n_past > done
        assert before - self.kv.available == cost
        self.close(s)
        assert self.kv.available == before

    # -- what must hold after each -------------------------------------------------------------------------------

    @invariant()
    def used_is_true(self) -> None:
        assert self.kv.used == len(self.memory.cells)

    @invariant()
    def evictable_is_what_no_live_sequence_holds(self) -> None:
        live = {s.seq for s in self.live}
        assert self.kv.evictable == sum(1 for cell in self.memory.cells if not cell.seqs & live)
        assert self.kv.available == CELLS - self.kv.used + self.kv.evictable

    @invariant()
    def live_sequences_see_exactly_their_tokens(self) -> None:
        for s in self.live:
            assert self.memory.tokens(s.seq) == s.tokens[: s.n_past]

    @invariant()
    def holders_cover_their_path(self) -> None:
        live = {s.seq for s in self.live}
        for path in self.paths():
            node, tokens = path[-1], [t for step in path for t in step.tokens]
            assert node.holders
            assert node.tokens
            assert node.start == sum(len(step.tokens) for step in path[:-1])
            assert node.live == len(node.holders & live)
            cells = [self.memory.sequences[seq] for seq in node.holders]
            for held in cells:
                assert [held[pos].token for pos in range(node.end)] == tokens
                assert all(held[pos] is cells[0][pos] for pos in range(node.end))

    @invariant()
    def ids_never_leak(self) -> None:
        holders, free = set(self.kv._holders), self.kv._free_ids
        assert len(set(free)) == len(free)
        assert not holders & set(free)
        assert len(holders) + len(free) == SEQUENCES
        assert set(self.memory.sequences) <= holders

    def teardown(self) -> None:
        for s in list(self.live):
            self.close(s)
        self.used_is_true()
        assert self.kv.used == self.kv.evictable
        self.kv.clear_kept()
        assert not self.memory.cells
        assert not self.kv._holders
        assert len(self.kv._free_ids) == SEQUENCES

    # -- the model -----------------------------------------------------------------------------------------------

    def paths(self) -> Iterator[list[Node]]:
        stack = [[child] for child in self.kv._root.children.values()]
        while stack:
            path = stack.pop()
            yield path
            stack.extend([*path, child] for child in path[-1].children.values())

    def most_that_may_match(self, prompt: list[int]) -> int:
        return self.expected_match(prompt)

    def expected_match(self, prompt: list[int]) -> int:
        """The longest prefix that any sequence has; of a live one only what is shared, until it ends."""
        if not self.reuse:
            return 0
        shared = {s.seq: s.shared for s in self.live}
        known = [self.memory.tokens(seq)[: shared.get(seq, CELLS)] for seq in self.memory.sequences]
        return max((common_prefix(prompt, tokens) for tokens in known), default=0)


class NoReuseMachine(CacheMachine):
    """A memory that cannot share a prefix (a recurrent state): nothing is kept, nothing is found."""

    reuse = False


class HostMachine(CacheMachine):
    """With a host's memory beside it: prefixes go there and come back, and everything else holds as before."""

    def __init__(self) -> None:
        super().__init__()
        self.host = HostCache(40)
        self.kv = KVCache(CELLS, SEQUENCES, self.memory, host=self.host, worth_copying=3, urgent_new=3)

    @rule(limit=st.integers(0, 20))
    def spill(self, limit: int) -> None:
        self.kv.spill(limit)
        assert self.kv.evictable <= limit
        self.check_host()

    @rule()
    def back_up(self) -> None:
        before = self.kv.used, self.kv.evictable
        while self.kv.back_up():
            assert (self.kv.used, self.kv.evictable) == before
        self.check_host()

    def check_host(self) -> None:
        assert self.host.used_bytes == sum(len(saved.state) for saved in self.host._saved) <= 40
        for saved in self.host._saved:
            assert list(saved.state) == saved.tokens
            assert len(saved.tokens) >= 3

    def most_that_may_match(self, prompt: list[int]) -> int:
        """What an eviction takes from the tree may make the host's copy worth its while."""
        return max(super().expected_match(prompt), self.in_host(prompt))

    def expected_match(self, prompt: list[int]) -> int:
        tree, host = super().expected_match(prompt), self.in_host(prompt)
        return host if host - tree >= 3 else tree

    def in_host(self, prompt: list[int]) -> int:
        return max((common_prefix(prompt, saved.tokens) for saved in self.host._saved), default=0)


def test_a_prefix_that_was_spilled_comes_back() -> None:
    memory = FakeMemory(32)
    kv = KVCache(32, 4, memory, host=HostCache(1000), worth_copying=4, urgent_new=4)
    first = list(range(12))
    opened = kv.open(first)
    assert opened is not None
    memory.decode(opened[0], first, 0)
    kv.computed(opened[0], first)
    kv.close(opened[0], [])
    kv.spill(0)
    assert kv.used == 0
    assert not memory.cells
    again = kv.open([*range(10), 99, 98])
    assert again is not None
    assert again[1] == 10
    assert memory.tokens(again[0]) == list(range(10))


def decoded_side_by_side(n: int) -> tuple[KVCache, FakeMemory, HostCache]:
    """Two sequences whose `n` completion tokens took turns, both ended and kept."""
    memory, host = FakeMemory(400), HostCache(1000)
    kv = KVCache(400, 4, memory, host=host, worth_copying=8, urgent_new=8)
    seqs = [computed(kv, memory, [1000 + i, 2000]) for i in range(2)]
    for step in range(n):
        for seq in seqs:
            memory.decode(seq, [step], 2 + step)
            kv.grow(seq)
    for seq in seqs:
        kv.close(seq, list(range(n)))
    return kv, memory, host


def test_cells_that_lie_one_by_one_are_copied_only_while_nobody_waits() -> None:
    kv, _, host = decoded_side_by_side(40)
    kv.spill(0)
    assert (kv.used, host.used_bytes) == (0, 0)
    kv, _, host = decoded_side_by_side(40)
    assert [kv.back_up() for _ in range(3)] == [True, True, False]
    kv.spill(0)
    assert (kv.used, host.used_bytes) == (0, 84)
    assert kv.match([1000, 2000, *range(40)]) == 42


def test_neighbouring_cells_are_copied_at_once_when_they_must_go() -> None:
    memory, host = FakeMemory(100), HostCache(1000)
    kv = KVCache(100, 4, memory, host=host, worth_copying=8, urgent_new=8)
    seq = computed(kv, memory, list(range(20)))
    for step in range(30):
        memory.decode(seq, [step], 20 + step)
        kv.grow(seq)
    kv.close(seq, list(range(30)))
    kv.spill(0)
    assert (kv.used, host.used_bytes) == (0, 50)


def test_a_long_prefix_is_not_copied_again_for_a_short_answer_after_it() -> None:
    memory, host = FakeMemory(400), HostCache(10_000)
    kv = KVCache(400, 4, memory, host=host, worth_copying=8, urgent_new=8)
    document = list(range(200))
    kv.close(computed(kv, memory, document), [])
    assert kv.back_up()
    kv.close(computed(kv, memory, [*document, *range(1000, 1010)]), [])
    assert not kv.back_up()
    kv.close(computed(kv, memory, [*document, *range(2000, 2100)]), [])
    assert kv.back_up()


def test_a_prefix_that_grew_in_place_is_copied_again() -> None:
    memory, host = FakeMemory(400), HostCache(10_000)
    kv = KVCache(400, 2, memory, host=host, worth_copying=8)
    first = list(range(40))
    longer = [*first, *range(100, 140)]
    kv.close(computed(kv, memory, first), [])
    assert kv.back_up()
    opened = kv.open(longer)
    other = kv.open([7, 7, 7])  # takes the id of the first, whose cells the second holds alone from now on
    assert opened is not None and other is not None
    memory.decode(opened[0], longer[40:], 40)
    kv.computed(opened[0], longer[40:])
    kv.close(opened[0], [])
    assert kv.back_up()


def test_the_least_recently_used_are_forgotten_first() -> None:
    host = HostCache(10)
    host.put([1, 1, 1, 1], bytes(4))
    host.put([2, 2, 2, 2], bytes(4))
    saved, n = host.find([1, 1])
    assert saved is not None and n == 2
    host.touch(saved)
    host.put([3, 3, 3, 3], bytes(4))
    assert [host.find([k] * 4)[1] for k in (1, 2, 3)] == [4, 0, 4]
    host.put([1, 1, 1, 1, 5], bytes(5))  # continues what is there: kept once
    assert host.used_bytes == 9
    host.put([9] * 11, bytes(11))
    assert host.find([9] * 11)[1] == 0
    assert host.used_bytes == 9  # nothing had to go for what cannot be kept
    assert host.fits(10)
    assert not host.fits(11)


TestHost = HostMachine.TestCase
TestHost.settings = settings(max_examples=250, stateful_step_count=40)
TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=250, stateful_step_count=40)
TestNoReuse = NoReuseMachine.TestCase
TestNoReuse.settings = settings(max_examples=40, stateful_step_count=30)


@given(a=st.lists(st.integers(0, 1)), b=st.lists(st.integers(0, 1)), offset=st.integers(0, 5))
def test_common_prefix(a: list[int], b: list[int], offset: int) -> None:
    offset = min(offset, len(b))
    expected = 0
    for x, y in zip(a, b[offset:], strict=False):
        if x != y:
            break
        expected += 1
    assert common_prefix(a, b, offset) == expected


def computed(kv: KVCache, memory: FakeMemory, tokens: list[int]) -> int:
    """Open and compute `tokens` in one go; returns the sequence id."""
    opened = kv.open(tokens)
    assert opened is not None
    seq, cached = opened
    assert kv.make_room(len(tokens) - cached)
    memory.decode(seq, tokens[cached:], cached)
    kv.computed(seq, tokens[cached:])
    return seq


def test_two_that_compute_the_same_tokens_at_once_end_with_one_set_of_cells() -> None:
    memory = FakeMemory(100)
    kv = KVCache(100, 4, memory)
    tokens = list(range(30))
    opened = [kv.open(tokens), kv.open(tokens)]
    for o in opened:
        assert o is not None
        memory.decode(o[0], tokens, 0)
        kv.computed(o[0], tokens)
    assert kv.used == 30


def test_the_least_recently_used_prefix_goes_first() -> None:
    memory = FakeMemory(300)
    kv = KVCache(300, 8, memory)
    prefixes = [[100 * i + k for k in range(100)] for i in range(3)]
    for tokens in prefixes:
        kv.close(computed(kv, memory, tokens), [])
    kv.close(computed(kv, memory, prefixes[0]), [])  # used again: now the second is the oldest
    assert kv.make_room(80)
    assert [kv.match(tokens) for tokens in prefixes] == [100, 20, 100]


def test_a_prefix_counts_as_used_until_its_sequence_ends() -> None:
    memory = FakeMemory(300)
    kv = KVCache(300, 8, memory)
    long, short = [[100 * i + k for k in range(100)] for i in range(2)]
    seq = computed(kv, memory, long)
    kv.close(computed(kv, memory, short), [])
    kv.close(seq, [])
    assert kv.make_room(150)
    assert (kv.match(long), kv.match(short)) == (100, 36)


def test_a_long_tail_is_evicted_from_its_end_so_that_a_shared_head_stays() -> None:
    memory = FakeMemory(200)
    kv = KVCache(200, 8, memory)
    tokens = list(range(200))
    kv.close(computed(kv, memory, tokens), [])
    assert kv.make_room(1)
    assert kv.match(tokens) == 200 - 64


def test_ids_run_out_only_when_all_are_live() -> None:
    memory = FakeMemory(100)
    kv = KVCache(100, 3, memory)
    for i in range(10):
        kv.close(computed(kv, memory, [i, i, i]), [])
    live = [computed(kv, memory, [20 + i]) for i in range(3)]
    assert kv.open([99]) is None
    kv.close(live[0], [])
    assert kv.open([99]) is not None
