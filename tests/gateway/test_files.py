"""`/v1/files`: what is taken, what is refused, and that nothing is left of what breaks off."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import hypothesis
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request as HTTPRequest

from gateway.documents.uploads import upload
from gateway.schemas.document_objects import DeletedFile, FileList, FileObject
from tests.gateway.document_site import DocumentSite, site_maker

pytestmark = pytest.mark.anyio
PATH = "/v1/files"
PURPOSE = {"purpose": (None, "assistants")}
FILE = {"file": ("a.txt", b"The pump leaks.")}


@pytest.fixture
def make_site(make_app, connect, tmp_path):
    return site_maker(make_app, connect, tmp_path)


@pytest.fixture
def site(make_site) -> DocumentSite:
    return make_site()


async def test_the_official_sdk(site):
    sdk = openai.AsyncOpenAI(
        base_url="http://localhost:8484/v1", api_key="none", http_client=site.client, max_retries=0
    )
    content = bytes(range(256)) * 10_000
    made = await sdk.files.create(
        file=('Pumpe für 7".bin', content),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.bytes, made.purpose, made.status, made.object) == (len(content), "user_data", "processed", "file")
    assert made.expires_at == made.created_at + 3600
    assert made.filename == 'Pumpe für 7".bin'
    assert await sdk.files.wait_for_processing(made.id) == made
    assert (await sdk.files.content(made.id)).content == content
    later = [await sdk.files.create(file=b"x", purpose="batch") for _ in range(3)]
    assert [one.id async for one in sdk.files.list(limit=1)] == [one.id for one in reversed([made, *later])]
    assert [one.id async for one in sdk.files.list(purpose="user_data")] == [made.id]
    gone = await sdk.files.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.files.retrieve(made.id)
    assert missing.value.code == "not_found"


async def test_the_shapes_are_those_that_are_described(site):
    id_ = await site.upload(b"x")
    FileObject.model_validate_json((await site.client.get(f"{PATH}/{id_}")).content)
    listed = FileList.model_validate_json((await site.client.get(PATH)).content)
    assert (listed.first_id, listed.last_id, listed.has_more) == (id_, id_, False)
    DeletedFile.model_validate_json((await site.client.delete(f"{PATH}/{id_}")).content)
    empty = FileList.model_validate_json((await site.client.get(PATH)).content)
    assert (empty.data, empty.first_id, empty.last_id) == ([], None, None)


async def test_a_browser_neither_shows_nor_runs_what_a_file_contains(site):
    id_ = await site.upload("<script>alert(1)</script>", 'evil"\r\n\x00é.html')
    answer = await site.client.get(f"{PATH}/{id_}/content")
    assert answer.text == "<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-length"] == "25"


@pytest.mark.parametrize(
    ("files", "param"),
    [
        (FILE, "purpose"),
        ({**FILE, "purpose": (None, "world domination")}, "purpose"),
        (PURPOSE, "file"),
        ({**PURPOSE, "file": (None, "no name")}, "file"),
        ({**PURPOSE, "file": ("", b"no name")}, "file"),
        ({**PURPOSE, "file": ("  ", b"no name")}, "file"),
        ({**PURPOSE, "file": ("x" * 513, b"long name")}, "file"),
        ({**PURPOSE, "file": ("empty.txt", b"")}, "file"),
        ({**PURPOSE, "document": ("a.txt", b"elsewhere")}, "document"),
        ([("purpose", (None, "batch")), ("file", ("a", b"1")), ("file", ("b", b"2"))], "file"),
        ([("purpose", (None, "batch")), ("purpose", (None, "batch")), ("file", ("a", b"1"))], "purpose"),
        ({**FILE, **PURPOSE, "expires_after[anchor]": (None, "created_at")}, "expires_after.seconds"),
        ({**FILE, **PURPOSE, "expires_after": (None, "soon")}, "expires_after"),
        (
            {**FILE, **PURPOSE, "expires_after[anchor]": (None, "now"), "expires_after[seconds]": (None, "3600")},
            "expires_after.anchor",
        ),
        (
            {**FILE, **PURPOSE, "expires_after[anchor]": (None, "created_at"), "expires_after[seconds]": (None, "60")},
            "expires_after.seconds",
        ),
    ],
)
async def test_wrong_forms(site, files, param):
    answer = await site.client.post(PATH, files=files)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].endswith((".", ")"))
    assert (await site.client.get(PATH)).json()["data"] == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/json"),
        (b"file=x", "application/x-www-form-urlencoded"),
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"no form at all", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbreaks',
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n", "multipart/form-data; boundary=x"),
        (
            b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n' % n for n in range(40)) + b"--x--",
            "multipart/form-data; boundary=x",
        ),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"y" * 70_000, "multipart/form-data; boundary=x"),
    ],
)
async def test_what_is_no_form(site, content, kind):
    answer = await site.client.post(PATH, content=content, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_form"


async def test_a_file_may_be_larger_than_any_other_body(make_site):
    site = make_site("[server]\nmax_body_bytes = 1000\n[documents]\nmax_file_mb = 2")
    content = os.urandom(2 << 20)
    id_ = await site.upload(content)
    assert (await site.client.get(f"{PATH}/{id_}/content")).content == content


@pytest.mark.parametrize("over", [1, 2 << 20])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_over_the_limit(make_site, tmp_path, over, announced):
    site = make_site("[documents]\nmax_file_mb = 1")
    request = site.client.build_request("POST", PATH, files={**PURPOSE, "file": ("a", b"x" * ((1 << 20) + over))})
    body = await request.aread()

    async def pieces():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    answer = await site.client.post(
        PATH, content=body if announced else pieces(), headers={"content-type": request.headers["content-type"]}
    )
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "body_too_large"
    assert "1 MiB" in error["message"]
    assert "documents.max_file_mb" in error["message"]
    assert answer.headers["connection"] == "close"
    assert (await site.client.get(PATH)).json()["data"] == []


def scope(path: str = PATH) -> dict[str, object]:
    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    return {
        "type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("localhost", 1), "http_version": "1.1",
    }  # fmt: skip


BEGUN = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
)


async def sent_by(app, receive) -> list[dict[str, object]]:
    sent: list[dict[str, object]] = []

    async def send(message) -> None:
        sent.append(message)

    await app(scope(), receive, send)
    return sent


def open_files() -> set[str]:
    return {target for entry in Path("/proc/self/fd").iterdir() if (target := os.path.realpath(entry))}


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(site, tmp_path):
    await site.client.get(PATH)  # opens the store
    messages = [
        {"type": "http.request", "body": BEGUN + b"y" * (3 << 20), "more_body": True},
        {"type": "http.request", "body": b"y" * (3 << 20), "more_body": True},
        {"type": "http.disconnect"},
    ]
    before, names = open_files(), set(tmp_path.rglob("*"))
    seen: list[set[str]] = []

    async def receive():
        seen.append(open_files() - before)
        return messages.pop(0)

    assert await sent_by(site.app, receive) == []
    assert any("(deleted)" in name or "/#" in name for name in seen[-1])  # it was on the disk, without a name
    assert open_files() == before
    assert set(tmp_path.rglob("*")) == names
    assert (await site.client.get(PATH)).json()["data"] == []


@given(st.lists(st.integers(0, 400), max_size=30), st.binary(min_size=1, max_size=200))
def test_however_a_form_is_cut_it_is_the_same(tmp_path_factory, cuts, content):
    body = BEGUN + content + b"\r\n--x--\r\n"
    hypothesis.assume(b"\r\n--x" not in b"\r\n" + content)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    parts = [body[start:end] for start, end in pairwise(places)]

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def read():
        async with upload(HTTPRequest(scope(), receive), tmp_path_factory.getbasetemp(), 1) as found:
            return found.name, found.size, dict(found.fields), b"".join(found.parts())

    assert asyncio.run(read()) == ("a.txt", len(content), {"purpose": "assistants"}, content)


async def test_an_upload_may_take_its_time_as_long_as_it_comes(make_site):
    site = make_site("[server]\nbody_timeout_s = 1.5")
    parts = [BEGUN, *[b"y"] * 3, b"\r\n--x--"]

    async def slowly():
        await asyncio.sleep(0.35)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    sent = await sent_by(site.app, slowly)
    assert sent[0]["status"] == 200


async def test_an_upload_that_stops_coming(make_site):
    site = make_site("[server]\nbody_timeout_s = 0.05")
    messages = [{"type": "http.request", "body": BEGUN, "more_body": True}]

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    sent = await sent_by(site.app, receive)
    assert sent[0]["status"] == 408


async def test_with_a_key_an_upload_never_touches_the_disk(make_site, tmp_path):
    site = make_site('[documents]\nkey_env = "DOCUMENTS"', {"DOCUMENTS": "a long secret"})
    await site.client.get(PATH)
    before = open_files()
    parts = [BEGUN + b"y" * (3 << 20), b"\r\n--x--"]
    seen: list[set[str]] = []

    async def receive():
        seen.append(open_files() - before)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    sent = await sent_by(site.app, receive)
    assert sent[0]["status"] == 200
    held = [name for name in seen[-1] if not name.startswith(("/proc", "pipe:", "socket:", "anon_inode"))]
    assert any("memfd:upload" in name for name in held)
    assert not any(name.startswith(str(tmp_path)) and "documents.db" not in name for name in held)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=abc", "limit"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=10001", "limit"),
        ("limit=²", "limit"),
        ("order=sideways", "order"),
        ("after=file-unknown", "after"),
        ("after=%00", "after"),
        ("after=" + "x" * 5000, "after"),
        ("purpose=%00", "purpose"),
    ],
)
async def test_absurd_questions_for_a_list(site, query, param):
    answer = await site.client.get(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("id_", ["file-unknown", "x" * 3000, "%00", "a b", "..", "%F0%9F%98%80"])
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("GET", "/content")])
async def test_files_that_are_not_there(site, method, tail, id_):
    answer = await site.client.request(method, f"{PATH}/{id_}{tail}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("not_found", "unknown_path")


KEYS = "".join(
    f'[[keys]]\nname = "{right}"\nenv = "KEY_{right}"\ndocuments = "{right}"\n' for right in ("manage", "read", "none")
)


@pytest.mark.parametrize("right", ["manage", "read", "none"])
async def test_a_key_may_do_what_it_has_the_right_to(make_site, right):
    env = {f"KEY_{name}": f"secret-{name}" for name in ("manage", "read", "none")}
    owner = make_site(KEYS, env, authorization="Bearer secret-manage")
    id_ = await owner.upload(b"x")
    owner.client.headers["authorization"] = f"Bearer secret-{right}"
    asked = {
        "list": ("GET", PATH),
        "get": ("GET", f"{PATH}/{id_}"),
        "content": ("GET", f"{PATH}/{id_}/content"),
        "upload": ("POST", PATH),
        "delete": ("DELETE", f"{PATH}/{id_}"),
    }
    may = {"manage": set(asked), "read": {"list", "get", "content"}, "none": set()}[right]
    for name, (method, path) in asked.items():
        form = {"files": {**FILE, **PURPOSE}} if name == "upload" else {}
        answer = await owner.client.request(method, path, **form)
        assert answer.status_code == (200 if name in may else 403), name
        if name not in may:
            assert answer.json()["error"]["code"] == "documents_forbidden"
