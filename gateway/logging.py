"""Log lines for people or for machines. Prompts and completions never reach them."""

from __future__ import annotations

import logging
import sys
import time

import orjson

from gateway.schemas.settings import LoggingSettings


def set_up(settings: LoggingSettings) -> None:
    """Sends all logging to standard error in the operator's format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # What no line shows need not be found out for each: where in the code, which thread, process and task.
    logging._srcfile = None  # the way that Python's logging HOWTO names
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # The server says the same in lines of its own; ours suffice.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def formatter(settings: LoggingSettings) -> logging.Formatter:
    """How a line looks."""
    return _Json() if settings.format == "json" else _Text()


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
