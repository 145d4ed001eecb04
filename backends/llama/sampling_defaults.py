"""A model's own defaults, filled in where a request says nothing. Apart from `sampling`, which needs NumPy."""

from __future__ import annotations

from dataclasses import replace

from backends.types import Sampling

DEFAULTED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
)


def filled(params: Sampling, defaults: Sampling) -> Sampling:
    """`params`, with each sampling field that is None taken from `defaults`; greedy needs no other field.

    >>> filled(Sampling(top_k=5), Sampling(temperature=0.2, top_k=40)).temperature
    0.2
    """
    missing = {f: getattr(defaults, f) for f in DEFAULTED if getattr(params, f) is None}
    return replace(params, **missing)
