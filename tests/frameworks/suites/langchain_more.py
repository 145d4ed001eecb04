"""What langchain-openai can do besides: embeddings, the ways to an object, strict tools, the Responses API's own."""

from __future__ import annotations

import os
from typing import Literal

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from openai import BadRequestError
from pydantic import BaseModel

URL = os.environ["OUTSTATION_TEST_URL"]
KEY = {"base_url": URL, "api_key": "none", "max_retries": 0}
REPORT = "Report as JSON: pump P-7 leaks at its seal: severity high."
PICTURE = "data:image/png;base64,iVBORw0KGgo="


class Finding(BaseModel):
    """What is wrong with a machine."""

    machine: str
    severity: Literal["low", "medium", "high"]


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


class TestEmbeddings(EmbeddingsIntegrationTests):
    """langchain-tests' own."""

    @property
    def embeddings_class(self):
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self):
        # Its own splitting counts in tiktoken's tokens, which are not the model's.
        return {"model": "text-embedding-3-small", "check_embedding_ctx_length": False, **KEY}


def chat(**more) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "qwen", "temperature": 0, "max_tokens": 300, **KEY, **more})


def test_embeddings_tell_what_is_alike():
    model = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False, **KEY)
    pump, leak, song = model.embed_documents(
        ["The pump leaks.", "Water drips from the pump.", "She sings an old song."]
    )
    assert sum(a * b for a, b in zip(pump, leak, strict=True)) > sum(a * b for a, b in zip(pump, song, strict=True))


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_an_object_by_each_method(method, responses):
    model = chat(use_responses_api=responses).with_structured_output(Finding, method=method, include_raw=True)
    keys = ' Keys: "machine", "severity" ("low", "medium" or "high").' if method == "json_mode" else ""
    found = model.invoke(REPORT + keys)
    assert found["parsing_error"] is None
    assert isinstance(found["parsed"], Finding)
    assert found["parsed"].severity == "high"


def test_an_object_grows_in_a_stream():
    parts = list(chat().with_structured_output(Finding.model_json_schema(), strict=True).stream(REPORT))
    assert len(parts) > 2
    assert all(parts[-1].get(key, "").startswith(value) for part in parts for key, value in part.items())
    assert Finding.model_validate(parts[-1]).severity == "high"


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_strict_tools_and_their_results(responses):
    model = chat(use_responses_api=responses)
    ask = HumanMessage("What is the weather in Paris?")
    said = model.bind_tools([GetWeather], strict=True, tool_choice="GetWeather").invoke([ask])
    (call,) = said.tool_calls
    assert (call["name"], call["args"]) == ("GetWeather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Rain, 12 degrees."}
    further = HumanMessage("In one sentence: how many degrees?")
    answer = model.bind_tools([GetWeather], tool_choice="none").invoke([ask, said, result, further])
    assert "12" in answer.text


def test_tool_calls_in_a_stream_add_up():
    whole = None
    model = chat().bind_tools([GetWeather], tool_choice="any", parallel_tool_calls=False)
    chunks = list(model.stream("What is the weather in Paris?"))
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    assert [call["args"] for call in whole.tool_calls] == [{"city": "Paris"}]
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > 1


def test_what_the_server_keeps_of_a_conversation():
    model = chat(use_responses_api=True, use_previous_response_id=True)
    first = model.invoke("My name is Ada. Remember it.")
    second = model.invoke([HumanMessage("My name is Ada. Remember it."), first, HumanMessage("What is my name?")])
    assert first.response_metadata["id"].startswith("resp_")
    assert "Ada" in second.text


def test_log_probabilities():
    answer = chat(logprobs=True, top_logprobs=2, max_tokens=5).invoke("Hello")
    content = answer.response_metadata["logprobs"]["content"]
    assert len(content) == answer.usage_metadata["output_tokens"] <= 5
    assert all(len(token["top_logprobs"]) == 2 for token in content)


def test_a_raw_completion():
    model = OpenAI(model="qwen", temperature=0, max_tokens=8, **KEY)
    text = model.invoke("The capital of France is")
    assert "Paris" in text
    assert "".join(model.stream("The capital of France is")) == text


def test_the_systems_words_are_heard():
    model = chat(max_tokens=40)
    answer = model.invoke([SystemMessage("Your name is Wren. Say it when asked."), HumanMessage("What is your name?")])
    assert "Wren" in answer.text


@pytest.mark.parametrize(
    ("part", "need"),
    [
        ({"type": "image_url", "image_url": {"url": PICTURE}}, "images"),
        ({"type": "file", "base64": "JVBERi0xLjQK", "mime_type": "application/pdf", "filename": "a.pdf"}, "files"),
        ({"type": "audio", "base64": "UklGRg==", "mime_type": "audio/wav"}, "audio"),
    ],
    ids=["image", "file", "audio"],
)
def test_what_no_model_here_can_take_is_refused_by_name(part, need):
    """langchain-tests' own tests of them are skipped: they fetch their files from the internet."""
    with pytest.raises(BadRequestError) as caught:
        chat().invoke([HumanMessage([{"type": "text", "text": "What is this?"}, part])])
    assert need in caught.value.message
    assert caught.value.param == "messages[0].content[1]"
