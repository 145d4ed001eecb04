"""What can go wrong in a backend, in the product's own terms. `gateway/errors.py` maps each class to HTTP once."""

from __future__ import annotations


class BackendError(Exception):
    """Base of all. `code` is the API's machine-readable word; `param` the field at fault, if one is.

    Attributes:
        retry_after: seconds after which the same request may succeed, from measured rates; None: do not retry.
        extra: further members for the error body (numbers that a client can act on).
    """

    code: str = "backend_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        extra: dict[str, int | float | str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after
        self.extra = extra or {}


class InvalidRequest(BackendError):
    """The request can never succeed as it is (400)."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model's context (400)."""

    code = "context_length_exceeded"

    def __init__(self, n_prompt_tokens: int, n_ctx: int, *, param: str = "messages") -> None:
        super().__init__(
            f"The prompt has {n_prompt_tokens} tokens, but the model's context length is {n_ctx} tokens, "
            "at least one of which the completion needs. Shorten the prompt or choose a model with a longer context.",
            param=param,
            extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx},
        )


class ModelNotFound(BackendError):
    """No route serves a model of that name (404)."""

    code = "model_not_found"


class Overloaded(BackendError):
    """The queue is full (429)."""

    code = "queue_full"


class Unavailable(BackendError):
    """Nothing wrong with the request; the model cannot answer it now (503)."""

    code = "model_unavailable"


class DeadlineExceeded(Unavailable):
    """A bound on queue, load, first token or total time was passed (503)."""

    code = "timeout"


class EngineFailed(Unavailable):
    """The engine's process died or refused while the request was in it (503)."""

    code = "engine_failed"


class BadModelFile(BackendError):
    """A model file that is truncated, of another format, or lies about itself (the model stays `failed`; 503)."""

    code = "bad_model_file"
