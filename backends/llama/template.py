"""A model file's own chat template, rendered as untrusted code: `sandbox` bounds what it may reach, take and spend.

The variables and filters are those that Hugging Face's `apply_chat_template` gives a template.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from backends.errors import BadModelFile, InvalidRequest
from backends.llama.meter import Meter, TooSlow
from backends.llama.sandbox import Sandbox

MAX_TEMPLATE_BYTES = 256 * 1024
RENDER_SECONDS = 2.0


class ChatTemplate:
    """One compiled template. Thread-safe: renders one at a time."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Raises `BadModelFile` if the source is too large or no Jinja."""
        if len(source.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
            raise BadModelFile(f"The model file's chat template is larger than {MAX_TEMPLATE_BYTES} bytes.")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._sandbox = Sandbox()
        self._lock = threading.Lock()
        try:
            self._template = self._sandbox.compiled(source)
        except (jinja2.TemplateError, SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as e:
            # Python's compiler has limits of its own: nested blocks, digits, depth.
            reason = str(e) or type(e).__name__
            raise BadModelFile(f"The model file's chat template does not compile: {reason[:500]}") from e

    def render(
        self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any], *, limit_s: float = RENDER_SECONDS
    ) -> str:
        """The prompt's text, ready for the assistant's turn. Raises `InvalidRequest` with the template's own reason."""
        variables = {**extra, **self._tokens, "messages": [dict(m) for m in messages], "add_generation_prompt": True}
        size = sum(len(str(part)) for part in (*messages, extra))
        try:
            with self._lock:
                self._sandbox.meter = Meter(size, limit_s)
                return "".join(self._template.generate(variables))
        except TooSlow:
            raise InvalidRequest(
                f"The model's chat template took longer than {limit_s:g} s with these messages.", param="messages"
            ) from None
        except SecurityError as e:
            raise InvalidRequest(
                f"The model's chat template was stopped: {str(e).rstrip('.')}.", param="messages"
            ) from e
        except jinja2.TemplateError as e:
            raise InvalidRequest(f"The model's chat template refuses these messages: {e}", param="messages") from e
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as e:
            reason = f"{type(e).__name__}: {e}"
            raise InvalidRequest(
                f"The model's chat template cannot render these messages ({reason[:500]}).", param="messages"
            ) from e
