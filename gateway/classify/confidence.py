"""How sure a language model is of the label that it wrote. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.sse import Folded

ODD = (AttributeError, KeyError, TypeError, ValueError, OverflowError)
ALTERNATIVES = 5
"""Asked for at each token; what is less likely hardly counts."""


class Token(NamedTuple):
    """A token that was written, and what else might have been: texts with log-probabilities."""

    text: str
    logprob: float
    others: Sequence[tuple[str, float]]


def said_confidence(folded: Folded, label: str, labels: Sequence[str]) -> float | None:
    """The probability of the label that was written, among the labels; None: the model does not tell.

    At each token of the label, what was written is weighed against those alternatives that some label begins with:
    of the rest (an introduction, another form) the model had been told to write none. Tokens around the label
    (braces, the field's name) do not count.
    """
    tokens = tokens_of(folded)
    text = "".join(token.text for token in tokens)
    start = text.rfind(label)
    if start < 0:
        return None
    total, at = 0.0, 0
    for token in tokens:
        end = at + len(token.text)
        if at < start + len(label) and end > start:
            before = text[at:start] if at < start else ""
            total += _share(token, before, text[start : max(at, start)], labels)
        at = end
    return math.exp(total)


def _share(token: Token, before: str, written: str, labels: Sequence[str]) -> float:
    """Logarithm of its share of what might have been written here.

    Args:
        before: what the token has before the label begins.
        written: of the label, so far.
    """
    rivals = 0.0
    for other, logprob in token.others:
        if other != token.text and other.startswith(before):
            so_far = written + other[len(before) :]
            if so_far and any(label.startswith(so_far) or so_far.startswith(label) for label in labels):
                rivals += math.exp(min(0.0, logprob))
    own = math.exp(min(0.0, token.logprob))
    return math.log(own / (own + rivals)) if own else -math.inf


def tokens_of(folded: Folded) -> list[Token]:
    """Of a model on the box, or as a provider says it; empty: it does not."""
    if folded.logprobs:
        return [Token(one.token, one.logprob, [(o.token, o.logprob) for o in one.top]) for one in folded.logprobs]
    said = folded.wire.get("logprobs") if folded.wire else None
    entries = said.get("content") if isinstance(said, Mapping) else None
    try:
        return [_token(entry) for entry in entries] if isinstance(entries, list) else []
    except ODD:
        return []


def _token(entry: Any) -> Token:
    """Raises one of `ODD` for what is none."""
    others = [(str(one["token"]), float(one["logprob"])) for one in entry.get("top_logprobs") or ()]
    return Token(_text(entry["token"]), float(entry["logprob"]), others)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
