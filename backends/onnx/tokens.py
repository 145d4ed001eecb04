"""From text to token ids, by the tokenizer that a model was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backends.errors import BadModelFile, InvalidRequest
from backends.onnx.manifest import Tokenizer as Settings

if TYPE_CHECKING:
    import tokenizers

MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised input.

    Attributes:
        types: which of two texts each token is of.
        offsets: (start, end) of each token in the text, in characters; empty unless asked for.
        words: of each token, the number of its word; None: a special token; empty unless asked for.
        start, end: the tokens between may be cut away; the others belong to the model, or to a query.
    """

    ids: tuple[int, ...]
    start: int
    end: int
    types: tuple[int, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    words: tuple[int | None, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def kept(self, first: int, last: int) -> Tokens:
        """Of what may be cut only the tokens `first` to `last`, counted from `start`."""

        def cut(values: tuple[Any, ...]) -> tuple[Any, ...]:
            middle = values[self.start + first : self.start + last]
            return values[: self.start] + middle + values[self.end :]

        end = self.start + len(self.ids[self.start + first : self.start + last])
        return replace(
            self,
            ids=cut(self.ids),
            end=end,
            types=cut(self.types),
            offsets=cut(self.offsets),
            words=cut(self.words),
        )


class Tokenizer(Protocol):
    """What every tokenizer does."""

    @property
    def pad(self) -> int:
        """The id that fills up."""
        ...

    def encode(self, texts: Sequence[str], *, query: str | None, prefix: str, places: bool) -> list[Tokens]:
        """Each text, with its query before it (a reranker) or a prefix.

        Args:
            places: `offsets` and `words` are wanted.
        """
        ...

    def wrap(self, ids: Sequence[int], prefix: str) -> Tokens:
        """A text that its sender has tokenised. Raises `InvalidRequest` for an id that the model does not have."""
        ...


def load(settings: Settings, folder: Path) -> Tokenizer:
    """Raises `BadModelFile`."""
    path = folder / settings.file
    if path.stat().st_size > MOST_BYTES:
        raise BadModelFile(f"{settings.file} is too large for a tokenizer.")
    return HuggingFace(path) if settings.kind == "huggingface" else Words(path)


def fit(tokens: Tokens, settings: Settings) -> Tokens:
    """Cut to the model's length, from the end that it can do without."""
    surplus = len(tokens) - settings.max_tokens
    if surplus <= 0:
        return tokens
    n = max(0, tokens.end - tokens.start - surplus)
    whole = tokens.end - tokens.start
    return tokens.kept(0, n) if settings.cut == "head" else tokens.kept(whole - n, whole)


def windows(tokens: Tokens, most: int) -> list[Tokens]:
    """The whole of it in pieces of at most so many tokens; each begins with the last quarter of the one before, so that
    what stands at a seam is seen whole once."""
    whole = tokens.end - tokens.start
    room = max(1, most - (len(tokens) - whole))
    if whole <= room:
        return [tokens]
    step = max(1, room - room // 4)
    return [tokens.kept(at, min(whole, at + room)) for at in range(0, max(1, whole - room // 4), step)]


class HuggingFace:
    """A `tokenizer.json`. What it says of truncation and padding does not count: the manifest does."""

    def __init__(self, path: Path) -> None:
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_file(str(path))
            self._inner.no_truncation()
            self._inner.no_padding()
            sample = self._inner.encode("a")
        except Exception as error:  # noqa: BLE001 - the library raises plain exceptions, and panics of its own
            raise BadModelFile(f"{path.name} is no tokenizer ({error}).") from None
        self._size = self._inner.get_vocab_size()
        ids, special = sample.ids, sample.special_tokens_mask
        before = special.index(0) if 0 in special else len(special)
        after = special[::-1].index(0) if 0 in special else 0
        self._before, self._after = tuple(ids[:before]), tuple(ids[len(ids) - after :])
        self.pad = next((i for word in ("[PAD]", "<pad>") if (i := self._inner.token_to_id(word)) is not None), 0)

    def encode(self, texts: Sequence[str], *, query: str | None, prefix: str, places: bool) -> list[Tokens]:
        inputs = [(query, text) for text in texts] if query is not None else [prefix + text for text in texts]
        encode = self._inner.encode_batch if places else self._inner.encode_batch_fast
        try:
            found = encode(inputs)
        except Exception as error:  # noqa: BLE001 - the library's own
            raise InvalidRequest(f"The text cannot be tokenised ({error}).", param="input") from None
        kept = len(self._inner.encode(prefix, add_special_tokens=False).ids) if prefix else 0
        return [self._tokens(encoding, 1 if query is not None else 0, places, kept) for encoding in found]

    def wrap(self, ids: Sequence[int], prefix: str) -> Tokens:
        if not all(0 <= i < self._size for i in ids):
            raise InvalidRequest(f"Token ids of this model lie between 0 and {self._size - 1}.", param="input")
        given = tuple(ids)
        if self._before and given[: len(self._before)] == self._before:
            given = given[len(self._before) :]
            if self._after and given[-len(self._after) :] == self._after:
                given = given[: -len(self._after)]
        lead = tuple(self._inner.encode(prefix, add_special_tokens=False).ids) if prefix else ()
        whole = self._before + lead + given + self._after
        start = len(self._before) + len(lead)
        return Tokens(whole, start, start + len(given), types=(0,) * len(whole))

    @staticmethod
    def _tokens(encoding: tokenizers.Encoding, sequence: int, places: bool, kept: int) -> Tokens:
        ids = tuple(encoding.ids)
        parts = encoding.sequence_ids
        start = parts.index(sequence) if sequence in parts else len(ids)
        end = len(parts) - parts[::-1].index(sequence) if sequence in parts else start
        return Tokens(
            ids,
            min(start + kept, end),
            end,
            tuple(encoding.type_ids),
            tuple(encoding.offsets) if places else (),
            tuple(encoding.word_ids) if places else (),
        )


class Words:
    """Whole words, as Keras' tokenizer takes them: lower case, its filtered characters become spaces, and words that it
    does not know are left out. The file: `{"vocab": {word: id}, "cfg": {"filters": …, "lower": …}}`."""

    pad = 0

    def __init__(self, path: Path) -> None:
        try:
            read = json.loads(path.read_bytes())
            self._ids: dict[str, int] = {str(word): int(i) for word, i in read["vocab"].items()}
            config = read.get("cfg", {})
            self._spaces = str.maketrans(dict.fromkeys(str(config.get("filters", "")), " "))
            self._lower = bool(config.get("lower", True))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadModelFile(f"{path.name} is no list of words ({error!r}).") from None

    def encode(self, texts: Sequence[str], *, query: str | None, prefix: str, places: bool) -> list[Tokens]:
        return [self._encode(" ".join((query or "", prefix, text))) for text in texts]

    def wrap(self, ids: Sequence[int], prefix: str) -> Tokens:
        most = max(self._ids.values(), default=0)
        if not all(0 <= i <= most for i in ids):
            raise InvalidRequest(f"Token ids of this model lie between 0 and {most}.", param="input")
        return Tokens(tuple(ids), 0, len(ids))

    def _encode(self, text: str) -> Tokens:
        text = (text.lower() if self._lower else text).translate(self._spaces)
        ids = tuple(i for word in text.split(" ") if (i := self._ids.get(word)) is not None)
        return Tokens(ids, 0, len(ids))
