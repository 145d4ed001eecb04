import math
from dataclasses import replace

import pytest

from backends.errors import InvalidRequest, Unavailable
from backends.types import ModelState, Request, Sampling
from gateway.schemas.settings import RuleSettings
from policies.base import Route, Snapshot, Spent
from policies.rules import RuleError, Rules, compile_rules
from policies.variables import FUNCTIONS, SAMPLES, VARIABLES, values_of

A, B = Route("local/a", "a"), Route("local/b", "b")
X, Y = Route("acme/x", "acme/x", "remote"), Route("acme/y", "acme/y", "remote")
ROUTES = (A, X, B, Y)
REQUEST = Request("r", "auto", "chat")
HEALTH = "'health' in request.data_classes"


def rule(when="true", name="mine", **action):
    return RuleSettings(name=name, when=when, **(action or {"locality": "only_local"}))


def judge(*settings, request=REQUEST, routes=ROUTES, site=None):
    return compile_rules(settings)(request, routes, site or Snapshot())


def holds(when, request=REQUEST, site=None):
    return judge(rule(when, deny="no"), request=request, site=site).kept == ()


def test_no_rules_cost_nothing():
    assert compile_rules(()) == Rules()
    assert judge().kept is ROUTES


@pytest.mark.parametrize(
    ("action", "kept", "code"),
    [
        ({"locality": "only_local"}, (A, B), "no_route"),
        ({"locality": "only_remote"}, (X, Y), "no_route"),
        ({"routes": ("acme/y", "local/a", "acme/gone")}, (Y, A), "no_route"),
        ({"deny": "Not in the kiosk."}, (), "denied_by_rule"),
    ],
)
def test_what_a_rule_does(action, kept, code):
    verdict = judge(rule(**action))
    assert verdict.kept == kept
    assert verdict.reason == "rule mine"
    assert {drop.route for drop in verdict.drops} == set(ROUTES) - set(kept)
    for drop in verdict.drops:
        assert (drop.policy, drop.reason, drop.error.code) == ("rules", "rule mine", code)
        assert isinstance(drop.error, InvalidRequest)
        assert drop.error.message == action["deny"] if "deny" in action else "'mine'" in drop.error.message


def test_a_rule_that_does_not_match_changes_nothing():
    verdict = judge(rule("false"))
    assert verdict.kept is ROUTES
    assert verdict.reason == ""


def test_a_rule_that_matches_and_finds_all_in_order_keeps_them_as_they_are():
    verdict = judge(rule(), routes=(A, B))
    assert (verdict.kept, verdict.drops, verdict.reason) == ((A, B), (), "rule mine")


def test_the_first_match_decides():
    named = {"routes": ("acme/x",)}
    verdict = judge(rule("false", "one"), rule("true", "two", **named), rule("true", "three", deny="no"))
    assert (verdict.kept, verdict.reason) == ((X,), "rule two")


FULL = Request(
    "r",
    "gpt-4o-mini",
    "completion",
    prompts=("a", "b", "c"),
    sampling=Sampling(max_tokens=77),
    n=2,
    needs=frozenset({"tools"}),
    locality="prefer_local",
    deadline_s=4.5,
    stream=True,
    key="kiosk",
    declared=frozenset({"health"}),
)
BUSY = Snapshot(
    states={"local/a": ModelState("a", "ready", waiting=2, running=1), "local/b": ModelState("b", "ready", running=3)},
    prompt_tokens={"local/a": 12},
    estimated_tokens=10,
    offline="no link",
    data_classes=frozenset({"email"}),
    signals={
        "injection": 0.75,
        "injection_user": 0.25,
        "injection_retrieved": 0.75,
        "toxicity": 0.5,
        "toxicity_user": 0.5,
        "toxicity_retrieved": 0.125,
        "language": "de",
        "language_confidence": 0.875,
        "difficulty": 0.375,
    },
    spent=Spent(site_day=1.25, site_month=30),
    at=1_700_000_000,  # Tuesday, 14 November 2023, 22:13:20 UTC
)


@pytest.mark.parametrize(
    ("name", "full", "bare"),
    [
        ("key", "kiosk", ""),
        ("request.model", "gpt-4o-mini", "auto"),
        ("request.kind", "completion", "chat"),
        ("request.stream", True, False),
        ("request.needs", ["tools"], []),
        ("request.data_classes", ["email", "health"], []),
        ("request.locality", "prefer_local", ""),
        ("request.deadline_s", 4.5, math.inf),
        ("request.prompt_tokens", 12, 0),
        ("request.max_tokens", 77, 0),
        ("request.choices", 6, 1),
        ("signals.injection", 0.75, 0.0),
        ("signals.injection_user", 0.25, 0.0),
        ("signals.injection_retrieved", 0.75, 0.0),
        ("signals.toxicity", 0.5, 0.0),
        ("signals.toxicity_user", 0.5, 0.0),
        ("signals.toxicity_retrieved", 0.125, 0.0),
        ("signals.language", "de", "und"),
        ("signals.language_confidence", 0.875, 0.0),
        ("signals.difficulty", 0.375, 0.0),
        ("site.offline", True, False),
        ("site.hour", 22, 0),
        ("site.weekday", 2, 4),
        ("site.spent_day", 1.25, 0.0),
        ("site.spent_month", 30.0, 0.0),
        ("site.waiting", 2, 0),
        ("site.running", 4, 0),
    ],
)
def test_each_variable(name, full, bare):
    types = {"string": str, "bool": bool, "int": int, "double": float, "list(string)": list}
    for request, site, value in ((FULL, BUSY, full), (REQUEST, Snapshot(), bare)):
        found = VARIABLES[name].value(request, site)
        assert found == value
        assert type(found) is types[VARIABLES[name].type]
        literal = "1.0 / 0.0" if value == math.inf else str(value).lower() if isinstance(value, bool) else repr(value)
        assert holds(f"{name} == {literal}", request, site)


def test_the_list_of_variables_is_whole():
    assert len(VARIABLES) == 27


def test_only_what_rules_read_is_put_together():
    rules = compile_rules((rule(HEALTH), rule("site.hour > 22 || site.hour < 6"), rule("key == 'site.running'")))
    assert rules.reads == ("key", "request.data_classes", "site.hour")
    assert values_of(rules.reads, FULL, BUSY) == {
        "key": "kiosk",
        "request": {"data_classes": ["email", "health"]},
        "site": {"hour": 22},
    }


@pytest.mark.parametrize(
    "when",
    [
        "request.model.startsWith('gpt-')",
        "request.needs.exists(n, n == 'tools') && size(request.needs) == 1",
        "request.prompt_tokens + request.max_tokens > 50",
        "request.deadline_s < 5",
        "site.weekday in [1, 2, 3, 4, 5] && !(site.hour >= 7 && site.hour < 18)",
        "request . model == '''it's''' || true // request.nothing",
        r"request.model == R'\' || request.model.matches('^gpt-[0-9]')",
        r"request.model != 'it\'s request.nothing' && request.model != \"site\"".replace(r"\"", '"'),
        "type(request.max_tokens) == int",
        "request.data_classes.filter(c, c != 'email') == ['health']",
    ],
)
def test_expressions_that_hold(when):
    assert holds(when, FULL, BUSY)
    assert not holds(f"!({when}\n)", FULL, BUSY)


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("request.model ==", "yntax"),
        ("request.zip == 'a'", "there is no `request.zip`"),
        ("true || request.zip == 'a'", "there is no `request.zip`"),
        ("false && has(site.zip)", "there is no `site.zip`"),
        ("true || reqest.model == 'a'", "there is no `reqest`"),
        ("true || .request.model == 'a'", "there is no `.request`"),
        ("true || fits(request.model)", "there is no function `fits`"),
        ("true || request.model.lower() == 'a'", "there is no function `lower`"),
        ("request['model'] == 'a'", "`request` cannot be used as a whole"),
        ("request.size() == 3", "`request` cannot be used as a whole"),
        ("size(site) == 3", "`site` cannot be used as a whole"),
        ("request.model", "gives 'auto'"),
        ("request.prompt_tokens + 1", "gives 1"),
        ("request.prompt_tokens > 'a'", "overload"),
        ("request.stream && request.prompt_tokens > 'a'", "overload"),
        ("!request.stream || request.deadline_s * 2 > 1.0", ""),
        ("request.model.matches('(')", "regex"),
        ("1 / 0 == 1", "zero"),
        ("[1].exists(x, x == 1) && x == 1", "'x'"),
        ("(" * 1500 + "true" + ")" * 1500, ""),
    ],
)
def test_a_rule_that_can_never_work_is_refused_with_its_place(when, said):
    with pytest.raises(RuleError) as caught:
        compile_rules((rule(), rule(when, "bad")))
    assert (caught.value.index, caught.value.name) == (1, "bad")
    assert said in caught.value.message
    assert caught.value.message.startswith("rule 'bad': ")


def test_every_function_that_a_rule_may_call_is_one():
    calls = {
        "bytes": "bytes('a') == b'a'",
        "contains": "'abc'.contains('b')",
        "double": "double(1) == 1.0",
        "duration": "duration('1h') > duration('1m')",
        "dyn": "dyn(true)",
        "endsWith": "'ab'.endsWith('b')",
        "int": "int('1') == 1",
        "matches": "'a'.matches('a')",
        "size": "size('a') == 1",
        "startsWith": "'ab'.startsWith('a')",
        "string": "string(1) == '1'",
        "type": "type(1) == int",
        "uint": "uint(1) == 1u",
    }
    time = "timestamp('2024-01-01T00:00:00Z')"
    calls |= {name: f"{time}.{name}() >= 0" for name in FUNCTIONS if name.startswith("get")}
    calls["timestamp"] = f"{time} == {time}"
    assert calls.keys() == FUNCTIONS
    for when in calls.values():
        assert holds(when)


# Every sample passes it.
DIVIDES = "100 / (request.max_tokens - 7) > 50"
SEVEN = replace(REQUEST, sampling=Sampling(max_tokens=7))


def test_a_rule_that_cannot_be_evaluated_lets_nothing_leave():
    verdict = judge(rule(DIVIDES, locality="only_remote"), request=SEVEN)
    assert verdict.kept == (A, B)
    for drop in verdict.drops:
        assert (drop.reason, drop.error.code) == ("rule mine failed", "rule_failed")
        assert isinstance(drop.error, Unavailable)
    assert judge(rule(DIVIDES), request=SEVEN, routes=(A, B)).drops == ()


def test_one_that_is_there_to_refuse_refuses():
    verdict = judge(rule(DIVIDES, deny="no"), request=SEVEN)
    assert verdict.kept == ()
    assert {drop.error.code for drop in verdict.drops} == {"rule_failed"}


def test_the_rules_after_it_still_decide():
    verdict = judge(rule(DIVIDES, "one"), rule("true", "two", routes=("local/b",)), request=SEVEN)
    assert verdict.kept == (B,)
    assert [(drop.route, drop.reason) for drop in verdict.drops] == [
        (X, "rule one failed"),
        (Y, "rule one failed"),
        (A, "rule two"),
    ]


def test_classes_that_nobody_could_look_for_fail_a_rule_about_them():
    unknown = Snapshot(scan_failed=True)
    assert judge(rule(f"!({HEALTH})", locality="only_remote"), site=unknown).kept == (A, B)
    assert judge(rule("key == ''", locality="only_remote"), site=unknown).kept == (X, Y)


def test_text_that_is_no_text_fails_them_all():
    verdict = judge(rule("request.model == 'a'"), rule(deny="no"), request=replace(REQUEST, model="\ud800"))
    assert verdict.kept == ()


def test_samples_are_as_different_as_they_can_be():
    for name, variable in VARIABLES.items():
        assert len({str(variable.value(request, site)) for request, site in SAMPLES}) > 1, name


LATE = Snapshot(late_signals=frozenset({"injection", "injection_user", "injection_retrieved"}))


@pytest.mark.parametrize(
    ("when", "on_timeout", "matches"),
    [
        ("signals.injection > 0.5", "hold", True),
        ("signals.injection > 0.5", "skip", False),
        ("signals.injection < 0.5", "hold", True),
        ("signals.injection_user > 0.5 && key == ''", "hold", True),
        ("signals.injection > 0.5 && key == 'kiosk'", "hold", False),
        ("signals.injection > 0.5 || key == ''", "skip", True),
        ("signals.toxicity > 0.5", "hold", False),
        ("key == 'kiosk'", "hold", False),
    ],
)
def test_a_rule_whose_signal_is_late_does_what_it_says(when, on_timeout, matches):
    verdict = judge(rule(when, deny="no", on_timeout=on_timeout), site=LATE)
    assert verdict.kept == (() if matches else ROUTES)
    assert {drop.error.code for drop in verdict.drops} <= {"denied_by_rule"}


@pytest.mark.parametrize(("when", "holds_"), [("signals.injection > 0.7", True), ("signals.language == 'en'", False)])
def test_a_rule_reads_signals(when, holds_):
    assert bool(judge(rule(when), site=BUSY).reason) == holds_
