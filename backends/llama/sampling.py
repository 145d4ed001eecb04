"""Choosing the next token from logits, in NumPy.

Order of the steps (as in vLLM and Hugging Face): logit bias, repetition penalty, presence and frequency penalty,
temperature, then top_k, top_p and min_p on what is left. Presence and frequency count completion tokens only, the
repetition penalty counts the prompt as well (Keskar et al. 2019, arXiv:1909.05858).

One random number per token, from PCG64: a sequence that is resumed after k tokens advances the generator by k and goes
on exactly as it would have.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.llama.constraint import Allowed
from backends.types import Sampling

Logits = NDArray[np.float32]
GREEDY_BELOW = 1e-4  # a smaller temperature only overflows on its way to the same token
FEW = 200  # tokens that Python handles one by one
BLOCK = 256  # weights summed together before the running sum: exact enough in float32, and one pass over the row


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
        self._top_p = 1.0 if params.top_p is None else params.top_p
        self._top_k = params.top_k or 0
        self._min_p = params.min_p or 0.0
        self._weights = np.zeros(0, np.float32)  # reused, whole blocks; made when the vocabulary is seen

    def resume(self, generated: Sequence[int]) -> None:
        """Take over after these completion tokens, which another engine chose with the same parameters and seed."""
        self._bits.advance(len(generated))
        for token in generated:
            self._note(token)

    def sample(self, logits: Logits, allowed: Allowed | None = None) -> Choice:
        """The next token from one row of logits, shape [n_vocab]. The row is scratch: it may be changed.

        Args:
            allowed: the tokens that may be chosen; None: all.

        Raises ArithmeticError if the logits are not finite.
        """
        if allowed is None:
            token = self._choose(self._adjusted(logits))
        elif allowed.few is not None:
            token = int(allowed.few[self._choose(self._adjusted(logits)[allowed.few])])
        else:
            token = self._choose(self._adjusted(logits, allowed.added))
        self._note(token)
        if self.params.top_logprobs is None:
            return Choice(token)
        return self._with_logprobs(token, logits)

    def _choose(self, x: Logits) -> int:
        """The index of the chosen one."""
        if not len(x):
            raise ArithmeticError("the grammar allows nothing that could follow")
        likeliest = int(x.argmax())  # NaN wins argmax
        if not math.isfinite(x[likeliest]):
            raise ArithmeticError("the model computed logits that are not finite")
        if self.temperature < GREEDY_BELOW:
            return likeliest
        if len(x) <= FEW:
            return self._draw_of_these(range(len(x)), x)
        if 0 < self._top_k <= min(FEW, len(x) // 16):  # in a small vocabulary there is nothing to skip
            return self._draw_of_few(x)
        return self._draw(x, x[likeliest])

    def _note(self, token: int) -> None:
        if self._penalize:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._repeat:
            self._seen.add(token)

    def _adjusted(self, logits: Logits, added: Logits | None = None) -> Logits:
        """With bias and penalties, and what is `added` to each."""
        if self._plain and added is None:
            return logits
        # Log-probabilities are the model's own and need the row as it was; otherwise a copy of it is for nothing.
        x = logits if self.params.top_logprobs is None else logits.copy()
        if len(self._bias_ids):
            x[self._bias_ids] += self._bias
        if self._repeat and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            v = x[ids]
            x[ids] = np.where(v > 0, v / self._repeat, v * self._repeat)
        if self._penalize and self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            n = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            x[ids] -= n * (self.params.frequency_penalty or 0.0) + (self.params.presence_penalty or 0.0)
        if added is not None:
            x += added
        return x

    def _draw_of_few(self, x: Logits) -> int:
        """As `_draw`, where top_k leaves few; of equal logits at its edge, the lowest ids.

        Right after a step the processor's caches hold nothing of this, and a NumPy call costs several times what it
        does in a loop: so there are few, and Python does the rest.
        """
        k = self._top_k
        columns = 3 * k
        peaks = x[: len(x) // columns * columns].reshape(-1, columns).max(axis=0)
        # At least k tokens reach the k-th highest peak, so the top k are among those that do: seldom more than 2 k.
        ids = np.flatnonzero(x >= np.partition(peaks, -k)[-k])
        return self._draw_of_these(ids, x[ids])

    def _draw_of_these(self, ids: Sequence[int] | NDArray[np.intp], values: Logits) -> int:
        """The same of some tokens, in ascending order of their ids."""
        order = np.argsort(-values, kind="stable")[: self._top_k or None].tolist()
        tokens, logits = [ids[at] for at in order], values[order].tolist()
        best = logits[0]
        weights = [math.exp((v - best) / self.temperature) for v in logits]
        least, target = self._min_p, self._top_p * math.fsum(weights)
        n, running = 0, 0.0
        while n < len(weights) and (n == 0 or (0 < weights[n] >= least and running < target)):
            running += weights[n]
            n += 1
        u = self._random.random() * running
        for token, weight in zip(tokens[:n], weights, strict=False):
            u -= weight
            if u < 0:
                return int(token)
        return int(tokens[n - 1])

    def _draw(self, x: Logits, best: np.float32) -> int:
        u = self._random.random()
        size = -(-len(x) // BLOCK) * BLOCK
        if len(self._weights) < size:
            self._weights = np.zeros(size, np.float32)
        self._weights[len(x) : size] = 0.0
        weights = self._weights[: len(x)]
        np.subtract(x, best, out=weights)
        weights *= np.float32(1.0 / self.temperature)
        np.exp(weights, out=weights)
        if self._top_k or self._top_p < 1.0 or self._min_p:
            ids = self._kept(weights)
            running = np.cumsum(weights[ids], dtype=np.float64)
            return int(ids[_at(running, u * running[-1])])
        blocks = self._weights[:size].reshape(-1, BLOCK)
        running = np.cumsum(blocks.sum(axis=1), dtype=np.float64)
        block = _at(running, u * running[-1])
        before = running[block - 1] if block else 0.0
        return block * BLOCK + _at(np.cumsum(blocks[block], dtype=np.float64), u * running[-1] - before)

    def _kept(self, weights: Logits) -> NDArray[np.intp]:
        """Ascending ids of the tokens that top_k, then top_p, then min_p leave; weights are relative to the likeliest.

        Only the heaviest tokens are sorted: the filters rarely reach below a thousandth of the peak.
        """
        total = float(weights.sum(dtype=np.float64))
        for floor in (1e-3, 1e-5, 0.0):
            ids = np.flatnonzero(weights > floor)
            heavy = weights[ids]
            if self._enough(heavy, total, floor):
                break
        if self._top_k:
            if self._top_k < len(ids):
                keep = heavy >= np.partition(heavy, -self._top_k)[-self._top_k]
                ids, heavy = ids[keep], heavy[keep]
            total = float(heavy.sum(dtype=np.float64))
        threshold = self._min_p
        if self._top_p < 1.0:
            # The nucleus: the fewest heaviest tokens that hold top_p of the mass (Holtzman et al. 2020).
            descending = np.sort(heavy)[::-1]
            running = np.cumsum(descending, dtype=np.float64)
            n = min(int(np.searchsorted(running, self._top_p * total)), len(descending) - 1)
            threshold = max(threshold, float(descending[n]))
        return ids[heavy >= threshold] if threshold else ids

    def _enough(self, heavy: Logits, total: float, floor: float) -> bool:
        """Whether the weights above `floor` are all that the filters need to see."""
        if self._top_k and len(heavy) >= self._top_k:
            return True
        if self._min_p > floor:
            return not self._top_k or self._top_p >= 1.0  # else top_p is a share of all that top_k leaves
        return not self._top_k and self._top_p < 1.0 and float(heavy.sum(dtype=np.float64)) >= self._top_p * total

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


def _at(running: NDArray[np.float64], target: float) -> int:
    """Where `target` falls in a running sum; at most the last entry that adds to it, lest rounding choose a zero."""
    last = np.searchsorted(running, running[-1])
    return int(min(np.searchsorted(running, target, side="right"), last))
