"""`langchain-tests`' standard integration suite of a chat model, by way of langchain-openai."""

from __future__ import annotations

import os

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

URL = os.environ["OUTSTATION_TEST_URL"]


class _OverTheGateway(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": "qwen",
            "base_url": URL,
            "api_key": "none",
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": 200,
            "extra_body": {"repeat_penalty": 1.1, "seed": 7},
            "stream_usage": True,
        }

    @property
    def structured_output_kwargs(self):
        # Otherwise a schema that is said as a dictionary forbids no further property, and the model adds an "answer".
        return {"strict": True}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def model_override_value(self):
        return "smollm2-135m-instruct"


class TestChatCompletions(_OverTheGateway):
    """`POST /v1/chat/completions`."""


class TestResponses(_OverTheGateway):
    """`POST /v1/responses`. Its objects are in `langchain_more.py`, by each method once: half of the time is theirs."""

    @property
    def chat_model_params(self):
        return {**super().chat_model_params, "use_responses_api": True}

    @property
    def has_structured_output(self):
        return False

    @property
    def supports_json_mode(self):
        return False
