"""The schema of `[small_models]` in `outstation.toml`: embedders, rerankers and classifiers, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from backends.types import Kind
from gateway.schemas.table import AliasName, Count, ModelName, Table

ExecutionProvider = Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "qnn"]
RUNTIME_NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
"""Ours to onnxruntime's own."""


class SmallModelSettings(Table):
    """How the small models are run, and which of them `auto` means. All in the store are served."""

    embedding: AliasName = Field(
        default="bge-small-en-v1.5", description="What `auto` means for `/v1/embeddings`; never another in its place."
    )
    rerank: AliasName = Field(default="ms-marco-minilm-l-12-v2", description="The same for `/v1/rerank`.")
    moderation: AliasName = Field(
        default="toxic-bilstm", description="The same for `/v1/moderations`; its manifest names `categories`."
    )
    classification: AliasName = Field(default="toxic-bilstm", description="The same for `/v1/classify`.")
    threads: int = Field(
        default=0, ge=0, le=1024, description="Compute threads of one run; 0: as many as measure best."
    )
    execution_providers: tuple[ExecutionProvider, ...] = Field(
        default=("cpu",),
        strict=False,
        min_length=1,
        description="What computes, the first that can: `cpu`, `cuda`, `tensorrt`, `openvino`, `coreml`, `qnn`.",
    )
    batch_tokens: Count = Field(
        default=2048,
        description="Tokens that are computed together at most; more go through faster, each waits longer.",
    )
    run_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that one run may take; then it is ended."
    )
    keep_alive_s: float = Field(
        default=-1.0, ge=-1, description="Idle seconds until their process is ended; -1: never."
    )

    sentence_transformers: Mapping[ModelName, str] = Field(
        default={},
        description="Embedders in sentence-transformers' own folders, by name, each in a process with torch. Paths are "
        "relative to this file. It needs the extra `sentence-transformers`.",
    )

    @field_validator("keep_alive_s")
    @classmethod
    def _no_fraction_below_zero(cls, value: float) -> float:
        if -1 < value < 0:
            raise ValueError("below 0 only -1 (never) has a meaning")
        return value

    @property
    def defaults(self) -> Mapping[Kind, str]:
        """What `auto` means, by task."""
        return {
            "embedding": self.embedding,
            "rerank": self.rerank,
            "moderation": self.moderation,
            "classification": self.classification,
        }
