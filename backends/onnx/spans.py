"""Where in a text what stands: from probabilities of tokens to spans of whole words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Span = tuple[int, int, str, float]
"""(start, end) in characters, label, probability."""
OUTSIDE = "O"
LEAST = 0.02  # what is less likely is not told
JOINERS = frozenset("'’-.@_/+")  # within a name, an address or a number


@dataclass(slots=True)
class Word:
    """A word with the probability of each kind of thing it may belong to; `fresh` that of beginning one."""

    start: int
    end: int
    scores: dict[str, float]
    fresh: dict[str, float]
    tokens: int = 1

    @property
    def kind(self) -> str:
        return max(self.scores, key=self.scores.__getitem__)


def words(
    offsets: Sequence[tuple[int, int]],
    numbers: Sequence[int | None],
    rows: Sequence[Sequence[float]],
    labels: Sequence[str],
) -> list[Word]:
    """A word is as likely something as its tokens are on average; `B-` and `I-` of a kind count together."""
    found: list[Word] = []
    last: int | None = None
    for (start, end), number, row in zip(offsets, numbers, rows, strict=True):
        if number is None or end <= start:
            continue
        scores: dict[str, float] = {}
        fresh: dict[str, float] = {}
        for label, p in zip(labels, row, strict=True):
            mark, dash, kind = label.partition("-")
            if not dash or mark not in ("B", "I"):
                mark, kind = "", label
            scores[kind] = scores.get(kind, 0.0) + p
            if mark == "B":
                fresh[kind] = p
        if found and number == last:
            _join(found[-1], end, scores)
        else:
            found.append(Word(start, end, scores, fresh))
        last = number
    return found


def kinds(offsets: Sequence[tuple[int, int]], rows: Sequence[Sequence[float]], labels: Sequence[str]) -> Iterator[Span]:
    """Of each token all kinds that it may belong to, however unlikely: for who decides otherwise than `decode`."""
    for (start, end), row in zip(offsets, rows, strict=True):
        scores: dict[str, float] = {}
        for label, p in zip(labels, row, strict=True):
            kind = label.removeprefix("B-").removeprefix("I-")
            scores[kind] = scores.get(kind, 0.0) + p
        likely = {kind: p for kind, p in scores.items() if p >= LEAST and kind != OUTSIDE}
        if end > start:
            yield from ((start, end, kind, p) for kind, p in likely.items())


def _join(word: Word, end: int, scores: Mapping[str, float]) -> None:
    n = word.tokens
    word.scores = {kind: (p * n + scores[kind]) / (n + 1) for kind, p in word.scores.items()}
    word.end, word.tokens = end, n + 1


def decode(text: str, found: Sequence[Word]) -> list[Span]:
    """Neighbouring words of one kind are one span, unless the model says that another begins; so are pieces of a word
    that only an apostrophe or the like parts."""
    spans: list[tuple[int, int, str, list[float]]] = []
    for word in found:
        kind = word.kind
        if kind == OUTSIDE:
            continue
        p = word.scores[kind]
        if spans:
            start, end, label, scores = spans[-1]
            if label == kind and _belongs(text[end : word.start], word, kind):
                spans[-1] = (start, word.end, label, [*scores, p])
                continue
        spans.append((word.start, word.end, kind, [p]))
    return [(start, end, label, sum(scores) / len(scores)) for start, end, label, scores in spans]


def _belongs(gap: str, word: Word, kind: str) -> bool:
    if gap and set(gap) <= JOINERS:
        return True  # part of what is written as one word
    begins = word.fresh.get(kind, 0.0) > word.scores[kind] / 2
    return not gap.strip() and (not gap or not begins)


def merge(parts: Sequence[Sequence[Span]]) -> list[Span]:
    """Spans of overlapping pieces of a text: of those that overlap the longest stays, of equals the surer."""
    kept: list[Span] = []
    for span in sorted((span for part in parts for span in part), key=lambda s: (s[0] - s[1], -s[3])):
        if all(span[1] <= other[0] or span[0] >= other[1] for other in kept):
            kept.append(span)
    return sorted(kept)
