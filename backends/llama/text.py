"""From token bytes to text that may be shown: UTF-8 across tokens, stop strings, log-probabilities in step. Pure."""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass, field

from backends.types import TokenLogprob


class StopMatcher:
    """Finds the first stop string to be completed in a stream, and never lets a part of one through.

    The outcome does not depend on how the text is cut into pieces (property-tested): the string that ends first wins,
    and of two that end together the longer one.

    Attributes:
        found: the one that was completed; empty: none so far.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.found = ""
        self._stops = tuple(s for s in stops if s)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns (text that may be shown now, whether a stop string was completed). After True, push no more."""
        if not self._stops:
            return text, False
        buffer = self._held + text
        found = [(at + len(s), at) for s in self._stops if (at := buffer.find(s)) >= 0]
        if found:
            self._held = ""
            end, at = min(found)
            self.found = buffer[at:end]
            return buffer[:at], True
        hold = self._hold(buffer)
        self._held = buffer[len(buffer) - hold :]
        return buffer[: len(buffer) - hold], False

    def flush(self) -> str:
        """The text held back, when the stream ends for another reason."""
        held, self._held = self._held, ""
        return held

    def _hold(self, buffer: str) -> int:
        """Length of the longest suffix that could still grow into a stop string."""
        for n in range(min(len(buffer), self._longest - 1), 0, -1):
            tail = buffer[-n:]
            if any(s.startswith(tail) for s in self._stops):
                return n
        return 0


@dataclass(slots=True)
class TextAssembler:
    """The text side of one choice. Bytes of a character that the completion cut in two are dropped at the end, never
    shown as U+FFFD; bytes that are no UTF-8 at all become U+FFFD, since JSON has no other way to say them."""

    stops: tuple[str, ...] = ()
    _matcher: StopMatcher = field(init=False)
    _decoder: codecs.IncrementalDecoder = field(init=False)
    _pending: deque[tuple[int, TokenLogprob]] = field(default_factory=deque)
    _decoded: int = 0
    _shown: int = 0

    def __post_init__(self) -> None:
        self._matcher = StopMatcher(self.stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stopped_by(self) -> str:
        """The stop string that ended the text; empty: none has."""
        return self._matcher.found

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...], bool]:
        """A token's bytes in; (text to show, log-probabilities of its tokens, whether a stop string ended it) out."""
        text = self._decoder.decode(piece)
        if logprob is not None:
            self._pending.append((self._decoded, logprob))
        self._decoded += len(text)
        shown, stopped = self._matcher.push(text)
        self._shown += len(shown)
        return shown, self._ready(stopped), stopped

    def flush(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What is still held back when the choice ends without a stop string."""
        shown = self._matcher.flush()
        self._shown += len(shown)
        ready = tuple(lp for _, lp in self._pending)
        self._pending.clear()
        return shown, ready

    def _ready(self, stopped: bool) -> tuple[TokenLogprob, ...]:
        """Tokens whose text has begun to show. A token of the stop string itself is never reported."""
        if not self._pending:
            return ()
        ready = []
        # Bytes of an unfinished character may yet turn out to belong to a stop string.
        all_shown = not stopped and self._shown == self._decoded and not self._decoder.getstate()[0]
        while self._pending and (all_shown or self._pending[0][0] < self._shown):
            ready.append(self._pending.popleft()[1])
        return tuple(ready)
