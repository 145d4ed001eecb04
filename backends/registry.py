"""Which kinds of backend there are. Each builder imports its engine only when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.base import Backend
from backends.llama.settings import LlamaSettings
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.remote.settings import ProviderSettings

if TYPE_CHECKING:
    from backends.memory import MemoryBudget
    from backends.onnx.host import OnnxHost
    from backends.remote.provider import Depart
    from backends.sentence_transformers import SentenceTransformersSettings


def build_llama(settings: LlamaSettings, budget: MemoryBudget | None = None) -> Backend:
    """A local GGUF model, computed by llama.cpp in a process of its own, which takes its memory from the budget."""
    from backends.llama.backend import LlamaBackend

    return LlamaBackend(settings, budget)


def build_onnx(settings: OnnxSettings, host: OnnxHost) -> Backend:
    """A small model of the box; all of them share the host's process."""
    from backends.onnx.backend import OnnxBackend

    return OnnxBackend(settings, host)


def build_onnx_host(settings: OnnxHostSettings, budget: MemoryBudget | None = None) -> OnnxHost:
    """What computes all small models, each with memory from the budget. Nothing is started yet."""
    from backends.onnx.host import OnnxHost

    return OnnxHost(settings, budget=budget)


def build_sentence_transformers(settings: SentenceTransformersSettings, budget: MemoryBudget | None = None) -> Backend:
    """An embedder in sentence-transformers' own folder, computed by torch in a process of its own."""
    from backends.sentence_transformers import SentenceTransformersBackend

    return SentenceTransformersBackend(settings, budget)


def build_openai(settings: ProviderSettings, depart: Depart, allowed: Callable[[], bool]) -> list[Backend]:
    """A remote provider's models, which share its connections.

    Args:
        depart: the egress boundary.
        allowed: whether endpoints may be knocked at now.
    """
    from backends.openai_http import OpenAIBackend
    from backends.remote.provider import Knocking, Provider
    from backends.remote.transport import Transport

    provider = Provider(settings, depart, Transport(), knocking=Knocking(allowed=allowed))
    return [OpenAIBackend(provider, model) for model in settings.models]
