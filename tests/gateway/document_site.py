"""A gateway with a scripted embedder, whose vectors say which of a few words a text has."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2

from backends.fake import FakeBackend, Step
from backends.types import Chunk, Kind, Request, Usage
from gateway.reload import Gateway
from tests.gateway.small_models import SmallModel, manifest
from tests.rag.stores import vector, work


@dataclass(slots=True)
class Embedding(SmallModel):
    """`settings` say where its tokenizer would be."""

    kinds: frozenset[Kind] = frozenset({"embedding"})
    settings: Any = field(default_factory=SimpleNamespace)


def embedder(home: Path, name: str = "e", dimensions: int = 8) -> Embedding:
    """One that documents can be searched by."""
    folder = home / name
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text("{}")

    def script(request: Request) -> Sequence[Step]:
        made = [base64.b64encode(vector(str(text), dimensions).tobytes()).decode() for text in request.prompts]
        chunks: list[Step] = [Chunk(i, finish_reason="stop", wire={"embedding": one}) for i, one in enumerate(made)]
        return [*chunks, Usage(len(made), 0)]

    said = manifest(name=name, task="embed", labels=(), dimensions=dimensions, pooling="cls")
    return Embedding(name, script, manifest=said, settings=SimpleNamespace(folder=folder))


@dataclass
class DocumentSite:
    """The gateway, and a client of it. Nobody reads files in but `read_in`."""

    app: Gateway
    client: httpx2.AsyncClient

    async def upload(self, content: bytes | str, name: str = "manual.txt", **fields: str) -> str:
        """A file's id."""
        answer = await self.client.post(
            "/v1/files", data={"purpose": "assistants", **fields}, files={"file": (name, content)}
        )
        assert answer.status_code == 200, answer.text
        id_: str = answer.json()["id"]
        return id_

    async def store(self, *contents: str, **fields: Any) -> str:
        """The id of a vector store with files of these contents."""
        ids = [await self.upload(content) for content in contents]
        answer = await self.client.post("/v1/vector_stores", json={"file_ids": ids, **fields})
        assert answer.status_code == 200, answer.text
        id_: str = answer.json()["id"]
        return id_

    async def read_in(self) -> int:
        """Does what is left to do. Returns how much that was."""
        return await self.app.shared.library.run(work)


SiteMaker = Callable[..., DocumentSite]


def site_maker(
    make_app: Callable[..., Gateway], connect: Callable[[Gateway], httpx2.AsyncClient], home: Path
) -> SiteMaker:
    """Makes one with a configuration."""

    def make(config: str = "", env: dict[str, str] | None = None, **headers: str) -> DocumentSite:
        app = make_app(
            FakeBackend("m"),
            embedder(home),
            embedder(home, "other", 12),
            config=f'{config}\n[small_models]\nembedding = "e"\n',
            env=env,
        )
        client = connect(app)
        client.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return DocumentSite(app, client)

    return make
