"""One completion's way through a grammar: which tokens may come next, found out while the model computes.

llguidance lets go of the interpreter's lock while it computes a mask; what the mask means for sampling is prepared
beside the model as well, so that a step has little more to do than without a grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOO_COMPLEX = "grammar_too_complex"
"""The error's code, whether it was found when the grammar was compiled or only on the way."""
FEW = 16
"""One in so many of a mask's words: where fewer of them allow anything, the tokens are told one by one."""

# For each byte of a mask, what to add to the logits of its eight tokens.
_ADDED = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0.0, -np.inf)
_ADDED = _ADDED.astype(np.float32)
_ADDED.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """The tokens that may come next, in one of two forms. Valid until the next token is taken.

    Attributes:
        few: their ids, ascending; None: there are many.
        added: then, for each token of the vocabulary, 0 or minus infinity.
    """

    few: NDArray[np.intp] | None = None
    added: NDArray[np.float32] | None = None


class LostError(ArithmeticError):
    """A completion's way through its grammar ends here, and would again."""


class Constraint:
    """Where a completion is in its grammar. Belongs to the engine's thread, but for `fill`."""

    def __init__(self, matcher: Any, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._mask = np.zeros(-(-n_vocab // 32), np.int32)
        self._added: NDArray[np.float32] | None = None  # made when it is needed: 200 KB for 50,000 tokens
        self._allowed: Allowed | None = None

    def copy(self) -> Constraint:
        """Another completion's, from here on."""
        return Constraint(self._matcher.deep_copy(), self._n_vocab)

    @property
    def done(self) -> bool:
        """Nothing can follow any more: the completion is whole."""
        return bool(self._matcher.is_stopped())

    def fill(self) -> None:
        """Finds out what may come next, unless it is known. May run in another thread while the model computes."""
        if self._allowed is None:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._allowed = self._read()

    def allowed(self) -> Allowed:
        """What may come next.

        Raises:
            LostError: the grammar got too complex on the way.
        """
        self.fill()
        if self._matcher.is_error():
            raise LostError(f"the grammar cannot be followed further: {reason(self._matcher.get_error())}")
        assert self._allowed is not None
        return self._allowed

    def blocked(self) -> NDArray[np.bool_]:
        """True for each token [n_vocab] that must not come next. Raises as `allowed` does."""
        self.allowed()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        return np.logical_not(bits)

    def take(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen.

        Raises:
            LostError: one of them was not allowed.
        """
        self._allowed = None
        if not self._matcher.consume_tokens(list(tokens)):
            raise LostError(f"the completion left its grammar: {reason(self._matcher.get_error())}")

    def _read(self) -> Allowed:
        """The mask, so that little is left to do with it."""
        words = np.flatnonzero(self._mask)
        if len(words) * FEW <= len(self._mask):
            bits = np.unpackbits(self._mask[words].view(np.uint8), bitorder="little").reshape(-1, 32)
            at, bit = np.nonzero(bits)
            return Allowed(few=words[at] * 32 + bit)
        if self._added is None:
            self._added = np.empty((len(self._mask) * 4, 8), np.float32)
        # Every index is a byte: nothing to clip, but without that there would be a copy.
        np.take(_ADDED, self._mask.view(np.uint8), axis=0, out=self._added, mode="clip")
        return Allowed(added=self._added.reshape(-1)[: self._n_vocab])


def reason(error: str) -> str:
    """llguidance's first line, short: what follows is the state of a parser."""
    words = error.replace("<non-verbose/>", "").split()
    return " ".join(words)[:300].rstrip(".") or "it is not understood"
