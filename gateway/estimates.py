"""What local answers teach about the next ones: how long they get, and by how much the plain estimate is off.

Both are 90% quantiles, followed answer by answer. Nothing here knows a formula of time: that is `policies.capacity`'s.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from policies.base import Estimate, Learned

QUANTILE = 0.9
LENGTHS = 500  # answers whose lengths are remembered
LENGTHS_AT_LEAST = 10  # ended by themselves, before a quantile is believed
SHARE_OF = 200  # answers of which the share within the prediction is told
RECOMPUTE_AFTER = 1 / 16  # of the answers remembered are new
GAIN = 0.12  # a late answer raises the factor by 11%, one in time lowers it by 1.2%
EARLY = 5.0  # the first answers count so many times
STREAK = 40  # in a row in time: chance does that in 1 of 70 cases; then the factor falls faster
LEAST, MOST = 1 / 10, 30.0


@dataclass(slots=True)
class Factor:
    """Follows what an estimate must be multiplied by, so that 90% of what happens is no more.

    Stochastic approximation of a quantile (Robbins and Monro 1951), on the logarithm and with a constant gain, as
    adaptive conformal inference does (Gibbs and Candes 2021): the share is right in the long run whatever the estimate
    is worth, and about ten late answers make up for a box that became three times slower.

    Attributes:
        within: of the last answers, which were within what was predicted for them.
    """

    value: float = 1.0
    within: deque[bool] = field(default_factory=lambda: deque(maxlen=SHARE_OF))
    _seen: int = 0
    _streak: int = 0

    def observe(self, ratio: float, was: float | None) -> None:
        """An answer took `ratio` times what was predicted with the factor `was` (None: with about the present one)."""
        self.within.append(ratio <= 1.0)
        late = ratio * (was or self.value) > self.value
        self._streak = 0 if late else self._streak + 1
        gain = GAIN * max(1.0, EARLY / (1 + self._seen / 4)) * (1 + self._streak // STREAK)
        self._seen += 1
        moved = self.value * math.exp(gain * (QUANTILE if late else QUANTILE - 1))
        self.value = min(MOST, max(LEAST, moved))

    @property
    def share(self) -> float:
        """Of the last answers within the prediction; NaN before the first."""
        return sum(self.within) / len(self.within) if self.within else math.nan


class Lengths:
    """The 90% quantile of completion lengths, of answers some of which were cut short.

    An answer that reached the `max_tokens` it asked for would have been longer, nobody knows by how much: it is
    censored, and the quantile is that of the product-limit estimator (Kaplan and Meier 1958).
    """

    def __init__(self) -> None:
        self.quantile = Learned().completion_tokens
        self._last: deque[tuple[int, bool]] = deque(maxlen=LENGTHS)
        self._new = 0

    def observe(self, tokens: int, *, cut: bool) -> None:
        """An answer ended after `tokens`; `cut`: because no more were allowed."""
        self._last.append((tokens, cut))
        self._new += 1
        if self._new >= RECOMPUTE_AFTER * len(self._last):
            self._new = 0
            self.quantile = self._quantile()

    def _quantile(self) -> int:
        usual = Learned().completion_tokens
        if sum(1 for _, cut in self._last if not cut) < LENGTHS_AT_LEAST:
            return max([usual, *(tokens for tokens, _ in self._last)])
        alive, left = 1.0, len(self._last)
        for tokens, cut in sorted(self._last):  # at the same length, those that ended before those that were cut
            if not cut:
                alive *= 1 - 1 / left
                if alive <= 1 - QUANTILE + 1e-9:
                    return tokens
            left -= 1
        return max(usual, *(tokens for tokens, _ in self._last))


@dataclass(slots=True)
class _Route:
    lengths: Lengths = field(default_factory=Lengths)
    ttft: Factor = field(default_factory=Factor)
    total: Factor = field(default_factory=Factor)
    learned: Learned = field(default_factory=Learned)


class EstimateFigure(NamedTuple):
    """A figure of each local route, for `/metrics`: its name, help text, and (route name, value) pairs."""

    name: str
    help: str
    values: tuple[tuple[str, float], ...]


class Estimates:
    """What is known of each route. Made by the composition root; belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def learned(self, route: str) -> Learned:
        """For `Snapshot.learned`; the same object until something new is learned."""
        known = self._routes.get(route)
        return known.learned if known else Learned()

    def all_learned(self) -> Mapping[str, Learned]:
        """`learned` of every route that has answered, by route name."""
        return {name: known.learned for name, known in self._routes.items()}

    def observe(
        self,
        route: str,
        predicted: Estimate | None,
        ttft_s: float,
        total_s: float,
        completion_tokens: int,
        asked_max: int | None,
        under: Learned | None = None,
    ) -> None:
        """A whole answer came. Times count only where something was predicted: of a provider, nothing is.

        Args:
            predicted: the plan's estimate for that route; None: there was none.
            ttft_s, total_s: seconds from that plan until the first token and the end.
            completion_tokens: of one choice (the mean, if there were several).
            asked_max: the request's `max_tokens`.
            under: what was learned when the plan was made. A burst is predicted before its first answer ends; without
                this, each of its answers would correct the same mistake again.
        """
        known = self._routes.setdefault(route, _Route())
        known.lengths.observe(completion_tokens, cut=asked_max is not None and completion_tokens >= asked_max)
        if predicted:
            if predicted.ttft_s > 0:
                known.ttft.observe(ttft_s / predicted.ttft_s, under.ttft_factor if under else None)
            if predicted.total_s > 0:
                known.total.observe(total_s / predicted.total_s, under.total_factor if under else None)
        known.learned = Learned(known.lengths.quantile, known.ttft.value, known.total.value)

    def broke_off(
        self, route: str, predicted: Estimate, waited_s: float, *, began: bool, under: Learned | None = None
    ) -> None:
        """An answer broke off `waited_s` after the plan, by a bound or its client; `began`: after its first token.

        If that is later than predicted, the answer was late, however long it would have taken. If it is sooner, nothing
        is known. Without this, the slowest answers would never be seen.
        """
        known = self._routes.setdefault(route, _Route())
        if waited_s > predicted.ttft_s > 0 and not began:
            known.ttft.observe(waited_s / predicted.ttft_s, under.ttft_factor if under else None)
        if waited_s > predicted.total_s > 0:
            known.total.observe(waited_s / predicted.total_s, under.total_factor if under else None)
        known.learned = Learned(known.lengths.quantile, known.ttft.value, known.total.value)

    def figures(self) -> Iterable[EstimateFigure]:
        """For `/metrics`, at scrape time."""

        def each(name: str, text: str, read: Callable[[_Route], float]) -> EstimateFigure:
            pairs = ((route, float(read(known))) for route, known in self._routes.items())
            return EstimateFigure(name, text, tuple(pair for pair in pairs if not math.isnan(pair[1])))

        yield each(
            "outstation_estimate_ttft_within",
            "Share of the last 200 local answers whose first token came within the predicted 90% quantile.",
            lambda known: known.ttft.share,
        )
        yield each("outstation_estimate_total_within", "The same for their end.", lambda known: known.total.share)
        yield each(
            "outstation_estimate_ttft_factor",
            "What the plain estimate of the first token's time is multiplied by.",
            lambda known: known.ttft.value if known.ttft.within else math.nan,
        )
        yield each(
            "outstation_estimate_total_factor",
            "The same for the end.",
            lambda known: known.total.value if known.total.within else math.nan,
        )
        yield each(
            "outstation_completion_tokens_expected",
            "90% of the model's completions are at most so long.",
            lambda known: known.learned.completion_tokens,
        )
