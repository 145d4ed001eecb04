"""The contract of a backend. A leaf, like `types` and `errors`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

from backends.types import Event, Kind, ModelState, PromptCount, Request


@runtime_checkable
class Backend(Protocol):
    """One model that answers requests. It owns its resources and its life cycle; callers only say what they need."""

    @property
    def name(self) -> str:
        """The model's name, as in `/v1/models`."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it is asked for: `GENERATES`, or the tasks that it was made for."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of prompt and completion together; known without loading the model."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do beyond text: `vision`, `tools`, `logprobs`, ..."""
        ...

    @property
    def created(self) -> int:
        """Unix time (s) at which the model file came to the box."""
        ...

    async def count(self, request: Request) -> PromptCount:
        """The exact number of prompt tokens, by the model's own template and tokenizer.

        Raises `InvalidRequest` for a prompt that the template refuses, `Unavailable` if the model cannot be loaded.
        """
        ...

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Chunks of all choices as they come, each choice closed by one `finish_reason`, then one `Usage`.

        Closing the generator cancels the request. Raises `BackendError`s only.
        """
        ...

    def state(self) -> ModelState:
        """What the model is doing now. Cheap; never blocks."""
        ...

    async def start(self) -> None:
        """Load now, if the backend is set to; otherwise return at once."""
        ...

    async def close(self) -> None:
        """End everything that runs and give all memory back."""
        ...


@runtime_checkable
class Local(Protocol):
    """What a backend can say besides, whose model is a file on the box."""

    @property
    def parameters_b(self) -> float:
        """Billions of parameters; 0: not known."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file; empty: not known."""
        ...


@runtime_checkable
class Remote(Protocol):
    """What a backend can say besides, whose model is not on the box."""

    def health(self) -> tuple[str, float | None, float, float]:
        """(why it cannot be asked now, or empty; seconds until it can; of late: TTFT in s, tokens/s; 0: unknown)."""
        ...
