"""Embeddings by a provider through a whole gateway: what may leave, what it costs, and what the client gets."""

from __future__ import annotations

import orjson
import pytest

from backends.fake import FakeBackend
from tests.remote.fault_proxy import Act, FaultProxy, refusal
from tests.routing.conftest import ALLOW, Opened, provider

pytestmark = pytest.mark.anyio
PATH = "/v1/embeddings"
MAIL = "anna.meyer@example.org"


def vectors(count: int = 1) -> Act:
    data = [{"object": "embedding", "index": i, "embedding": [0.5, float(i)]} for i in range(count)]
    usage = {"prompt_tokens": 1000, "total_tokens": 1000}
    return Act(body=(orjson.dumps({"object": "list", "data": data, "model": "theirs", "usage": usage}),))


def embedding(url: str, data: str = ALLOW, price: float = 0.0) -> str:
    return provider("acme", url, model="vec", data=data, price=price) + 'kinds = ["embedding"]\n'


async def test_the_official_sdk_gets_a_providers_vectors(site: Opened) -> None:
    async with FaultProxy(usual=vectors(2)) as proxy, site(FakeBackend("m"), config=embedding(proxy.url)) as gateway:
        answer = await gateway.sdk().embeddings.create(model="acme/vec", input=["a", "b"])
        floats = await gateway.ask(PATH, model="acme/vec", input=["a", "b"])
    assert [one.embedding for one in answer.data] == [[0.5, 0.0], [0.5, 1.0]]
    assert answer.model == "acme/vec"
    assert answer.usage.model_dump() == {"prompt_tokens": 1000, "total_tokens": 1000}
    assert floats.json["data"][1] == {"object": "embedding", "index": 1, "embedding": [0.5, 1.0]}
    assert floats.headers["x-outstation-route"] == "acme/vec"
    assert proxy.seen[0].json["encoding_format"] == "base64"  # as the SDK asked; the provider gave floats all the same
    assert [row.endpoint for row in gateway.decisions()] == [PATH, PATH]
    assert len(gateway.ledger()) == 2


@pytest.mark.parametrize("data", ['default = "redact"', 'default = "deny"'])
async def test_what_would_have_to_be_redacted_stays(site: Opened, data: str) -> None:
    """The vector of a redacted text is not the one that was asked for."""
    async with FaultProxy(usual=vectors()) as proxy:
        async with site(FakeBackend("m"), config=embedding(proxy.url, data)) as gateway:
            begun = await gateway.ask(PATH, model="acme/vec", input=f"write to {MAIL}")
            clean = await gateway.ask(PATH, model="acme/vec", input="write to them")
        assert (begun.status, begun.json["error"]["code"]) == (400, "privacy_denied")
        assert MAIL not in begun.body.decode()
        assert clean.status == 200
        assert [seen.json["input"] for seen in proxy.seen] == ["write to them"]
        assert len(gateway.ledger()) == 1


@pytest.mark.parametrize(("data", "status"), [('default = "redact"', 400), ('default = "deny"', 400), (ALLOW, 200)])
async def test_token_ids_cannot_be_searched(site: Opened, data: str, status: int) -> None:
    async with FaultProxy(usual=vectors()) as proxy:
        async with site(FakeBackend("m"), config=embedding(proxy.url, data)) as gateway:
            begun = await gateway.ask(PATH, model="acme/vec", input=[1, 2, 3])
        assert begun.status == status
        assert len(proxy.seen) == (status == 200)


async def test_tokens_are_paid_and_the_budget_holds(site: Opened) -> None:
    async with FaultProxy(usual=vectors()) as proxy:
        config = embedding(proxy.url, price=100.0) + "[budget]\nsite_day = 0.11\n"
        async with site(FakeBackend("m"), config=config) as gateway:
            first = await gateway.ask(PATH, model="acme/vec", input="a")
            second = await gateway.ask(PATH, model="acme/vec", input="a " * 1000)
        (paid, refused) = gateway.decisions()
    assert first.status == 200
    assert (second.status, second.json["error"]["code"]) == (429, "budget_exhausted")
    assert paid.cost == pytest.approx(0.1)  # 1,000 tokens at $100 a million
    assert refused.cost == 0


async def test_a_provider_that_fails_is_not_replaced_by_another_model(site: Opened) -> None:
    local = FakeBackend("e", kinds=frozenset({"embedding"}))
    async with FaultProxy(usual=refusal(500)) as proxy, site(local, config=embedding(proxy.url)) as gateway:
        begun = await gateway.ask(PATH, model="acme/vec", input="a")
        chat = await gateway.ask(model="acme/vec")
    assert (begun.status, begun.json["error"]["code"]) == (503, "provider_error")
    assert local.requests == []
    assert (chat.status, chat.json["error"]["code"]) == (400, "wrong_task")
