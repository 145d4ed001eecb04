import pytest

from backends.types import Request, Sampling
from policies.base import Route, Snapshot
from policies.capability import ESTIMATE_MARGIN, NEEDS, Capability, has_room

capability = Capability()
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


def test_log_probabilities_are_a_need():
    knows = Route("local/knows", "knows", context_length=10, capabilities=frozenset({"logprobs"}))
    verdict = capability(Request("r", "auto", "chat", sampling=Sampling(top_logprobs=0)), (PLAIN, knows), Snapshot())
    assert verdict.kept == (knows,)
    assert verdict.drops[0].error.param == "logprobs"
    assert capability(Request("r", "auto", "chat"), (PLAIN,), Snapshot()).kept == (PLAIN,)


@pytest.mark.parametrize(
    ("location", "size", "passes"),
    [("local", 0.0, True), ("local", 3.0, True), ("local", 3.1, False), ("remote", 400.0, True)],
)
def test_the_site_limits_the_size_of_local_models(location, size, passes):
    route = Route("x/m", "m", location, 100, parameters_b=size)
    verdict = Capability(max_parameters_b=3.0)(Request("r", "auto", "chat"), (route,), Snapshot())
    assert bool(verdict.kept) is passes
    for drop in verdict.drops:
        assert (drop.reason, drop.error.code) == ("3.1B of 3B parameters", "model_too_large")
        assert "3.1 billion" in drop.error.message
    assert capability(Request("r", "auto", "chat"), (route,), Snapshot()).kept == (route,)


@pytest.mark.parametrize(("estimate", "passes"), [(100, True), (int(100 * ESTIMATE_MARGIN), True), (126, False)])
def test_an_estimate_refuses_only_what_is_hopeless(estimate, passes):
    there = Route("acme/m", "m", "remote", 100)
    verdict = capability(Request("r", "auto", "chat"), (PLAIN, there), Snapshot(estimated_tokens=estimate))
    assert PLAIN in verdict.kept
    assert (there in verdict.kept) is passes
    for drop in verdict.drops:
        assert drop.error.code == "context_length_exceeded"
        assert "about 126 tokens" in drop.error.message
        assert drop.error.extra == {"n_prompt_tokens": 126, "n_ctx": 100}


def test_an_exact_count_of_a_remote_prompt_goes_before_the_estimate():
    there = Route("acme/m", "m", "remote", 100)
    request = Request("r", "auto", "chat")
    assert capability(request, (there,), Snapshot({}, {"acme/m": 99}, estimated_tokens=999)).kept == (there,)
    assert capability(request, (there,), Snapshot({}, {"acme/m": 100}, estimated_tokens=1)).kept == ()


@pytest.mark.parametrize(("max_tokens", "room"), [(None, True), (40, True), (41, False)])
def test_room_is_for_the_prompt_and_the_asked_completion(max_tokens, room):
    request = Request("r", "auto", "chat", sampling=Sampling(max_tokens=max_tokens))
    assert has_room(request, SEEING, Snapshot({}, {"local/seeing": 60})) is room


def test_a_model_is_only_asked_for_what_it_does():
    embedder = Route("local/e", "e", kinds=frozenset({"embedding"}))
    chat, embedding = Request("r", "e", "chat"), Request("r", "e", "embedding", prompts=("a",))
    assert Capability()(embedding, (embedder,), Snapshot()).kept == (embedder,)
    (drop,) = Capability()(chat, (embedder,), Snapshot()).drops
    assert drop.error.code == "wrong_task"
    assert drop.error.message == "The model e cannot chat: it can make embeddings. Choose another model."
    writer = Route("local/w", "w")
    assert Capability()(embedding, (writer,), Snapshot()).drops[0].reason == "cannot make embeddings"


def test_what_is_too_long_for_another_task_is_the_models_to_say():
    """It may have been told to cut it, and knows how its inputs are put together."""
    embedder = Route("local/e", "e", context_length=10, kinds=frozenset({"embedding"}))
    snapshot = Snapshot({}, {"local/e": 500}, estimated_tokens=500)
    request = Request("r", "e", "embedding", prompts=("x",))
    assert capability(request, (embedder,), snapshot).kept == (embedder,)
    remote = Route("acme/e", "acme/e", "remote", 10, kinds=frozenset({"embedding"}))
    (dropped,) = capability(request, (remote,), Snapshot(estimated_tokens=500)).drops
    assert dropped.error.code == "context_length_exceeded"
