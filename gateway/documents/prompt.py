"""A chat with what was found for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from backends.types import Request
from rag.context import INSTRUCTIONS

AND_FUNCTIONS: Final = "Call a function where one is needed. What it gives may be said as well."
NOTHING_FOUND: Final = """\
The site's documents were searched for what the user asks, and do not say it.
Do not make up what they might say, and name no source."""
OR_SAY: Final = "Where the answer would have to come from them, say: "
SHORT_WORDS: Final = 4
"""A question of fewer says too little by itself (`And the other one?`): the one before it is searched for with it."""
MOST_QUESTION_CHARS: Final = 2_000


def question_of(request: Request) -> str:
    """What the documents are asked: the user's last words; empty: there are none."""
    asked = [text for message in request.messages if message.get("role") == "user" and (text := _text(message))]
    if not asked:
        return ""
    last = asked[-1]
    if len(last.split()) < SHORT_WORDS and len(asked) > 1:
        last = f"{asked[-2]}\n{last}"
    return last[-MOST_QUESTION_CHARS:]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    return "\n".join(part["text"] for part in content or () if isinstance(part.get("text"), str)).strip()


def instructions(request: Request, silence: str, *, found: bool) -> str:
    """What the system tells the model.

    Args:
        silence: what to say where they do not; empty: whatever the model knows itself.
        found: they say something: then it is for the model to use it.
    """
    lines = [INSTRUCTIONS if found else NOTHING_FOUND]
    if not found and silence:
        lines.append(OR_SAY + silence)
    if found and request.tools and request.tool_choice != "none":
        lines.append(AND_FUNCTIONS)
    return "\n".join(lines)


def with_sources(request: Request, instructions: str, blocks: Sequence[str]) -> Request:
    """The same request, with the sources right before the user's last words, each a part of its own: so they are told
    apart from what the user says, by whoever judges either. The instructions are the system's.
    """
    given = request.raw.get("messages") or request.messages
    raw = {**request.raw, "messages": _instructed(_grounded(given, blocks), instructions)}
    messages = [
        {**message, "content": _joined(message.get("content"))}
        for message in _instructed(_grounded(request.messages, blocks), instructions)
    ]
    return replace(
        request,
        raw=raw,
        messages=tuple(messages),
        retrieved=request.retrieved | frozenset(blocks),
        trusted=request.trusted | {instructions},
    )


def _grounded(messages: Sequence[Mapping[str, Any]], blocks: Sequence[str]) -> list[dict[str, Any]]:
    told = [dict(message) for message in messages]
    at = next((n for n in reversed(range(len(told))) if told[n].get("role") == "user"), None)
    if at is None or not blocks:
        return told
    content = told[at].get("content")
    said = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
    told[at]["content"] = [*({"type": "text", "text": block} for block in blocks), *said]
    return told


def _instructed(messages: list[dict[str, Any]], instructions: str) -> list[dict[str, Any]]:
    """One system message at most: some templates take no second one. A developer's words are judged: ours are told
    apart from them."""
    ours = {"type": "text", "text": instructions}
    if not messages or messages[0].get("role") not in ("system", "developer"):
        return [{"role": "system", "content": instructions}, *messages]
    first, content = messages[0], messages[0].get("content")
    more: Any = [*(content or ()), ours] if not isinstance(content, str) else f"{content}\n\n{instructions}"
    if isinstance(content, str) and first["role"] == "developer":
        more = [{"type": "text", "text": content}, ours]
    return [{**first, "content": more}, *messages[1:]]


def _joined(content: Any) -> Any:
    """For a local template: one text where there is nothing but text."""
    if isinstance(content, list) and all(part.get("type") == "text" for part in content):
        return "\n\n".join(part["text"] for part in content)
    return content
