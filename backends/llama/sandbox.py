"""Jinja for templates that nobody vouched for: a sandbox against escapes, a meter against bombs.

Jinja's own sandbox keeps a template from the interpreter, not from the memory and the time: doubling a string in a loop
fills the box, squaring a number hangs it inside one C call that no watchdog can interrupt. So every value that a
template makes is weighed when it is made, what an operation will make of small operands is reckoned before it is
carried out, and each call and each turn of a loop looks at the clock. The syntax tree is rewritten so that no
construct goes around this. Filters and methods are those that chat templates use; no others.
"""

from __future__ import annotations

import functools
import html
import json
import time
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

VALUE_CHARS = 1 << 20  # weight of one value, beside what the messages allow
WORK_CHARS = 64 << 20  # weight of all values made in one rendering, likewise
VALUE_PER_INPUT, WORK_PER_INPUT = 8, 64
MAX_INT = 1 << 64
MAX_DEPTH = 100
MAX_WIDTH = 1000  # characters of one formatted field
MAX_INDENT = 16

_FILTERS = (
    "abs attr capitalize count d default dictsort first float groupby int items join last length list lower map max min "
    "reject rejectattr replace reverse round safe select selectattr sort string title trim unique upper"
).split()
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        "capitalize count endswith find format format_map index isalnum isalpha isascii isdecimal isdigit islower "
        "isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper".split()
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    bytes: frozenset(),
    int: frozenset(),
    float: frozenset(("is_integer",)),
}
_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class TooSlow(SecurityError):
    """The rendering's time is up."""


class Meter:
    """What one rendering may still use. A value weighs its characters, and as much again for each place in it."""

    def __init__(self, input_chars: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = VALUE_CHARS + VALUE_PER_INPUT * input_chars
        self._work = WORK_CHARS + WORK_PER_INPUT * input_chars
        self._clock = clock
        self._end = clock() + seconds

    def tick(self) -> None:
        """Raises `TooSlow` once the time is up."""
        if self._clock() > self._end:
            raise TooSlow("takes too long")

    def expect(self, n: int) -> None:
        """Raises `SecurityError` if an operation is about to make a value of weight `n` and may not."""
        if n > self.limit:
            raise SecurityError("makes too large a value")

    def made(self, value: Any) -> Any:
        """`value`, if it may exist and all made so far together; `SecurityError` otherwise."""
        self.tick()
        if isinstance(value, str):
            self.expect(len(value))
            self._work -= len(value)
        elif isinstance(value, int):
            if not -MAX_INT <= value <= MAX_INT:
                raise SecurityError("computes too large a number")
        elif isinstance(value, (*_CONTAINERS, Mapping)):
            self.weigh(value)
            self._work -= 16 * len(value)
        if self._work < 0:
            raise SecurityError("makes too many values")
        return value

    def weigh(self, value: Any) -> int:
        """The weight of a value's text: a list that holds another twice counts it twice, as its text would."""
        weight, stack = 0, [(value, 0)]
        while stack:
            value, depth = stack.pop()
            if isinstance(value, str):
                weight += len(value) + 1
            else:
                weight += 8
                if isinstance(value, (*_CONTAINERS, Mapping)):
                    if depth > MAX_DEPTH:
                        raise SecurityError("nests values too deeply")
                    parts = [p for pair in value.items() for p in pair] if isinstance(value, Mapping) else value
                    weight += len(parts)
                    self.expect(weight)
                    stack.extend((part, depth + 1) for part in parts)
            self.expect(weight)
            if len(stack) % 64 == 0:
                self.tick()
        return weight


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates are metered. `meter` is set anew for each rendering: one at a time."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # it would compute constants before there is a meter
            finalize=_shown,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.meter = Meter(0, 0.0)
        ours = {"indent": self._indent, "tojson": self._tojson, "e": html.escape, "escape": html.escape, "safe": str}
        checked = {"join": self._joined, "replace": self._replaced, "round": _rounded, "string": self._string}
        self.filters = {
            n: self._metered(f) for n, f in {**{n: FILTERS[n] for n in _FILTERS}, **ours, **checked}.items()
        }
        self.filters["_made"] = self._made
        self.globals = {
            **{name: self.globals[name] for name in ("range", "dict", "cycler", "joiner")},
            "namespace": _Namespace,
            "raise_exception": self._raise_exception,
            "strftime_now": _strftime_now,
        }

    def compiled(self, source: str) -> jinja2.Template:
        """The template, rewritten. Raises whatever a hostile source makes Jinja and Python's compiler raise."""
        return self.from_string(_Rewriter().visit(self.parse(source)))

    # -- what templates do ---------------------------------------------------------------------------------------

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and not isinstance(other, (int, float)):
                    self.meter.expect(max(one, 1) * self.meter.weigh(other))
        elif operator == "**" and isinstance(right, (int, float)) and abs(right) > 64:
            raise SecurityError("computes too large a number")
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, right)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            self.meter.expect(len(left) + len(right))
        return self.meter.made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self.meter.tick()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            self._check_replace(owner, *args[:2])
        elif isinstance(owner, str) and name == "join":
            args = (self._check_join(owner, *args),)
        return self.meter.made(super().call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        inner = super().wrap_str_format(value)
        if inner is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            self._check_format(value.__self__, (args, kwargs))
            return inner(*args, **kwargs)

        return checked

    # -- what an operation would make ----------------------------------------------------------------------------

    def _check_format(self, pattern: str, values: Any) -> None:
        """Of `pattern % values` or `pattern.format(...)`: no width from a value, and no wide one."""
        digits = fields = depth = 0
        for c in pattern:
            digits = digits + 1 if c.isdigit() else 0
            depth = depth + (c == "{") - (c == "}")
            fields += c in "%{"
            if digits > len(str(MAX_WIDTH)) - 1:
                raise SecurityError("asks for too wide a field")
            if c == "*" or (depth > 1 and "{{" not in pattern):
                raise SecurityError("takes a width from a value")
        if "{{" in pattern and depth_of_fields(pattern) > 1:
            raise SecurityError("takes a width from a value")
        self.meter.expect(len(pattern) + fields * (MAX_WIDTH + self.meter.weigh(values)))

    def _check_replace(self, text: str, old: Any = "", new: Any = "") -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.meter.expect(len(text) + text.count(old) * len(new))

    def _check_join(self, separator: str, values: Any = ()) -> list[Any]:
        values = list(values)
        self.meter.expect(self.meter.weigh(values) + len(values) * len(separator))
        return values

    # -- filters -------------------------------------------------------------------------------------------------

    def _metered(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)  # with what Jinja noted on it about its arguments
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            return self.meter.made(filter_(*args, **kwargs))

        return metered

    def _made(self, value: Any) -> Any:
        """Stands around whatever makes a value without a call: see `_Rewriter`."""
        return self.meter.made(value)

    def _string(self, value: Any) -> str:
        self.meter.weigh(value)
        return str(value)

    def _joined(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = FILTERS["map"](self.from_string("").new_context(), value, attribute=attribute)
        separator = self._string(d)
        return separator.join(map(str, self._check_join(separator, value)))

    def _replaced(self, value: Any, old: Any, new: Any, count: int = -1) -> str:
        text, old, new = self._string(value), self._string(old), self._string(new)
        self._check_replace(text, old, new)
        return text.replace(old, new, -1 if count is None else count)

    def _indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._string(value)
        if (len(width) if isinstance(width, str) else width) > MAX_INDENT * 4:
            raise SecurityError("asks for too wide an indent")
        self.meter.expect(len(text) + (text.count("\n") + 1) * MAX_INDENT * 4)
        return str(FILTERS["indent"](text, width, first, blank))

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as it is, not escaped for HTML as Jinja's own filter does; the arguments are Hugging Face's."""
        weight = self.meter.weigh(value)
        if indent is not None:
            if isinstance(indent, str) or not 0 <= indent <= MAX_INDENT:
                raise SecurityError("asks for too wide an indent")
            self.meter.expect(weight // 8 * indent)
        if separators is not None and any(len(s) > MAX_INDENT for s in separators):
            raise SecurityError("asks for too wide a separator")
        return json.dumps(
            value, ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
        )

    def _raise_exception(self, message: Any) -> None:
        self.meter.weigh(message)
        raise jinja2.TemplateError(str(message))


def depth_of_fields(pattern: str) -> int:
    """How deeply `str.format` fields nest in a pattern, `{{` and `}}` being characters outside a field."""
    depth = deepest = i = 0
    while i < len(pattern):
        if depth == 0 and pattern[i : i + 2] in ("{{", "}}"):
            i += 2
            continue
        depth = max(0, depth + (pattern[i] == "{") - (pattern[i] == "}"))
        deepest = max(deepest, depth)
        i += 1
    return deepest


@pass_context
def _shown(context: jinja2.runtime.Context, value: Any) -> Any:
    """Jinja's `finalize`: each value on its way into a text, the template's own words included."""
    sandbox = context.environment
    assert isinstance(sandbox, Sandbox)
    if not isinstance(value, str):
        sandbox.meter.weigh(value)
    return sandbox.meter.made(value)


def _rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
    if not -20 <= precision <= 20:
        raise SecurityError("computes too large a number")
    return FILTERS["round"](value, precision, method)


def _strftime_now(fmt: str) -> str:
    if len(fmt) > 200 or any(c.isdigit() for c in fmt):
        raise SecurityError("asks for too wide a field")
    return datetime.now().astimezone().strftime(fmt)


class _Namespace(Namespace):
    """Jinja's own shows what it holds, as often as it is held."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Rewriter(NodeTransformer):
    """Puts the meter around what makes values without a call, and the clock into loops."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.TemplateData):
            return nodes.Const(node.data, lineno=node.lineno)
        if isinstance(node, nodes.For):
            look = nodes.Filter(nodes.Const(None), "_made", [], [], None, None, lineno=node.lineno)
            node.body.insert(0, nodes.ExprStmt(look, lineno=node.lineno))
        elif isinstance(node, (nodes.ScopedEvalContextModifier, nodes.EvalContextModifier)):
            raise jinja2.TemplateSyntaxError("autoescape is not for chat templates", node.lineno)
        elif isinstance(node, nodes.Concat):
            return nodes.Filter(nodes.List(node.nodes, "load"), "join", [], [], None, None, lineno=node.lineno)
        elif _makes_a_value(node):
            return nodes.Filter(node, "_made", [], [], None, None, lineno=node.lineno)
        return node


def _makes_a_value(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    return isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load")


class _GenerationTag(Extension):
    """`{% generation %}`, with which Hugging Face's templates mark the assistant's words for training."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
