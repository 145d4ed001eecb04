"""How one model talks, as its chat template tells it: its family, and whether it thinks aloud. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from backends.llama.families import family_of
from backends.llama.family import Calls, Family, Opening, Thoughts
from backends.llama.lark import Lark
from backends.llama.reader import Parsed, Reader, Steps

THOUGHTS = (Thoughts("<think>", "</think>"), Thoughts("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Talk:
    """`thoughts` None: it does not think aloud, or has a way of its own for that."""

    family: Family
    thoughts: Thoughts | None = None

    @classmethod
    def of(cls, template: str | None) -> Talk:
        """What a chat template tells."""
        source = template or ""
        return cls(family_of(source), next((marks for marks in THOUGHTS if marks.open in source), None))

    def control_marks(self, *, tools: bool) -> tuple[str, ...]:
        """What must be text for a `Parser`, even where it is a control token of the vocabulary."""
        thoughts = (self.thoughts.open, self.thoughts.close) if self.thoughts else ()
        return (*(self.family.marks() if tools else self.family.always), *thoughts)

    def opening(self, prompt: str, continuation: str) -> tuple[Opening, str]:
        """Where a completion of the prompt begins, and what has to stand before the words that it goes on from."""
        thinking = self.thoughts is not None and prompt.rstrip().endswith(self.thoughts.open)
        if continuation:
            closed = f"\n{self.thoughts.close}\n\n" if thinking and self.thoughts else ""
            return "answer", closed + self.family.beginning
        if self.thoughts and prompt.rstrip().endswith(self.thoughts.close):
            return "answer", ""  # the template was told that it shall not think
        return ("thinking" if thinking else "may think"), ""

    def grammar(self, lark: Lark, opening: Opening, calls: Calls | None) -> Lark:
        """Of a whole completion; `calls` None: the answer is `@answer`, a grammar of its own."""
        lark.rule("start", self.family.start(lark, opening, self.thoughts, calls))
        return lark

    def plain(self, opening: Opening) -> bool:
        """Whether a completion is nothing but its answer."""
        return opening == "answer" or not (self.thoughts or self.family.always)


class Parser:
    """Of one completion.

    Args:
        calls: what may be called; None: nothing, so what looks like a call is text.
        opening: where it begins.
    """

    def __init__(self, talk: Talk, calls: Calls | None = None, opening: Opening = "may think") -> None:
        self._reader = Reader(talk.family.id_length)
        self._steps = _parse(talk, self._reader, calls, opening)

    @property
    def calls(self) -> int:
        """How many are whole."""
        return self._reader.calls

    @property
    def thinking(self) -> bool:
        """Whether it is in the midst of a thought."""
        return self._reader.thinking

    def feed(self, text: str) -> Parsed:
        """What these characters add."""
        self._reader.add(text)
        next(self._steps, None)
        return self._reader.taken()

    def close(self) -> Parsed:
        """The end of the completion: what was held back in the hope of more."""
        self._reader.end()
        next(self._steps, None)
        return self._reader.taken()


def _parse(talk: Talk, reader: Reader, calls: Calls | None, opening: Opening) -> Steps[None]:
    thoughts = talk.thoughts
    if thoughts and opening != "answer":
        space = ""
        if opening == "may think":
            space = yield from reader.spaces()
        if opening == "thinking" or (yield from reader.accept((thoughts.open,))):
            reader.thinking = True
            yield from reader.skip("\n")
            yield from reader.until((thoughts.close,), reader.reason, trim="\n")
            reader.thinking = False
            yield from reader.skip("\n")
        else:
            reader.put_back(space)
    yield from talk.family.parse(reader, calls, begun=opening == "answer")
