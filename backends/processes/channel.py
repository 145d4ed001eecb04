"""The worker's end: its socket, and its death with the gateway's."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.processes.wire import dumps


class Channel:
    """The worker's end of the socket. Any thread may write."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.lines = sock.makefile("rb", buffering=1 << 16)

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises `BrokenPipeError` once the gateway is gone."""
        line = dumps(message)
        with self._lock:
            self._sock.sendall(line)


def die_with_parent() -> None:
    """Linux: be killed when the gateway dies, even while native code computes."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1 and os.environ.get("OUTSTATION_GATEWAY_PID") not in (None, "1"):
            sys.exit(0)


def die_first() -> None:
    """Linux: where memory runs out, this process is ended before the gateway and before the language models."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
