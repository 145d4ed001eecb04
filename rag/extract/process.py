"""Extraction, from the gateway's side: a worker that is kept warm, limits that are watched, clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from rag.extract import wire
from rag.extract.builder import scrub, squeeze
from rag.extract.errors import ExtractionError, ReaderEnded, invalid
from rag.extract.limits import Cutting, Limits
from rag.types import Document, Extracted

IDLE_S = 60.0
GRACE_S = 2.0
MOST_NAME_CHARS = 200
# Of a worker's environment: nothing else of the gateway's is its business, least of all keys.
ENVIRONMENT = (
    "PATH LANG LC_ALL LC_CTYPE TZ LD_LIBRARY_PATH DYLD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV TESSDATA_PREFIX "
    "OUTSTATION_OCR_LANGUAGES"
).split()

Progress = Callable[[int, int], None]

log = logging.getLogger("outstation.extract")


class Extractor:
    """Reads files, at most `workers` at once. A worker is started when it is first needed and ended when it is idle.

    Args:
        workers: each reads one file at a time, with one core.
        idle_s: after so long without a file a worker is ended; it holds about 60 MB.
    """

    def __init__(self, limits: Limits | None = None, workers: int = 1, idle_s: float = IDLE_S) -> None:
        self._limits = limits or Limits()
        self._room = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._idle_s = idle_s
        self._closing: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def extract(
        self, path: Path, name: str, limits: Limits | None = None, on_page: Progress | None = None
    ) -> Extracted:
        """The file's text.

        Args:
            path: where it lies; absolute.
            name: as its sender calls it; what it ends in says what it should be.
            on_page: told (page, pages) as a PDF is read.

        Raises `ExtractionError`. A cancelled call ends the reading at once.
        """
        return wire.unpack(await self._ask(path, name, limits, on_page, None))

    async def document(
        self, path: Path, name: str, cutting: Cutting, limits: Limits | None = None, on_page: Progress | None = None
    ) -> Document:
        """The same, cut: counting tokens takes as long as reading, and is not done in the gateway's process either.

        Raises `ExtractionError`: `server_error` where the embedder's tokenizer cannot be loaded.
        """
        return wire.unpack_document(await self._ask(path, name, limits, on_page, cutting))

    async def _ask(
        self, path: Path, name: str, limits: Limits | None, on_page: Progress | None, cutting: Cutting | None
    ) -> Mapping[str, Any]:
        name = squeeze(scrub(name))[-MOST_NAME_CHARS:]  # what it ends in counts
        async with self._room, self._worker() as worker:
            return await worker.read(path, name, limits or self._limits, on_page, cutting)

    async def close(self) -> None:
        """End all workers."""
        if self._closing:
            self._closing.cancel()
        self._end_idle()
        if self._ending:
            await asyncio.wait(self._ending)

    async def __aenter__(self) -> Extractor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[_Worker]:
        while self._idle and not self._idle[-1].alive:
            self._end(self._idle.pop())
        worker = self._idle.pop() if self._idle else await _Worker.launch()
        try:
            yield worker
        except ExtractionError:
            self._put_back(worker)
            raise
        except BaseException:
            self._end(worker)
            raise
        self._put_back(worker)

    def _put_back(self, worker: _Worker) -> None:
        if worker.alive:
            self._idle.append(worker)
        else:
            self._end(worker)
        if self._closing:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        while self._idle:
            self._end(self._idle.pop())

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        task = asyncio.create_task(worker.gone())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def extract(path: Path, name: str, limits: Limits | None = None) -> Extracted:
    """One file, by a worker that lives no longer. Raises `ExtractionError`."""
    async with Extractor(limits) as extractor:
        return await extractor.extract(path, name)


class _Worker:
    """One process that forks for each file, and the group of the two."""

    def __init__(self, process: asyncio.subprocess.Process, requests: socket.socket) -> None:
        self._process = process
        self._requests = requests
        self._killed = False

    @classmethod
    async def launch(cls) -> _Worker:
        """Does not wait until it is ready: the first file does. Raises `ExtractionError`."""
        ours, theirs = socket.socketpair()
        environment = {key: os.environ[key] for key in ENVIRONMENT if key in os.environ}
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # the folder that a command was called in may be the documents' own
                    "-m",
                    "rag.extract.worker",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # one group with what it forks, to be ended together
                    env=environment | {"OUTSTATION_GATEWAY_PID": str(os.getpid())},
                )
        except OSError as error:
            ours.close()
            raise ExtractionError(
                "server_error", f"No process could be started to read the file ({error.strerror}). Try again."
            ) from None
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    @property
    def alive(self) -> bool:
        """Whether it can read another file."""
        return not self._killed and self._process.returncode is None

    def kill(self) -> None:
        """It, and what it has forked, at once."""
        if not self._killed:
            self._killed = True
            self._requests.close()
            # The group is there until its leader has been waited for, and that only happens after this.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until it is."""
        await self._process.wait()

    async def read(
        self, path: Path, name: str, limits: Limits, on_page: Progress | None, cutting: Cutting | None
    ) -> Mapping[str, Any]:
        """The worker's last word. Raises `ExtractionError`; not `alive` afterwards where it had to be ended."""
        ours, theirs = socket.socketpair()
        request = wire.dumps(
            {
                "path": wire.pack_path(path),
                "name": name,
                "limits": wire.pack_limits(limits),
                "cutting": wire.pack_cutting(cutting) if cutting else None,
            }
        )
        with theirs:
            try:
                socket.send_fds(self._requests, [request], [theirs.fileno()])
            except OSError:
                ours.close()
                self.kill()
                raise _ended(name) from None
        reader, writer = await asyncio.open_connection(sock=ours, limit=_most_answer(limits))
        try:
            return await self._answer(reader, name, limits, on_page)
        finally:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, name: str, limits: Limits, on_page: Progress | None
    ) -> Mapping[str, Any]:
        last: dict[str, Any] | None = None
        scanned = False
        try:
            async with asyncio.timeout(limits.seconds + GRACE_S) as clock:
                while line := await reader.readline():
                    message = _loads(line)
                    if message is None:
                        continue
                    if message["op"] == "ended":
                        return _outcome(last, message["status"], name, limits)
                    if message["op"] != "progress":
                        last = message
                        continue
                    if message["scanned"] and not scanned:
                        scanned = True
                        clock.reschedule(asyncio.get_running_loop().time() + limits.ocr_seconds + GRACE_S)
                    elif on_page:
                        on_page(message["page"], message["pages"])
        except TimeoutError:
            self.kill()
            raise _too_slow(name, limits.ocr_seconds if scanned else limits.seconds) from None
        except ValueError:  # a line over the limit
            self.kill()
            raise _too_much(name, limits) from None
        self.kill()
        raise _ended(name)


def _most_answer(limits: Limits) -> int:
    """Bytes of a line: text of four bytes a character, and a place for each few of them."""
    return limits.text_chars * 8 + (1 << 20)


def _loads(line: bytes) -> dict[str, Any] | None:
    """None for an empty line, and for what a child has left half said."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return message if isinstance(message, dict) else None


def _outcome(last: Mapping[str, Any] | None, status: int, name: str, limits: Limits) -> Mapping[str, Any]:
    if last is not None and status == 0:
        if last["op"] == "done":
            return last
        raise wire.unpack_error(last)
    if status == -signal.SIGXCPU:
        raise _too_slow(name, limits.seconds)
    log.error("a file ended the process that read it (status %d)", status)
    raise _ended(name)


def _too_slow(name: str, seconds: float) -> ExtractionError:
    return invalid(f"{name} was not read within {seconds:g} s. Split it, or save it anew in a plainer form.")


def _too_much(name: str, limits: Limits) -> ExtractionError:
    return invalid(f"{name} holds more text than is read ({limits.text_chars:,} characters). Split it.")


def _ended(name: str) -> ExtractionError:
    return ReaderEnded(f"The process that read {name} ended before it was done. Try again; or save the file anew.")
