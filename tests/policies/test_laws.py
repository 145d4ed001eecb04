"""What holds for every policy: it drops and reorders, it is pure, and what it says depends on its arguments alone."""

import ast
import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.types import GENERATES, ModelState, Request, Sampling
from gateway.schemas.guards import GuardSettings
from gateway.schemas.settings import RuleSettings
from policies.availability import availability
from policies.base import Health, Learned, Price, Route, Snapshot, Spent, decide
from policies.budget import Budget
from policies.capability import NEEDS, Capability
from policies.capacity import Capacity
from policies.guards import guards_of
from policies.order import Order
from policies.privacy import Privacy
from policies.rules import compile_rules

MODULES = sorted(Path(__file__).parents[2].joinpath("policies").glob("*.py"))
CLASSES = ("email", "health", "secret")
SIGNALS = ("injection", "toxicity", "toxicity_user", "difficulty")
LOCALITIES = ("only_local", "prefer_local", "prefer_remote", "only_remote")

RULES = compile_rules(
    (
        RuleSettings(name="health", when="'health' in request.data_classes", locality="only_local"),
        RuleSettings(name="zero", when="100 / (request.max_tokens - 50) > 200", locality="only_remote"),
        RuleSettings(name="hurt", when="signals.toxicity > 0.8", locality="only_local", on_timeout="skip"),
        RuleSettings(name="named", when="site.hour < 3", routes=("p1/b", "local/a", "p0/a")),
        RuleSettings(name="refused", when="request.prompt_tokens > 100 && key == 'k'", deny="no"),
    )
)
GUARDS = guards_of(
    (
        GuardSettings(signal="injection", above=0.5, action="block", on_timeout="skip"),
        GuardSettings(signal="toxicity", above=0.5, action="flag", retrieved=False),
        GuardSettings(signal="difficulty", above=0.5, action="route", locality="only_local"),
        GuardSettings(signal="difficulty", above=0.2, action="route", routes=("p1/b", "local/a")),
    )
)
POLICIES = (
    GUARDS,
    guards_of(()),
    Capability(),
    Capability(3.0),
    Privacy({"p0": {"default": "allow", "health": "deny"}, "p1": {"email": "redact"}}, "redact", frozenset({"email"})),
    availability,
    Budget(),
    Budget(1e-4, 1e-3, 1e-4, 1e-3, {"k": (5e-5, None)}),
    *(Order(locality, ("latency", "quality", "cost")) for locality in LOCALITIES),
    Capacity(2.0, 20.0),
    RULES,
)

money = st.floats(0, 2e-4)
seconds = st.floats(0, 100)
rates = st.just(0.0) | st.floats(0.1, 500)


@st.composite
def routes(draw):
    names = draw(st.lists(st.sampled_from(["local/a", "local/b", "p0/a", "p0/b", "p1/a", "p1/b"]), unique=True))
    return tuple(draw(route(name)) for name in names)


@st.composite
def route(draw, name):
    provider, _, model = name.partition("/")
    here = provider == "local"
    price = None if here else draw(st.none() | st.builds(Price, *[st.floats(0, 5)] * 3))
    return Route(
        name,
        model if here else name,
        "local" if here else "remote",
        draw(st.integers(0, 200)),
        draw(st.frozensets(st.sampled_from([*NEEDS]))) | draw(st.sampled_from([frozenset(), frozenset(NEEDS)])),
        draw(st.sampled_from([GENERATES, GENERATES, GENERATES, frozenset({"embedding"})])),
        "" if here else provider,
        price,
        draw(st.floats(0, 10)),
        draw(st.floats(-1, 1)),
    )


requests = st.builds(
    Request,
    st.just("r"),
    st.sampled_from(["auto", "local/a"]),
    st.sampled_from(["chat", "completion", "embedding"]),
    sampling=st.builds(
        Sampling, top_logprobs=st.sampled_from([None, None, 0, 3]), max_tokens=st.none() | st.integers(1, 200)
    ),
    n=st.integers(1, 3),
    needs=st.frozensets(st.sampled_from([*NEEDS]), max_size=1),
    locality=st.sampled_from([None, *LOCALITIES]),
    deadline_s=st.none() | seconds,
    key=st.sampled_from(["", "k"]),
    declared=st.frozensets(st.sampled_from(CLASSES)),
)


@st.composite
def snapshots(draw, given_routes):
    def of(value, location=None):
        names = [route.name for route in given_routes if location in (None, route.location)]
        return {name: draw(value) for name in names if draw(st.booleans())}

    states = st.builds(
        ModelState,
        st.just("m"),
        st.sampled_from(["stopped", "starting", "ready", "draining", "failed"]),
        waiting=st.integers(0, 9),
        running=st.integers(0, 9),
        max_sequences=st.integers(0, 9),
        prefill_rate=rates,
        decode_rate=rates,
        backlog_tokens=st.integers(0, 9999),
    )
    counts = of(st.integers(0, 220))
    return Snapshot(
        states=of(states, "local"),
        prompt_tokens=counts,
        cached_tokens={name: draw(st.integers(0, count)) for name, count in counts.items()},
        estimated_tokens=draw(st.integers(0, 300)),
        learned=of(st.builds(Learned, st.integers(1, 300), st.floats(0.1, 9), st.floats(0.1, 9)), "local"),
        health=of(st.builds(Health, st.sampled_from(["", "", "timeouts"]), st.none() | seconds, seconds), "remote"),
        offline=draw(st.sampled_from(["", "", "no link"])),
        data_classes=draw(st.frozensets(st.sampled_from(CLASSES))),
        scan_failed=draw(st.booleans()),
        unknown=draw(st.frozensets(st.just("health"))),
        signals=draw(st.dictionaries(st.sampled_from(SIGNALS), st.floats(0, 1))),
        late_signals=draw(st.frozensets(st.sampled_from(SIGNALS))),
        spent=draw(st.builds(Spent, money, money, money, money)),
        sticky=draw(st.sampled_from(["", *(route.name for route in given_routes)])),
        elapsed_s=draw(seconds),
        at=draw(st.floats(0, 2e9)),
    )


@st.composite
def cases(draw):
    given_routes = draw(routes())
    return draw(requests), given_routes, draw(snapshots(given_routes))


def name_of(policy):
    return getattr(policy, "__name__", type(policy).__name__)


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
@given(case=cases())
@settings(deadline=None)
def test_a_policy_accounts_for_every_route_and_depends_on_its_arguments_alone(policy, case):
    request, given_routes, snapshot = case
    before = copy.deepcopy(case)
    verdict = policy(request, given_routes, snapshot)
    left = [*verdict.kept, *(drop.route for drop in verdict.drops)]
    assert len(left) == len(given_routes)
    assert {id(route) for route in left} == {id(route) for route in given_routes}
    assert verdict.redact.keys() <= {route.name for route in verdict.kept}
    assert verdict.redact.keys() | verdict.estimates.keys() <= {route.name for route in given_routes}
    if verdict.kept == given_routes:
        assert verdict.kept is given_routes
    for drop in verdict.drops:
        assert drop.policy == name_of(policy).lower()
        assert drop.reason and "\n" not in drop.reason and len(drop.reason) < 80
        assert drop.error.message.endswith(".") or drop.error.code == "denied_by_rule"
        assert drop.error.code.replace("_", "").isalpha()
    assert before == case
    again = policy(*before)
    assert (again.kept, again.reason, again.redact, again.estimates) == (
        verdict.kept,
        verdict.reason,
        verdict.redact,
        verdict.estimates,
    )
    assert [(d.route, d.reason, d.error.message) for d in again.drops] == [
        (d.route, d.reason, d.error.message) for d in verdict.drops
    ]


@given(case=cases(), order=st.permutations(POLICIES))
@settings(deadline=None)
def test_no_order_of_policies_brings_a_route_back(case, order):
    request, given_routes, snapshot = case
    plan = decide(order, request, given_routes, snapshot)
    dropped = {drop.route.name for drop in plan.drops}
    assert len(dropped) == len(plan.drops)
    assert {route.name for route in plan.routes} == {route.name for route in given_routes} - dropped


PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "functools",
    "itertools",
    "math",
    "operator",
    "re",
    "string",
}
PURE |= {"importlib", "types", "typing", "unicodedata", "backends", "policies", "cel", "orjson"}
EFFECTS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "globals", "vars"}


def impurities(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await | ast.Global):
            yield node.lineno, type(node).__name__
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] not in PURE)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            allowed = module.split(".")[0] in PURE and not node.level
            if module.startswith("backends"):
                allowed = module in ("backends.errors", "backends.types")
            if not allowed or (module == "functools" and {"cache", "lru_cache"} & {alias.name for alias in node.names}):
                yield node.lineno, module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            by_name = name.endswith("import_module") and not ast.unparse(node.args[0]).startswith("'re.")
            if by_name or name in EFFECTS:
                yield node.lineno, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_policy_reads_a_clock_logs_or_awaits(path):
    assert list(impurities(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "def f():\n    import logging.handlers",
        "from datetime import datetime",
        "from random import random",
        "from functools import cache",
        "from backends.llama import backend",
        "from . import base",
        "async def f(): pass",
        "def f():\n    global x",
        "print('x')",
        "x = open('f')",
        "importlib.import_module('time')",
    ],
)
def test_the_search_finds(source):
    assert len(list(impurities(ast.parse(source)))) == 1
