"""gpt-oss: the harmony format, in which an answer is several messages, each on a channel.

Source: https://github.com/openai/harmony, `docs/format.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.llama.family import Calls, Family, Opening, Thoughts, has
from backends.llama.history import Message, one_by_one
from backends.llama.lark import Lark, quoted, without
from backends.llama.reader import Reader, Steps

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_HEADER = re.compile(r"\s*(<\||to=|assistant)")
_NOTHING = re.compile(r"\s*(|<|t|to|a(s(s(i(s(t(a(n)?)?)?)?)?)?)?)")
EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high"}  # it knows low, medium and high
SAID = ("final", "commentary")  # on these channels it speaks to the user
BETWEEN = "\n\n"  # of two messages on the same channel


class GptOss(Family):
    """Thinks on the channel `analysis`, calls on `commentary`, answers on `final`. It makes one call at a time: behind
    a call's arguments it ends its turn."""

    name = "gpt-oss"
    always = (START, CHANNEL, CONSTRAIN, MESSAGE, ENDS[0])
    beginning = f"{CHANNEL}final{MESSAGE}"

    def speaks(self, template: str) -> bool:
        return has(template, r"<\|channel\|>analysis", r"<\|start\|>assistant", r"<\|message\|>")

    # -- the prompt ----------------------------------------------------------------------------------------------

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The template knows one system message, and beside a call either a thought or a text."""
        system = [str(message["content"]) for message in messages if message["role"] == "system"]
        told = [_thinking(message) for message in one_by_one(messages) if message["role"] != "system"]
        first = [{"role": "system", "content": BETWEEN.join(system)}] if system else []
        return super().history([*first, *told], tools, template)

    def variables(self, said: Mapping[str, Any]) -> dict[str, Any]:
        effort = said.get("reasoning_effort")
        return {**said, "reasoning_effort": EFFORTS.get(effort, effort)} if effort else dict(said)

    # -- the grammar ---------------------------------------------------------------------------------------------

    def start(self, lark: Lark, opening: Opening, thoughts: Thoughts | None, calls: Calls | None) -> str:
        if calls is None:
            return "@answer" if opening == "answer" else f"{self._before(lark)} {self._final(lark)} @answer"
        if opening == "answer":  # another's words go on: no call can follow
            return _said(lark, calls)
        answers = [lark.rule("calls", self.calls(lark, calls))]
        if not calls.required:
            answers.append(f"{self._final(lark)} {_said(lark, calls)}")
        return f"{self._before(lark)} ({' | '.join(answers)})"

    def _before(self, lark: Lark) -> str:
        """Thoughts, and words before a call."""
        content = lark.text_until("content", ENDS[0], without(Lark.TEXT, (START, CHANNEL, *ENDS[1:])))
        header = f'{lark.mark(CHANNEL)} ("analysis" | "commentary") {lark.mark(MESSAGE)}'
        next_header = f"{lark.mark(START)} {quoted('assistant')}"
        return lark.rule("before", f"{header} {content} {next_header}") + "*"

    def _final(self, lark: Lark) -> str:
        return lark.rule("final", f'{lark.mark(CHANNEL)} "final" {self._type(lark)} {lark.mark(MESSAGE)}')

    def _type(self, lark: Lark) -> str:
        """Of the content; what the name before it ends with must be told from it."""
        return lark.rule("type", f'(" "? {lark.mark(CONSTRAIN)} " "? ("json" | "code") | " json" | " code")?')

    def calls(self, lark: Lark, calls: Calls) -> str:
        commentary, kind, message = f'{lark.mark(CHANNEL)} "commentary"', self._type(lark), lark.mark(MESSAGE)
        wanted = []
        for at, function in enumerate(calls.functions):
            to = quoted(f" to=functions.{function.name}")
            arguments = lark.json(f"arguments_{at}", function.parameters)
            wanted.append(f"({to} {commentary} | {commentary} {to}) {kind} {message} {arguments}")
        return " | ".join(wanted)

    # -- the completion ------------------------------------------------------------------------------------------

    def parse(self, reader: Reader, calls: Calls | None, *, begun: bool) -> Steps[None]:
        spoken: set[str] = set()
        if begun:
            yield from self._content(reader, "final", spoken)
        while (yield from reader.peek()):
            header, end = yield from reader.word((MESSAGE, *ENDS))
            if not end:
                yield from self._no_message(reader)
                continue
            channel = found[1] if (found := _CHANNEL.search(header)) else "final"
            recipient = found[1] if (found := _RECIPIENT.search(header)) else ""
            if end != MESSAGE:  # a thought without its mark
                _into(reader, "analysis", spoken)(_CHANNEL.sub("", header.replace(START, "")).strip())
            elif recipient and recipient != "assistant" and calls:
                yield from self._call(reader, recipient)
            else:
                yield from self._content(reader, channel, spoken)

    def _no_message(self, reader: Reader) -> Steps[None]:
        """A header that was cut says nothing; a model that forgot the format says all of it."""
        if (yield from reader.begins(_HEADER, _NOTHING)):
            yield from reader.until((), _unheard)
        else:
            yield from self._up_to_an_end(reader, reader.say)

    def _content(self, reader: Reader, channel: str, spoken: set[str]) -> Steps[None]:
        """Of a message that calls nothing."""
        into = _into(reader, channel, spoken)
        reader.thinking = channel not in SAID
        yield from self._up_to_an_end(reader, into)
        reader.thinking = False

    def _call(self, reader: Reader, name: str) -> Steps[None]:
        yield from reader.skip()
        if (yield from reader.peek()) == "{":
            reader.begin(name)
            if (yield from reader.json_object(reader.argue)):
                reader.finish()
        yield from self._up_to_an_end(reader, reader.reason)

    def _up_to_an_end(self, reader: Reader, into: Callable[[str], None]) -> Steps[None]:
        """The next message may begin where this one has not ended."""
        mark = yield from reader.until((*ENDS, START, CHANNEL), into, trim="")
        if mark in (START, CHANNEL):
            reader.put_back(mark)


def _said(lark: Lark, calls: Calls) -> str:
    """What may be said in place of calls."""
    if calls.otherwise is not None:
        return lark.json("said", calls.otherwise, strict=True)
    return lark.text((START, CHANNEL, *ENDS))


def _into(reader: Reader, channel: str, spoken: set[str]) -> Callable[[str], None]:
    """Where a message of this channel goes, apart from one before it."""
    kind, into = ("text", reader.say) if channel in SAID else ("thought", reader.reason)
    if kind in spoken:
        into(BETWEEN)
    spoken.add(kind)
    return into


def _unheard(text: str) -> None:
    pass


def _thinking(message: Message) -> dict[str, Any]:
    """A turn that calls: its thought, and what it said, are one."""
    said = dict(message)
    thought = said.pop("reasoning_content", None)
    if said.get("tool_calls"):
        both = BETWEEN.join(filter(None, (thought, said["content"])))
        said["content"] = ""
        if both:
            said["thinking"] = both
    return said


FAMILIES = (GptOss(),)
