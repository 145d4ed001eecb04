"""Chat templates: the real one, what templates of the field use, and those that mean harm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from jinja2.exceptions import SecurityError

from backends.errors import BadModelFile, InvalidRequest
from backends.llama.meter import Meter, field_widths, percent_widths
from backends.llama.sandbox import MAX_WIDTH, Sandbox
from backends.llama.template import MAX_TEMPLATE_BYTES, ChatTemplate
from backends.models.gguf import read_gguf

ROOT = Path(__file__).parents[2]
HELLO = ({"role": "user", "content": "Hello"},)


def render(source: str, messages: Any = HELLO, **extra: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, extra)


# -- what must work --------------------------------------------------------------------------------------------------


def test_the_default_models_own_template(model_file: Path) -> None:
    source = read_gguf(model_file).chat_template
    assert source
    template = ChatTemplate(source, bos_token="<|im_start|>", eos_token="<|im_end|>")
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {{ 7 * 7 }} <|im_end|>"})
    assert template.render(messages, {}) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 7 * 7 }} <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert template.render(messages[1:], {}).startswith("<|im_start|>system\nYou are a helpful AI assistant")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hello</s>"),
        ("{{ messages[0]['role'] ~ ': ' ~ 7 ~ none }}", "user: 7None"),
        ("{{ 'a' + 'b' * 3 }}", "abbb"),
        ("{{ '%s has %03d at %.2f%%' % ('a', 7, 1.5) }}", "a has 007 at 1.50%"),
        ("{{ 'On 20240726 {} or {name:>5}'.format(1, name='x') }}", "On 20240726 1 or     x"),
        ("{{ '{{literal}} {a[0]}'.format(a=[5]) }}", "{literal} 5"),
        ("{{ '%(a)s' % {'a': 'x'} }}", "x"),
        ("{{ {'a': [1, 2.5, none, true], 'b': '<ä>'} | tojson }}", '{"a": [1, 2.5, null, true], "b": "<ä>"}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":2,"b":1}'),
        ("{{ 'ä' | tojson(ensure_ascii=true) }}", '"\\u00e4"'),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ [1, 2, 3] | join(', ') }}", "1, 2, 3"),
        ("{{ messages | map(attribute='content') | join('|') }}", "Hello"),
        ("{{ messages | join('|', attribute='content') }}", "Hello"),
        ("{{ ', '.join(['a', 'b']) }}", "a, b"),
        ("{{ ' x '.strip() ~ 'a b'.split(' ')[-1] ~ 'aXa'.replace('X', '--') }}", "xba--a"),
        ("{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}", "bc[3, 2, 1]"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1"),
        ("{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{{ i ~ loop.last }}{% endfor %}",
         "0False2False3False4True"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{% macro tag(x, y='d') %}<{{ x }}{{ y }}>{% endmacro %}{{ tag('a') }}{{ tag('b', y='c') }}", "<ad><bc>"),
        ("{% set x %}in {{ 1 }}{% endset %}{{ x }}", "in 1"),
        ("{% generation %}{{ 'said' }}{% endgeneration %}", "said"),
        ("{{ missing is defined }}{{ missing | default('d') }}{{ messages[0].name }}", "Falsed"),
        ("{{ '<b>' | e }}{{ '<b>' | safe }}", "&lt;b&gt;<b>"),
        ("{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 10 }}{{ -3 | abs }}{{ 2.567 | round(1) }}", "31102432.6"),
        ("{{ 'x' in ['x'] and 'ell' in messages[0].content }}", "True"),
        ("{{ add_generation_prompt }}", "True"),
        ("  {%- if true -%}  a  {%- endif -%}  \n", "a"),
        ("{% if true %}\n  line\n{% endif %}\n", "  line\n"),
    ],
)  # fmt: skip
def test_what_templates_of_the_field_use(source: str, expected: str) -> None:
    assert render(source) == expected


def test_variables_of_the_request_reach_it_and_cannot_replace_the_messages() -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ messages | length }}")
    assert template.render(HELLO, {"enable_thinking": False, "messages": []}) == "False1"


def test_todays_date() -> None:
    assert re.fullmatch(r"\d\d \w+ \d{4}", render("{{ strftime_now('%d %b %Y') }}"))


def test_a_templates_own_refusal_is_passed_on() -> None:
    with pytest.raises(InvalidRequest) as caught:
        render("{{ raise_exception('Roles must alternate') }}")
    assert "Roles must alternate" in caught.value.message
    assert caught.value.param == "messages"


def test_messages_that_it_cannot_render_are_the_requests_fault() -> None:
    for source in ("{{ messages[0].content + 1 }}", "{{ messages[0].name.first }}", "{{ 1 / 0 }}"):
        with pytest.raises(InvalidRequest) as caught:
            render(source)
        assert caught.value.param == "messages"


def test_rendering_leaves_nothing_behind() -> None:
    template = ChatTemplate("{% set ns = namespace(n=0) %}{{ ns.n }}{{ messages | length }}")
    assert [template.render(HELLO * n, {}) for n in (1, 2, 1)] == ["01", "02", "01"]


def test_a_long_conversation_is_rendered() -> None:
    """Half a million characters in 400 turns, put together piece by piece: honest work is not taken for a bomb."""
    messages = [{"role": "user", "content": "word " * 250}] * 400
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t ~ m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(ChatTemplate(source).render(messages, {}, limit_s=30)) == 500_000
    assert len(ChatTemplate("{{ messages | tojson }}").render(messages, {}, limit_s=30)) > 500_000


# -- what does not compile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ unclosed",
        "{% for i in range(2) %}" * 30 + "{% endfor %}" * 30,
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{{ " + "9" * 5000 + " }}",
        "{{ " + "-" * 50_000 + "1 }}",
        "{{ 'x' | pprint }}",
        "{% autoescape true %}{% endautoescape %}",
        "x" * (MAX_TEMPLATE_BYTES + 1),
    ],
    ids=["syntax", "unclosed", "blocks", "parentheses", "digits", "signs", "filter", "autoescape", "size"],
)
def test_a_bad_source_is_the_model_files_fault(source: str) -> None:
    with pytest.raises(BadModelFile):
        ChatTemplate(source)


# -- what means harm -------------------------------------------------------------------------------------------------

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class of an undefined": "{{ missing.__class__ }}",
    "class by item": "{{ messages['__class__']['__base__'] }}",
    "class by filter": "{{ messages | attr('__class__') | attr('__base__') | string }}",
    "class by map": "{{ messages | map(attribute='__class__.__base__') | list | first | attr('x') | upper ~ (1 / 0) }}",
    "class by join": "{{ ([messages] | join(attribute='__class__.__base__')) ~ (1 / 0) }}",
    "class by format": "{{ '{0.__class__.__base__}'.format(1) ~ (1 / 0) }}",
    "class by format_map": "{{ '{a.__class__.__base__}'.format_map({'a': 1}) ~ (1 / 0) }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__['x'] }}",
    "globals of self": "{{ self.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__['json'] }}",
    "the sandbox of a function": "{{ raise_exception.__self__.meter }}",
    "frame of a generator": "{{ (messages | map('string')).gi_frame.f_globals }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'base' %}",
    "changing a message": "{{ messages[0].update({'role': 'x'}) }}",
    "changing the list": "{{ messages.append(1) }}",
    "environment of a context": "{{ cycler.__init__.__globals__ }}",
}

BOMBS = {
    "endless loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "a loop that swallows exceptions": "{% for i in range(99999) %}{% for j in range(99999) %}{{ i is sequence }}"
    "{% endfor %}{% endfor %}",
    "a filtered loop": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for i in [[1]] recursive %}{{ loop([i, i]) }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "binary recursion": "{% macro f() %}{% if f() %}{% endif %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion by call blocks": "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
    "doubling by a macro": "{% macro f(n) %}{% if n %}{% set x = f(n - 1) %}{{ x }}{{ x }}{% else %}aaaa{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "repeating": "{{ 'a' * 10**9 }}",
    "repeating from the left": "{{ 10**9 * 'a' }}",
    "repeating a list": "{{ [0] * 10**9 }}",
    "repeating twice": "{% set a = 'a' * 99999 %}{{ [a] * 99999 }}",
    "doubling by ~": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling a list by +": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
    "doubling by %": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}"
    "{% endfor %}",
    "doubling by format": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}"
    "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "doubling by block assignment": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "squaring by replace": "{% set a = 'a' * 9999 %}{% set b = a.replace('a', a) %}{{ b.replace('a', a) | length }}",
    "squaring by the filter": "{% set a = 'a' * 9999 %}{{ a | replace('a', a) | replace('', a) | length }}",
    "squaring by replace of nothing": "{% set a = 'a' * 99999 %}{{ a.replace('', a) | length }}",
    "squaring by join": "{% set a = 'a' * 9999 %}{% set b = a.join([a] * 9999) %}{{ b | length }}",
    "squaring by the join filter": "{% set a = 'a' * 9999 %}{{ range(99999) | join(a) | length }}",
    "squaring at compile time": "{{ '" + "a" * 50_000 + "' | replace('a', '" + "b" * 50_000 + "') | length }}",
    "copies of the template's own words": "{% set x %}{% for i in range(99999) %}{% for j in range(99) %}"
    + "a" * 1000
    + "{% endfor %}{% endfor %}{% endset %}",
    "copies by slices": "{% set a = 'ab' * 99999 %}{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}",
    "all slices at once": "{% set a = ('ab' * 99999) | list %}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = [ns.l, a[1:]] %}{% endfor %}",
    "doubling a list of lists, as JSON": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    "doubling a dictionary": "{% set ns = namespace(x={}) %}{% for i in range(60) %}"
    "{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "doubling a tuple, compared": "{% set ns = namespace(x=(1,), y=(1,)) %}{% for i in range(60) %}"
    "{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}{{ ns.x == ns.y }}",
    "doubling namespaces": "{% set ns0 = namespace(a=1) %}"
    + "".join(f"{{% set ns{i} = namespace(a=ns{i - 1}, b=ns{i - 1}) %}}" for i in range(1, 60))
    + "{{ ns59 }}{{ [ns59].index(1) }}",
    "depth": "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "squaring a number": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}"
    "{% endfor %}",
    "a power": "{{ 10 ** 10 ** 9 }}",
    "a power from the right": "{{ 2 ** (2 ** 63) }}",
    "a long number": "{{ ('9' * 4000) | int * 2 }}",
    "a long number of another base": "{{ ('f' * 99999) | int(base=16) }}",
    "rounding": "{{ 5 | round(10 ** 9) }}",
    "rounding up": "{{ 5 | round(-10 ** 9, 'ceil') }}",
    "a range": "{{ range(10**9) | list }}",
    "a width": "{{ '%999999999d' % 1 }}",
    "a precision": "{{ '%.999999999f' % 1 }}",
    "a width behind a key": "{{ '%(a)999999999d' % {'a': 1} }}",
    "a width behind a nested key": "{{ '%((a))999999999d' % {'(a)': 1} }}",
    "a width from a value": "{{ '%*d' % (999999999, 1) }}",
    "a width in format": "{{ '{:999999999}'.format(1) }}",
    "a width from a value in format": "{{ '{} {:{w}}'.format(1, 1, w='999999999') }}",
    "a width in format by attr": "{{ ('{:999999999}' | attr('format'))(1) }}",
    "a width in format by item": "{{ '{:999999999}'['format'](1) }}",
    "a width in format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "many widths": "{{ ('%999d' * 99999) % ((1,) * 99999) }}",
    "padding": "{{ 'a'.ljust(10**9) }}",
    "tabs": "{{ '\t'.expandtabs(10**9) }}",
    "zeros": "{{ 'a'.zfill(10**9) }}",
    "translation": "{{ 'a'.translate({97: 'b' * 9999}) * 99999 }}",
    "centring": "{{ 'a'.center(10**9) }}",
    "an indent": "{{ 'a\nb' | indent(10**9) }}",
    "an indent of many lines": "{{ ('\n' * 999999) | indent(60, true, true) }}",
    "an indent of JSON": "{{ [1] | tojson(indent=10**9) }}",
    "a separator of JSON": "{{ ([1] * 99999) | tojson(separators=('a' * 99999, ':')) }}",
    "a date": "{{ strftime_now('%999999999Y') }}",
    "many dates": "{{ strftime_now('%c' * 99999) }}",
    "a long refusal": "{{ raise_exception('a' * 10**9) }}",
}

CHILD = """
import json, resource, sys
from backends.errors import InvalidRequest, BadModelFile
from backends.llama.template import ChatTemplate
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
outcomes = {}
for name, source in json.load(sys.stdin).items():
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        ChatTemplate(source).render([{"role": "user", "content": "Hello"}], {}, limit_s=0.5)
        outcome = "rendered"
    except (InvalidRequest, BadModelFile) as e:
        outcome = e.message
    after = resource.getrusage(resource.RUSAGE_SELF)
    grown, seconds = (after.ru_maxrss - before.ru_maxrss) / 1024, after.ru_utime - before.ru_utime
    outcomes[name] = (outcome, grown, seconds)
json.dump(outcomes, sys.stdout)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, float, float]]:
    """(what happened, MiB that the peak of memory rose, CPU seconds) of each bomb, in a process that may die of one."""
    result = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(BOMBS), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, f"the process died: {result.returncode} {result.stderr[-2000:]}"
    found: dict[str, tuple[str, float, float]] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_defused(outcomes: dict[str, tuple[str, float, float]], name: str) -> None:
    outcome, grown_mib, cpu_s = outcomes[name]
    assert outcome != "rendered"
    assert "MemoryError" not in outcome, "it was the allocator that said no"
    assert grown_mib < 150
    assert cpu_s < 5, "its limit was 0.5 s"


@pytest.mark.parametrize("name", ESCAPES)
def test_nobody_escapes(name: str) -> None:
    try:
        reached = render(ESCAPES[name])
    except (InvalidRequest, BadModelFile) as e:
        reached = "" if "<class" not in e.message else e.message
    assert reached == ""


def test_what_may_not_be_reached_is_undefined() -> None:
    for source in ("{{ messages.__class__ }}", "{{ '{0.__class__}'.format(1) }}", "{{ messages | attr('__len__') }}"):
        assert render(source) == ""


def test_a_client_cannot_overload_an_honest_template() -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nests values too deeply"):
        render("{{ messages[0].deep | tojson }}", [{"role": "user", "content": "x", "deep": deep}])


# -- the meter's own sums --------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_values_text_is_no_longer_than_its_weight_allows(value: Any) -> None:
    meter = Meter(1000, 60)
    # A character takes ten at most when it is shown as \\U0010ffff.
    assert len(str(value)) <= 10 * meter.weigh(value) + 40
    assert len(json.dumps(value)) <= 12 * meter.weigh(value) + 40


def test_the_time_is_up_when_it_is_up() -> None:
    times = iter([0.0, 1.0, 2.5])
    meter = Meter(0, 2.0, lambda: next(times))
    meter.tick()
    with pytest.raises(SecurityError):
        meter.tick()


class Anything:
    """A mapping that has a number for every key."""

    def __getitem__(self, key: object) -> int:
        return 7


@settings(max_examples=1500)
@given(st.text("%()*09.dsx- {}:!", max_size=12))
def test_no_wide_field_is_overlooked(pattern: str) -> None:
    """Whatever passes the check makes no more than it allows: the real formatting is the judge."""
    sandbox = Sandbox()
    sandbox.meter = Meter(10**6, 60)
    for widths, formatted in (
        (percent_widths, lambda: pattern % Anything()),
        (field_widths, lambda: pattern.format(7, 7, 7, 7, 7, 7, 7)),
    ):
        try:
            found = widths(pattern)
            sandbox._check_format(pattern, found, ())
            text = formatted()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, SecurityError, OverflowError, MemoryError):
            continue
        assert len(text) <= len(pattern) + len(found) * (MAX_WIDTH + 30)
