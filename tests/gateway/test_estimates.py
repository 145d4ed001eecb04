import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimates import LEAST, MOST, SHARE_OF, Estimates, Factor, Lengths
from policies.base import Estimate, Learned

ROUTE = "local/m"


def shares(truth, answers, *, at_once=1, seed=1):
    """Answers that take a random multiple of a constant plain estimate; `truth(i)` is that multiple's median.

    `at_once` answers are predicted before the first of them ends. Returns whether each was within its prediction.
    """
    rng, estimates, within = random.Random(seed), Estimates(), []
    for i in range(0, answers, at_once):
        under = estimates.learned(ROUTE)
        for j in range(at_once):
            took = truth(i + j) * math.exp(rng.gauss(0, 0.5))
            predicted = Estimate(under.ttft_factor, 2 * under.total_factor)
            within.append(took <= predicted.ttft_s)
            estimates.observe(ROUTE, predicted, took, 2 * took, 10, None, under)
    return within, estimates


@pytest.mark.parametrize("at_once", [1, 12])
@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
def test_nine_in_ten_come_within_the_prediction_whatever_the_estimate_is_worth(scale, at_once):
    within, estimates = shares(lambda i: scale, 600, at_once=at_once)
    assert 0.86 <= sum(within[-400:]) / 400 <= 0.94
    exact = scale * math.exp(0.5 * 1.2816)
    assert estimates.learned(ROUTE).ttft_factor == pytest.approx(exact, rel=0.4)
    assert estimates.learned(ROUTE).total_factor == estimates.learned(ROUTE).ttft_factor


def test_it_follows_a_drift():
    within, _ = shares(lambda i: math.exp(math.sin(i / 60)), 800)
    assert 0.87 <= sum(within[-600:]) / 600 <= 0.93


def test_a_box_that_becomes_busy_is_believed_after_some_ten_answers():
    within, _ = shares(lambda i: 1.0 if i < 300 else 3.0, 420)
    assert sum(within[300:310]) < 7
    assert sum(within[320:420]) >= 85


def test_a_box_that_becomes_free_again_is_believed_in_time():
    _, before = shares(lambda i: 10.0, 200)
    _, after = shares(lambda i: 10.0 if i < 200 else 1.0, 380)
    assert after.learned(ROUTE).ttft_factor < before.learned(ROUTE).ttft_factor / 5


@given(st.lists(st.floats(1e-6, 1e6), max_size=200))
def test_a_factor_stays_within_its_bounds_and_its_share_is_one(ratios):
    factor = Factor()
    for ratio in ratios:
        factor.observe(ratio, None)
        assert LEAST <= factor.value <= MOST
    assert (0 <= factor.share <= 1) if ratios else math.isnan(factor.share)


def test_the_share_is_of_the_last_answers():
    factor = Factor()
    for _ in range(SHARE_OF):
        factor.observe(1e9, None)
    assert factor.share == 0
    for _ in range(SHARE_OF):
        factor.observe(1e-9, None)
    assert factor.share == 1


def lengths_of(answers):
    lengths = Lengths()
    for tokens, cut in answers:
        lengths.observe(tokens, cut=cut)
    return lengths.quantile


def test_nine_in_ten_completions_are_no_longer():
    newest = lengths_of((tokens, False) for tokens in range(1, 203))
    assert 182 * 15 / 16 <= newest <= 182  # of ever longer ones, the last sixteenth may not be in it yet


def test_old_lengths_are_forgotten():
    assert lengths_of([(1000, False)] * 500 + [(10, False)] * 504) == 10


def test_a_few_answers_are_not_believed():
    assert lengths_of([(3, False)] * 9) == Learned().completion_tokens


def test_answers_that_were_cut_short_do_not_pull_it_down():
    rng = random.Random(1)
    true = [int(rng.expovariate(1 / 100)) + 1 for _ in range(500)]
    exact = sorted(true)[449]
    asked = [rng.choice([16, 64, 200, 1000]) for _ in true]
    seen = [(min(t, a), t >= a) for t, a in zip(true, asked, strict=True)]
    assert sorted(tokens for tokens, _ in seen)[449] < 0.75 * exact  # what a plain quantile would say
    assert lengths_of(seen) == pytest.approx(exact, rel=0.25)


def test_where_all_were_cut_nothing_is_known_but_that_they_may_be_longer():
    assert lengths_of([(8, True)] * 100) == Learned().completion_tokens
    assert lengths_of([(2000, True)] * 100) == 2000
    assert lengths_of([(5, False)] * 20 + [(600, True)] * 80) == 600


@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=60))
def test_an_expected_length_is_one_that_was_seen_or_the_usual_one(answers):
    assert lengths_of(answers) in {Learned().completion_tokens, *(tokens for tokens, _ in answers)}


def test_a_route_that_never_answered_is_as_the_contract_says():
    assert Estimates().learned(ROUTE) == Learned()
    assert Estimates().all_learned() == {}


def test_routes_learn_apart():
    estimates = Estimates()
    estimates.observe("local/slow", Estimate(1, 1), 9, 9, 10, None)
    estimates.observe("local/fast", Estimate(1, 1), 0.1, 0.1, 10, None)
    assert estimates.learned("local/slow").ttft_factor > 1 > estimates.learned("local/fast").ttft_factor
    assert set(estimates.all_learned()) == {"local/slow", "local/fast"}


def test_an_answer_without_a_prediction_teaches_lengths_only():
    estimates = Estimates()
    for _ in range(20):
        estimates.observe(ROUTE, None, 1, 1, 33, 100)
    assert estimates.learned(ROUTE) == Learned(completion_tokens=33)
    # No factor: of a provider nothing is predicted, so there is nothing to correct.
    assert [figure.name for figure in estimates.figures() if figure.values] == ["outstation_completion_tokens_expected"]


@pytest.mark.parametrize(
    ("waited_s", "began", "late"), [(0.5, False, ""), (1.5, False, "ttft"), (1.5, True, ""), (3.0, True, "total")]
)
def test_an_answer_that_broke_off_teaches_only_that_it_was_late(waited_s, began, late):
    estimates = Estimates()
    estimates.broke_off(ROUTE, Estimate(1.0, 2.0), waited_s, began=began)
    learned = estimates.learned(ROUTE)
    assert (learned.ttft_factor > 1, learned.total_factor > 1) == (late == "ttft", late == "total")
    assert learned.completion_tokens == Learned().completion_tokens


def test_figures_carry_every_route():
    _, estimates = shares(lambda i: 1.0, 100)
    figures = {figure.name: dict(figure.values) for figure in estimates.figures()}
    assert 0.7 < figures["outstation_estimate_ttft_within"][ROUTE] <= 1
    assert figures["outstation_estimate_total_factor"][ROUTE] == estimates.learned(ROUTE).total_factor
    assert figures["outstation_completion_tokens_expected"][ROUTE] == 10
    assert all(figure.help.endswith(".") for figure in estimates.figures())
