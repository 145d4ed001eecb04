import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import DeadlineExceeded, InvalidRequest
from backends.types import ModelState, Request, Sampling
from policies.base import Learned, Route, Snapshot, decide
from policies.capacity import IDLE_MARGIN, MARGIN, Capacity
from policies.order import Order

HERE, THERE = Route("local/m", "m", context_length=8192), Route("p/x", "p/x", "remote", 8192, provider="p")
POLICY = Capacity(10.0, 120.0)
IDLE = ModelState(
    "m", "ready", max_sequences=4, kv_cells=8192, prefill_rate=200.0, decode_rate=50.0, context_length=8192
)
BUSY = replace(IDLE, running=4, waiting=3, kv_cells_used=3000, backlog_tokens=6000)
LEARNED = Learned(completion_tokens=100)


def ask(max_tokens=50, **more):
    return Request("r", "auto", "chat", sampling=Sampling(max_tokens=max_tokens), **more)


def site(state=IDLE, tokens=100, cached=0, learned=LEARNED, elapsed_s=0.0):
    return Snapshot(
        {"local/m": state}, {"local/m": tokens}, {"local/m": cached}, learned={"local/m": learned}, elapsed_s=elapsed_s
    )


def estimate(request=None, routes=(HERE,), **figures):
    return POLICY(request or ask(), routes, site(**figures)).estimates["local/m"]


def test_on_an_idle_box_it_is_the_prompt_and_then_the_completion_at_the_measured_rates():
    found = estimate(tokens=100, cached=60)
    assert found.ttft_s == pytest.approx(40 / 200)
    assert found.total_s == pytest.approx(40 / 200 + 50 / 50)


def test_the_learned_length_bounds_what_was_asked_for_and_the_context_both():
    assert estimate(ask(5000)) == estimate(ask(100)) == estimate(ask(None))
    assert estimate(ask(None), tokens=8192 - 10).total_s == pytest.approx((8192 - 10) / 200 + 10 / 50)


def test_what_was_learned_corrects_the_estimate():
    plain = estimate(state=BUSY)
    factors = Learned(100, ttft_factor=2.0, total_factor=3.0)
    corrected = estimate(state=BUSY, learned=factors)
    assert corrected.ttft_s == pytest.approx(2 * plain.ttft_s)
    assert corrected.total_s == pytest.approx(3 * plain.total_s)


def test_the_end_is_never_before_the_first_token():
    found = estimate(learned=Learned(100, ttft_factor=20.0, total_factor=0.1))
    assert found.total_s >= found.ttft_s


@pytest.mark.parametrize("unknown", [{"prefill_rate": 0.0}, {"decode_rate": 0.0}])
def test_a_model_that_was_never_measured_has_no_estimate_and_stays_where_it_is(unknown):
    routes = (HERE, THERE)
    verdict = POLICY(ask(deadline_s=0.001), routes, site(replace(BUSY, **unknown)))
    assert verdict.kept is routes
    assert verdict.estimates == {}


def test_a_model_that_is_not_loaded_takes_its_load_longer():
    assert estimate(state=replace(IDLE, status="stopped")).ttft_s == pytest.approx(estimate().ttft_s + POLICY.load_s)


def test_the_reason_says_when_a_local_answer_begins():
    routes = (HERE, THERE)
    verdict = POLICY(ask(), routes, site())
    assert verdict.kept is routes
    assert verdict.reason == "local in 0.5 s"


def test_a_late_answer_spills_to_a_provider():
    verdict = POLICY(ask(), (HERE, THERE), site(BUSY))
    assert verdict.kept == (THERE, HERE)
    assert verdict.reason.startswith("spill: first token in ")


def test_a_late_end_spills_as_well():
    verdict = Capacity(10.0, 1.0)(ask(), (HERE, THERE), site())
    assert verdict.kept == (THERE, HERE)
    assert verdict.reason.startswith("spill: answer in ")


def test_without_a_provider_a_late_answer_waits_here():
    other = replace(HERE, name="local/other")
    routes = (HERE, other)
    verdict = POLICY(ask(), routes, site(BUSY))
    assert verdict.kept is routes
    assert verdict.reason.startswith("wait: first token in ")


def test_spilling_never_undoes_a_wish_to_stay_here_and_prefer_local_is_none():
    policies = (Order(), POLICY)
    assert decide(policies, ask(locality="only_local"), (HERE, THERE), site(BUSY)).routes == (HERE,)
    assert decide(policies, ask(locality="prefer_local"), (HERE, THERE), site(BUSY)).routes == (THERE, HERE)


def test_a_remote_route_in_front_needs_no_reason_from_here():
    verdict = POLICY(ask(), (THERE, HERE), site(BUSY))
    assert (verdict.kept, verdict.reason) == ((THERE, HERE), "")


def test_a_deadline_that_the_queue_makes_it_miss_says_when_to_come_back():
    late = estimate(state=BUSY).total_s
    verdict = POLICY(ask(deadline_s=late * MARGIN - 0.1), (HERE,), site(BUSY))
    assert verdict.kept == ()
    (drop,) = verdict.drops
    assert isinstance(drop.error, DeadlineExceeded)
    assert drop.error.code == "capacity"
    assert drop.error.retry_after == pytest.approx(late)  # then the others are done


def test_time_that_has_passed_counts_against_the_deadline():
    assert POLICY(ask(deadline_s=2.0), (HERE,), site()).kept == (HERE,)
    (drop,) = POLICY(ask(deadline_s=2.0), (HERE,), site(elapsed_s=1.0)).drops
    assert drop.error.retry_after == pytest.approx(1.5)


def test_a_deadline_that_an_idle_box_would_miss_is_the_requests_own_fault():
    verdict = POLICY(ask(deadline_s=1.0), (HERE, THERE), site(BUSY))
    assert verdict.kept == (THERE,)
    (drop,) = verdict.drops
    assert isinstance(drop.error, InvalidRequest)
    assert drop.error.code == "capacity"
    assert drop.error.retry_after is None
    assert "even when nothing else runs" in drop.error.message


def test_a_deadline_is_kept_with_a_margin():
    needed = estimate().total_s
    assert POLICY(ask(deadline_s=needed * MARGIN), (HERE,), site()).kept == (HERE,)
    assert POLICY(ask(deadline_s=needed * MARGIN - 0.01), (HERE,), site()).kept == ()


def test_what_was_learned_in_a_crowd_is_no_reason_to_turn_a_request_away_for_good():
    crowded = Learned(100, total_factor=3.0)
    alone = estimate().total_s * IDLE_MARGIN
    (drop,) = POLICY(ask(deadline_s=6.0), (HERE,), site(BUSY, learned=crowded)).drops
    assert isinstance(drop.error, DeadlineExceeded)
    assert POLICY(ask(deadline_s=alone), (HERE,), site(learned=crowded)).kept == (HERE,)
    (drop,) = POLICY(ask(deadline_s=alone - 0.01), (HERE,), site(learned=crowded)).drops
    assert isinstance(drop.error, InvalidRequest)


def test_several_prompts_and_choices_cost_more_than_one():
    one = estimate(replace(ask(), kind="completion", prompts=("a",)))
    assert estimate(replace(ask(), kind="completion", prompts=("a", "b"))).ttft_s > one.ttft_s
    assert estimate(replace(ask(), n=3)).total_s > estimate().total_s


def test_no_free_sequence_or_cell_means_waiting_for_one():
    room = replace(BUSY, max_sequences=16, backlog_tokens=0)
    full = replace(room, max_sequences=4)
    cramped = replace(room, kv_cells_used=8190)
    kept = replace(cramped, kv_cells_kept=5190)
    first = estimate(state=room, tokens=50).ttft_s
    assert estimate(state=full, tokens=50).ttft_s > first
    assert estimate(state=cramped, tokens=50).ttft_s > first
    assert estimate(state=kept, tokens=50).ttft_s == first


STATES = st.builds(
    ModelState,
    st.just("m"),
    st.sampled_from(["ready", "stopped", "starting"]),
    waiting=st.integers(0, 100),
    running=st.integers(0, 40),
    max_sequences=st.integers(0, 32),
    kv_cells=st.sampled_from([0, 512, 8192]),
    kv_cells_used=st.integers(0, 8192),
    kv_cells_kept=st.integers(0, 512),
    prefill_rate=st.floats(0.1, 1e4),
    decode_rate=st.floats(0.1, 1e4),
    backlog_tokens=st.integers(0, 10**5),
)
LEARNT = st.builds(Learned, st.integers(1, 4000), st.floats(0.1, 30), st.floats(0.1, 30))
NEAR = 1 + 1e-9


@given(STATES, LEARNT, st.integers(0, 8000), st.integers(0, 9000), st.integers(1, 5000))
def test_estimates_are_finite_and_never_negative(state, learned, tokens, cached, asked):
    found = estimate(ask(asked), state=state, tokens=tokens, cached=cached, learned=learned)
    assert 0 <= found.ttft_s <= found.total_s < math.inf


@given(STATES, LEARNT, st.integers(0, 4000), st.integers(1, 2000), st.integers(0, 4000))
def test_more_work_is_never_sooner(state, learned, tokens, asked, more):
    roomy = (replace(HERE, context_length=0),)  # or a longer prompt leaves less room for the completion

    def seconds(backlog=0, asked=asked, tokens=tokens, cached=0):
        there = replace(state, backlog_tokens=state.backlog_tokens + backlog)
        return estimate(ask(asked), roomy, state=there, tokens=tokens, cached=cached, learned=learned)

    found = seconds()
    for other in (seconds(backlog=more), seconds(asked=asked + more), seconds(tokens=tokens + more)):
        assert found.ttft_s <= other.ttft_s * NEAR
        assert found.total_s <= other.total_s * NEAR
    assert seconds(cached=more).ttft_s <= found.ttft_s * NEAR
    assert seconds(cached=more).total_s <= found.total_s * NEAR


@given(
    st.lists(st.sampled_from([HERE, THERE, replace(HERE, name="local/n"), replace(THERE, name="p/y")]), unique=True),
    STATES,
    STATES,
    LEARNT,
    st.one_of(st.none(), st.floats(0.001, 1000)),
    st.integers(0, 8000),
)
def test_every_route_is_kept_or_dropped_with_an_answer_for_the_client(routes, one, two, learned, deadline, tokens):
    snapshot = Snapshot(
        {"local/m": one, "local/n": two}, estimated_tokens=tokens, learned={"local/m": learned, "local/n": learned}
    )
    plan = decide((POLICY,), ask(deadline_s=deadline), tuple(routes), snapshot)
    left = [route.name for route in (*plan.routes, *(drop.route for drop in plan.drops))]
    assert sorted(left) == sorted(route.name for route in routes)
    for drop in plan.drops:
        assert drop.route.location == "local"
        assert deadline is not None
        assert drop.error.code == "capacity"
        assert (drop.error.retry_after or 0) >= 1 or isinstance(drop.error, InvalidRequest)
    late = [route.location for route in plan.routes]
    assert set(plan.estimates) <= {"local/m", "local/n"}
    assert late.count("remote") == sum(1 for route in routes if route.location == "remote")


def test_what_decodes_beside_it_is_in_the_way_until_its_end():
    """A queue gets shorter by the second; sequences that share the steps do not, so waiting a little is no help."""
    decoding = replace(IDLE, running=3)
    late = estimate(state=decoding)
    (drop,) = POLICY(ask(deadline_s=late.total_s - 0.5), (HERE,), site(decoding)).drops
    assert drop.error.retry_after == pytest.approx(late.total_s)
