"""`python -m rag.extract.worker FD`: loads the libraries once, then forks for each file.

So a file costs a fork in place of a start, and each is read in a process that has seen no other: what it breaks, or
uses up, ends with it. Over the socket FD come requests, each with a socket of its own for the answer.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from backends.errors import BackendError
from backends.processes.channel import die_first, die_with_parent
from rag.chunks import Tokenize, chunk
from rag.extract import readers, wire
from rag.extract.errors import ExtractionError, invalid
from rag.extract.limits import Cutting, Limits
from rag.extract.source import Source

MOST_REQUEST_BYTES = 1 << 16
NICENESS = 10  # whoever waits for an answer comes first
OPEN_FILES = 64


def main() -> None:
    """Serve until the other end hangs up."""
    die_with_parent()
    die_first()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # One thread each: what forks must have no others, and one file shall not take all cores.
    os.environ.update(OMP_THREAD_LIMIT="1", TOKENIZERS_PARALLELISM="false")
    requests = socket.socket(fileno=int(sys.argv[1]))
    readers.load_all()
    tokenizers = Tokenizers()
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MOST_REQUEST_BYTES, 1)
        if not data or not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as answer:
            _serve(orjson.loads(data), answer, requests, tokenizers)


class Tokenizers:
    """Those that were asked for. Of all that a worker reads they alone are not a sender's, so they are kept."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, int], Tokenize] = {}

    def get(self, folder: Path) -> Tokenize:
        """Raises `BadModelFile`, `OSError`."""
        from rag import tokens

        # A model that was pulled anew is another.
        key = folder, max((path.stat().st_mtime_ns for path in folder.glob("*.json")), default=0)
        if key not in self._loaded:
            self._loaded = {key: tokens.load(folder).tokenize}
        return self._loaded[key]


def _serve(request: Mapping[str, Any], answer: socket.socket, requests: socket.socket, tokenizers: Tokenizers) -> None:
    """Fork, wait, and tell how it ended: the answer may break off in the midst of a line."""
    if request["cutting"]:
        with contextlib.suppress(BackendError, OSError):
            tokenizers.get(wire.unpack_cutting(request["cutting"]).embedder)  # before the fork: once for all files
    child = os.fork()
    if child == 0:
        code = 1
        try:
            requests.close()
            _work(request, answer, tokenizers)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        answer.sendall(b"\n" + wire.dumps({"op": "ended", "status": os.waitstatus_to_exitcode(status)}))


def _work(request: Mapping[str, Any], answer: socket.socket, tokenizers: Tokenizers) -> None:
    """In the child. What it says last is `done` or `failed`, if it lives so long."""
    die_with_parent()
    limits = wire.unpack_limits(request["limits"])
    _confine(limits)

    def progress(page: int, pages: int, scanned: bool) -> None:
        if scanned:
            _allow_seconds(limits.ocr_seconds)
        answer.sendall(wire.dumps({"op": "progress", "page": page, "pages": pages, "scanned": scanned}))

    source = Source(wire.unpack_path(request["path"]), request["name"], limits, progress)
    cutting = wire.unpack_cutting(request["cutting"]) if request["cutting"] else None
    answer.sendall(_read(source, cutting, tokenizers))


def _read(source: Source, cutting: Cutting | None, tokenizers: Tokenizers) -> bytes:
    try:
        source.path.open("rb").close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return wire.pack_error(ExtractionError("server_error", f"{source.name} could not be opened ({reason})."))
    try:
        extracted = readers.read(source)
        if cutting is None:
            return wire.pack(extracted)
        chunks = chunk(extracted, tokenizers.get(cutting.embedder), cutting.strategy)
        return wire.pack(replace(extracted, rows=()), chunks)
    except BackendError as error:
        return wire.pack_error(ExtractionError("server_error", error.message))
    except ExtractionError as error:
        return wire.pack_error(error)
    except MemoryError:
        megabytes = source.limits.memory_bytes >> 20
        return wire.pack_error(invalid(f"{source.name} takes more than {megabytes:,} MB of memory to read. Split it."))
    except RecursionError:
        return wire.pack_error(invalid(f"{source.name} is nested too deeply to be read. Send it in a plainer form."))
    except Exception as error:  # noqa: BLE001 - libraries raise anything for a file that is broken in a new way
        return wire.pack_error(
            invalid(f"{source.name} cannot be read; it seems damaged ({type(error).__name__}). Send the original.")
        )


def _confine(limits: Limits) -> None:
    # A fault in the memory of a library shall leave no image of somebody's document on the disk.
    _limit(resource.RLIMIT_CORE, 0, 0)
    _limit(resource.RLIMIT_FSIZE, 0, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
    _limit(resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes)
    most = int(max(limits.seconds, limits.ocr_seconds)) + 2
    _limit(resource.RLIMIT_CPU, int(limits.seconds) + 1, most)


def _allow_seconds(seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    _limit(resource.RLIMIT_CPU, min(int(seconds) + 1, most), most)


def _limit(which: int, soft: int, hard: int) -> None:
    # Not every platform has every limit; the clock on the other side is always there.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (soft, hard))


if __name__ == "__main__":
    main()
