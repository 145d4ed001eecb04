"""Who may come in, and how much they may bring."""

import asyncio
import io
import json
import logging

import httpx2
import pytest

from backends.fake import FakeBackend
from gateway.logging import formatter
from gateway.schemas.settings import LoggingSettings

pytestmark = pytest.mark.anyio
BODY = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
KEYS = '[[keys]]\nname = "kiosk"\nenv = "KIOSK"\n[[keys]]\nname = "app"\nenv = "APP"\n'
ENV = {"KIOSK": "kiosk-secret", "APP": "app-secret"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8484", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8484", 200),
        ("127.8.8.8", 200),
        ("[::1]:8484", 200),
        ("kiosk.lan:8484", 200),
        ("a.site.example", 200),
        ("site.example", 403),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.5", 403),
        ("[::1", 200),
        ("", 403),
    ],
)
async def test_only_known_hosts(make_app, connect, host, status):
    app = make_app(config='[server]\nallowed_hosts = ["kiosk.lan", "*.site.example"]')
    for path in ("/healthz", "/v1/models", "/nowhere"):
        answer = await connect(app).get(path, headers={"host": host})
        assert (answer.status_code == 403) == (status == 403)
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


async def test_a_wildcard_bind_lets_addresses_in_but_no_names(make_app, connect):
    app = make_app(config='[server]\nhost = "0.0.0.0"\n', env={"OUTSTATION_API_KEY": "k"})
    assert (await connect(app).get("/healthz", headers={"host": "192.168.1.5:8484"})).status_code == 200
    assert (await connect(app).get("/healthz", headers={"host": "evil.example"})).status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:8484", 200),
        ("https://kiosk.example", 200),
        ("https://evil.example", 403),
        ("http://localhost:3000", 403),
        ("null", 403),
    ],
)
async def test_other_sites_pages_may_not_compute_here(make_app, connect, origin, status):
    app = make_app(config='[server]\nallowed_origins = ["https://kiosk.example"]')
    headers = {"origin": origin} if origin else {}
    answer = await connect(app).post("/v1/chat/completions", json=BODY, headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await connect(app).options("/v1/chat/completions", headers=headers)).status_code == 405


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer kiosk-secret", 200),
        ("bearer app-secret", 200),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Basic kiosk-secret", 401),
        ("kiosk-secret", 401),
        ("Bearer kiosk-secret2", 401),
        ("Bearer ké", 401),
        (None, 401),
    ],
)
async def test_keys(make_app, connect, authorization, status):
    client = connect(make_app(config=KEYS, env=ENV))
    headers = {"authorization": authorization.encode()} if authorization else {}
    for path in ("/v1/models", "/metrics", "/outstation/status", "/docs", "/openapi.json", "/nowhere"):
        answer = await client.get(path, headers=headers)
        assert (answer.status_code == 401) == (status == 401)
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.post("/v1/chat/completions", json=BODY, headers=headers)
        assert answer.status_code == 401


async def test_health_needs_no_key(make_app, connect):
    client = connect(make_app(config=KEYS, env=ENV))
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_the_keys_name_is_logged_and_the_key_is_not(make_app, connect, caplog):
    caplog.set_level("DEBUG", "outstation.access")
    await connect(make_app(config=KEYS, env=ENV)).get("/v1/models", headers={"authorization": "Bearer app-secret"})
    (record,) = [r for r in caplog.records if r.name == "outstation.access"]
    assert record.fields["key"] == "app"
    assert "secret" not in str(record.__dict__)


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_a_log_line_cannot_be_forged_and_holds_no_text(make_app, connect, format_):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(LoggingSettings(format=format_)))
    logger = logging.getLogger("outstation.access")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        await connect(make_app()).post("/v1/x%0Ainfo forged=1", json=BODY)
        await connect(make_app()).post("/v1/chat/completions", json={**BODY, "user": "the secret"})
    finally:
        logger.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "secret" not in stream.getvalue()
    if format_ == "json":
        assert json.loads(lines[0])["path"] == "/v1/x\ninfo forged=1"
        assert json.loads(lines[1])["completion_tokens"] == 2
    else:
        assert 'path="/v1/x\\ninfo forged=1"' in lines[0]
        assert "completion_tokens=2" in lines[1]


async def test_a_body_over_the_limit_announced_or_not(make_app, connect):
    backend = FakeBackend()
    client = connect(make_app(backend, config="[server]\nmax_body_bytes = 1000"))
    big = b'{"x": "' + b"x" * 2000 + b'"}'

    async def pieces():
        for start in range(0, len(big), 100):
            yield big[start : start + 100]

    for content in (big, pieces()):
        answer = await client.post("/v1/chat/completions", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
        assert answer.headers["connection"] == "close"
    assert backend.requests == []
    assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_a_body_that_never_comes(make_app):
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent = []

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"host", b"localhost")],
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 1), "http_version": "1.1",
    }  # fmt: skip
    await make_app(config="[server]\nbody_timeout_s = 0.05")(scope, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3_4", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\tb", False), ("", False)],
)
async def test_request_ids(make_app, connect, given, kept):
    answer = await connect(make_app()).get("/healthz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) == kept
    assert answer.headers["x-request-id"]


async def test_two_running_requests_never_share_an_id(make_app, exchange):
    backend = FakeBackend("a", lambda _: [asyncio.Event()])
    app = make_app(backend)
    both = [exchange(app, {"model": "a", **BODY}, x_request_id="same") for _ in range(2)]
    while len(backend.requests) < 2:
        await asyncio.sleep(0)
    assert len({request.id for request in backend.requests}) == 2
    for begun in both:
        begun.hang_up.tell()
        await begun.end()


async def test_a_client_that_leaves_in_the_middle_of_its_body(make_app, caplog):
    caplog.set_level("INFO", "outstation.access")
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"host", b"localhost")],
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 1), "http_version": "1.1",
    }  # fmt: skip
    await make_app()(scope, receive, send)
    assert sent == []
    assert caplog.records[0].fields["outcome"] == "cancelled"


PIECES = 10_001
CALLS = [{"id": str(at), "type": "function", "function": {"name": "f", "arguments": ""}} for at in range(PIECES)]
USES = [{"type": "tool_use", "id": str(at), "name": "f", "input": {}} for at in range(PIECES)]


@pytest.mark.parametrize(
    ("path", "field", "turn"),
    [
        ("/v1/chat/completions", "messages", {"role": "user", "content": [{"type": "text", "text": ""}] * PIECES}),
        ("/v1/chat/completions", "messages", {"role": "assistant", "tool_calls": CALLS}),
        ("/v1/messages", "messages", {"role": "assistant", "content": USES}),
        ("/v1/messages", "messages", {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": ""}] * PIECES}
        ]}),
        ("/v1/responses", "input", {"role": "user", "content": [{"type": "input_text", "text": ""}] * PIECES}),
        ("/v1/conversations", "items", {"type": "function_call_output", "call_id": "c", "output": [
            {"type": "input_text", "text": ""}
        ] * PIECES}),
    ],
)  # fmt: skip
async def test_a_turn_of_half_a_million_pieces_does_not_stop_the_others(make_app, connect, path, field, turn):
    """Each would be looked at by itself, and nothing else in the meantime."""
    answer = await connect(make_app()).post(path, json={"model": "auto", field: [turn]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "at most 10000 parts, blocks and calls" in error["message"]
    if path != "/v1/messages":  # whose errors name no field
        assert error["param"] == field


async def test_nested_pieces_are_counted_without_end(make_app, connect):
    """As deep as a body may be."""
    turn = piece = {"role": "user"}
    for _ in range(120):
        piece["content"] = [{"type": "text"}]
        piece = piece["content"][0]
    answer = await connect(make_app()).post("/v1/chat/completions", json={"model": "auto", "messages": [turn]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content[0].text")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/v1/models", 405), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/", 404)],
)
async def test_unknown_paths_and_wrong_methods(make_app, connect, method, path, status):
    answer = await connect(make_app()).request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in answer.headers) == (status == 405)


async def test_every_error_has_a_request_id(make_app, connect):
    client: httpx2.AsyncClient = connect(make_app())
    for path in ("/nowhere", "/v1/models/none"):
        assert (await client.get(path)).headers["x-request-id"]
