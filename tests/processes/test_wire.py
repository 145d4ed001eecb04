"""Errors arrive as what they were."""

from __future__ import annotations

import orjson
import pytest

from backends.errors import BackendError, BadModelFile, ContextLengthExceeded, EngineFailed, InvalidRequest
from backends.processes.wire import dumps, pack_error, unpack_error


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", param="messages", code="special"),
        ContextLengthExceeded(9000, 8192, param="prompt"),
        BadModelFile("not a model"),
        EngineFailed("gone"),
    ],
)
def test_errors_arrive_as_what_they_were(error: BackendError) -> None:
    arrived = unpack_error(orjson.loads(dumps(pack_error(error))))
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.code, arrived.param, arrived.extra) == (
        error.message,
        error.code,
        error.param,
        error.extra,
    )


def test_an_error_of_an_unknown_class_is_the_engines_failure() -> None:
    raw = pack_error(BackendError("odd", code="odd"))
    assert type(unpack_error(raw)) is EngineFailed
