"""A gateway with a vector store, a scripted embedder, and models whose prompts are counted by their letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from backends.base import Backend
from backends.fake import FakeBackend, say
from backends.types import PromptCount, Request
from gateway.reload import Gateway
from rag.store.base import DocumentStore
from rag.store.records import Entry
from rag.types import AttributeValue, Chunk, Embedder
from tests.gateway.document_site import embedder
from tests.gateway.test_routing import Remote
from tests.rag.stores import vector

MANUAL = "The pump P-7 is sealed by a gasket of 45 mm. Tighten its motor to 12 Nm. "
NAME = "manual.pdf"
QUESTION = "Which gasket seals the pump P-7?"
OTHER = "Who won the cup in 1954?"
PATHS = {"chat": "/v1/chat/completions", "response": "/v1/responses"}
ABLE = frozenset({"logprobs", "tools", "structured_output", "vision", "grammar"})
LETTERS_A_TOKEN = 3


def text_of(request: Request) -> str:
    """All that a local model is told."""
    return orjson.dumps(list(request.messages)).decode() if request.messages else "".join(map(str, request.prompts))


@dataclass(slots=True)
class Counting(FakeBackend):
    """A local model that refuses, as the real ones do, what does not fit into its context."""

    capabilities: frozenset[str] = ABLE
    counted: list[Request] = field(default_factory=list)

    async def count(self, request: Request) -> PromptCount:
        self.counted.append(request)
        return PromptCount(len(text_of(request)) // LETTERS_A_TOKEN)


@dataclass
class GroundedSite:
    """The app, and one vector store in it."""

    app: Gateway
    store_id: str = ""
    file_ids: list[str] = field(default_factory=list)
    embedding: Any = None

    async def fill(
        self,
        *texts: str,
        data_class: str = "documents",
        size: int = 4000,
        name: str = NAME,
        attributes: Mapping[str, AttributeValue] | None = None,
        days: int | None = None,
        pinned: Embedder | None = None,
    ) -> str:
        """A vector store of files with these texts, in pieces of `size` characters. Returns its id."""

        def work(store: DocumentStore) -> str:
            made = store.stores.create("manuals", pinned or self.embedder, data_class=data_class, expires_after=days)
            for text in texts:
                file = store.files.add(name, "assistants", [text.encode()])
                store.members.add(made.id, Entry(file.id, attributes or {}, {}))
                self.file_ids.append(file.id)
            while claim := store.work.claim("worker", 60.0):
                _index(store, claim, size)
            return made.id

        self.store_id = await self.app.shared.library.run(work)
        return self.store_id

    @property
    def embedder(self) -> Embedder:
        return self.app.current.inference.documents.models.embedder("auto")

    def body(self, dialect: str, question: str = QUESTION, **fields: Any) -> dict[str, Any]:
        """A request that is to be answered from the store."""
        if dialect == "chat":
            own = {"vector_store_ids": [self.store_id], **fields.pop("outstation", {})}
            return {
                "model": "auto",
                "messages": [{"role": "user", "content": question}],
                "outstation": own,
                **fields,
            }
        tools = [{"type": "file_search", "vector_store_ids": [self.store_id]}, *fields.pop("tools", [])]
        return {"model": "auto", "input": question, "tools": tools, **fields}


def _index(store: DocumentStore, claim: Any, size: int) -> None:
    import numpy as np

    text = b"".join(store.files.content(claim.file.file_id)).decode()
    pieces = [
        Chunk(text[at : at + size], at, min(len(text), at + size), 9, ("Manual",), at // size + 1)
        for at in range(0, len(text), size)
    ]
    store.index.finish(
        claim, claim.embedder, pieces, np.stack([vector(one.text, claim.embedder.dimensions) for one in pieces])
    )


Make = Callable[..., GroundedSite]


def grounded_site(make_app: Callable[..., Gateway], home: Path) -> Make:
    """Makes one: `local` None: no language model is on the box."""

    def make(
        local: Backend | None = None, *remote: Remote, config: str = "", small: str = "", more: tuple[Backend, ...] = ()
    ) -> GroundedSite:
        embedding = embedder(home)
        settings = f'{config}\n[small_models]\nembedding = "e"\n{small}\n'
        language = [local] if local else []
        app = make_app(
            *language, embedding, *more, config=settings, remote=[one.pair for one in remote] if remote else None
        )
        return GroundedSite(app, embedding=embedding)

    return make


def model(*texts: str, **fields: Any) -> Counting:
    """A local model that says these texts."""
    return Counting("m", say(*texts or ("It is a gasket of 45 mm [1].",)), **fields)
