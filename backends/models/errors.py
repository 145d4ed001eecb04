"""What can go wrong with model files on the disk or on their way to it. Each text is finished: it says what to do."""

from __future__ import annotations

from backends.errors import BackendError


class StoreError(BackendError):
    """The store cannot do what it was asked: a bad name, a missing or damaged model, a full disk."""

    code = "model_store"


class NotInStore(StoreError):
    """No model of that name is on this box."""

    code = "model_not_found"


class PullFailed(StoreError):
    """No source gave the model. The message names each one with its reason."""

    code = "pull_failed"
