"""From answers to the figures that are printed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.client import Answer


@dataclass(frozen=True, slots=True)
class Wave:
    """Answers that were asked for at one moment, and the seconds from that moment to the end of the last."""

    answers: Sequence[Answer]
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one load. Times in seconds; `failed` counts answers that were not whole."""

    tokens_per_s: float
    ttft_p50: float
    ttft_p95: float
    gap_p50: float
    gap_p99: float
    failed: int = 0


def percentile(values: Iterable[float], q: float) -> float:
    """The q-th percentile (0 to 100), interpolated linearly between the two nearest ranks; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    position = (len(ordered) - 1) * q / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    if ordered[below] == ordered[above]:
        return ordered[below]
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarise(waves: Sequence[Wave]) -> Figures:
    """One round's figures: all answers of all waves together; tokens/s over the waves' own time, pauses left out."""
    answers = [answer for wave in waves for answer in wave.answers]
    whole = [answer for answer in answers if answer.ok]
    gaps = [gap for answer in whole for gap in answer.gaps]
    ttfts = [answer.ttft for answer in whole]
    seconds = sum(wave.seconds for wave in waves)
    return Figures(
        tokens_per_s=sum(answer.tokens for answer in whole) / seconds if seconds else 0.0,
        ttft_p50=percentile(ttfts, 50),
        ttft_p95=percentile(ttfts, 95),
        gap_p50=percentile(gaps, 50),
        gap_p99=percentile(gaps, 99),
        failed=len(answers) - len(whole),
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds; failures are added up, since none may be lost in a median."""
    return Figures(
        tokens_per_s=median(r.tokens_per_s for r in rounds),
        ttft_p50=median(r.ttft_p50 for r in rounds),
        ttft_p95=median(r.ttft_p95 for r in rounds),
        gap_p50=median(r.gap_p50 for r in rounds),
        gap_p99=median(r.gap_p99 for r in rounds),
        failed=sum(r.failed for r in rounds),
    )
