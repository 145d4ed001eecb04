import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Request
from policies.base import Route, Snapshot, decide
from policies.privacy import Privacy

LOCAL = Route("local/a", "a")
ACME = Route("acme/m", "acme/m", "remote", provider="acme")
ACME_TOO = Route("acme/n", "acme/n", "remote", provider="acme")
OTHER = Route("other/m", "other/m", "remote", provider="other")
ROUTES = (LOCAL, ACME, OTHER)
REQUEST = Request("r", "auto", "chat")
FINDABLE = frozenset({"email", "phone", "secret"})


def privacy(rules=None, default="deny"):
    return Privacy(rules or {}, default, FINDABLE)


def snapshot(*classes, failed=False):
    return Snapshot(data_classes=frozenset(classes), scan_failed=failed)


def test_nothing_found_changes_nothing():
    verdict = privacy()(REQUEST, ROUTES, snapshot())
    assert verdict.kept is ROUTES
    assert not verdict.drops


def test_a_denied_class_drops_that_providers_routes_only():
    routes = (LOCAL, ACME, ACME_TOO, OTHER)
    verdict = privacy({"acme": {"email": "deny"}}, "allow")(REQUEST, routes, snapshot("email", "phone"))
    assert verdict.kept == (LOCAL, OTHER)
    assert [drop.route for drop in verdict.drops] == [ACME, ACME_TOO]


def test_the_error_names_class_and_provider():
    (drop,) = privacy({"other": {"email": "allow"}})(REQUEST, ROUTES, snapshot("email")).drops
    assert drop.error.code == "privacy_denied"
    assert "email" in drop.error.message and "acme" in drop.error.message
    assert drop.error.retry_after is None


def test_redact_is_a_duty_and_drops_nothing():
    rules = {"acme": {"email": "redact", "phone": "redact"}, "other": {"email": "allow", "phone": "allow"}}
    verdict = privacy(rules)(REQUEST, ROUTES, snapshot("email", "phone"))
    assert verdict.kept is ROUTES
    assert verdict.redact == {"acme/m": frozenset({"email", "phone"})}


def test_one_denied_class_outweighs_one_to_redact():
    verdict = privacy({"acme": {"email": "redact"}})(REQUEST, (ACME,), snapshot("email", "phone"))
    assert verdict.kept == ()
    assert verdict.redact == {}


@pytest.mark.parametrize(
    ("rules", "default", "action"),
    [
        ({}, "deny", "deny"),
        ({}, "allow", "allow"),
        ({"acme": {"default": "redact"}}, "deny", "redact"),
        ({"acme": {"default": "deny"}}, "allow", "deny"),
        ({"acme": {"default": "deny", "email": "allow"}}, "deny", "allow"),
        ({"other": {"email": "allow"}}, "deny", "deny"),
    ],
)
def test_the_providers_own_word_comes_before_the_sites(rules, default, action):
    assert privacy(rules, default).action("acme", "email") == action


def test_what_cannot_be_found_cannot_be_redacted():
    """`health` is declared by a header: no pattern finds it."""
    verdict = privacy({}, "redact")(REQUEST, ROUTES, snapshot("health"))
    assert verdict.kept == (LOCAL,)


def test_a_declared_class_counts_even_if_the_snapshot_lacks_it():
    request = Request("r", "auto", "chat", declared=frozenset({"health"}))
    assert privacy()(request, ROUTES, snapshot()).kept == (LOCAL,)


def test_what_could_not_be_searched_stays_here_whatever_is_allowed():
    verdict = privacy({}, "allow")(REQUEST, ROUTES, snapshot(failed=True))
    assert verdict.kept == (LOCAL,)
    assert {drop.error.code for drop in verdict.drops} == {"privacy_scan_failed"}


ACTIONS = st.sampled_from(["allow", "redact", "deny"])
CLASSES = st.sampled_from(["email", "phone", "secret", "health", "badge"])
RULES = st.dictionaries(CLASSES | st.just("default"), ACTIONS)


@given(st.fixed_dictionaries({"acme": RULES, "other": RULES}), ACTIONS, st.frozensets(CLASSES), st.booleans())
def test_every_route_that_stays_is_allowed_all_or_has_the_rest_redacted(rules, default, classes, failed):
    policy = Privacy(rules, default, FINDABLE)
    plan = decide([policy], REQUEST, ROUTES, Snapshot(data_classes=classes, scan_failed=failed))
    assert LOCAL in plan.routes
    for route in plan.routes[1:]:
        assert not failed
        for cls in classes:
            said = rules[route.provider].get(cls, rules[route.provider].get("default", default))
            assert said == "allow" or (said == "redact" and cls in FINDABLE & plan.redact[route.name])


def test_what_is_said_to_be_there_and_is_not_found_cannot_be_redacted():
    policy = Privacy({"acme": {"email": "redact"}}, "allow", frozenset({"email"}))
    remote = Route("acme/m", "acme/m", "remote", 8192, provider="acme")
    said = Request("r", "auto", "chat", declared=frozenset({"email"}))
    found = Snapshot(data_classes=frozenset({"email"}))
    assert policy(said, (remote,), found).redact == {"acme/m": frozenset({"email"})}
    unfound = Snapshot(data_classes=frozenset({"email"}), unfound=frozenset({"email"}))
    (drop,) = policy(said, (remote,), unfound).drops
    assert drop.error.code == "privacy_denied"
