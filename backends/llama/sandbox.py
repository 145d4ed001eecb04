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
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from backends.llama.meter import Meter, field_widths, percent_widths

MAX_WIDTH = 1000  # characters of one formatted field
MAX_INDENT = 64
MAX_POWER = 64

_FILTERS = (
    "abs attr capitalize count d default dictsort first float groupby int items last length list lower map max min "
    "reject rejectattr reverse select selectattr sort title trim unique upper"
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
        ours: dict[str, Callable[..., Any]] = {
            "e": self._escaped,
            "escape": self._escaped,
            "indent": self._indented,
            "join": self._joined,
            "replace": self._replaced,
            "round": _rounded,
            "safe": self._string,
            "string": self._string,
            "tojson": self._tojson,
        }
        allowed = {name: FILTERS[name] for name in _FILTERS} | ours
        self.filters = {name: self._metered(f) for name, f in allowed.items()}
        self.filters |= {"_made": self._made, "_sliced": self._sliced}
        self.globals = {
            **{name: self.globals[name] for name in ("range", "dict", "cycler", "joiner")},
            "namespace": _Namespace,
            "raise_exception": self._raise_exception,
            "strftime_now": _strftime_now,
        }

    def compiled(self, source: str) -> jinja2.Template:
        """The template, rewritten. Raises whatever a hostile source makes Jinja and Python's compiler raise."""
        tree = _Rewriter().visit(self.parse(source))
        return self.from_string(tree.set_environment(self))

    # -- what templates do ---------------------------------------------------------------------------------------

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and not isinstance(other, (int, float)):
                    self.meter.expect(max(one, 1) * self.meter.weigh(other))
        elif operator == "**" and isinstance(right, (int, float)) and abs(right) > MAX_POWER:
            raise SecurityError("it computes too large a number")
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, percent_widths(left), right)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            self.meter.expect(len(left) + len(right))
        return self.meter.made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self.meter.tick()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace" and len(args) > 1:
            self._check_replace(owner, args[0], args[1])
        elif isinstance(owner, str) and name == "join" and len(args) == 1:
            args = (self._check_join(owner, args[0]),)
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
        pattern: str = value.__self__

        def checked(*args: Any, **kwargs: Any) -> str:
            self._check_format(pattern, field_widths(pattern), (args, kwargs))
            return inner(*args, **kwargs)

        return checked

    # -- what an operation would make ----------------------------------------------------------------------------

    def _check_format(self, pattern: str, widths: list[str], values: Any) -> None:
        """Of `pattern % values` or `pattern.format(values)`; `widths` is what each field says before its type."""
        for width in widths:
            if "*" in width or "{" in width:
                raise SecurityError("it takes a width from a value")
            numbers = "".join(c if c.isdigit() else " " for c in width[:100]).split()
            if len(width) > 100 or any(int(n) > MAX_WIDTH for n in numbers):
                raise SecurityError("it asks for too wide a field")
        self.meter.expect(len(pattern) + len(widths) * (MAX_WIDTH + self.meter.weigh(values)))

    def _check_replace(self, text: str, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.meter.expect(len(text) + text.count(old) * len(new))

    def _check_join(self, separator: str, values: Any) -> list[Any]:
        listed = list(values)
        self.meter.expect(self.meter.weigh(listed) + len(listed) * len(separator))
        return listed

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

    def _sliced(self, value: Any) -> Any:
        """Around a slice: of a list it is no heavier than the list, so that it need not be weighed."""
        return self.meter.sliced(value)

    def _string(self, value: Any) -> str:
        self.meter.weigh(value)
        return str(value)

    def _escaped(self, value: Any) -> str:
        return html.escape(self._string(value))

    def _joined(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = map(make_attrgetter(self, attribute), value)
        separator = self._string(d)
        return separator.join(map(str, self._check_join(separator, value)))

    def _replaced(self, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = self._string(value), self._string(old), self._string(new)
        self._check_replace(text, old, new)
        return text.replace(old, new, -1 if count is None else count)

    def _indented(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._string(value)
        if (len(width) if isinstance(width, str) else width) > MAX_INDENT:
            raise SecurityError("it asks for too wide an indent")
        self.meter.expect(len(text) + (text.count("\n") + 1) * MAX_INDENT)
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
            if indent > MAX_INDENT:
                raise SecurityError("it asks for too wide an indent")
            self.meter.expect(weight // 8 * max(indent, 0))
        if separators is not None and max(map(len, separators)) > MAX_INDENT:
            raise SecurityError("it asks for too wide a separator")
        return json.dumps(
            value, ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
        )

    def _raise_exception(self, message: Any) -> None:
        raise jinja2.TemplateError(self._string(message))


@pass_context
def _shown(context: jinja2.runtime.Context, value: Any) -> Any:
    """Jinja's `finalize`: each value on its way into a text, the template's own words included."""
    sandbox = context.environment
    assert isinstance(sandbox, Sandbox)
    return sandbox.meter.made(value)


def _rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
    if not -20 <= precision <= 20:
        raise SecurityError("it computes too large a number")
    return FILTERS["round"](value, precision, method)


def _strftime_now(fmt: str) -> str:
    if len(fmt) > 200 or any(c.isdigit() for c in fmt):  # a width, to the C library
        raise SecurityError("it asks for too wide a field")
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
            return nodes.Const(node.data, lineno=node.lineno)  # shown like a value, not put in behind the meter's back
        if isinstance(node, nodes.For):
            look = _through("_made", nodes.Const(None, lineno=node.lineno))
            node.body.insert(0, nodes.ExprStmt(look, lineno=node.lineno))
        elif isinstance(node, nodes.EvalContextModifier):
            raise jinja2.TemplateSyntaxError("autoescape is not for chat templates", node.lineno)
        elif isinstance(node, nodes.Concat):
            return _through("join", nodes.List(node.nodes, lineno=node.lineno))
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return _through("_sliced", node)
        elif isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return _through("_made", node)
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _GenerationTag(Extension):
    """`{% generation %}`, with which Hugging Face's templates mark the assistant's words for training."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
