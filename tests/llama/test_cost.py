"""The step's cost is learned from steps: how much a prompt token takes where in its prompt, on a box that changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llama.cost import Cost


@pytest.mark.parametrize("slow", [1.0, 4.0])
def test_learns_decode_and_prefill_and_follows_a_slower_box(slow: float) -> None:
    cost, dice = Cost(), random.Random(1)
    for factor in (1.0, slow):
        for _ in range(200):
            n = dice.choice([1, 4, 8])
            depth, tokens = dice.randrange(4000), dice.choice([0, 0, 16, 48])
            each = 0.0025 + 0.002 * (depth + tokens / 2) / 1000
            parts = [(tokens, depth)] if tokens else []
            cost.observe(n, parts, factor * (0.004 * n + tokens * each))
    assert cost.decode_seconds(4) == pytest.approx(slow * 0.016, rel=0.1)
    assert cost.prompt_seconds(32, 0) == pytest.approx(slow * 32 * (0.0025 + 0.002 * 0.016), rel=0.2)
    assert cost.prompt_seconds(32, 3000) == pytest.approx(slow * 32 * (0.0025 + 0.002 * 3.016), rel=0.1)


def test_a_long_prompt_teaches_the_price_of_depth() -> None:
    """After one prompt of 3,500 tokens the first chunk of a short one is not taken for a deep one."""
    cost, depth = Cost(), 0
    while depth < 3500:
        n = max(8, cost.tokens_in(0.1, depth))
        cost.observe(1, [(n, depth)], 0.008 + n * (0.0025 + 0.002 * (depth + n / 2) / 1000))
        depth += n
    assert cost.prompt_seconds(32, 3500) == pytest.approx(32 * 0.00953, rel=0.1)
    assert cost.prompt_seconds(32, 0) == pytest.approx(32 * 0.00253, rel=0.6)


@given(st.floats(1e-5, 1), st.floats(0, 0.1), st.floats(0, 10), st.integers(0, 100_000))
def test_tokens_in_is_the_inverse_of_prompt_seconds(base: float, slope: float, seconds: float, depth: int) -> None:
    cost = Cost(base=base, slope=slope)
    n = cost.tokens_in(seconds, depth)
    assert cost.prompt_seconds(n, depth) <= seconds * 1.001 + 1e-9
    assert cost.prompt_seconds(n + 1, depth) >= seconds * 0.999 - 1e-9
