"""The small models that documents need: an embedder that a vector store is pinned to, and a reranker."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.base import Backend
from backends.errors import BackendError, InvalidRequest
from backends.onnx.manifest import Manifest
from backends.types import Request
from gateway.outcome import new_id
from gateway.small_models import Run
from gateway.state import Site
from rag.types import Embedder
from rag.vectors import decoded, joined
from rag.windows import windows

if TYPE_CHECKING:
    from rag.store.engine import Vectors
    from rag.tokens import Counter

SPECIAL_TOKENS: Final = 8
"""More than any model adds to a text."""
_LEAST_P: Final = 1e-7


class DocumentModels:
    """Those of one configuration. What it does raises `BackendError`s.

    Args:
        reranker: its name or alias; empty: there is none.
    """

    def __init__(self, site: Site, run: Run, reranker: str) -> None:
        self._site = site
        self._run = run
        self._reranker = reranker
        self._counters: dict[Path, Counter] = {}

    def embedder(self, name: str = "auto") -> Embedder:
        """What a new vector store is pinned to.

        Raises:
            ModelNotFound: nobody serves it. Unavailable: `auto`, and none is on the box.
            InvalidRequest: it makes no vectors of texts here.
        """
        model = self._site.resolve(name, "embedding").routes[0].model
        backend = self._site.backends[model]
        manifest = _manifest(backend)
        if manifest is None or manifest.task != "embed" or not manifest.dimensions or _folder(backend) is None:
            raise InvalidRequest(
                f"The model {model!r} is no embedder that documents can be searched by.", param="model"
            )
        return Embedder(model, _digest(manifest), manifest.dimensions)

    def folder(self, embedder: Embedder) -> Path:
        """See `rag.ingest.Embeds`."""
        folder = _folder(self._backend(embedder))
        assert folder is not None
        return folder

    async def question(self, embedder: Embedder, text: str) -> Vectors:
        """See `rag.retrieve.Models`. A question longer than the model reads is cut: it is no document."""
        backend = self._backend(embedder)
        found: Vectors = (await self._vectors(backend.name, [text], {"input_type": "query", "truncate": True}))[0]
        return found

    async def documents(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        """See `rag.ingest.Embeds`. A text longer than the model reads is embedded in windows."""
        backend = self._backend(embedder)
        parts = [await self._windows(backend, text) for text in texts]
        windows = [part for some in parts for part, _ in some]
        vectors = await self._vectors(backend.name, windows, {"input_type": "document"})
        return joined(vectors, [[tokens for _, tokens in some] for some in parts])

    async def rerank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """See `rag.retrieve.Models`."""
        if not self._reranker:
            return ()
        try:
            route = self._site.resolve(self._reranker, "rerank").routes[0]
        except BackendError:
            return ()
        if route.location == "remote" or "rerank" not in route.kinds:
            return ()  # passages are shown to nobody outside, whatever they hold
        name = route.model
        options = {"query": question, "truncate": True}
        request = Request(f"documents-{new_id()}", name, "rerank", prompts=tuple(texts), options=options)
        results, _ = await self._run(name, request)
        return [_logit(float(result["score"])) for result in results]

    def _backend(self, embedder: Embedder) -> Backend:
        """The embedder as it is served. Raises `InvalidRequest` where it is not there, or is not the same any more."""
        try:
            found = self.embedder(embedder.name)
        except BackendError:
            found = None
        if found != embedder:
            what = "is not on this box" if found is None else "is another one by now"
            raise InvalidRequest(
                f"The vector store is pinned to the embedder {embedder.name} ({embedder.sha256[:12]}), which {what}. "
                f"`outstation pull {embedder.name}`, or rebuild the store with `outstation reindex`.",
                code="embedder_mismatch",
            )
        return self._site.backends[embedder.name]

    async def _vectors(self, name: str, texts: Sequence[str], options: Mapping[str, object]) -> Vectors:
        request = Request(f"documents-{new_id()}", name, "embedding", prompts=tuple(texts), options=options)
        results, _ = await self._run(name, request)
        return decoded([result["embedding"] for result in results])

    async def _windows(self, backend: Backend, text: str) -> list[tuple[str, int]]:
        """The text in parts that the model can read whole, each with its weight."""
        if len(text.encode()) + SPECIAL_TOKENS <= backend.context_length:  # no token is shorter than a byte
            return [(text, 1)]
        return await asyncio.to_thread(self._cut, backend, text)

    def _cut(self, backend: Backend, text: str) -> list[tuple[str, int]]:
        from rag.tokens import load

        folder = _folder(backend)
        assert folder is not None
        counter = self._counters.get(folder)
        if counter is None:
            counter = self._counters[folder] = load(folder)
        places = windows(text, counter.tokenize, counter.room)
        if len(places) == 1:
            return [(text, 1)]
        return [(text[start:end], len(counter.tokenize(text[start:end]))) for start, end in places]


def _manifest(backend: Backend) -> Manifest | None:
    found = getattr(backend, "manifest", None)
    return found if isinstance(found, Manifest) else None


def _folder(backend: Backend) -> Path | None:
    """Where a manifest and a tokenizer are; None: it is described by something else."""
    found = getattr(getattr(backend, "settings", None), "folder", None)
    return found if isinstance(found, Path) and (found / "manifest.json").is_file() else None


def _digest(manifest: Manifest) -> str:
    """Of all that its vectors depend on."""
    said = [f"{name}:{file.sha256}" for name, file in sorted(manifest.files.items())]
    said += [manifest.pooling, str(manifest.normalize), manifest.query_prefix, manifest.document_prefix]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _logit(probability: float) -> float:
    bounded = min(max(probability, _LEAST_P), 1 - _LEAST_P)
    return math.log(bounded / (1 - bounded))
