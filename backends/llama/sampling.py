"""Choosing the next token from logits, in NumPy.

Order of the steps (as in vLLM and Hugging Face): logit bias, repetition penalty, presence and frequency penalty,
temperature, then top_k, top_p and min_p on what is left. Presence and frequency count completion tokens only, the
repetition penalty counts the prompt as well (Keskar et al. 2019, arXiv:1909.05858).

One random number per token, from PCG64: a sequence that is resumed after k tokens advances the generator by k and goes
on exactly as it would have.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.types import Sampling

Logits = NDArray[np.float32]
# Tokens more than this many nats below the likeliest cannot be drawn: e^-20 x 200,000 tokens is 4e-4 of its mass at the
# very worst, 1e-6 in practice, and sorting them would cost more than the rest of the step.
TAIL_NATS = 20.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token; `logprob` and `top` (token, log-probability; likeliest first) only when asked for."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The sampling state of one sequence: its parameters, its random numbers and what it has said so far."""

    def __init__(self, params: Sampling, *, choice: int, prompt: Iterable[int], banned: Sequence[int] = ()) -> None:
        """`choice` tells the n completions of one seed apart; `banned` tokens are never chosen."""
        self.params = params
        self.temperature = 1.0 if params.temperature is None else params.temperature
        self.seed = secrets.randbits(63) if params.seed is None else params.seed & (2**64 - 1)
        self._bits = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(choice,)))
        self._random = np.random.Generator(self._bits)
        self._penalize = bool(params.presence_penalty or params.frequency_penalty)
        self._repeat = params.repeat_penalty if params.repeat_penalty not in (None, 1.0) else None
        self._counts: dict[int, int] = {}
        self._seen: set[int] = set(prompt) if self._repeat else set()
        bias = dict(params.logit_bias) | dict.fromkeys(banned, -np.inf)
        self._bias_ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._plain = not (len(bias) or self._penalize or self._repeat)

    def resume(self, generated: Sequence[int]) -> None:
        """Take over after these completion tokens, which another engine chose with the same parameters and seed."""
        self._bits.advance(len(generated))
        for token in generated:
            self._note(token)

    def sample(self, logits: Logits) -> Choice:
        """The next token from one row of logits, shape [n_vocab]; the row is not changed."""
        x = logits if self._plain else self._adjusted(logits)
        likeliest = int(x.argmax())  # NaN wins argmax
        if not np.isfinite(x[likeliest]):
            raise ArithmeticError("the model computed logits that are not finite")
        token = likeliest if self.temperature <= 0 else self._draw(x, x[likeliest])
        self._note(token)
        if self.params.top_logprobs is None:
            return Choice(token)
        return self._with_logprobs(token, logits)

    def _note(self, token: int) -> None:
        if self._penalize:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._repeat:
            self._seen.add(token)

    def _adjusted(self, logits: Logits) -> Logits:
        x = logits.copy()
        x[self._bias_ids] += self._bias
        if self._repeat and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            v = x[ids]
            x[ids] = np.where(v > 0, v / self._repeat, v * self._repeat)
        if self._penalize and self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            n = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            x[ids] -= n * (self.params.frequency_penalty or 0.0) + (self.params.presence_penalty or 0.0)
        return x

    def _draw(self, x: Logits, best: np.float32) -> int:
        u = self._random.random()
        span = TAIL_NATS
        if self.params.min_p:
            span = min(span, -float(np.log(self.params.min_p)))
        ids = np.flatnonzero(x >= best - np.float32(span * self.temperature))
        if self.params.top_k and self.params.top_k < len(ids):
            ids = ids[np.argpartition(x[ids], -self.params.top_k)[-self.params.top_k :]]
            ids.sort()
        weights = np.exp((x[ids].astype(np.float64) - float(best)) / self.temperature)
        if self.params.top_p is not None and self.params.top_p < 1.0:
            keep = _nucleus(weights, self.params.top_p)
            ids, weights = ids[keep], weights[keep]
        cumulative = np.cumsum(weights)
        at = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])

    def _with_logprobs(self, token: int, logits: Logits) -> Choice:
        """Log-probabilities of the model's own distribution, before any bias, penalty or temperature."""
        best = float(logits.max())
        norm = best + float(np.log(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))
        top: tuple[tuple[int, float], ...] = ()
        if n := min(self.params.top_logprobs or 0, len(logits)):
            ids = np.argpartition(logits, -n)[-n:]
            ids = ids[np.lexsort((ids, -logits[ids]))]
            top = tuple((int(i), float(logits[i]) - norm) for i in ids)
        return Choice(token, float(logits[token]) - norm, top)


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest heaviest weights that hold `top_p` of the sum (Holtzman et al. 2020).

    Sorts only the heaviest ones: the nucleus rarely reaches below a ten-thousandth of the peak.
    """
    target = top_p * weights.sum()
    for floor in (1e-2, 1e-4, 0.0):
        heavy = np.flatnonzero(weights >= floor)
        if weights[heavy].sum() >= target or floor == 0.0:
            break
    order = heavy[np.argsort(-weights[heavy], kind="stable")]
    n = int(np.searchsorted(np.cumsum(weights[order]), target)) + 1
    return np.sort(order[:n])

