"""Random requests with planted values, providers that echo what they get or fail, and a look at every byte they got."""

from __future__ import annotations

import asyncio
import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.errors import EngineFailed
from backends.fake import FakeBackend, Step, say
from backends.types import Request
from tests.gateway.conftest import Exchange
from tests.policies import planted
from tests.remote.fault_proxy import DONE, USAGE, Act, FaultProxy, Seen, delta, event, refusal, stream
from tests.routing.conftest import Whole, provider

HIDDEN = {
    "open": frozenset[str](),
    "careful": frozenset(planted.MAKERS),
    "mixed": frozenset({"secret", "payment_card", "email", "iban"}),
    "strict": frozenset(planted.MAKERS),
}
"""By provider, the classes that it must never see."""

RULES = {
    "open": 'default = "allow"',
    "careful": 'default = "redact"',
    "mixed": 'secret = "deny", payment_card = "deny", email = "redact", iban = "redact", default = "allow"',
    "strict": 'default = "deny"',
}
GOOD_BETWEEN = 3  # answers between two faults: three faults in a row open the breaker, and nothing more would be sent
AT_ONCE = 8


@dataclass(slots=True)
class Echo(FaultProxy):
    """A provider that says back the last thing that it was told, in random pieces; or fails, at random."""

    rng: random.Random = field(default_factory=random.Random)
    good: int = 0

    async def _play(self, act: Act, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        good = echo(self.rng, seen)
        if self.good >= GOOD_BETWEEN and self.rng.random() < 0.6:
            self.good = 0
            return await FaultProxy._play(self, self._fault(good), seen, writer)
        self.good += 1
        return await FaultProxy._play(self, good, seen, writer)

    def _fault(self, good: Act) -> Act:
        size = sum(len(piece) for piece in good.body or ())
        cut = Act(body=good.body, headers=good.headers, cut_at=self.rng.randrange(1, size))
        busy = refusal(429, headers=[("retry-after", "0")])
        return self.rng.choice([*[refusal(500), Act(head="reset"), Act(head="hang_up"), cut, cut] * 3, busy])


def echo(rng: random.Random, seen: Seen) -> Act:
    """An answer that holds what the provider was told last: as text, or as a tool call's argument."""
    body = seen.json
    chat = seen.path.endswith("chat/completions")
    texts = [flat(body["messages"][-1]["content"])] if chat else prompts(body)
    if not body.get("stream"):
        choices = [_whole(index, text, chat, "tools" in body) for index, text in enumerate(texts)]
        return Act(body=(orjson.dumps({"choices": choices, "usage": USAGE}),))
    frames = [_streamed(rng, index, text, chat, "tools" in body) for index, text in enumerate(texts)]
    mixed = []
    while any(frames):
        mixed.append(rng.choice([pieces for pieces in frames if pieces]).pop(0))
    return stream(*mixed, event({"choices": [], "usage": USAGE}), DONE, piece=rng.choice([0, 0, 0, 57]))


def flat(content: Any) -> str:
    """The text of a message, whatever form it has."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def prompts(body: dict[str, Any]) -> list[str]:
    """Of a request in the legacy dialect."""
    return [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]


def _whole(index: int, text: str, chat: bool, tools: bool) -> dict[str, Any]:
    if not chat:
        return {"index": index, "text": text, "finish_reason": "stop"}
    if not tools:
        return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    function = {"name": "f", "arguments": orjson.dumps({"said": text}).decode()}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": index, "message": message, "finish_reason": "tool_calls"}


def _streamed(rng: random.Random, index: int, text: str, chat: bool, tools: bool) -> list[bytes]:
    if not chat:
        choices = [{"index": index, "text": piece, "finish_reason": None} for piece in cut(rng, text)]
        return [
            event({"choices": [choice]}) for choice in (*choices, {"index": index, "text": "", "finish_reason": "stop"})
        ]
    if not tools:
        pieces = [delta(piece, index=index) for piece in cut(rng, text)]
        return [delta(role="assistant", index=index), *pieces, delta(finish="stop", index=index)]
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    arguments = orjson.dumps({"said": text}).decode()
    calls = [first, *({"index": 0, "function": {"arguments": piece}} for piece in cut(rng, arguments))]
    return [*(delta(tool_calls=[call], index=index) for call in calls), delta(finish="tool_calls", index=index)]


def cut(rng: random.Random, text: str) -> list[str]:
    """In pieces; more often than not through the placeholders."""
    pieces = []
    while text:
        bracket = text.find("[")
        size = bracket + rng.randint(1, 9) if bracket >= 0 and rng.random() < 0.8 else rng.randint(1, 60)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


# -- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with planted values.

    Attributes:
        values: (class, value, as it stands in the request).
        says: what an echo says, by choice.
    """

    path: str
    body: dict[str, Any]
    values: Sequence[tuple[str, str, str]]
    says: Sequence[str]


def asked(rng: random.Random, number: int) -> Asked:
    """One at random. Its number is in its `metadata`, so that it is known again where it arrives."""
    classes = rng.sample(sorted(planted.MAKERS), rng.choice([0, 0, 1, 1, 2, 3, 4]))
    values = [(cls, planted.MAKERS[cls](rng)) for cls in classes]
    shown = [planted.disguised(rng, planted.grouped(rng, cls, value)) for cls, value in values]
    texts = [planted.sentence(rng, text) for text in shown]
    said = " ".join([*texts, rng.choice(["", "[EMAIL_1]", "[x", "Größe 🙂"])]) + "."
    chat = rng.random() < 0.75
    body = (
        planted.body(rng, iter(texts))
        if chat
        else {"temperature": 0.5, "note": {"deep": [orjson.dumps(texts).decode()]}}
    )
    if chat:
        parts = [{"type": "text", "text": said}] if rng.random() < 0.3 else said
        body["messages"].append({"role": "user", "content": parts})
        says = [said]
    else:
        body["prompt"] = rng.choice([said, [said], [said, planted.prose(rng, 1), said]])
        says = prompts(body)
    body |= {"metadata": {"case": f"n{number}n", "contact": rng.choice([*texts, ""])}, "stream": rng.random() < 0.6}
    if chat and rng.random() < 0.25:
        body["tools"] = [{"type": "function", "function": {"name": "f", "description": rng.choice([*texts, "do"])}}]
    body["model"] = rng.choice(["auto"] * 4 + [f"{name}/large" for name in HIDDEN])
    if rng.random() < 0.9:
        body["outstation"] = {"locality": rng.choice(["prefer_remote"] * 5 + ["only_remote"])}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    return Asked(path, body, [(c, v, s) for (c, v), s in zip(values, shown, strict=True)], says)


def config(**urls: str) -> str:
    """The providers, equal in quality and price: their order changes with their pace."""
    return "".join(provider(name, url, data=RULES[name], price=1.0, quality=1.0) for name, url in urls.items())


def box(rng: random.Random) -> FakeBackend:
    """A model on the box that fails now and then."""

    def script(request: Request) -> Sequence[Step]:
        return [EngineFailed("It died.", retry_after=0.01)] if rng.random() < 0.3 else say("local")(request)

    return FakeBackend("m", script)


# -- what came of it -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What was seen on both sides.

    Attributes:
        leaks: (provider, number of the request, class).
        wrong: numbers of the requests whose answer is not what was said.
        restored: answers that came back from a placeholder.
    """

    leaks: list[tuple[str, int, str]] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    restored: int = 0
    endings: Counter[str] = field(default_factory=Counter)


async def run(gateway: Whole, seed: int, count: int) -> tuple[list[Asked], Report]:
    """Asks so many, several at once."""
    rng = random.Random(seed)
    requests = [asked(rng, number) for number in range(count)]
    report, waiting = Report(), iter(enumerate(requests))

    async def worker() -> None:
        for number, request in waiting:
            begun = await gateway.ask(request.path, **request.body)
            report.endings[f"{begun.headers.get('x-outstation-route', '-')} {begun.status}"] += 1
            if not as_said(begun, request):
                report.wrong.append(number)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return requests, report


def inspect(report: Report, requests: Sequence[Asked], **providers: Echo) -> None:
    """Looks for each planted value in all that arrived at whom it must not."""
    for name, echoed in providers.items():
        for seen in echoed.seen:
            number = int(seen.json["metadata"]["case"].strip("n"))
            arrived, bare = seen.body.decode(), plain(seen.body.decode())
            report.restored += any(f"[{cls.upper()}_" in arrived for cls in HIDDEN[name])
            for cls, value, shown in requests[number].values:
                if cls in HIDDEN[name] and (value in arrived or shown in arrived or plain(value) in bare):
                    report.leaks.append((name, number, cls))


def plain(text: str) -> str:
    """What a reader makes of it: without escapes, invisible characters, separators and capitals."""
    while "\\" in text:
        text = text.replace("\\u200b", "").replace("\\\\", "\\") if "\\\\" in text else text.replace("\\", "")
    text = unicodedata.normalize("NFKC", text)
    return "".join(char for char in text if char.isascii() and char.isalnum()).lower()


def as_said(begun: Exchange, request: Asked) -> bool:
    """Whether the client got what the echo said, with the originals; of a stream that broke off, a beginning of it."""
    if begun.status != 200:
        return bool(begun.json["error"]["code"])
    says = ["local"] * len(request.says) if begun.headers["x-outstation-route"] == "local/m" else list(request.says)
    if not request.body["stream"]:
        return [_text(choice, "message") for choice in begun.json["choices"]] == says
    events = [orjson.loads(line[6:]) for line in begun.body.split(b"\n\n") if line.startswith(b"data: {")]
    texts = [""] * len(says)
    for choice in (choice for one in events for choice in one.get("choices", ())):
        texts[choice["index"]] += _text(choice, "delta")
    if "error" in events[-1]:
        escaped = [orjson.dumps({"said": text}).decode() for text in says]
        return b"[DONE]" not in begun.body and all(
            text == said[: len(text)] or text == inner[: len(text)]
            for text, said, inner in zip(texts, says, escaped, strict=True)
        )
    return (
        begun.body.endswith(DONE) and [_argument(text) if "tools" in request.body else text for text in texts] == says
    )


def _text(choice: dict[str, Any], part: str) -> str:
    said = choice.get(part) or choice
    if calls := said.get("tool_calls"):
        arguments: str = calls[0]["function"]["arguments"]
        return _argument(arguments) if part == "message" else arguments
    return said.get("content") or said.get("text") or ""


def _argument(text: str) -> str:
    return str(orjson.loads(text)["said"])
