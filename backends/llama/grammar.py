"""What a completion must look like, enforced on the logits: schemas and grammars through llguidance.

A `Grammars` compiles, once for each source; each choice follows a `Constraint` of its own. The next mask is computed
while the model computes: llguidance lets go of the interpreter's lock, and most masks take microseconds.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from backends.errors import InvalidRequest
from backends.llama.narrowing import ESCAPES, narrowed
from backends.llama.one_of import without_one_of
from backends.llama.references import trouble
from backends.types import Grammar

MOST_SOURCE_BYTES = 256 * 1024
KEPT = 64  # compiled grammars
WHITESPACE = r"[ \n]{0,20}"
"""Between the tokens of JSON. Unbounded, a small model at a high temperature would go on with it for ever."""

Blocked = NDArray[np.bool_]


class Grammars:
    """The grammars of one model. Thread-safe.

    Args:
        tokenizer: makes llguidance's tokenizer; called once, when the first grammar is asked for (about a second).
        n_vocab: tokens that the model knows.
        special: whether a mark such as `<tool_call>` is one token, which text cannot spell.
    """

    def __init__(
        self, tokenizer: Callable[[], Any], n_vocab: int, special: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._n_vocab = n_vocab
        self._special = special
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()

    def compile(self, grammar: Grammar) -> Constraint:
        """A constraint at its beginning.

        Raises:
            InvalidRequest: it cannot be enforced; the message names the keyword, or the place.
        """
        if len(grammar.source.encode()) > MOST_SOURCE_BYTES:
            raise _refused(grammar, f"it is longer than {MOST_SOURCE_BYTES >> 10} KB")
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is None:
                compiled = self._compiled[grammar] = self._compile(grammar)
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return Constraint(compiled.deep_copy(), self._n_vocab)

    def _compile(self, grammar: Grammar) -> Any:
        import llguidance

        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        if grammar.kind == "tools":
            _check_functions(orjson.loads(grammar.source)["functions"])
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._tokenizer, _source(grammar, self._special), log_level=0, limits=limits)
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


class Constraint:
    """One completion's way through a grammar. Belongs to the engine's thread, but for `fill`."""

    def __init__(self, matcher: Any, n_vocab: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(-(-n_vocab // 32), np.int32)
        self._n_vocab = n_vocab
        self._blocked: Blocked = np.zeros(n_vocab, np.bool_)
        self._filled = False

    def copy(self) -> Constraint:
        """Another completion's, from here on."""
        return Constraint(self._matcher.deep_copy(), self._n_vocab)

    @property
    def done(self) -> bool:
        """Nothing can follow any more: the completion is whole."""
        return bool(self._matcher.is_stopped())

    def fill(self) -> None:
        """Computes the next mask, if it has not been. May run in another thread while the model computes."""
        if not self._filled:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._filled = True

    def blocked(self) -> Blocked:
        """True for each token [n_vocab] that must not come next. Valid until the next token is taken.

        Raises:
            ArithmeticError: the grammar got too complex on the way.
        """
        self.fill()
        if self._matcher.is_error():
            raise ArithmeticError(f"the grammar cannot be followed further: {_reason(self._matcher.get_error())}")
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        return np.equal(bits, 0, out=self._blocked)

    def take(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen.

        Raises:
            ArithmeticError: one of them was not allowed.
        """
        self._filled = False
        if not self._matcher.consume_tokens(list(tokens)):
            raise ArithmeticError(f"the completion left its grammar: {_reason(self._matcher.get_error())}")


def _source(grammar: Grammar, special: Callable[[str], bool]) -> str:
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
            case "gbnf":
                return str(LLMatcher.grammar_from_lark(any_to_lark(grammar.source)))
            case "tools":
                return str(LLMatcher.grammar_from_lark(_calls(orjson.loads(grammar.source), special)))
    except GbnfToLarkError as error:
        raise _refused(grammar, str(error)) from None
    except ValueError as error:
        raise _refused(grammar, _reason(str(error))) from None


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

LENIENT: Any = {"lenient": True, "coerce_one_of": True, "json_allowed_escapes": ESCAPES}
"""For functions that are not `strict`: tools of all sorts say more in their schemas than can be enforced."""


def _json(schema: Mapping[str, Any]) -> str:
    decided = orjson.loads(_decided(canonical(schema), strict=False))
    return f"%json {orjson.dumps({**decided, 'x-guidance': LENIENT}).decode()}"


def _check_functions(functions: Sequence[tuple[str, Any, bool]]) -> None:
    """Each function's parameters, so that an error names the function, and not a grammar that nobody has written."""
    from llguidance import LLMatcher

    for name, parameters, strict in functions:
        try:
            source = _decided(canonical(parameters), strict=strict)
            overrides = STRICT if strict else LENIENT
            wrong = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(source, overrides=overrides))
        except ValueError as error:
            wrong = str(error)
        if wrong and not wrong.startswith("WARNING"):
            raise InvalidRequest(
                f"The parameters of the function {name!r} cannot be enforced: {_keyword(_reason(wrong))}.",
                param="tools",
                code="unsupported_schema",
            )


def _calls(spec: Mapping[str, Any], special: Callable[[str], bool]) -> str:
    """Text, then calls, then nothing: llguidance's Lark, whose `<…>` are special tokens.

    A mark that is ordinary text begins a call wherever it stands, so the text before it is matched lazily.
    """
    opening, closing = spec["open"], spec["close"]
    mark = opening.rstrip("\n")
    body = f"{_quoted(opening[len(mark) :])} call {_quoted(closing, special)}"
    if spec["array"]:
        more = '("," " "? call)*' if spec["parallel"] else ""
        body = f'"[" call {more} "]"'
    begin = _quoted(mark, special)
    again = f'("\\n"? {begin} {body})* "\\n"?' if spec["parallel"] and not spec["array"] and mark else ""
    rules = {"call": _json(spec["call"]), "TEXT": r"/(.|\n)*/"}
    said = spec["otherwise"]
    if said is not None:
        rules["said"] = f"%json {_decided(canonical(said))}"
    if spec["required"]:
        rules["start"] = f"{begin} {body} {again}" if mark else "call"
    elif said is not None:
        rules["start"] = f"said | {begin} {body} {again}" if mark else "said | call"
    elif not mark:
        # The call is the completion; any other text does not begin like an object.
        rules["start"], rules["OTHER"] = "call | OTHER", r"/[^{\s](.|\n)*/"
    else:
        if special(mark):
            rules["start"] = f"TEXT ({begin} {body} {again})?"
        else:
            rules["start"] = f"TEXT | first {body} {again}"
            rules["first[lazy]"] = f"TEXT {begin}"
        if spec["bare"]:
            rules |= _bare_calls(spec)
            rules["start"] += " | BARE (" + " | ".join(f"bare_{at}" for at in range(len(spec["functions"]))) + ") FENCE"
            rules["TEXT"] += f" & ~/{BARE}(.|\\n)*/"
    return "%llguidance {}\n" + "\n".join(f"{name}: {rule}" for name, rule in sorted(rules.items(), key=_start_first))


def _bare_calls(spec: Mapping[str, Any]) -> dict[str, str]:
    """Calls without their marks, from behind the key of the name on: what begins so is a call, or nothing at all."""
    key = orjson.dumps(orjson.dumps(spec["arguments"]).decode()).decode()
    rules = {"BARE": f"/{BARE}/", "FENCE": r"/([ \n]*```)?/", "WS": r"/[ \n]{1,20}/"}
    for at, (name, parameters, _) in enumerate(spec["functions"]):
        quoted = orjson.dumps(orjson.dumps(name).decode()).decode()
        rules[f"bare_{at}"] = f'{quoted} WS? "," WS? {key} WS? ":" WS? bare_arguments_{at} WS? "}}"'
        rules[f"bare_arguments_{at}"] = _json(parameters)
    return rules


def _start_first(rule: tuple[str, str]) -> tuple[bool, str]:
    return rule[0] != "start", rule[0]


BARE = r'[ \n]*(```(json)?[ \n]*)?\{[ \n]*"name"[ \n]*:[ \n]*'
"""How a call begins whose marks were forgotten; a regular expression for llguidance."""

MARK = re.compile(r"(<[^<>\s]{1,60}>|\[[A-Z_]{2,40}\])")


def _quoted(text: str, special: Callable[[str], bool] = lambda _: False) -> str:
    """Lark's words for a text: its special tokens by name, the rest quoted."""
    parts = [part for part in MARK.split(text) if part]
    return " ".join(part if special(part) else orjson.dumps(part).decode() for part in parts)


def _reason(error: str) -> str:
    """Its first line, short: what follows is the state of a parser."""
    if "coerce_one_of" in error:
        return "`oneOf`: a value may satisfy two of its branches; tell them apart by a required `const`, or say `anyOf`"
    words = error.replace("<non-verbose/>", "").split()
    return " ".join(words)[:300].rstrip(".") or "it is not understood"


def _keyword(why: str) -> str:
    """With the keyword, where llguidance names only what is wrong with its value."""
    return f"`pattern`: {why}" if why.startswith("regex parse error") else why


def _refused(grammar: Grammar, why: str) -> InvalidRequest:
    what = {"json_schema": "JSON schema", "regex": "regular expression"}.get(grammar.kind, "grammar")
    why = _keyword(why) if grammar.kind == "json_schema" else why
    return InvalidRequest(f"The {what} cannot be enforced: {why}.", param=grammar.param, code="unsupported_schema")


def canonical(schema: object) -> str:
    """A schema as the text that is compiled, and by which it is found again; key order is kept, since it is the order
    in which properties are written."""
    return orjson.dumps(schema).decode()
