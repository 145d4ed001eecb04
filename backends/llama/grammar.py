"""What a completion must look like, enforced on the logits: schemas and grammars through llguidance.

A `Grammars` compiles, once for each source; each choice follows a `Constraint` of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, get_args

import orjson

from backends.errors import InvalidRequest
from backends.llama.bounds import excess, harmless
from backends.llama.constraint import TOO_COMPLEX, Constraint, reason
from backends.llama.family import Calls, Function, Opening
from backends.llama.lark import Lark, Special
from backends.llama.narrowing import ESCAPES, narrowed
from backends.llama.one_of import without_one_of
from backends.llama.references import trouble
from backends.llama.talk import Talk
from backends.types import Grammar

MOST_SOURCE_BYTES = 256 * 1024
KEPT = 64  # compiled grammars
WHITESPACE = r"[ \n]{0,20}"
"""Between the tokens of JSON. Unbounded, a small model at a high temperature would go on with it for ever."""


class Grammars:
    """The grammars of one model. Thread-safe.

    Args:
        tokenizer: makes llguidance's tokenizer; called once, by `warm` or with the first grammar (up to a second).
        n_vocab: tokens that the model knows.
        special: the id of a mark such as `<tool_call>`, if it is one token, which text cannot spell.
        talk: how the model writes calls, and what it may think before its answer.
        trial: whether a grammar can be compiled without harm; asked of each that is not plainly harmless, once.
        kept: how many compiled grammars to keep.
    """

    def __init__(
        self,
        tokenizer: Callable[[], Any],
        n_vocab: int,
        special: Special = lambda _: None,
        talk: Talk | None = None,
        *,
        trial: Callable[[Grammar, Opening], bool] = lambda *_: True,
        kept: int = KEPT,
    ) -> None:
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._n_vocab = n_vocab
        self._special = special
        self._talk = talk or Talk.of(None)
        self._trial = trial
        self._kept = kept
        self._making = threading.Lock()
        self._lock = threading.Lock()  # of what is kept; never held for long
        self._compiled: OrderedDict[tuple[Grammar, Opening], Any] = OrderedDict()

    def warm(self) -> None:
        """Makes the tokenizer, unless there is one: in that time no other thread of the process gets on.

        Never fails: a vocabulary that cannot have grammars answers all else, and says so when one is asked for.
        """
        with contextlib.suppress(Exception):
            self._ready()

    def _ready(self) -> Any:
        with self._making:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            return self._tokenizer

    def quick(self, grammar: Grammar) -> bool:
        """Whether it needs no trial: it has been compiled, or is plainly harmless."""
        with self._lock:
            known = any((grammar, opening) in self._compiled for opening in get_args(Opening))
        return known or harmless(grammar)

    def compile(self, grammar: Grammar, opening: Opening = "answer") -> Constraint:
        """A constraint at its beginning. `opening`: what may come before the answer, which is what the grammar is of.

        Raises:
            InvalidRequest: it cannot be enforced; the message names the keyword, or the place.
            Unavailable: it cannot be tried now.
        """
        if len(grammar.source.encode()) > MOST_SOURCE_BYTES:
            raise _refused(grammar, f"it is longer than {MOST_SOURCE_BYTES >> 10} KB")
        with self._lock:
            compiled = self._compiled.get((grammar, opening))
        if compiled is None:
            for name, why in excess(grammar):
                raise _refused_function(name, why) if name else _refused(grammar, why)
            if not harmless(grammar) and not self._trial(grammar, opening):
                raise _too_complex(grammar)
            compiled = self._compile(grammar, opening)
        with self._lock:
            self._compiled[grammar, opening] = compiled
            self._compiled.move_to_end((grammar, opening))
            while len(self._compiled) > self._kept:
                self._compiled.popitem(last=False)
        return Constraint(compiled.deep_copy(), self._n_vocab)

    def _compile(self, grammar: Grammar, opening: Opening) -> Any:
        import llguidance

        if grammar.kind == "tools":
            calls = Calls.of(grammar)
            _check_functions(calls.functions)
            _check_form(calls.otherwise)
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._ready(), self._source(grammar, opening), log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(grammar, _reason(matcher.get_error()))
        # What compiles may still allow nothing: a reference that only leads to itself.
        first = Constraint(matcher.deep_copy(), self._n_vocab)
        try:
            impossible = bool(first.blocked().all())
        except ArithmeticError:
            impossible = True
        if impossible:
            raise _refused(grammar, "nothing can satisfy it")
        return matcher

    def _source(self, grammar: Grammar, opening: Opening) -> str:
        """Of a whole completion."""
        calls = Calls.of(grammar) if grammar.kind == "tools" else None
        answer = None if calls else _source(grammar)
        if answer and self._talk.plain(opening):
            return answer
        try:
            lark = self._talk.grammar(Lark(self._special, _json), opening, calls)
        except ValueError as error:
            raise _refused(grammar, _reason(str(error))) from None
        whole = [{"name": "start", "lark_grammar": lark.source()}]
        if answer:
            said = orjson.loads(answer)["grammars"][0] if answer.startswith("{") else {"lark_grammar": answer}
            whole.append({**said, "name": "answer"})
        return orjson.dumps({"grammars": whole}).decode()


def _source(grammar: Grammar) -> str:
    """llguidance's own form.

    Raises:
        InvalidRequest: it is no JSON, or no grammar at all.
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    try:
        match grammar.kind:
            case "json_schema":
                return str(LLMatcher.grammar_from_json_schema(_decided(grammar.source), overrides=STRICT))
            case "regex":
                return str(LLMatcher.grammar_from_regex(grammar.source))
            case "lark":
                return str(LLMatcher.grammar_from_lark(grammar.source))
            case _:
                return str(LLMatcher.grammar_from_lark(any_to_lark(grammar.source)))
    except GbnfToLarkError as error:
        raise _refused(grammar, str(error)) from None
    except ValueError as error:
        raise _refused(grammar, _reason(str(error))) from None
    except RecursionError:
        raise _refused(grammar, "it is nested too deeply") from None


def _decided(schema: str, *, strict: bool = True) -> str:
    """A schema as JSON, so that what llguidance makes of it is what it says.

    Raises:
        ValueError: that cannot be, and it is strict; the message names the keyword.
    """
    wrong: list[str] = []
    try:
        given = orjson.loads(schema)
        if endless := trouble(given):
            raise ValueError(endless)
        decided = canonical(narrowed(without_one_of(given), wrong))
    except orjson.JSONDecodeError:
        return schema  # refused in the words of what reads it
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if wrong and strict:
        raise ValueError(wrong[0])
    return decided


STRICT: Any = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES}

LENIENT: Any = {
    "lenient": True,
    "coerce_one_of": True,
    "whitespace_pattern": WHITESPACE,
    "json_allowed_escapes": ESCAPES,
}
"""For functions that are not `strict`: tools of all sorts say more in their schemas than can be enforced."""


def _json(schema: Any, *, strict: bool) -> str:
    decided = _decided(canonical(schema), strict=strict)
    guidance = STRICT if strict else LENIENT
    return f"%json {orjson.dumps({**orjson.loads(decided), 'x-guidance': guidance}).decode()}"


def _check_form(schema: Any) -> None:
    """What an answer beside tools must be, so that an error names its own field."""
    from llguidance import LLMatcher

    if schema is not None:
        grammar = Grammar("json_schema", canonical(schema))
        wrong = LLMatcher.validate_grammar(_source(grammar))
        if wrong and not wrong.startswith("WARNING"):
            raise _refused(grammar, _reason(wrong))


def _check_functions(functions: Sequence[Function]) -> None:
    """Each function's parameters, so that an error names the function, and not a grammar that nobody has written."""
    from llguidance import LLMatcher

    for function in functions:
        strict = function.strict
        try:
            source = _decided(canonical(function.parameters), strict=strict)
            overrides = STRICT if strict else LENIENT
            wrong = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(source, overrides=overrides))
        except ValueError as error:
            wrong = str(error)
        if wrong and not wrong.startswith("WARNING"):
            raise _refused_function(function.name, _keyword(_reason(wrong)))


def _reason(error: str) -> str:
    """As `reason`, in our own words where llguidance speaks of its settings."""
    if "coerce_one_of" in error:
        return "`oneOf`: a value may satisfy two of its branches; tell them apart by a required `const`, or say `anyOf`"
    return reason(error)


def _keyword(why: str) -> str:
    """With the keyword, where llguidance names only what is wrong with its value."""
    return f"`pattern`: {why}" if why.startswith("regex parse error") else why


def _refused_function(name: str, why: str) -> InvalidRequest:
    said = f"The parameters of the function {name!r} cannot be enforced: {why}."
    return InvalidRequest(said, param="tools", code="unsupported_schema")


def _too_complex(grammar: Grammar) -> InvalidRequest:
    what = "The schemas in `tools` are" if grammar.kind == "tools" else f"The {_kind(grammar)} is"
    said = (
        f"{what} too complex to be enforced: compiling takes too much time or memory. Make `{grammar.param}` simpler."
    )
    return InvalidRequest(said, param=grammar.param, code=TOO_COMPLEX)


def _kind(grammar: Grammar) -> str:
    return {"json_schema": "JSON schema", "regex": "regular expression"}.get(grammar.kind, "grammar")


def _refused(grammar: Grammar, why: str) -> InvalidRequest:
    why = _keyword(why) if grammar.kind == "json_schema" else why
    return InvalidRequest(
        f"The {_kind(grammar)} cannot be enforced: {why}.", param=grammar.param, code="unsupported_schema"
    )


def canonical(schema: object) -> str:
    """A schema as the text that is compiled, and by which it is found again; key order is kept, since it is the order
    in which properties are written."""
    return orjson.dumps(schema).decode()
