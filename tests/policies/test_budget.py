import pytest

from backends.errors import Overloaded
from backends.types import Request, Sampling
from policies.base import Price, Route, Snapshot, Spent
from policies.budget import Budget

HERE = Route("local/a", "a")
FREE = Route("acme/free", "acme/free", "remote", price=Price(0, 0, 0))
PAID = Route("acme/paid", "acme/paid", "remote", price=Price(1, 2, 1))
ROUTES = (PAID, HERE, FREE)
REQUEST = Request("r", "auto", "chat", sampling=Sampling(max_tokens=400_000))
COST = 1.0  # 200,000 prompt tokens at $1 and 400,000 completion tokens at $2 a million


def site(**spent):
    return Snapshot(estimated_tokens=200_000, spent=Spent(**spent))


@pytest.mark.parametrize("setting", ["site_day", "site_month", "key_day", "key_month"])
@pytest.mark.parametrize(("spent", "fits"), [(0.0, True), (2.0, True), (2.001, False), (9.0, False)])
def test_each_limit_counts_what_was_spent_and_what_this_may_cost(setting, spent, fits):
    verdict = Budget(**{setting: 3.0})(REQUEST, ROUTES, site(**{setting: spent}))
    assert verdict.kept == (ROUTES if fits else (HERE, FREE))
    assert fits == (verdict.kept is ROUTES)
    for drop in verdict.drops:
        assert (drop.route, drop.reason, drop.error.code) == (PAID, f"over {setting}", "budget_exhausted")
        whose, span = setting.split("_")
        assert f"{whose}'s budget for the {span}" in drop.error.message


def test_it_is_a_quota_that_sdks_do_not_try_again_at_once():
    (drop,) = Budget(site_day=0)(REQUEST, (PAID,), site()).drops
    assert isinstance(drop.error, Overloaded)
    assert drop.error.retry_after is None


def test_a_limit_of_nothing_lets_free_routes_pass():
    assert Budget(0, 0, 0, 0)(REQUEST, ROUTES, site(site_day=5)).kept == (HERE, FREE)


def test_a_keys_own_limit_replaces_the_one_for_all_keys_and_not_the_sites():
    budget = Budget(key_day=0.5, keys={"van": (5.0, None), "kiosk": (None, 0.1)})

    def passes(key, budget=budget):
        return bool(budget(Request("r", "auto", "chat", sampling=REQUEST.sampling, key=key), (PAID,), site()).kept)

    assert passes("van")
    assert not passes("kiosk")
    assert not passes("another")
    assert not passes("")
    assert not passes("van", Budget(site_day=0.5, keys={"van": (5.0, 5.0)}))
    assert not passes("kiosk", Budget(keys={"kiosk": (None, 0.1)}))
    assert passes("another", Budget(keys={"kiosk": (None, 0.1)}))


def test_the_tightest_limit_is_the_reason():
    (drop,) = Budget(site_day=0.9, key_month=0.5)(REQUEST, (PAID,), site(site_day=0.5, key_month=0.3)).drops
    assert drop.reason == "over key_month"


@pytest.mark.parametrize("routes", [ROUTES, (FREE, PAID), (PAID,), (HERE, FREE)])
def test_without_limits_nothing_changes(routes):
    assert Budget()(REQUEST, routes, site()).kept is routes
