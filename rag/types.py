"""What flows through the room of documents: a file's text with its places, the pieces that it is searched in."""

from __future__ import annotations

from dataclasses import dataclass, field

AttributeValue = str | float | bool


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins.

    Attributes:
        number: as the file counts, from 1.
        start: in characters of the file's text.
    """

    number: int
    start: int


@dataclass(frozen=True, slots=True)
class Heading:
    """Where a heading stands.

    Attributes:
        level: 1 is the highest.
        start: in characters of the file's text.
    """

    level: int
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file, in which everything else is a place.

    Attributes:
        kind: what it was read as: `pdf`, `docx`, `html`, `markdown`, `text`, `csv`, `json`, `email`, `code`.
        pages: in their order; none where a file has no pages.
        headings: in their order.
        rows: places (start, end) that no piece may cut: a table's row, a line of code.
        notes: sentences about what could not be read: pages that are pictures, an attachment.
    """

    text: str
    kind: str
    title: str = ""
    pages: tuple[Page, ...] = ()
    headings: tuple[Heading, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file: `text` is exactly the file's text from `start` to `end`.

    Attributes:
        headings: those that it stands under, the highest first.
        page: on which it begins, from 1; None: the file has no pages. pages: that begin inside it.
        tokens: by the embedder's own tokenizer.
    """

    text: str
    start: int
    end: int
    tokens: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    pages: tuple[Page, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is read and cut.

    Attributes:
        extracted: without `rows`, which only the cutting needs.
    """

    extracted: Extracted
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Embedder:
    """What a store's vectors were made by: another one's vectors are never mixed with them.

    Attributes:
        sha256: of the model's files.
    """

    name: str
    sha256: str
    dimensions: int

    @property
    def fingerprint(self) -> str:
        """Equal for the same model only."""
        return f"{self.name}:{self.dimensions}:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one attribute. `op`: eq, ne, gt, gte, lt, lte, in, nin; the last two take several values."""

    op: str
    key: str
    value: AttributeValue | tuple[AttributeValue, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """`op`: and, or."""

    op: str
    filters: tuple[Filter, ...] = field(default_factory=tuple)


Filter = Comparison | Compound
