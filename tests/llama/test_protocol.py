"""What one end writes the other reads."""

from __future__ import annotations

import hypothesis.strategies as st
import orjson
from hypothesis import given

from backends.llama import protocol
from backends.processes.wire import dumps
from backends.types import Chunk, Request, Sampling, TokenLogprob, Usage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**31)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
LOGPROB = st.builds(
    TokenLogprob,
    token=TEXT,
    logprob=NUMBER,
    bytes=st.lists(st.integers(0, 255)).map(tuple),
    top=st.lists(st.builds(TokenLogprob, TEXT, NUMBER, st.just((1, 2)))).map(tuple),
)
EVENT = st.one_of(
    st.builds(
        Chunk,
        index=COUNT,
        text=TEXT,
        tokens=st.lists(COUNT).map(tuple),
        logprobs=st.lists(LOGPROB, max_size=3).map(tuple),
        finish_reason=st.sampled_from([None, "stop", "length"]),
        stopped_by=TEXT,
    ),
    st.builds(Usage, COUNT, COUNT, COUNT),
    st.builds(protocol.Began),
    st.builds(protocol.Failed, TEXT, TEXT),
)
SAMPLING = st.builds(
    Sampling,
    temperature=st.none() | NUMBER,
    top_k=st.none() | COUNT,
    seed=st.none() | st.integers(0, 2**63 - 1),
    logit_bias=st.lists(st.tuples(COUNT, NUMBER)).map(tuple),
    top_logprobs=st.none() | st.integers(0, 20),
    max_tokens=st.none() | COUNT,
    stop=st.lists(TEXT).map(tuple),
    ignore_eos=st.booleans(),
)


@given(st.lists(st.tuples(TEXT, EVENT)))
def test_outputs_arrive_as_they_were(outputs: list[protocol.Output]) -> None:
    line = dumps({"op": "step", "out": protocol.pack_outputs(outputs)})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert [protocol.unpack_output(row) for row in orjson.loads(line)["out"]] == outputs


@given(SAMPLING)
def test_sampling_arrives_as_it_was(sampling: Sampling) -> None:
    message = protocol.submit(Request("r1", "m", "chat", n=3), sampling)
    arrived = orjson.loads(dumps(message))
    assert protocol.sampling(arrived["sampling"]) == sampling
    assert (arrived["op"], arrived["id"], arrived["n"]) == ("submit", "r1", 3)


@given(TEXT, st.dictionaries(TEXT, TEXT), st.lists(COUNT).map(tuple))
def test_a_prompt_arrives_as_it_was(text: str, kwargs: dict[str, str], tokens: tuple[int, ...]) -> None:
    request = Request(
        "r1",
        "m",
        "completion",
        messages=({"role": "user", "content": text},),
        prompts=(text, tokens),
        template_kwargs=kwargs,
    )
    arrived = orjson.loads(dumps(protocol.prepare(request)))
    assert arrived["messages"] == [{"role": "user", "content": text}]
    assert arrived["prompts"] == [text, list(tokens)]
    assert arrived["template_kwargs"] == kwargs
