"""What one configuration makes of the library: how it is searched, and what a new vector store is like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.documents.library import Library
from gateway.documents.models import DocumentModels
from gateway.documents.rights import Rights
from gateway.schemas.documents_settings import DocumentSettings
from rag.chunks import Strategy
from rag.retrieve import Retrieved, Retriever, Wanted


class Documents:
    """For the routes.

    Attributes:
        rights: of the API keys. key_classes: data classes of all that they send.
    """

    def __init__(
        self,
        library: Library,
        models: DocumentModels,
        settings: DocumentSettings,
        rights: Rights | None = None,
        key_classes: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.library = library
        self.models = models
        self.settings = settings
        self.rights = rights or Rights()
        self.key_classes = key_classes or {}
        self._retriever = Retriever(library, models, settings.rerank_ms / 1000, library.pace)

    @property
    def strategy(self) -> Strategy:
        """How a file is cut where its client does not say."""
        return Strategy(self.settings.chunk_tokens, self.settings.chunk_overlap_tokens, by_structure=True)

    async def data_classes(self, stores: Sequence[str]) -> frozenset[str]:
        """Of all that is in them. Raises `NotThere`."""
        pins = await self.library.run(lambda store: [store.stores.pinned(id_) for id_ in stores])
        return frozenset[str]().union(*(pin.classes for pin in pins))

    async def search(self, wanted: Wanted) -> Retrieved:
        """See `Retriever.search`."""
        with self.library.courtesy.searching():
            return await self._retriever.search(wanted)
