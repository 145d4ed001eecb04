"""A gateway of its own for a bench of documents, and how it is asked: by its API only."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.peers import Peer
from bench.small_load import Asker, connect, post

EMBEDDER, RERANKER = "bge-small-en-v1.5", "ms-marco-minilm-l-12-v2"
POLL_S = 0.05
TIMEOUT_S = 570.0


def gateway(home: Path, models: Path, name: str = "outstation-documents") -> Peer:
    """This gateway as it comes, with an embedder and a reranker and without a language model.

    Args:
        home: its own, that outlives it; made where it is not there.
        models: the store with the models.
    """
    (home / "models").mkdir(parents=True, exist_ok=True)
    for model in (EMBEDDER, RERANKER):
        if not (home / "models" / model).exists():
            (home / "models" / model).symlink_to(models / model)

    def command(port: int, model: Path, folder: Path) -> list[str]:
        return [str(Path(sys.executable).with_name("outstation")), "serve", "--port", str(port)]

    return Peer(name, command, "/healthz", environment={"OUTSTATION_HOME": str(home)})


def database(home: Path) -> Path:
    """Where that gateway keeps its documents."""
    return home / "documents.db"


class Wire:
    """One client that keeps its connection. Its methods raise RuntimeError for any answer but a 200."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._asker: Asker | None = None

    async def call(self, request: bytes) -> Any:
        """The answer's JSON."""
        if self._asker is None or self._asker.closed:
            self._asker = await connect(self._port)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._asker.ask(request)
        except BaseException:
            self._asker.close()  # whoever gives up leaves no answer to the next request
            raise
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{request[:60]!r}: {answer[:600].decode(errors='replace')}")
        return orjson.loads(answer.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        """No more requests."""
        if self._asker is not None:
            self._asker.close()

    async def get(self, path: str) -> Any:
        """What is there."""
        return await self.call(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What is said to it."""
        return await self.call(post(path, body))

    async def upload(self, name: str, content: bytes) -> str:
        """The file's id."""
        return str((await self.call(form(name, content)))["id"])

    async def store(self, name: str) -> str:
        """The id of a new vector store."""
        return str((await self.post("/v1/vector_stores", {"name": name}))["id"])

    async def batch(self, store: str, files: Sequence[str]) -> str:
        """Puts files into a vector store; returns before they are read in."""
        return str((await self.post(f"/v1/vector_stores/{store}/file_batches", {"file_ids": list(files)}))["id"])

    async def counts(self, store: str, batch: str) -> Mapping[str, int]:
        """Files of a batch, by status."""
        found: Mapping[str, int] = (await self.get(f"/v1/vector_stores/{store}/file_batches/{batch}"))["file_counts"]
        return found

    async def finished(self, store: str, batch: str) -> None:
        """Until all of a batch is there. Raises RuntimeError where a file failed."""
        while (counts := await self.counts(store, batch))["in_progress"]:  # noqa: ASYNC110 - clients poll
            await asyncio.sleep(POLL_S)
        if counts["completed"] != counts["total"]:
            raise RuntimeError(f"not all files were read in: {dict(counts)}")

    async def cancel(self, store: str, batch: str) -> None:
        """What is left of a batch is not read in."""
        await self.post(f"/v1/vector_stores/{store}/file_batches/{batch}/cancel", {})

    async def embed(self, texts: Sequence[str], kind: str = "document") -> Sequence[str]:
        """Vectors, as base64 of float32."""
        body = {"model": EMBEDDER, "input": list(texts), "input_type": kind, "truncate": True}
        found = await self.post("/v1/embeddings", body | {"encoding_format": "base64"})
        return [row["embedding"] for row in found["data"]]

    async def search(self, store: str, question: str, *, rerank: bool = True) -> Any:
        """The page of results."""
        ranking = {} if rerank else {"ranking_options": {"ranker": "none"}}
        return await self.post(f"/v1/vector_stores/{store}/search", {"query": question, **ranking})


def form(name: str, content: bytes) -> bytes:
    """An upload, as the request's bytes."""
    edge = f"bench-{secrets.token_hex(16)}"
    parts = (
        f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    )
    body = parts.encode() + content + f"\r\n--{edge}--\r\n".encode()
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary={edge}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def renewed(name: str, content: bytes, mark: str) -> bytes:
    """The same document, with content that no store has seen: otherwise nothing would be left to do."""
    told = hashlib.sha256(f"{name} {mark}".encode()).hexdigest()[:16]
    return content + (f"\n<!-- {told} -->\n" if name.endswith(".html") else f"\n\nRevision {told}.\n").encode()
