import pytest

from backends.types import ModelState, Request, Sampling
from policies.base import Health, Price, Route, Snapshot
from policies.order import Order

HERE = Route("local/a", "a", context_length=1000)
THERE = Route("acme/b", "acme/b", "remote", 8000, provider="acme")
WISHES = [
    ("only_local", (HERE,)),
    ("only_remote", (THERE,)),
    ("prefer_local", (HERE, THERE)),
    ("prefer_remote", (THERE, HERE)),
]


def ask(wish=None, max_tokens=None):
    return Request("r", "auto", "chat", locality=wish, sampling=Sampling(max_tokens=max_tokens))


@pytest.mark.parametrize("given", [(HERE, THERE), (THERE, HERE)])
@pytest.mark.parametrize(("wish", "kept"), WISHES)
@pytest.mark.parametrize("by", ["request", "site"])
def test_locality_is_the_requests_or_else_the_sites(given, wish, kept, by):
    order = Order("prefer_remote" if wish.endswith("local") else "prefer_local") if by == "request" else Order(wish)
    verdict = order(ask(wish if by == "request" else None), given, Snapshot())
    assert verdict.kept == kept
    assert verdict.reason == ("" if kept == given or len(kept) == 1 else wish)
    assert (verdict.kept is given) == (kept == given)
    assert len(verdict.drops) == 2 - len(kept)


@pytest.mark.parametrize(
    ("asked", "param", "who"), [(True, "outstation.locality", "request"), (False, "model", "site")]
)
def test_an_impossible_wish_names_whose_it_was(asked, param, who):
    order = Order() if asked else Order("only_remote")
    verdict = order(ask("only_remote" if asked else None), (HERE,), Snapshot())
    assert verdict.kept == ()
    (drop,) = verdict.drops
    assert (drop.reason, drop.error.code, drop.error.param) == ("only_remote", "no_route", param)
    assert drop.error.message.startswith(f"The {who} is only_remote")


def remote(name, quality=0.0, price=1.0):
    return Route(f"acme/{name}", f"acme/{name}", "remote", 8000, price=Price(price, price, price), quality=quality)


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        (("quality",), "cadb"),
        (("quality", "cost"), "cdab"),
        (("cost",), "bdac"),
        (("cost", "quality"), "bdca"),
        (("latency",), "dbac"),
        ((), "abcd"),
    ],
)
def test_remote_routes_are_ordered_by_the_first_objective_that_tells_them_apart(objectives, names):
    routes = (remote("a", 1, 5), remote("b", 0, 1), remote("c", 2, 5), remote("d", 1, 2))
    health = {"acme/d": Health(ttft_s=0.2), "acme/b": Health(ttft_s=0.9), "acme/a": Health()}
    verdict = Order("prefer_local", objectives)(ask(), routes, Snapshot(estimated_tokens=100, health=health))
    assert "".join(route.name[-1] for route in verdict.kept) == names
    assert verdict.reason in objectives if names != "abcd" else verdict.kept is routes


def test_the_reason_is_the_objective_that_decided():
    routes = (remote("a", 1, 5), remote("b", 1, 2))
    assert Order()(ask(), routes, Snapshot(estimated_tokens=9)).reason == "cost"


def test_local_routes_stay_as_given():
    routes = (Route("local/b", "b", quality=0), Route("local/a", "a", quality=5))
    assert Order()(ask(), routes, Snapshot()).kept is routes


@pytest.mark.parametrize(
    ("max_tokens", "front"), [(None, HERE), (100, HERE), (101, THERE), (7100, THERE), (7101, HERE)]
)
def test_what_has_room_for_the_asked_completion_comes_first(max_tokens, front):
    verdict = Order()(
        ask(max_tokens=max_tokens), (HERE, THERE), Snapshot(prompt_tokens={"local/a": 900, "acme/b": 900})
    )
    assert verdict.kept[0] is front
    assert len(verdict.kept) == 2
    assert verdict.reason == ("no room in local/a" if front is THERE else "")


def test_a_failed_model_is_only_asked_when_nothing_else_is_left():
    failed = Snapshot({"local/a": ModelState("a", "failed")})
    verdict = Order()(ask(), (HERE, THERE), failed)
    assert (verdict.kept, verdict.reason) == ((THERE, HERE), "local/a failed")
    assert Order()(ask("only_local"), (HERE, THERE), failed).kept == (HERE,)


@pytest.mark.parametrize("wish", ["prefer_local", "prefer_remote"])
@pytest.mark.parametrize("sticky", [HERE, THERE])
def test_a_tool_call_stays_where_it_was_asked_for(wish, sticky):
    verdict = Order()(ask(wish), (HERE, THERE), Snapshot(sticky=sticky.name))
    assert verdict.kept[0] is sticky
    if sticky is THERE:
        assert verdict.reason == "tool call"


def test_a_tool_call_does_not_bring_back_what_locality_drops():
    assert Order()(ask("only_local"), (HERE, THERE), Snapshot(sticky=THERE.name)).kept == (HERE,)


def test_a_tool_call_does_not_stay_where_it_cannot_be_answered():
    verdict = Order()(ask(max_tokens=999), (HERE, THERE), Snapshot(estimated_tokens=900, sticky=HERE.name))
    assert verdict.kept == (THERE, HERE)
