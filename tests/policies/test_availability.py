import pytest

from backends.errors import Unavailable
from backends.types import Request
from policies.availability import availability
from policies.base import Health, Route, Snapshot

HERE = Route("local/a", "a")
UP, DOWN = (Route(f"{name}/m", f"{name}/m", "remote", provider=name) for name in ("up", "down"))
ROUTES = (DOWN, HERE, UP)
REQUEST = Request("r", "auto", "chat")


def test_nothing_known_changes_nothing():
    assert availability(REQUEST, ROUTES, Snapshot()).kept is ROUTES
    assert availability(REQUEST, ROUTES, Snapshot(health={"up/m": Health(ttft_s=0.4)})).kept is ROUTES


def test_offline_drops_every_remote_route_and_says_why():
    verdict = availability(REQUEST, ROUTES, Snapshot(offline="no link"))
    assert verdict.kept == (HERE,)
    assert [(drop.route, drop.reason, drop.error.code) for drop in verdict.drops] == [
        (DOWN, "offline", "offline"),
        (UP, "offline", "offline"),
    ]
    assert "no link" in verdict.drops[0].error.message
    assert verdict.drops[0].error.retry_after is None


@pytest.mark.parametrize(("retry_after", "words"), [(12.4, "in 12 s"), (0.2, "in 1 s"), (None, "later")])
def test_a_provider_that_is_down_is_not_asked_and_says_when(retry_after, words):
    health = {"down/m": Health("5 failures in 10 s", retry_after), "up/m": Health()}
    verdict = availability(REQUEST, ROUTES, Snapshot(health=health))
    assert verdict.kept == (HERE, UP)
    (drop,) = verdict.drops
    assert (drop.reason, drop.error.code, drop.error.retry_after) == (
        "5 failures in 10 s",
        "provider_down",
        retry_after,
    )
    assert isinstance(drop.error, Unavailable)
    assert words in drop.error.message and "down" in drop.error.message


def test_a_local_route_is_not_judged_by_a_providers_health():
    verdict = availability(REQUEST, (HERE,), Snapshot(offline="no link", health={"local/a": Health("ill")}))
    assert verdict.kept == (HERE,)
