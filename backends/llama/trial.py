"""A process in which grammars are tried out before a model's own compiles them: `python -m backends.llama.trial`.

What takes too long here, or too much memory, or ends the process, ends nothing else. It reads grammars from its
standard input, one JSON line each, and answers each with a line, whatever came of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from backends.errors import BackendError
from backends.llama.grammar import Grammars
from backends.llama.talk import Talk
from backends.processes.channel import die_first, die_with_parent
from backends.types import Grammar

CPU_S = 3
"""For one grammar: seconds, rounded up to whole ones by the system."""
MEMORY = 3 << 29  # bytes, beyond what the process takes by itself
SPENT = 1 << 28
STEPS = 12
"""Bytes that are chosen as a model would, one after another."""


def main() -> None:
    """Answer until the input ends."""
    die_with_parent()
    die_first()
    os.nice(5)  # others' answers go on meanwhile
    talk = Talk.of(orjson.loads(sys.stdin.buffer.readline()))
    tokenizer = _bytes()
    grammars = Grammars(lambda: tokenizer, tokenizer.vocab_size, talk=talk, kept=0)
    _limit(resource.RLIMIT_CORE, 0)
    size = _size()
    _limit(resource.RLIMIT_AS, size + MEMORY)
    _say("ready")
    for line in sys.stdin.buffer:
        message = orjson.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + CPU_S)
        # What is wrong with it is for the model's own process to say, whose vocabulary counts.
        with contextlib.suppress(BackendError, ArithmeticError, ValueError, RecursionError):
            _try(grammars, Grammar(**message["grammar"]), message["opening"])
        # A heap that has grown large stays so.
        _say("spent" if _size() > size + SPENT else "tried")


def _try(grammars: Grammars, grammar: Grammar, opening: Any) -> None:
    constraint = grammars.compile(grammar, opening)
    for step in range(STEPS):
        allowed = np.flatnonzero(~constraint.blocked())
        if constraint.done or not len(allowed):
            return
        constraint.take([int(allowed[step % len(allowed)])])


def _bytes() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    # Not every system has each of them.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _size() -> int:
    """Bytes of address space that the process takes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _say(word: str) -> None:
    sys.stdout.buffer.write(orjson.dumps(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
