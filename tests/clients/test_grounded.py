"""The official SDK: answers from documents, by a real gateway with a real language model, embedder and reranker."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from openai.types.responses import ResponseFileSearchToolCall
from openai.types.responses.response_output_text import AnnotationFileCitation

from tests.clients.conftest import link
from tests.clients.test_responses import config
from tests.conftest import Starter
from tests.onnx.conftest import find_folder

PDF = Path(__file__).parents[1] / "rag" / "files" / "manual.pdf"
NOT_SAID = "The documents do not say."
OIL = "Change the oil every how many hours of operation?"
CUP = "Who won the football world cup in 1954?"
UNIT = {"type": "eq", "key": "unit", "value": "P-101"}
SHORT = {"model": "auto", "temperature": 0}


@dataclass
class Manuals:
    """A client, and a vector store with a manual in it."""

    sdk: OpenAI
    store_id: str
    file_id: str

    @property
    def tools(self):
        return [{"type": "file_search", "vector_store_ids": [self.store_id]}]

    @property
    def text(self) -> dict[int, str]:
        """The manual's, as the gateway has read it: each character by its place."""
        found: dict[int, str] = {}
        for part in self.sdk.vector_stores.files.content(self.file_id, vector_store_id=self.store_id):
            place = part.model_extra["outstation"]
            found |= dict(enumerate(part.text, place["start"]))
        return found


@pytest.fixture(scope="module")
def manuals(start_gateway: Starter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manuals]:
    home = tmp_path_factory.mktemp("grounded")
    for name in ("bge-small-en-v1.5", "ms-marco-minilm-l-12-v2"):
        shutil.copytree(find_folder(name), home / "models" / name, copy_function=link)
    gateway = start_gateway(config(), env={"OUTSTATION_HOME": str(home)}, wait_for="/readyz")
    with OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as sdk:
        store = sdk.vector_stores.create(name="manuals")
        with PDF.open("rb") as file:
            added = sdk.vector_stores.files.upload_and_poll(
                vector_store_id=store.id, file=file, poll_interval_ms=50, attributes={"unit": "P-101"}
            )
        assert added.status == "completed"
        yield Manuals(sdk, store.id, added.id)


def shown(manuals, place):
    """What stands in the manual from a citation's first character to its last."""
    text = manuals.text
    return "".join(text[at] for at in range(place["start"], place["end"]))


def test_a_response_cites_the_page(manuals):
    said = manuals.sdk.responses.with_raw_response.create(
        **SHORT, input=OIL, tools=manuals.tools, max_output_tokens=40, include=["file_search_call.results"]
    )
    assert said.headers["x-outstation-route"] == "local/qwen"
    response = said.parse()
    call, message = response.output
    assert isinstance(call, ResponseFileSearchToolCall)
    assert (call.status, call.queries) == ("completed", [OIL])
    assert {one.file_id for one in call.results} == {manuals.file_id}
    assert {one.filename for one in call.results} == {"manual.pdf"}
    assert call.results[0].attributes == {"unit": "P-101"}
    citations = message.content[0].annotations
    assert citations
    for citation in citations:
        assert isinstance(citation, AnnotationFileCitation)
        assert (citation.file_id, citation.filename) == (manuals.file_id, "manual.pdf")
        place = citation.model_extra["outstation"]
        assert 0 < citation.index <= len(response.output_text)
        assert shown(manuals, place) == place["quote"]
        assert place["page"] == 3
    assert "2000 hours" in response.output_text
    assert manuals.sdk.responses.retrieve(response.id) == response


def test_the_sdks_own_stream_has_the_same(manuals):
    with manuals.sdk.responses.stream(
        **SHORT, input=OIL, tools=manuals.tools, max_output_tokens=40, include=["file_search_call.results"]
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert [kind for kind in kinds if "file_search_call" in kind] == [
        f"response.file_search_call.{name}" for name in ("in_progress", "searching", "completed")
    ]
    annotations = final.output[1].content[0].annotations
    assert kinds.count("response.output_text.annotation.added") == len(annotations) > 0
    assert kinds[-1] == "response.completed"
    kept = manuals.sdk.responses.retrieve(final.id)
    assert kept.model_dump(exclude={"output"}) == final.model_dump(exclude={"output"})
    assert [item.to_dict() for item in kept.output] == [_unparsed(item.to_dict()) for item in final.output]


def _unparsed(item):
    for part in item.get("content") or ():
        part.pop("parsed", None)  # the SDK's own
    return item


def test_a_chat_is_told_on_its_last_chunk(manuals):
    body = {
        "outstation": {
            "vector_store_ids": [manuals.store_id],
            "filters": {"type": "eq", "key": "unit", "value": "P-101"},
        }
    }
    asked = {**SHORT, "messages": [{"role": "user", "content": OIL}], "max_tokens": 40, "extra_body": body}
    whole = manuals.sdk.chat.completions.create(**asked)
    chunks = list(manuals.sdk.chat.completions.create(**asked, stream=True))
    told = [(chunk.model_extra or {}).get("outstation") for chunk in chunks]
    assert told[:-1] == [None] * (len(chunks) - 1)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert told[-1] == whole.model_extra["outstation"]
    assert told[-1]["documents"]["answered"] is True
    for quote in told[-1]["citations"]:
        assert shown(manuals, quote) == quote["quote"]
    assert told[-1]["citations"][-1]["page"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_the_documents_do_not_say(manuals, stream):
    said = manuals.sdk.responses.with_raw_response.create(**SHORT, input=CUP, tools=manuals.tools, stream=stream)
    assert said.headers["x-outstation-route"] == "local/documents"
    response = list(said.parse())[-1].response if stream else said.parse()
    assert (response.output_text, response.status) == (NOT_SAID, "completed")
    chat = manuals.sdk.chat.completions.with_raw_response.create(
        **SHORT,
        messages=[{"role": "user", "content": CUP}],
        extra_body={"outstation": {"vector_store_ids": [manuals.store_id]}},
        stream=stream,
    )
    assert chat.headers["x-outstation-route"] == "local/documents"
    made = chat.parse()
    text = "".join(c.choices[0].delta.content or "" for c in made) if stream else made.choices[0].message.content
    assert text == NOT_SAID


def test_what_is_kept_can_be_read_and_gone_on_from(manuals):
    sdk = manuals.sdk
    conversation = sdk.conversations.create()
    sdk.responses.create(**SHORT, input=OIL, tools=manuals.tools, max_output_tokens=8, conversation=conversation.id)
    kinds = [item.type for item in sdk.conversations.items.list(conversation.id, order="asc")]
    assert kinds == ["message", "file_search_call", "message"]
    later = sdk.responses.create(**SHORT, input="Say yes.", max_output_tokens=2, conversation=conversation.id)
    assert [item.type for item in later.output] == ["message"]
    background = sdk.responses.create(**SHORT, input=CUP, tools=manuals.tools, background=True)
    while background.status in ("queued", "in_progress"):
        time.sleep(0.05)
        background = sdk.responses.retrieve(background.id)
    assert background.output_text == NOT_SAID
    with pytest.raises(NotFoundError) as missing:
        sdk.responses.create(**SHORT, input=OIL, tools=[{"type": "file_search", "vector_store_ids": ["vs_gone"]}])
    assert missing.value.param == "tools[0].vector_store_ids"
