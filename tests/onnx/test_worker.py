"""Which thread of the small models' process reads what: the one that hears messages must not be held up."""

from __future__ import annotations

import threading
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest

from backends.errors import InvalidRequest
from backends.onnx.worker import QUICK_BYTES, Worker


class Spy:
    """A model that tells who asks for its manifest, the first step of reading a request."""

    def __init__(self) -> None:
        self.threads: Queue[str] = Queue()

    @property
    def manifest(self) -> object:
        self.threads.put(threading.current_thread().name)
        raise InvalidRequest("Seen.")


@pytest.mark.parametrize(
    ("prompts", "size", "thread"),
    [
        (["a text"], 100, threading.current_thread().name),
        (["a text"], QUICK_BYTES + 1, "prepare"),
        ([{"features": [1.0]}], 100, threading.current_thread().name),
        ([{"image": "AAAA"}], 100, "view"),
        ([{"features": [1.0]}, {"image": "AAAA"}], 100, "view"),
    ],
)
def test_what_is_read_where_it_is_heard(prompts: list[object], size: int, thread: str) -> None:
    model, refused = Spy(), Queue[str]()
    lanes: Any = SimpleNamespace(begin=lambda _: None, refuse=lambda key, _: refused.put(key), wants=lambda _: True)
    room: Any = SimpleNamespace(models={"folder": model})
    channel: Any = SimpleNamespace(send=lambda _: None)
    Worker(channel, room, lanes).hear(
        {"op": "ask", "id": "1", "folder": "folder", "kind": "classification", "prompts": prompts, "options": {}}, size
    )
    assert refused.get(timeout=30) == "1"
    assert model.threads.get_nowait().startswith(thread)
