"""instructor: its ways to an object, each whole, in pieces and as a list; what it does when an answer will not do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum
from typing import Literal

import instructor
import pytest
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException
from openai import OpenAI
from pydantic import BaseModel, field_validator

URL = os.environ["OUTSTATION_TEST_URL"]
ASKED = {"model": "qwen", "temperature": 0, "max_tokens": 300}
REPORT = [{"role": "user", "content": "Report as JSON: pump P-7 leaks at its seal: severity high, one spare part S-1."}]
PARTS = [{"role": "user", "content": "List the parts as JSON: S-1 is spare, S-2 is not spare."}]

# instructor says so of TOOLS_STRICT; it is what people have in their code.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning")


class Severity(Enum):
    low = "low"
    medium = "medium"
    high = "high"


class Part(BaseModel):
    id: str
    spare: bool


class Finding(BaseModel):
    machine: str
    severity: Severity
    note: str | None = None
    parts: list[Part]


class Draft(BaseModel):
    """Without an enumeration: of those instructor refuses every piece of a stream."""

    machine: str
    severity: Literal["low", "medium", "high"]
    parts: list[Part]


@pytest.fixture(scope="module")
def sdk():
    with OpenAI(base_url=URL, api_key="none", max_retries=0) as client:
        yield client


def by(*modes: Mode):
    return pytest.mark.parametrize("mode", modes, ids=lambda mode: mode.name)


@by(Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.JSON, Mode.RESPONSES_TOOLS)
def test_an_object_of_objects(sdk, mode):
    client = instructor.from_openai(sdk, mode=mode)
    finding = client.chat.completions.create(response_model=Finding, messages=REPORT, max_retries=0, **ASKED)
    assert finding.severity is Severity.high
    assert [part.id for part in finding.parts] == ["S-1"]


@by(Mode.TOOLS, Mode.JSON_SCHEMA)
def test_an_object_in_pieces(sdk, mode):
    client = instructor.from_openai(sdk, mode=mode)
    pieces = list(client.chat.completions.create_partial(response_model=Draft, messages=REPORT, max_retries=0, **ASKED))
    assert len(pieces) > 2
    assert pieces[0].parts is None
    assert Draft.model_validate(pieces[-1].model_dump()).severity == "high"


@by(Mode.TOOLS, Mode.JSON_SCHEMA)
def test_a_list_in_pieces(sdk, mode, request):
    client = instructor.from_openai(sdk, mode=mode)
    if mode is Mode.JSON_SCHEMA:
        reason = (
            """instructor's schema requires no property, and the model writes {"S-1": "spare", "S-2": "not spare"}"""
        )
        request.applymarker(pytest.mark.xfail(reason=reason))
    parts = list(client.chat.completions.create_iterable(response_model=Part, messages=PARTS, max_retries=0, **ASKED))
    assert parts == [Part(id="S-1", spare=True), Part(id="S-2", spare=False)]


@by(Mode.TOOLS, Mode.RESPONSES_TOOLS)
def test_an_answer_that_will_not_do_is_asked_for_again(sdk, mode):
    """The answer goes back as part of the conversation, with what is wrong with it."""
    refused = []

    class Picky(BaseModel):
        machine: str

        @field_validator("machine")
        @classmethod
        def _once(cls, value: str) -> str:
            if not refused:
                refused.append(value)
                raise ValueError("write it once more")
            return value

    client = instructor.from_openai(sdk, mode=mode)
    found = client.chat.completions.create(response_model=Picky, messages=REPORT, max_retries=1, **ASKED)
    assert "P-7" in refused[0]
    assert found.machine


def test_an_answer_that_is_cut_is_told(sdk):
    client = instructor.from_openai(sdk, mode=Mode.TOOLS)
    with pytest.raises(IncompleteOutputException):
        client.chat.completions.create(
            response_model=Finding, messages=REPORT, max_retries=0, **{**ASKED, "max_tokens": 8}
        )


def test_several_kinds_of_calls(sdk):
    class Weather(BaseModel):
        """The weather of a city."""

        city: str

    class Stock(BaseModel):
        """How many of a spare part are in stock."""

        part: str

    client = instructor.from_openai(sdk, mode=Mode.PARALLEL_TOOLS)
    ask = [{"role": "user", "content": "How many of part S-1 are in stock?"}]
    calls = list(client.chat.completions.create(response_model=Iterable[Weather | Stock], messages=ask, **ASKED))
    assert calls[0] == Stock(part="S-1")
