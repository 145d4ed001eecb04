"""Sampling against a reference that is plain and slow: float64, one token after the other, sorted in full."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from backends.llama.constraint import Allowed
from backends.llama.sampling import BLOCK, Sampler
from backends.llama.sampling_defaults import filled
from backends.types import Sampling

Row = NDArray[np.float32]


def logits(n: int, seed: int, spread: float = 4.0) -> Row:
    """Plausible logits for `n` tokens."""
    return (np.random.default_rng(seed).normal(size=n) * spread).astype(np.float32)


def adjusted(x: Row, p: Sampling, prompt: list[int], said: list[int]) -> list[float]:
    """Bias, repetition, presence and frequency penalties."""
    y = [float(v) for v in x]
    for token, bias in p.logit_bias:
        y[token] += bias
    if p.repeat_penalty is not None:
        for token in {*prompt, *said}:
            y[token] = y[token] / p.repeat_penalty if y[token] > 0 else y[token] * p.repeat_penalty
    for token, n in Counter(said).items():
        y[token] -= n * (p.frequency_penalty or 0.0) + (p.presence_penalty or 0.0)
    return y


def kept(probabilities: list[float], p: Sampling) -> set[int]:
    """top_k, then top_p of what that leaves, then min_p."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    if p.top_k:
        order = order[: p.top_k]
    if p.top_p is not None and p.top_p < 1.0:
        mass = math.fsum(probabilities[i] for i in order)
        running = 0.0
        for k, i in enumerate(order):
            running += probabilities[i]
            if running >= p.top_p * mass:
                order = order[: k + 1]
                break
    least = (p.min_p or 0.0) * max(probabilities)
    return {i for i in order if probabilities[i] >= least}


def reference(x: Row, p: Sampling, prompt: list[int] | None = None, said: list[int] | None = None) -> list[float]:
    """The probability of each token."""
    y = adjusted(x, p, prompt or [], said or [])
    t = 1.0 if p.temperature is None else p.temperature
    best = max(y)
    weights = [math.exp((v - best) / t) for v in y]
    keep = kept(weights, p)
    total = math.fsum(weights[i] for i in keep)
    return [w / total if i in keep else 0.0 for i, w in enumerate(weights)]


class Grid:
    """Random numbers that are not random: evenly spread over [0, 1), so that frequencies are probabilities."""

    def __init__(self, n: int) -> None:
        self._next = iter((np.arange(n) + 0.5) / n)

    def random(self) -> float:
        return float(next(self._next))


def frequencies(x: Row, p: Sampling, draws: int = 4000) -> NDArray[np.float64]:
    """How often each token is drawn, on a grid."""
    sampler = Sampler(p, choice=0, prompt=[])
    sampler._random = Grid(draws)  # type: ignore[assignment]
    chosen = [sampler.sample(x.copy()).token for _ in range(draws)]
    return np.bincount(chosen, minlength=len(x)) / draws


SIZES = [1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 1000, 3 * BLOCK]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "p",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(temperature=1.9),
        Sampling(top_k=5),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02),
        Sampling(logit_bias=((0, 3.0),)),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(n: int, p: Sampling) -> None:
    x = logits(n, seed=n)
    expected = reference(x, p)
    # On a grid each token's share is exact to within one grid step at each of its two ends.
    assert np.abs(frequencies(x, p) - expected).max() <= 1.01 / 4000


@pytest.mark.parametrize("n", [3, 300])
def test_real_random_numbers_give_the_same_distribution(n: int) -> None:
    """Total variation distance of 20,000 draws; its expectation is about sqrt(n / (2 pi N)) at most."""
    x, p, draws = logits(n, seed=5, spread=1.0), Sampling(seed=11), 20_000
    sampler = Sampler(p, choice=0, prompt=[])
    seen = np.bincount([sampler.sample(x.copy()).token for _ in range(draws)], minlength=n) / draws
    assert 0.5 * np.abs(seen - reference(x, p)).sum() < 2 * math.sqrt(n / draws)


def weights_of(x: Row, temperature: float) -> Row:
    return np.exp((x - x.max()) / np.float32(temperature))


@settings(max_examples=300)
@given(
    n=st.sampled_from([2, 10, 500, 2000]),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.5, 3.0, 10.0]),
    temperature=st.sampled_from([0.2, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 600),
    top_p=st.none() | st.floats(0.0, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
)
def test_the_filters_keep_exactly_the_references_tokens(
    n: int, seed: int, spread: float, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    p = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    x = logits(n, seed, spread)
    weights = weights_of(x, temperature)
    ids = set(Sampler(p, choice=0, prompt=[])._kept(weights).tolist())
    expected = kept([float(w) for w in weights], p)
    # Equal weights cannot be told apart, and a sum that meets top_p to the last bit may be cut on either side.
    differing = ids ^ expected
    edge = min(float(weights[i]) for i in expected)
    assert all(weights[i] == edge for i in differing) or (len(differing) <= 1 and borderline(weights, p))
    assert int(x.argmax()) in ids


def borderline(weights: Row, p: Sampling) -> bool:
    """Whether the nucleus ends within rounding of top_p."""
    order = np.sort(weights)[::-1].astype(np.float64)[: p.top_k or None]
    share = np.cumsum(order) / order.sum()
    return p.top_p is not None and bool(np.abs(share - p.top_p).min() < 1e-9)


def test_top_p_and_min_p_reach_below_the_first_floor() -> None:
    """A flat tail under a sharp peak: most of the nucleus is lighter than a thousandth of the likeliest."""
    x = np.full(2000, -8.0, np.float32)
    x[7] = 0.0
    x += np.linspace(0, 0.5, 2000, dtype=np.float32)
    for p in (Sampling(top_p=0.9), Sampling(min_p=1e-4), Sampling(top_k=1500), Sampling(top_k=1500, top_p=0.95)):
        weights = weights_of(x, 1.0)
        assert set(Sampler(p, choice=0, prompt=[])._kept(weights).tolist()) == kept([float(w) for w in weights], p)


@given(seed=st.integers(0, 1000), n=st.sampled_from(SIZES))
def test_greedy_takes_the_likeliest(seed: int, n: int) -> None:
    x = logits(n, seed)
    for p in (Sampling(temperature=0.0), Sampling(temperature=1e-9), Sampling(top_k=1), Sampling(top_p=0.0)):
        assert Sampler(p, choice=0, prompt=[]).sample(x.copy()).token == int(x.argmax())


def test_a_seed_reproduces_and_the_n_choices_differ() -> None:
    x, p = logits(500, 1, spread=1.0), Sampling(seed=42)

    def said(choice: int, params: Sampling = p) -> list[int]:
        sampler = Sampler(params, choice=choice, prompt=[])
        return [sampler.sample(x.copy()).token for _ in range(30)]

    assert said(0) == said(0)
    assert said(0) != said(1)
    assert said(0) != said(0, replace(p, seed=43))
    assert said(0, replace(p, seed=-1)) == said(0, replace(p, seed=-1))
    assert said(0, replace(p, seed=None)) != said(0, replace(p, seed=None))


@given(
    k=st.integers(0, 20),
    p=st.builds(
        Sampling,
        seed=st.integers(0, 5),
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        top_p=st.none() | st.just(0.9),
        presence_penalty=st.none() | st.just(1.0),
        frequency_penalty=st.none() | st.just(0.5),
        repeat_penalty=st.none() | st.just(1.3),
    ),
)
def test_resuming_goes_on_exactly(k: int, p: Sampling) -> None:
    rows = [logits(300, i, spread=1.0) for i in range(25)]
    whole = Sampler(p, choice=1, prompt=[3, 4])
    expected = [whole.sample(x.copy()).token for x in rows]
    second = Sampler(p, choice=1, prompt=[3, 4])
    second.resume(expected[:k])
    assert [second.sample(x.copy()).token for x in rows[k:]] == expected[k:]


@given(
    seed=st.integers(0, 1000),
    presence=st.sampled_from([0.0, 0.7, -1.0]),
    frequency=st.sampled_from([0.0, 0.4, -0.5]),
    repeat=st.sampled_from([None, 1.0, 1.2, 0.8]),
    bias=st.lists(st.tuples(st.integers(0, 29), st.sampled_from([-100.0, -2.0, 1.5, 100.0])), max_size=4),
)
def test_penalties_and_bias_as_in_the_reference(
    seed: int, presence: float, frequency: float, repeat: float | None, bias: list[tuple[int, float]]
) -> None:
    once = tuple(dict(bias).items())
    p = Sampling(
        temperature=0.0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repeat_penalty=repeat,
        logit_bias=once,
    )
    prompt, said = [1, 2, 2, 5], []
    sampler = Sampler(p, choice=0, prompt=prompt)
    for i in range(12):
        x = logits(30, seed + i, spread=1.0) - np.float32(4.0 * (seed % 2))  # all of them negative, at times
        y = adjusted(x, p, prompt, said)
        token = sampler.sample(x.copy()).token
        assert y[token] == pytest.approx(max(y), abs=1e-4)
        said.append(token)


def test_banned_tokens_are_never_chosen() -> None:
    """Not even where rounding puts a random number past the last weight of a block, or of all."""
    x = np.zeros(2 * BLOCK, np.float32)
    x[: BLOCK - 1] = logits(BLOCK - 1, 3, spread=0.1)
    banned = [BLOCK - 1, 2 * BLOCK - 1, 0]
    sampler = Sampler(Sampling(), choice=0, prompt=[], banned=banned)

    class Extreme:
        """The largest number below 1, and those around the border between the two blocks."""

        def __init__(self) -> None:
            weights = np.exp(x - x.max(), dtype=np.float32)
            weights[banned] = 0
            border = weights[:BLOCK].sum(dtype=np.float64) / weights.sum(dtype=np.float64)
            around = border * (1 + np.linspace(-3e-7, 3e-7, 2001))
            self.numbers = [*around, np.nextafter(1.0, 0.0), 0.0]
            self._next = iter(self.numbers)

        def random(self) -> float:
            return float(next(self._next))

    extreme = Extreme()
    sampler._random = extreme  # type: ignore[assignment]
    assert not {sampler.sample(x.copy()).token for _ in extreme.numbers} & set(banned)


# -- only some are allowed -------------------------------------------------------------------------------------------


def forms(n: int, ids: list[int]) -> list[Allowed]:
    """The same tokens in both forms."""
    added = np.full(n, -np.inf, np.float32)
    added[ids] = 0.0
    return [Allowed(few=np.array(ids, np.intp)), Allowed(added=added)]


@pytest.mark.parametrize("n", [1000, 20 * BLOCK])
@pytest.mark.parametrize("some", [1, 5, 250])
@pytest.mark.parametrize(
    "p",
    [
        Sampling(),
        Sampling(temperature=0.4, top_k=3),
        Sampling(top_k=40, top_p=0.9, min_p=0.02),
        Sampling(top_p=0.7),
        Sampling(presence_penalty=0.5, repeat_penalty=1.2, logit_bias=((0, 3.0), (7, -1.0))),
    ],
)
def test_the_allowed_ones_are_drawn_as_often_as_they_are_likely_among_themselves(
    n: int, some: int, p: Sampling
) -> None:
    x = logits(n, seed=n)
    ids = sorted({0, *np.random.default_rng(some).choice(n, some - 1, replace=False).tolist()})
    others = tuple((token, -math.inf) for token in set(range(n)) - set(ids))
    expected = reference(x, replace(p, logit_bias=p.logit_bias + others), [0, 3])
    for allowed in forms(n, ids):
        sampler = Sampler(p, choice=0, prompt=[0, 3])
        sampler._random = Grid(500)  # type: ignore[assignment]
        drawn = []
        for _ in range(500):
            drawn.append(sampler.sample(x.copy(), allowed).token)
            sampler._counts.clear()
            sampler._seen = {0, 3} if sampler._seen else set()
        seen = np.bincount(drawn, minlength=n) / 500
        assert np.abs(seen - expected).max() <= 1.01 / 500


@given(
    seed=st.integers(0, 1000),
    p=st.sampled_from([Sampling(seed=3), Sampling(seed=3, top_k=5), Sampling(seed=3, temperature=0)]),
)
def test_every_token_takes_one_random_number_however_many_are_allowed(seed: int, p: Sampling) -> None:
    """So that a completion that is resumed goes on exactly."""
    n, rng = 600, np.random.default_rng(seed)
    rows = [logits(n, seed + i, spread=1.0) for i in range(12)]
    masks = [
        rng.choice(forms(n, sorted(rng.choice(n, int(rng.choice([1, 9, 400])), replace=False).tolist()))) for _ in rows
    ]
    whole = Sampler(p, choice=1, prompt=[])
    expected = [whole.sample(x.copy(), mask).token for x, mask in zip(rows, masks, strict=True)]
    second = Sampler(p, choice=1, prompt=[])
    second.resume(expected[:5])
    rest = zip(rows[5:], masks[5:], strict=True)
    assert [second.sample(x.copy(), mask).token for x, mask in rest] == expected[5:]


def test_log_probabilities_are_of_all_tokens_though_few_are_allowed() -> None:
    x = logits(50, 2)
    free = Sampler(Sampling(temperature=0.0, top_logprobs=3), choice=0, prompt=[]).sample(x.copy())
    least = int(x.argmin())
    for allowed in forms(50, [least]):
        held = Sampler(Sampling(temperature=0.0, top_logprobs=3), choice=0, prompt=[]).sample(x.copy(), allowed)
        assert held.token == least
        assert held.top == free.top
        assert held.logprob == pytest.approx(free.logprob + float(x[least] - x.max()), abs=1e-4)


def test_nothing_allowed_is_an_error() -> None:
    for allowed in forms(20, []):
        with pytest.raises(ArithmeticError):
            Sampler(Sampling(), choice=0, prompt=[]).sample(np.zeros(20, np.float32), allowed)


# -- log-probabilities -----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.5, 2.0]), top_k=st.sampled_from([None, 1, 3]))
def test_logprobs_are_the_models_own(seed: int, temperature: float, top_k: int | None) -> None:
    """Of the distribution at temperature 1, before bias, penalties and filters; over all tokens they sum to 1."""
    n = 20
    x = logits(n, seed)
    true = np.log(np.array(reference(x, Sampling())))
    p = Sampling(temperature=temperature, top_k=top_k, logit_bias=((3, 5.0),), top_logprobs=n, seed=1)
    chosen = Sampler(p, choice=0, prompt=[]).sample(x.copy())
    assert math.fsum(math.exp(lp) for _, lp in chosen.top) == pytest.approx(1.0, abs=1e-5)
    assert chosen.logprob == pytest.approx(true[chosen.token], abs=1e-4)
    assert [lp for _, lp in chosen.top] == sorted((lp for _, lp in chosen.top), reverse=True)
    assert dict(chosen.top) == pytest.approx({i: float(true[i]) for i in range(n)}, abs=1e-4)


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (5, 5), (20, 10)])
def test_as_many_alternatives_as_asked_for(asked: int, given: int) -> None:
    chosen = Sampler(Sampling(temperature=0.0, top_logprobs=asked), choice=0, prompt=[]).sample(logits(10, 1))
    assert len(chosen.top) == given
    if given:
        assert chosen.top[0] == (chosen.token, chosen.logprob)


def test_alternatives_of_equal_likelihood_come_in_order_of_their_ids() -> None:
    x = np.array([1, 2, 2, 2, 0], np.float32)
    chosen = Sampler(Sampling(top_logprobs=4, temperature=0.0), choice=0, prompt=[]).sample(x.copy())
    assert [t for t, _ in chosen.top] == [1, 2, 3, 0]


# -- what should not happen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(temperature: float, bad: float) -> None:
    x = logits(50, 1)
    x[17] = bad
    with pytest.raises(ArithmeticError):
        Sampler(Sampling(temperature=temperature), choice=0, prompt=[]).sample(x.copy())


def test_all_tokens_banned_is_an_error() -> None:
    with pytest.raises(ArithmeticError):
        Sampler(Sampling(), choice=0, prompt=[], banned=[0, 1]).sample(np.zeros(2, np.float32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-4, 0.01, 1.0, 2.0])
def test_extreme_logits_are_no_trouble(temperature: float) -> None:
    x = np.array([3e38, -3e38, 0.0, -np.inf, 3e38], np.float32)
    for p in (Sampling(), Sampling(top_p=0.5), Sampling(top_k=2), Sampling(min_p=0.5), Sampling(top_logprobs=2)):
        sampler = Sampler(replace(p, temperature=temperature), choice=0, prompt=[])
        with np.errstate(over="ignore"):
            assert all(sampler.sample(x.copy()).token in (0, 4) for _ in range(20))


# -- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_fill_only_what_is_missing() -> None:
    defaults = Sampling(temperature=0.2, top_p=0.9, max_tokens=5, stop=("x",))
    got = filled(Sampling(temperature=0.0, max_tokens=7), defaults)
    assert (got.temperature, got.top_p, got.max_tokens, got.stop) == (0.0, 0.9, 7, ())
