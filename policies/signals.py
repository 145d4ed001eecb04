"""What a request is like, told before it is routed: which of its texts are judged, and what needs no model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from backends.types import GENERATES, Request
from policies.signals_words import CONSTRAINTS, HARD, SCRIPTS, WORDS

JUDGED = ("injection", "toxicity")
"""Signals that a small model gives: of each also `…_user` and `…_retrieved`, the larger of which it is."""

UNKNOWN = "und"
"""No language can be told (ISO 639-2's code for that)."""

WINDOW, OVERLAP, MOST_TOKENS = 480, 64, 96
"""Of what a model sees at once: characters, those of them that the next window sees too, and tokens, estimated so that
English has two thirds more than that before it is too long for any model here."""

MOST_JUDGED, MOST_PIECES = 1024 * 1024, 2048
"""Characters, and pieces, of a request that are judged: more would keep a model busy for minutes."""

TOO_LONG = "too_long"
"""Among the names of what is not known: for there is more than is ever judged, so that asking again is no use."""

MOST_READ = 4000
"""Characters of a text that are looked at to tell its language and difficulty: no more than a page says."""

_TOKEN = re.compile(r"[^\W\d_\u2e80-\U0010ffff]{1,60}|\S")
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W\d_]+")
_CODE = re.compile(
    r"```|^(?:    |\t)\S|[{};]\s*$|\b(?:def|class|function|SELECT|import|return)\b[^\n]*[(:;{=]", re.MULTILINE
)
_ITEMS = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S", re.MULTILINE)


class Texts(NamedTuple):
    """What a request says: its user's and its developer's words, and what came from elsewhere (tools' results,
    retrieved documents). System messages and the model's own words are not judged, nor what the gateway wrote itself.
    `opaque`: there is more, as token ids, which nobody can read."""

    user: tuple[str, ...] = ()
    retrieved: tuple[str, ...] = ()
    opaque: bool = False


def texts_of(request: Request) -> Texts:
    """Of a chat or a completion; other tasks have none that is judged."""
    if request.kind not in GENERATES:
        return Texts()
    if request.kind != "chat":
        texts = tuple(prompt for prompt in request.prompts if isinstance(prompt, str))
        return Texts(texts, opaque=len(texts) < len(request.prompts))
    user: list[str] = []
    retrieved: list[str] = []
    for message in request.raw.get("messages") or request.messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role in ("user", "developer", "tool", "function"):
            for text, marked in _parts(message.get("content")):
                if text not in request.trusted:
                    said = role in ("user", "developer") and not marked and text not in request.retrieved
                    (user if said else retrieved).append(text)
    return Texts(tuple(user), tuple(retrieved))


def _parts(content: Any) -> Iterator[tuple[str, bool]]:
    """The texts of a message, and whether each is marked as retrieved."""
    if isinstance(content, str):
        yield content, False
    for part in content if isinstance(content, list | tuple) else ():
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"], part.get("retrieved") is True


def sentences(text: str) -> Iterator[str]:
    """Its sentences and lines, each with the ones after it that have no more than two words.

    An attack inside a document is lost among what stands around it: judged in windows 18% of such were found, sentence
    by sentence 94% (bench/RESULTS.md, the injection guard).
    """
    held: list[str] = []
    length = 0
    for piece in _ends(text):
        # More short lines than a window takes are cut as any other text: no step takes long.
        if held and (length > WINDOW or len(piece.split(None, 2)) > 2):
            yield " ".join(held)
            held, length = [], 0
        if piece:
            held.append(piece)
            length += len(piece) + 1
    if held:
        yield " ".join(held)


def _ends(text: str) -> Iterator[str]:
    at = 0
    for end in _END.finditer(text):
        yield text[at : end.start()].strip()
        at = end.end()
    yield text[at:].strip()


class _Token(NamedTuple):
    """`cost`: in a model's tokens, estimated."""

    start: int
    end: int
    cost: int


def windows(text: str) -> Iterator[str]:
    """A text in pieces that a small model can take, each place of it in one."""
    held: list[_Token] = []
    used = 0
    for match in _TOKEN.finditer(text):
        token = _Token(match.start(), match.end(), 1 + (match.end() - match.start() - 1) // 6)
        if held and not _fits(held, used, token):
            yield text[held[0].start : held[-1].end]
            held = _overlap(held)
            used = sum([one.cost for one in held])
            while held and not _fits(held, used, token):
                used -= held.pop(0).cost
        held.append(token)
        used += token.cost
    if held:
        yield text[held[0].start : held[-1].end]


def _fits(held: Sequence[_Token], used: int, token: _Token) -> bool:
    return token.end - held[0].start <= WINDOW and used + token.cost <= MOST_TOKENS


def _overlap(held: list[_Token]) -> list[_Token]:
    """Its last words, which the next window sees too; never all of them."""
    back, end = len(held), held[-1].end
    while back > 1 and end - held[back - 1].start <= OVERLAP and len(held) - back < MOST_TOKENS // 4:
        back -= 1
    return held[back:]


def language(text: str) -> tuple[str, float]:
    """ISO 639-1 code and confidence (0 to 1), by the script and the most frequent words alone; `und` where these do not
    tell: a few words, a table, a language that is not in `WORDS`."""
    text = text[:MOST_READ]
    letters = sum(map(str.isalpha, text))
    for code, script in SCRIPTS.items():
        if letters and (share := len(script.findall(text)) / letters) > 0.3:
            return code, min(1.0, round(share + 0.3, 2))
    words = [match[0].lower() for match in islice(_WORD.finditer(text), 400)]
    votes = _votes(words)
    if not votes:
        return UNKNOWN, 0.0
    (best, most), (_, next_) = [*sorted(votes.items(), key=lambda vote: (-vote[1], vote[0])), ("", 0.0)][:2]
    confidence = round((most - next_) / most * min(1.0, most / 3), 2)
    return (best, confidence) if most >= 1.5 and confidence >= 0.3 else (UNKNOWN, confidence)


def _votes(words: Sequence[str]) -> dict[str, float]:
    """A word that several languages have counts for each in part."""
    votes: dict[str, float] = {}
    for word in words:
        for code in (codes := WORDS.get(word, ())):
            votes[code] = votes.get(code, 0.0) + 1 / len(codes)
    return votes


def difficulty(text: str) -> float:
    """How much a request asks for, 0 to 1: a rule of thumb, no measurement. The sum of its length (0.3 from 300 words
    on), code (0.2), words that ask for reasons or a design (0.25 from three on), constraints and list items (0.25 from
    six on)."""
    text = text[:MOST_READ]
    words = [match[0].lower() for match in _WORD.finditer(text)]
    hard = sum([word in HARD for word in words])
    asked = sum([word in CONSTRAINTS for word in words]) + len(_ITEMS.findall(text))
    length, code = min(1.0, len(words) / 300), _CODE.search(text) is not None
    return round(0.3 * length + 0.2 * code + 0.25 * min(1.0, hard / 3) + 0.25 * min(1.0, asked / 6), 3)
