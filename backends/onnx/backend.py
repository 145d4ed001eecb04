"""The `Backend` of one small model: its task, and its share of the process that computes them all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from backends.errors import BadModelFile
from backends.onnx.host import OnnxHost, context_length
from backends.onnx.manifest import Manifest
from backends.onnx.settings import OnnxSettings
from backends.types import Chunk, Event, Kind, ModelState, PromptCount, Request, Usage

KINDS: dict[str, frozenset[Kind]] = {
    "embed": frozenset({"embedding"}),
    "rerank": frozenset({"rerank"}),
    "classify": frozenset({"classification"}),
    "find": frozenset({"classification"}),
}


class OnnxBackend:
    """One folder with a manifest."""

    def __init__(self, settings: OnnxSettings, host: OnnxHost) -> None:
        self.settings = settings
        self._host = host
        host.add(settings)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def kinds(self) -> frozenset[Kind]:
        """None while its manifest cannot be read."""
        manifest = self.manifest
        if manifest is None:
            return frozenset()
        more: frozenset[Kind] = frozenset({"moderation"}) if manifest.categories else frozenset()
        return KINDS[manifest.task] | more

    @property
    def manifest(self) -> Manifest | None:
        """None: there is none, or it is wrong; `state` says why."""
        try:
            return self._host.manifest(self.name)
        except BadModelFile:
            return None

    @property
    def context_length(self) -> int:
        manifest = self.manifest
        if manifest and manifest.base:
            manifest = self._host.base_of(self.name) or manifest
        return context_length(manifest) if manifest else 0

    @property
    def capabilities(self) -> frozenset[str]:
        manifest = self.manifest
        return frozenset({"vision"}) if manifest and manifest.input == "image" else frozenset()

    @property
    def created(self) -> int:
        return self.settings.created

    @property
    def parameters_b(self) -> float:
        return 0.0

    @property
    def sha256(self) -> str:
        """Of the graph."""
        manifest = self.manifest
        return manifest.files[manifest.graph].sha256 if manifest else ""

    async def start(self) -> None:
        if self.settings.load_at_start:
            await self._host.load(self.name)

    async def close(self) -> None:
        await self._host.remove(self.settings)

    async def count(self, request: Request) -> PromptCount:
        return PromptCount((await self._host.count(self.name, request)).longest)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        async with aclosing(self._host.stream(self.name, request)) as rows:
            async for some in rows:
                if isinstance(some, int):
                    yield Usage(some, 0)
                    return
                for index, result in some:
                    yield Chunk(index, finish_reason="stop", wire=result)

    def state(self) -> ModelState:
        return self._host.state(self.name)
