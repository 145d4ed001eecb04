"""Guards: what holds, what is done, and what is said."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from backends.errors import InvalidRequest, Unavailable
from backends.types import Request
from gateway.schemas.guards import GuardSettings
from policies.base import Route, Snapshot
from policies.guards import guards_of
from policies.signals import TOO_LONG

A, B = Route("local/a", "a"), Route("local/b", "b")
X, Y = Route("acme/x", "acme/x", "remote", provider="acme"), Route("acme/y", "acme/y", "remote", provider="acme")
ROUTES = (A, B, X, Y)
ASK = Request("r", "auto", "chat")
LATE = Snapshot(late_signals=frozenset({"injection", "injection_user"}))


def guard(action="block", signal="injection", above=0.5, **more):
    return GuardSettings(signal=signal, above=above, action=action, **more)


def judge(*guards, site=None, request=ASK, **signals):
    return guards_of(guards)(request, ROUTES, site or Snapshot(signals=signals))


def test_no_guards_cost_nothing():
    assert judge(injection=1.0).kept is ROUTES


@pytest.mark.parametrize(("value", "holds"), [(0.51, True), (0.5, False), (0.0, False)])
def test_a_guard_holds_above_its_bound(value, holds):
    verdict = judge(guard(), injection=value)
    assert verdict.kept == (() if holds else ROUTES)
    assert verdict.reason == ("guard: injection 0.51" if holds else "")


def test_what_is_blocked_is_refused_with_its_category():
    drops = judge(guard(), injection=0.9).drops
    assert {drop.route for drop in drops} == set(ROUTES)
    for drop in drops:
        assert (drop.policy, drop.reason, drop.error.code) == ("guards", "injection 0.90", "content_blocked")
        assert isinstance(drop.error, InvalidRequest)
        assert drop.error.extra == {"category": "injection"}


def test_a_flag_says_so_and_keeps_all():
    verdict = judge(guard("flag", "toxicity"), toxicity=0.75, injection=1.0)
    assert (verdict.kept, verdict.reason) == (ROUTES, "guard: toxicity 0.75")


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"locality": "only_local"}, (A, B)),
        ({"locality": "only_remote"}, (X, Y)),
        ({"routes": ("acme/y", "local/a", "acme/gone")}, (Y, A)),
    ],
)
def test_a_route_guard_keeps_what_it_names(more, kept):
    verdict = judge(guard("route", "difficulty", **more), difficulty=0.8)
    assert verdict.kept == kept
    assert {drop.error.code for drop in verdict.drops} == {"no_route"}


def test_all_that_hold_are_applied_and_blocks_come_first():
    route = guard("route", "difficulty", routes=("acme/gone",))
    verdict = judge(route, guard("flag", "toxicity"), guard(), injection=0.9, difficulty=0.9, toxicity=0.9)
    assert {drop.error.code for drop in verdict.drops} == {"content_blocked"}
    assert verdict.reason == "guard: injection 0.90; guard: difficulty 0.90; guard: toxicity 0.90"


@pytest.mark.parametrize("action", ["block", "flag", "route"])
def test_while_nothing_is_known_it_holds_or_not_as_it_says(action):
    more = {"locality": "only_local"} if action == "route" else {}
    held = judge(guard(action, **more), site=LATE)
    assert held.kept == {"block": (), "flag": ROUTES, "route": (A, B)}[action]
    assert held.reason == "guard: injection not known in time"
    skipped = judge(guard(action, on_timeout="skip", **more), site=LATE)
    assert (skipped.kept, skipped.reason) == (ROUTES, "")


def test_not_to_be_judged_in_time_may_pass():
    for drop in judge(guard(), site=LATE).drops:
        assert isinstance(drop.error, Unavailable)
        assert (drop.error.code, drop.error.retry_after) == ("not_judged", 1.0)


def test_retrieved_text_counts_unless_it_is_left_out():
    signals = {"injection": 0.995, "injection_user": 0.1, "injection_retrieved": 0.995}
    assert judge(guard(), **signals).kept == ()
    assert judge(guard(retrieved=False), **signals).kept == ROUTES


@pytest.mark.parametrize(
    ("bounds", "retrieved", "holds"),
    [
        ({}, 0.99, False),
        ({}, 0.991, True),
        ({"above": 0.997}, 0.995, False),
        ({"retrieved_above": 0.4}, 0.41, True),
        ({"above": 0.98, "retrieved_above": 0.4}, 0.41, True),
    ],
)
def test_retrieved_text_has_a_bound_of_its_own(bounds, retrieved, holds):
    signals = {"injection": retrieved, "injection_user": 0.1, "injection_retrieved": retrieved}
    assert judge(guard(**bounds), **signals).kept == (() if holds else ROUTES)


def test_too_long_to_be_judged_does_not_pass_with_time():
    site = replace(LATE, late_signals=LATE.late_signals | {TOO_LONG})
    for drop in judge(guard(), site=site).drops:
        assert isinstance(drop.error, InvalidRequest)
        assert (drop.error.code, "too long" in drop.error.message) == ("not_judged", True)
    assert judge(guard(on_timeout="skip"), site=site).kept == ROUTES


@pytest.mark.parametrize("kind", ["embedding", "rerank", "moderation", "classification"])
def test_what_is_not_to_be_answered_is_not_judged(kind):
    assert judge(guard(), request=Request("r", "m", kind), injection=0.9).kept == ROUTES


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "route"},
        {"action": "route", "locality": "only_local", "routes": ("local/a",)},
        {"action": "block", "locality": "only_local"},
        {"action": "flag", "routes": ("local/a",)},
        {"above": 1.0},
        {"signal": "language"},
    ],
)
def test_a_guard_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        GuardSettings(**{"signal": "injection", "above": 0.5, "action": "flag", **fields})
