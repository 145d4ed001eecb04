"""The worker's end of `trial`: whether a grammar can be compiled without harm, found out in another process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import IO

import orjson

from backends.errors import Unavailable
from backends.llama.family import Opening
from backends.types import Grammar

START_S = 60.0
ANSWER_S = 30.0
"""By the clock; by itself the process ends after some seconds of computing."""


class Trials:
    """Tries grammars, one at a time, in a process that is started with the first one and kept. Thread-safe.

    Args:
        template: the model's chat template, which tells what stands around a grammar.
    """

    def __init__(self, template: str | None, *, answer_s: float = ANSWER_S) -> None:
        self._template = template
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def survives(self, grammar: Grammar, opening: Opening) -> bool:
        """Whether it was compiled within the bounds of time and memory, be it to an error. To be called from a thread
        that lives as long as this process, for the other one ends with it.

        Raises:
            Unavailable: the process cannot be started.
        """
        with self._lock:
            process = self._running()
            message = orjson.dumps({"grammar": asdict(grammar), "opening": opening})
            answer = _answer(process, message, self._answer_s)
            if answer != "tried":
                self._end()
            return answer != ""

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is None:
            return self._process
        self._end()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backends.llama.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise _unavailable() from error
        if _answer(self._process, orjson.dumps(self._template), START_S) != "ready":
            self._end()
            raise _unavailable()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()


def _answer(process: subprocess.Popen[bytes], message: bytes, limit_s: float) -> str:
    """The process's next word; empty: it ended, or was ended because it came too late."""
    late = threading.Timer(limit_s, process.kill)
    late.daemon = True
    late.start()
    try:
        assert process.stdin
        assert process.stdout
        return _asked(process.stdin, process.stdout, message)
    except OSError:
        return ""
    finally:
        late.cancel()


def _asked(stdin: IO[bytes], stdout: IO[bytes], message: bytes) -> str:
    stdin.write(message + b"\n")
    stdin.flush()
    line = stdout.readline()
    return str(orjson.loads(line)) if line.endswith(b"\n") else ""


def _unavailable() -> Unavailable:
    return Unavailable("No process could be started in which the grammar is tried. Try again.", retry_after=5)
