"""The official SDKs against a real gateway that reads files in, with a real embedder and reranker."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.clients.test_examples import EXAMPLES
from tests.conftest import Gateway

PDFS = Path(__file__).parents[1] / "rag" / "files"
FLOOR = b"# Wet floor\n\nIf the floor under P-101 is wet, the shaft seal has worn out. Order the seal kit SK-4711.\n"
CANTEEN = b"# Canteen\n\nThe canteen opens at eleven and closes at two. On Fridays there is fish.\n"
ROTOR = (
    b"code,meaning,remedy\nE07,Motor overheated,Let it cool for 30 minutes\nE12,Dry running,Fill and vent the casing\n"
)


@pytest.fixture
def client(whole_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """Leaves no file and no store behind."""
    with openai.OpenAI(base_url=whole_gateway.base_url, api_key="none", max_retries=0) as made:
        yield made
        for store in made.vector_stores.list():
            made.vector_stores.delete(store.id)
        for file in made.files.list():
            made.files.delete(file.id)


def packed() -> bytes:
    """A zip of something."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("a.bin", b"\x00" * 1000)
    return into.getvalue()


def poll(
    client: openai.OpenAI, store: str, files: list[tuple[str, bytes]]
) -> openai.types.vector_stores.VectorStoreFileBatch:
    return client.vector_stores.file_batches.upload_and_poll(store, files=files, poll_interval_ms=50)


def test_a_manual_from_upload_to_answer(client):
    store = client.vector_stores.create(name="manuals")
    with (PDFS / "manual.pdf").open("rb") as file:
        added = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file, poll_interval_ms=50)
    assert (added.status, added.last_error) == ("completed", None)
    assert added.usage_bytes > 0
    assert added.model_extra["outstation"]["filename"] == "manual.pdf"
    found = client.vector_stores.search(store.id, query="What must I do before I work on the pump?")
    best = found.data[0]
    assert "Disconnect the pump from the mains" in best.content[0].text
    assert best.filename == "manual.pdf"
    assert best.model_extra["outstation"]["page"] >= 1
    assert found.model_extra["outstation"]["answered"] is True
    content = client.vector_stores.files.content(added.id, vector_store_id=store.id)
    text = "".join(one.text for one in content.data)
    place = best.model_extra["outstation"]
    assert "Motor overheated" in text
    assert 0 <= place["start"] < place["end"] <= len(text) + len(content.data)
    nothing = client.vector_stores.search(store.id, query="Who won the chess championship of 1972?")
    assert nothing.model_extra["outstation"]["answered"] is False
    assert client.files.content(added.id).content == (PDFS / "manual.pdf").read_bytes()


def test_what_cannot_be_read_fails_by_itself(client):
    store = client.vector_stores.create()
    files = [
        ("floor.md", FLOOR),
        ("broken.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\ntrailer"),
        ("archive.zip", packed()),
        ("notes.txt", bytes(range(256)) * 40),
        ("locked.pdf", (PDFS / "password.pdf").read_bytes()),
        ("codes.csv", ROTOR),
    ]
    batch = poll(client, store.id, files)
    counts = batch.file_counts
    assert (batch.status, counts.completed, counts.failed, counts.in_progress, counts.total) == (
        "completed",
        2,
        4,
        0,
        6,
    )
    failed = {
        one.model_extra["outstation"]["filename"]: one.last_error
        for one in client.vector_stores.file_batches.list_files(
            batch.id, vector_store_id=store.id, filter="failed", limit=1
        )
    }
    assert {name: error.code for name, error in failed.items()} == {
        "broken.pdf": "invalid_file",
        "archive.zip": "unsupported_file",
        "notes.txt": "unsupported_file",
        "locked.pdf": "invalid_file",
    }
    assert all(error.message.endswith(".") for error in failed.values())
    assert "password" in failed["locked.pdf"].message
    found = client.vector_stores.search(store.id, query="What does E12 mean?")
    assert found.data[0].filename == "codes.csv"
    assert client.vector_stores.retrieve(store.id).status == "completed"


def test_a_search_finds_what_the_filter_takes(client):
    ids = [
        client.files.create(file=file, purpose="assistants").id for file in (("floor.md", FLOOR), ("menu.md", CANTEEN))
    ]
    store = client.vector_stores.create()
    files = [
        {"file_id": id_, "attributes": {"site": site, "year": 2020 + n}}
        for n, (id_, site) in enumerate(zip(ids, ("north", "south"), strict=True))
    ]
    batch = client.vector_stores.file_batches.create(store.id, files=files)
    client.vector_stores.file_batches.poll(batch.id, vector_store_id=store.id, poll_interval_ms=50)
    question = "Why is the floor wet?"
    assert client.vector_stores.search(store.id, query=question).data[0].file_id == ids[0]
    south = client.vector_stores.search(
        store.id, query=question, filters={"type": "eq", "key": "site", "value": "south"}
    )
    assert {one.file_id for one in south.data} == {ids[1]}
    late = client.vector_stores.search(store.id, query=question, filters={"type": "gt", "key": "year", "value": 2025})
    assert late.data == []
    client.vector_stores.files.update(ids[0], vector_store_id=store.id, attributes={"site": "south"})
    moved = client.vector_stores.search(
        store.id, query=question, filters={"type": "eq", "key": "site", "value": "south"}
    )
    assert moved.data[0].file_id == ids[0]


def test_what_is_deleted_is_not_found_any_more(client):
    store = client.vector_stores.create(
        file_ids=[client.files.create(file=("floor.md", FLOOR), purpose="assistants").id]
    )
    same, menu = (
        client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file, poll_interval_ms=50)
        for file in (("copy.md", FLOOR), ("menu.md", CANTEEN))
    )
    poll(client, store.id, [("more.md", b"The stock room is in the cellar.")])
    first = next(one.id for one in client.vector_stores.files.list(store.id, order="asc"))
    client.files.delete(first)
    found = client.vector_stores.search(store.id, query="wet floor seal kit")
    assert found.data[0].filename == "copy.md"
    client.vector_stores.files.delete(same.id, vector_store_id=store.id)
    assert "copy.md" not in {one.filename for one in client.vector_stores.search(store.id, query="wet floor").data}
    assert {one.id for one in client.vector_stores.files.list(store.id)} >= {menu.id}
    client.vector_stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query="wet floor")


def test_a_large_upload_in_pieces_of_a_slow_line(whole_gateway, client):
    """More than `server.max_body_bytes`, without a length."""
    lines = b"".join(b"Line %d of the log of the pump says nothing.\n" % n for n in range(300_000))
    edge = b"--x\r\nContent-Disposition: form-data; name="
    head = edge + b'"purpose"\r\n\r\nassistants\r\n' + edge + b'"file"; filename="log.txt"\r\n\r\n'

    def pieces() -> Iterator[bytes]:
        yield head
        for start in range(0, len(lines), 1 << 20):
            yield lines[start : start + (1 << 20)]
        yield b"\r\n--x--\r\n"

    sent = httpx2.post(
        f"{whole_gateway.base_url}/files",
        content=pieces(),
        headers={"content-type": "multipart/form-data; boundary=x"},
        timeout=60,
    )
    assert sent.status_code == 200, sent.text
    assert sent.json()["bytes"] == len(lines) > 10 << 20
    assert client.files.content(sent.json()["id"]).content == lines


def test_node(whole_gateway, client, tmp_path):
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if not (EXAMPLES / "node_modules" / "openai").is_dir():
        pytest.skip("`npm install` has not been run in clients/examples")
    (tmp_path / "archive.zip").write_bytes(packed())
    (tmp_path / "floor.md").write_bytes(FLOOR)
    done = subprocess.run(
        ["node", "documents.mjs", "Why is the floor wet?", tmp_path / "floor.md", tmp_path / "archive.zip"],
        cwd=EXAMPLES,
        env={**os.environ, "OPENAI_BASE_URL": whole_gateway.base_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 files" in done.stderr
    assert "archive.zip: " in done.stderr
    assert "floor.md: " in done.stdout
    assert "shaft seal" in done.stdout
    assert client.vector_stores.list().data == []
