"""A model file's own chat template, rendered as untrusted code: sandboxed Jinja with limits on time and size.

The variables and filters are those that Hugging Face's `apply_chat_template` gives a template.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.errors import BadModelFile, InvalidRequest

MAX_TEMPLATE_BYTES = 256 * 1024
MAX_PADDING = 10_000  # characters that one formatting operation may add
RENDER_SECONDS = 2.0


class _TooSlow(Exception):
    """Raised into the rendering thread by the watchdog."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox keeps a template from the interpreter; this keeps it from all the memory as well."""

    intercepted_binops = frozenset({"*", "**", "%", "<<"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(v) for v in (left, right) if isinstance(v, (str, bytes, list, tuple))]
        numbers = [abs(v) for v in (left, right) if isinstance(v, int)]
        if operator == "*" and sizes and numbers and sizes[0] * numbers[0] > MAX_PADDING:
            raise SecurityError("repeats a value too often")
        if operator in ("**", "<<") and any(n > 64 for n in numbers):
            raise SecurityError("computes too large a number")
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            # center, ljust, zfill, indent, format: a width is the one way left to make much of little.
            if isinstance(value, int) and abs(value) > MAX_PADDING and getattr(obj, "__name__", "") != "range":
                raise SecurityError("asks for too wide a padding")
        owner = getattr(obj, "__self__", None)
        if getattr(obj, "__name__", "") in ("format", "format_map") and isinstance(owner, str):
            _check_widths(owner)
        return super().call(context, obj, *args, **kwargs)


def _check_widths(pattern: str) -> None:
    digits = 0
    for c in pattern:
        digits = digits + 1 if c.isdigit() else 0
        if digits > 4:
            raise SecurityError("asks for too wide a padding")
    if "*" in pattern or "{" in pattern.partition("{")[2].partition("}")[0]:
        raise SecurityError("takes a width from a value")


class ChatTemplate:
    """One compiled template. Thread-safe: rendering shares nothing."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Raises `BadModelFile` if the source is too large or no Jinja."""
        if len(source.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
            raise BadModelFile(f"The model file's chat template is larger than {MAX_TEMPLATE_BYTES} bytes.")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        env = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.filters["tojson"] = _tojson
        env.filters["indent"] = _indent
        for name in (
            "center",
            "wordwrap",
            "format",
            "batch",
            "slice",
        ):  # padding without bound, and no template needs it
            del env.filters[name]
        env.globals["raise_exception"] = _raise_exception
        env.globals["strftime_now"] = lambda fmt: datetime.now().astimezone().strftime(fmt)
        env.globals.pop("lipsum", None)
        try:
            self._template = env.from_string(source)
        except (jinja2.TemplateError, RecursionError, OverflowError) as e:
            raise BadModelFile(f"The model file's chat template does not compile: {e}") from e

    def render(
        self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any], *, limit_s: float = RENDER_SECONDS
    ) -> str:
        """The prompt's text, ready for the assistant's turn. Raises `InvalidRequest` with the template's own reason."""
        variables = {**extra, **self._tokens, "messages": [dict(m) for m in messages], "add_generation_prompt": True}
        budget = 16 * sum(len(str(m)) for m in messages) + 4 * MAX_TEMPLATE_BYTES
        parts: list[str] = []
        try:
            with _time_limit(limit_s):
                for part in self._template.generate(variables):
                    parts.append(part)
                    budget -= len(part)
                    if budget < 0:
                        raise SecurityError("produces too much text")
        except _TooSlow:
            raise InvalidRequest(
                f"The model's chat template took longer than {limit_s:g} s with these messages.", param="messages"
            ) from None
        except SecurityError as e:
            raise InvalidRequest(f"The model's chat template was stopped: it {e}.", param="messages") from e
        except jinja2.TemplateError as e:
            raise InvalidRequest(f"The model's chat template refuses these messages: {e}", param="messages") from e
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError, ArithmeticError, MemoryError) as e:
            raise InvalidRequest(
                f"The model's chat template cannot render these messages ({type(e).__name__}: {e}).", param="messages"
            ) from e
        return "".join(parts)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Bounds pure-Python work in this thread: a watchdog raises an exception between two of its bytecodes.

    Signals would do only in the main thread, which is busy computing.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    over = False

    def fire() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooSlow))

    watchdog = threading.Timer(seconds, fire)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        with lock:
            over = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
        watchdog.cancel()


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if len(width) if isinstance(width, str) else width > 64:
        raise SecurityError("asks for too wide a padding")
    return str(jinja2.filters.do_indent(value, width, first, blank))


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
    """JSON as it is, not escaped for HTML as Jinja's own filter does."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("asks for too wide an indent")
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
