"""A provider breaks off, and the real model on the box goes on from there, because the client asked for that."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from backends.llama.backend import LlamaBackend
from backends.llama.settings import LlamaSettings
from tests.remote.fault_proxy import FaultProxy, delta, stream
from tests.routing.conftest import Opened, provider, replayed, told

pytestmark = pytest.mark.anyio

SAID = ["The capital", " of", " France", " is"]
SEAM = b": outstation: acme/large broke off, local/m goes on from here\n\n"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


async def test_the_box_goes_on_where_the_provider_broke_off(site: Opened, model_file: Path) -> None:
    backend = LlamaBackend(LlamaSettings(name="m", path=model_file, keep_alive_s=-1.0))
    breaks = stream(delta(role="assistant"), *map(delta, SAID))
    async with (
        FaultProxy(usual=breaks) as proxy,
        site(backend, config=provider("acme", proxy.url, price=1.0)) as gateway,
    ):
        fields = {"messages": QUESTION, "temperature": 0, "max_tokens": 12, "stream_options": {"include_usage": True}}
        control = {"locality": "prefer_remote", "continue_on_break": True}
        begun = await gateway.ask(stream=True, outstation=control, **fields)
        plain = await gateway.ask(stream=True, outstation={"locality": "prefer_remote"}, **fields)
    before, seam, after = begun.body.partition(SEAM)
    assert seam
    assert begun.body.endswith(b"data: [DONE]\n\n")
    assert b"acme" not in after.replace(b'"model":"acme/large"', b"")
    seen = await told(replayed(begun), True)
    assert seen.error is None
    said = "".join(SAID)
    assert seen.text.startswith(said)
    assert "Paris" in seen.text[len(said) :]
    assert said not in seen.text[len(said) :]
    # It counts as one answer: within the limit, and the text so far is not part of the prompt.
    assert len(SAID) < seen.usage.completion_tokens <= 12
    assert seen.usage.total_tokens == seen.usage.prompt_tokens + seen.usage.completion_tokens
    events = [orjson.loads(line[6:]) for line in begun.body.split(b"\n\n") if line.startswith(b"data: {")]
    assert sum(bool(c["delta"].get("role")) for one in events for c in one["choices"]) == 1
    assert len({(one["id"], one["model"]) for one in events}) == 1
    # Nobody who did not ask for it gets it.
    assert plain.body.count(b'data: {"error"') == 1
    assert b"[DONE]" not in plain.body
    continued, broken = gateway.decisions()
    assert (continued.continued, continued.ending, continued.route) == (True, "success", "local/m")
    assert [code for _, code, _ in continued.attempts] == ["provider_broke", "ok"]
    assert "continued by local/m" in continued.reasons
    assert (broken.continued, broken.ending) == (False, "error")
    assert before
