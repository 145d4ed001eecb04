"""What a small model on the box says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.base import Backend
from backends.errors import EngineFailed
from backends.onnx.manifest import Manifest

ManifestOf = Callable[[str], Manifest]
"""By the model's name. Raises `EngineFailed` for a model that has none."""


def manifests(backends: Mapping[str, Backend]) -> ManifestOf:
    """Those of `backends`, by name; it may grow."""

    def manifest_of(model: str) -> Manifest:
        found = getattr(backends.get(model), "manifest", None)
        if not isinstance(found, Manifest):
            raise EngineFailed(f"Nothing is known of what the answers of the model {model} mean.", code="no_manifest")
        return found

    return manifest_of
