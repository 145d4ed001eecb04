"""Work of the listener that takes long, in a thread of its own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

STACK_BYTES = 64 << 20
"""Grammars are compiled by recursion. Memory that nothing touches costs nothing."""


class Beside:
    """Handles messages one after another, for as long as the process lives. `handle` must not raise."""

    def __init__(self, handle: Callable[[Mapping[str, Any]], None]) -> None:
        self._handle = handle
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        before = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=self._run, daemon=True).start()
        finally:
            threading.stack_size(before)

    def put(self, message: Mapping[str, Any]) -> None:
        """To be handled when its turn comes."""
        with self._changed:
            self._waiting[message["id"]] = message
            self._changed.notify()

    def forget(self, key: str) -> None:
        """The message of that id is no longer wanted, unless it is being handled now."""
        with self._changed:
            self._waiting.pop(key, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                _, message = self._waiting.popitem(last=False)
            self._handle(message)
