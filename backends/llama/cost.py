"""How long a step takes, learned from the steps themselves. Pure.

    seconds = decode(n sequences) + sum over prompt parts of n * (base + slope * depth)

`depth` is where in its sequence a part lies: attention makes a token at depth 3,000 cost three times one at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FORGET = 0.8  # weight of what was known, at each new step: a box that became busy is believed after about five
PRIOR_TOKENS = 8.0  # how many tokens' worth of evidence the measurement at load is
MIN_TOKENS = 8  # a smaller part says more about the clock than about the cost
DEPTH_UNIT = 1000.0


@dataclass(slots=True)
class Cost:
    """Seconds per prompt token and per decode step at present.

    Attributes:
        base: seconds per prompt token at depth 0, as measured at load; the prior of the regression.
        slope: further seconds per token and 1,000 tokens of depth, likewise.
        each: seconds per prompt token of late, whatever their depth; for rates that people read.
    """

    base: float = 1 / 200
    slope: float = 1 / 1000
    each: float = 1 / 200
    per_sequence: float = 1 / 100
    decode: dict[int, float] = field(default_factory=dict)
    _xx: float = 0.0
    _xz: float = 0.0
    _zz: float = 0.0
    _xy: float = 0.0
    _zy: float = 0.0

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens/s of late."""
        return 1.0 / self.each

    def prompt_seconds(self, n: int, depth: int) -> float:
        """Seconds for `n` prompt tokens of which the first is at `depth`."""
        return n * (self.base + self.slope * (depth + n / 2) / DEPTH_UNIT)

    def tokens_in(self, seconds: float, depth: int) -> int:
        """How many prompt tokens from `depth` on can be computed in `seconds`."""
        if seconds <= 0:
            return 0
        each, growth = self.base + self.slope * depth / DEPTH_UNIT, self.slope / 2 / DEPTH_UNIT
        # n * each + n^2 * growth = seconds, in the form that stays exact when growth is nought.
        return int(2 * seconds / (each + (each * each + 4 * growth * seconds) ** 0.5))

    def step_seconds(self, n_decode: int, parts: Sequence[tuple[int, int]]) -> float:
        """Seconds for a whole step; `parts` are (tokens, depth of the first) of its prompt parts."""
        return self.decode_seconds(n_decode) + sum(self.prompt_seconds(n, depth) for n, depth in parts)

    def decode_seconds(self, n: int) -> float:
        """Seconds for a step of `n` decoding sequences alone."""
        return self.decode.get(n, self.per_sequence * n) if n else 0.0

    def observe(self, n_decode: int, parts: Sequence[tuple[int, int]], seconds: float) -> None:
        """A step took `seconds`; `parts` are (tokens, depth of the first) of its prompt parts."""
        n = sum(tokens for tokens, _ in parts)
        if not n:
            old = self.decode.get(n_decode, seconds)
            self.decode[n_decode] = old + 0.2 * (seconds - old)
            self.per_sequence += 0.2 * (seconds / n_decode - self.per_sequence)
        elif n >= MIN_TOKENS:
            # Never all of it to decode: an old, slower figure must not make prompt tokens look free.
            rest = max(seconds - self.decode_seconds(n_decode), seconds * 0.2)
            self.each += 0.3 * (rest / n - self.each)
            self._fit(n, sum(tokens * (depth + tokens / 2) for tokens, depth in parts) / DEPTH_UNIT, rest)

    def _fit(self, x: float, z: float, y: float) -> None:
        """Least squares of y = base * x + slope * z, exponentially forgetting; the present estimate is the prior."""
        w = 1.0 / x  # seconds per token: a long part counts for its tokens, not their square
        self._xx = FORGET * self._xx + w * x * x
        self._xz = FORGET * self._xz + w * x * z
        self._zz = FORGET * self._zz + w * z * z
        self._xy = FORGET * self._xy + w * x * y
        self._zy = FORGET * self._zy + w * z * y
        xx, zz = self._xx + PRIOR_TOKENS, self._zz + PRIOR_TOKENS
        xy, zy = self._xy + PRIOR_TOKENS * self.base, self._zy + PRIOR_TOKENS * self.slope
        determinant = xx * zz - self._xz * self._xz
        if determinant > 0:
            self.base = max((xy * zz - zy * self._xz) / determinant, 1e-6)
            self.slope = max((zy * xx - xy * self._xz) / determinant, 0.0)
