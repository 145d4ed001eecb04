"""Log lines for people or for machines. Prompts and completions never reach them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from typing import IO

import orjson

from gateway.schemas.settings import LoggingSettings

GATHER_S = 0.05


def set_up(settings: LoggingSettings) -> None:
    """Sends all logging to standard error in the operator's format."""
    handler = Gathering(sys.stderr)
    handler.setFormatter(formatter(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # What no line shows need not be found out for each: where in the code, which thread, process and task.
    logging._srcfile = None  # the way that Python's logging HOWTO names
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # The server says the same in lines of its own; ours suffice.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings are of clients' odd forms


def formatter(settings: LoggingSettings) -> logging.Formatter:
    """How a line looks."""
    return _Json() if settings.format == "json" else _Text()


class Gathering(logging.StreamHandler[IO[str]]):
    """Writes lines of the event loop together, at most 50 ms late, since a write costs as much as making the line.

    A warning, or a line of another thread, is written at once, after those that wait.
    """

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._awaited = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            loop = None
            if record.levelno < logging.WARNING:
                with contextlib.suppress(RuntimeError):
                    loop = asyncio.get_running_loop()
            if loop is None:
                self.flush()
            elif not self._awaited:
                self._awaited = True
                loop.call_later(GATHER_S, self._write)
        except Exception:  # noqa: BLE001 - as every handler: a line that cannot be written must not end the work
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("\n".join(lines) + "\n")
            super().flush()

    def _write(self) -> None:
        self._awaited = False
        self.flush()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}"
        fields = getattr(record, "fields", None)
        if fields:
            line += "".join([f" {key}={_plain(value)}" for key, value in fields.items()])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _plain(value: object) -> str:
    """One token: what holds spaces or control characters is quoted, so that nobody can forge a line."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and " " not in text else orjson.dumps(text).decode()
