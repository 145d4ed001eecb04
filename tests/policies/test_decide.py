import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from backends.types import Request
from policies.base import Drop, PolicyError, Route, Snapshot, Verdict, decide
from policies.capability import Capability
from policies.order import Order

REQUEST = Request("r", "auto", "chat")
CAPABILITIES = ("vision", "audio", "tools")


@st.composite
def routes(draw):
    names = draw(st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=6))
    return tuple(
        Route(
            f"local/{name}",
            name,
            draw(st.sampled_from(["local", "remote"])),
            draw(st.integers(1, 100)),
            draw(st.frozensets(st.sampled_from(CAPABILITIES))),
        )
        for name in names
    )


@st.composite
def requests(draw):
    return Request(
        "r",
        "auto",
        "chat",
        needs=draw(st.frozensets(st.sampled_from(CAPABILITIES))),
        locality=draw(st.sampled_from([None, "only_local", "prefer_local", "prefer_remote", "only_remote"])),
    )


@given(requests(), routes(), st.data())
def test_a_plan_is_a_part_of_what_was_given_and_every_drop_has_a_reason(request_, given_routes, data):
    counts = {route.name: data.draw(st.integers(0, 120)) for route in given_routes if data.draw(st.booleans())}
    plan = decide([Order(), Capability()], request_, given_routes, Snapshot({}, counts))
    assert sorted(r.name for r in [*plan.routes, *(d.route for d in plan.drops)]) == sorted(
        r.name for r in given_routes
    )
    assert all(drop.reason and drop.policy and isinstance(drop.error, InvalidRequest) for drop in plan.drops)
    for route in plan.routes:
        assert request_.needs <= route.capabilities
        assert counts.get(route.name, 0) + 1 <= route.context_length


A, B = Route("local/a", "a"), Route("local/b", "b")


def drop(route):
    return Drop(route, "p", "why", InvalidRequest("no"))


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict((A, Route("remote/x", "x"))),
        Verdict((A,)),
        Verdict((A, A, B)),
        Verdict((A, B), (drop(B),)),
        Verdict((Route("local/a", "elsewhere"), B)),
    ],
    ids=["invents", "loses", "doubles", "keeps and drops", "changes"],
)
def test_a_policy_that_does_not_account_for_its_routes_fails_closed(verdict):
    with pytest.raises(PolicyError):
        decide([lambda request, given_routes, snapshot: verdict], REQUEST, (A, B), Snapshot())


def test_what_one_policy_dropped_the_next_never_sees():
    seen = []

    def first(request, given_routes, snapshot):
        return Verdict((B,), (drop(A),))

    def second(request, given_routes, snapshot):
        seen.extend(given_routes)
        return Verdict(given_routes)

    plan = decide([first, second], REQUEST, (A, B), Snapshot())
    assert seen == [B]
    assert plan.routes == (B,)


def test_no_policy_is_asked_about_nothing():
    def broken(request, given_routes, snapshot):
        raise AssertionError

    assert decide([broken], REQUEST, (), Snapshot()).routes == ()
