"""What a family of models has of its own: how it is told by its chat template, how it writes calls, what it is given.

One file in `families/` each. `Family` itself is that of marks around text, which most are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import orjson

from backends.errors import InvalidRequest
from backends.llama.history import Message, described
from backends.llama.json_pieces import SPACE
from backends.llama.lark import Lark, quoted, without
from backends.llama.reader import LONG_ID, Reader, Steps
from backends.types import Grammar, NamedTool, ToolChoice

Opening = Literal["answer", "may think", "thinking"]
"""Where the completion begins: with the answer, perhaps with a thought, or in the midst of one."""


@dataclass(frozen=True, slots=True)
class Function:
    """One tool. `parameters` is a JSON schema; `strict`: all of it must be enforced, or the request is refused."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Calls:
    """What may be called.

    Attributes:
        required: nothing but a call will do.
        parallel: there may be several.
        otherwise: a JSON schema of what it must be in place of calls; None: any text.
    """

    functions: tuple[Function, ...]
    required: bool = False
    parallel: bool = True
    otherwise: Any = None

    @classmethod
    def asked(
        cls, tools: Sequence[Message], choice: ToolChoice, *, parallel: bool, otherwise: Grammar | None = None
    ) -> Calls:
        """Of a request. Raises `InvalidRequest`: a grammar beside tools."""
        if otherwise and otherwise.kind != "json_schema":
            raise InvalidRequest("`grammar` cannot be combined with `tools`.", param="grammar")
        name = choice.name if isinstance(choice, NamedTool) else None
        functions = tuple(_function(tool["function"]) for tool in tools if name in (None, tool["function"]["name"]))
        schema = orjson.loads(otherwise.source) if otherwise else None
        return cls(functions, choice != "auto", parallel and name is None, schema)

    def grammar(self) -> Grammar:
        """As it travels to the worker."""
        source = {
            "functions": [[function.name, function.parameters, function.strict] for function in self.functions],
            "required": self.required,
            "parallel": self.parallel,
            "otherwise": self.otherwise,
        }
        return Grammar("tools", orjson.dumps(source).decode(), "tools")

    @classmethod
    def of(cls, grammar: Grammar) -> Calls:
        """The inverse of `grammar`."""
        said = orjson.loads(grammar.source)
        functions = tuple(Function(*function) for function in said["functions"])
        return cls(functions, said["required"], said["parallel"], said["otherwise"])


def _function(said: Message) -> Function:
    parameters = said.get("parameters") or {"type": "object", "properties": {}}
    return Function(said["name"], parameters, bool(said.get("strict")))


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The marks around what a model only thinks."""

    open: str
    close: str


class Family:
    """Models that write their calls behind a mark, and may say something before it.

    Attributes:
        open: the marks before the calls, each as good as the other; the first is the one that the template asks for.
        between: what stands between two calls that have a mark each.
        lists: one mark stands before the list of all calls.
        id_length: letters and digits of a call's id.
        always: control tokens that tell the parts of an answer apart even where there are no tools.
        beginning: what stands between a prompt and an answer that someone else began.
    """

    name: ClassVar[str]
    open: ClassVar[tuple[str, ...]] = ()
    between: ClassVar[str] = ""
    lists: ClassVar[bool] = False
    id_length: ClassVar[int] = LONG_ID
    always: ClassVar[tuple[str, ...]] = ()
    beginning: ClassVar[str] = ""

    def speaks(self, template: str) -> bool:
        """Whether a chat template is one of this family."""
        raise NotImplementedError

    def marks(self) -> tuple[str, ...]:
        """Control tokens that are text for the parser where there are tools."""
        return (*self.always, *self.open)

    # -- the prompt ----------------------------------------------------------------------------------------------

    def history(
        self, messages: Sequence[Message], tools: Sequence[Message], template: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The messages, as `history.cleaned` makes them, in the way that the template wants them, and its variables."""
        return [dict(message) for message in messages], {"tools": [described(tool) for tool in tools]} if tools else {}

    def variables(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """A request's own variables, in the template's words."""
        return dict(said)

    # -- the grammar ---------------------------------------------------------------------------------------------

    def start(self, lark: Lark, opening: Opening, thoughts: Thoughts | None, calls: Calls | None) -> str:
        """A whole completion. `calls` None: in place of calls something that is already a grammar, `@answer`."""
        answer = self.answer(lark, calls) if calls else "@answer"
        if thoughts is None or opening == "answer":
            return answer
        closing = f"{lark.text_until('thought', thoughts.close)} {lark.rule('BREAK', _BREAK)}"
        if opening == "thinking":
            return f"{closing} ({answer})"
        return f"({lark.rule('BREAK', _BREAK)} {lark.mark(thoughts.open)} {closing})? ({answer})"

    def answer(self, lark: Lark, calls: Calls) -> str:
        """Any text first, unless a call is required; then calls, and nothing after them."""
        body = lark.rule("calls", self.calls(lark, calls))
        between = f"{quoted(self.between)}? " if self.between else ""
        # A line may end behind the last call, as models do before they end their turn.
        more = f' ({between}begin {body})* "\\n"?' if calls.parallel and not self.lists else ""
        lark.rule("begin", " | ".join(lark.mark(mark) for mark in self.open))
        if calls.required:
            return f"begin {body}{more}"
        if calls.otherwise is not None:
            return f"{lark.json('said', calls.otherwise, strict=True)} | begin {body}{more}"
        text = self.plain_text()
        # A mark that is text begins a call wherever it stands; one that is a token cannot be spelled either.
        said = lark.rule("TEXT", without(text, self.open))
        specials = [lark.mark(mark) for mark in self.open if lark.is_special(mark)]
        spelled = [quoted(mark) for mark in self.open if not lark.is_special(mark)]
        answers = [f"{said} (({' | '.join(specials)}) {body}{more})?" if specials else said]
        if spelled:
            answers.append(f"{lark.rule('first[lazy]', f'({text}) ({chr(124).join(spelled)})')} {body}{more}")
        return " | ".join(answers)

    def plain_text(self) -> str:
        """What is said before calls, or in place of them."""
        return Lark.TEXT

    def calls(self, lark: Lark, calls: Calls) -> str:
        """What stands behind a mark."""
        raise NotImplementedError

    # -- the completion ------------------------------------------------------------------------------------------

    def parse(self, reader: Reader, calls: Calls | None, *, begun: bool) -> Steps[None]:
        """Reads an answer to its end. `calls` None: there are no tools, so what looks like a call is text; `begun`:
        it goes on from what someone else said."""
        while calls and (yield from reader.until(self.open, reader.say)):
            yield from self.parse_calls(reader, calls)
        yield from reader.until((), reader.say)

    def parse_calls(self, reader: Reader, calls: Calls) -> Steps[None]:
        """What stands behind a mark."""
        raise NotImplementedError


_BREAK = r"/[ \n]{0,8}/"
SPACES = r"/[ \n]{1,20}/"


def call_objects(lark: Lark, calls: Calls, key: str = "arguments", before: str = "") -> str:
    """A call as a JSON object: its name, and then the arguments, as the function's schema has them.

    Args:
        key: of the arguments.
        before: what may stand before the name.
    """
    lark.rule("WS", SPACES)
    colon, comma = 'WS? ":" WS?', 'WS? "," WS?'
    names = []
    for at, function in enumerate(calls.functions):
        arguments = lark.json(f"arguments_{at}", function.parameters)
        words = f'{quoted(_json(function.name))} {comma} {quoted(_json(key))} {colon} {arguments} WS? "}}"'
        names.append(lark.rule(f"named_{at}", words))
    named = lark.rule("named", " | ".join(names))
    return lark.rule("call", f'"{{" WS? {before} {quoted(_json("name"))} {colon} {named}')


def call_list(lark: Lark, calls: Calls) -> str:
    """Such objects, in a JSON list."""
    call = call_objects(lark, calls)
    more = f'(WS? "," WS? {call})*' if calls.parallel else ""
    return f'WS? "[" WS? {call} {more} WS? "]"'


def parse_call_list(reader: Reader) -> Steps[None]:
    """What `call_list` describes; what is no list is text."""
    yield from reader.skip()
    if not (yield from reader.accept("[")):
        return
    while True:
        yield from reader.skip(SPACE + ",")
        if (yield from reader.peek()) != "{":
            break
        yield from reader.call_object()
    yield from reader.accept("]")
    yield from reader.skip()


def _json(value: str) -> str:
    return orjson.dumps(value).decode()


def has(template: str, *words: str, without: Sequence[str] = ()) -> bool:
    """Whether a template has all of these words (regular expressions), and none of the others."""
    return all(re.search(word, template) for word in words) and not any(re.search(word, template) for word in without)
