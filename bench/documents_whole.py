"""What a store of documents has to hold, and whether it does: looked up beside its own functions, in its tables."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.documents_report import Killed
from bench.documents_writer import vector
from rag.chunks import Strategy, chunk
from rag.extract.limits import Limits
from rag.extract.readers import read
from rag.extract.source import Source
from rag.ingest import embedded
from rag.store.base import DocumentStore, open_store
from rag.store.errors import NotThere
from rag.store.sqlite import SqliteEngine
from rag.tokens import load
from rag.types import Chunk, Embedder


@dataclass(slots=True)
class Sent:
    """What was acknowledged: files by id, with their names and contents, and which of them are in the vector store."""

    store: str
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)


class Whole:
    """Compares.

    Args:
        model: the embedder's folder. made_up: its vectors are `documents_writer`'s, and are compared as well.
    """

    def __init__(self, model: Path, strategy: Strategy, made_up: Embedder | None) -> None:
        self._tokenize = load(model).tokenize
        self._strategy = strategy
        self._made_up = made_up
        self._known: dict[str, tuple[Chunk, ...]] = {}
        self._vectors: dict[str, bytes] = {}

    def check(self, where: Path, sent: Sent, to: Killed) -> int:
        """Adds what is wrong to `to`. Returns how many files are completed and whole."""
        store = open_store(str(where))
        whole, contents, texts = 0, Counter[str](), dict[int, str]()
        try:
            for id_, (name, content) in sent.files.items():
                try:
                    kept = b"".join(store.files.content(id_))
                    status = _status(store, sent, id_)
                    pieces = store.search.of_file(sent.store, id_) if status else []
                except NotThere:
                    to.lost += 1
                    continue
                done = status == "completed"
                to.lost += kept != content or status in ("failed", "cancelled")
                right = tuple(one.chunk for one in pieces) == (self._chunks(name, content) if done else ())
                to.half += not right
                whole += done and right
                contents[hashlib.sha256(content).hexdigest()] += done
                texts |= {one.id: embedded(one.chunk) for one in pieces}
        finally:
            store.close()
        self._tables(where, contents, texts, to)
        return whole

    def _tables(self, where: Path, contents: Counter[str], texts: Mapping[int, str], to: Killed) -> None:
        """Each completed content is a document once, no other is; each has all its rows, and no others are there."""
        engine = SqliteEngine(where)
        try:
            with engine.read() as cursor:
                docs = cursor.all("SELECT sha256 FROM docs")
                to.doubled += (Counter(sha256 for (sha256,) in docs) - contents).total()
                tables = {name for (name,) in cursor.all("SELECT name FROM sqlite_master")}
                ids = {one: set[int]() for one in ("chunks", "vectors_1", "words")}
                for table in tables & {*ids}:
                    column = "rowid" if table == "words" else "id"
                    ids[table] = {id_ for (id_,) in cursor.all(f"SELECT {column} FROM {table}")}  # noqa: S608
                for have in ids.values():
                    to.half += len(texts.keys() - have)
                    to.doubled += len(have - texts.keys())
                if self._made_up and ids["vectors_1"]:
                    rows = cursor.all("SELECT id, vector FROM vectors_1")
                    to.half += sum(vector != self._vector(texts[id_]) for id_, vector in rows if id_ in texts)
        finally:
            engine.close()

    def _chunks(self, name: str, content: bytes) -> tuple[Chunk, ...]:
        """Of the whole file, as one process that nobody kills makes them."""
        key = hashlib.sha256(content).hexdigest()
        if key not in self._known:
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                source = Source(Path(file.name), name, Limits(), lambda page, pages, scanned: None)
                self._known[key] = chunk(read(source), self._tokenize, self._strategy)
        return self._known[key]

    def _vector(self, text: str) -> bytes:
        if text not in self._vectors:
            assert self._made_up is not None
            self._vectors[text] = vector(text, self._made_up.dimensions).tobytes()
        return self._vectors[text]


def _status(store: DocumentStore, sent: Sent, id_: str) -> str:
    """Empty: it is not in the vector store, and that was never acknowledged."""
    try:
        return store.members.get(sent.store, id_).status
    except NotThere:
        if id_ in sent.members:
            raise
        return ""
