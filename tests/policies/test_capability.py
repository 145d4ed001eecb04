import pytest

from backends.types import Request
from policies.base import Route, Snapshot
from policies.capability import NEEDS, capability

PLAIN = Route("local/plain", "plain", context_length=10)
SEEING = Route("local/seeing", "seeing", context_length=100, capabilities=frozenset({"vision"}))


def judge(request, **counts):
    return capability(request, (PLAIN, SEEING), Snapshot({}, {f"local/{name}": n for name, n in counts.items()}))


def test_a_route_that_cannot_see_is_dropped_with_the_need_as_its_param():
    verdict = judge(Request("r", "auto", "chat", needs=frozenset({"vision"})))
    assert verdict.kept == (SEEING,)
    (dropped,) = verdict.drops
    assert dropped.error.param == "vision"
    assert "cannot see images" in dropped.error.message


@pytest.mark.parametrize(("tokens", "fits"), [(9, True), (10, False), (11, False)])
def test_the_prompt_and_one_completion_token_must_fit(tokens, fits):
    verdict = judge(Request("r", "auto", "chat"), plain=tokens)
    assert (PLAIN in verdict.kept) is fits
    if not fits:
        assert verdict.drops[0].error.code == "context_length_exceeded"
        assert verdict.drops[0].error.extra == {"n_prompt_tokens": tokens, "n_ctx": 10}


def test_a_prompt_that_was_not_counted_passes():
    assert judge(Request("r", "auto", "chat")).kept == (PLAIN, SEEING)


def test_each_dialect_names_its_own_field():
    assert judge(Request("r", "auto", "completion"), plain=50).drops[0].error.param == "prompt"
    assert judge(Request("r", "auto", "chat"), plain=50).drops[0].error.param == "messages"


@pytest.mark.parametrize("need", [*NEEDS, "something_new"])
def test_every_need_is_refused_in_words(need):
    verdict = judge(Request("r", "auto", "chat", needs=frozenset({need})))
    assert all(drop.error.message.startswith(f"The model {drop.route.model} ") for drop in verdict.drops)
