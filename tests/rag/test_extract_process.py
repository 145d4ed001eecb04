"""Extraction in its process: limits, faults, cancellation; what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from rag.chunks import Strategy, chunk
from rag.extract import Cutting, ExtractionError, Extractor, Limits, extract
from rag.tokens import load
from tests.onnx.conftest import find_folder
from tests.rag.test_extract_readers import write_docx

pytestmark = pytest.mark.anyio

FILES = Path(__file__).parent / "files"


def workers() -> list[psutil.Process]:
    """Those of this test, and what they have forked."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "rag.extract.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def forked() -> psutil.Process:
    """The process that reads a file now."""
    while True:
        for process in workers():
            parent = process.parent()
            if parent is not None and parent.pid != os.getpid():
                return process
        await asyncio.sleep(0.01)


async def none_left() -> None:
    while workers():
        await asyncio.sleep(0.01)


async def test_a_file_comes_back_as_its_reader_made_it() -> None:
    pages: list[tuple[int, int]] = []
    async with Extractor() as extractor:
        path = FILES / "manual.pdf"
        found = await extractor.extract(path, "Pump manual.pdf", on_page=lambda *page: pages.append(page))
    assert (found.kind, found.title, len(found.pages), len(found.headings)) == ("pdf", "Pump P-101 manual", 3, 6)
    assert pages == [(1, 3), (2, 3), (3, 3)]
    await none_left()


async def test_many_files_need_one_worker_and_one_bad_file_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "good.txt").write_text("It runs.")
    async with Extractor() as extractor:
        await extractor.extract(tmp_path / "good.txt", "good.txt")
        (worker,) = workers()
        with pytest.raises(ExtractionError, match="not valid JSON"):
            await extractor.extract(tmp_path / "bad.json", "bad.json")
        files = [extractor.extract(tmp_path / "good.txt", "good.txt") for _ in range(5)]
        assert {found.text for found in await asyncio.gather(*files)} == {"It runs."}
        assert workers() == [worker]
    await none_left()


async def test_a_worker_is_ended_when_it_is_idle(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    async with Extractor(idle_s=0.05) as extractor:
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"
        await none_left()
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"


async def test_a_file_that_is_not_there_is_our_fault(tmp_path: Path) -> None:
    with pytest.raises(ExtractionError, match="could not be opened") as caught:
        await extract(tmp_path / "gone.pdf", "gone.pdf")
    assert caught.value.code == "server_error"


async def test_memory_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("w") as file:
        file.write("[" + "[[],[]]," * 6_000_000 + "0]")
    with pytest.raises(ExtractionError, match="400 MB of memory") as caught:
        await extract(tmp_path / "large.json", "large.json", Limits(memory_bytes=400 << 20))
    assert caught.value.code == "invalid_file"


async def test_nesting_beyond_a_parsers_stack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 1_000_000)
    with pytest.raises(ExtractionError, match="nested too deeply") as caught:
        await extract(tmp_path / "deep.json", "deep.json")
    assert caught.value.code == "invalid_file"


def slow(tmp_path: Path) -> Path:
    """A file that a reader is busy with for long: a fifo, from which it reads nothing until somebody writes."""
    path = tmp_path / "slow.txt"
    os.mkfifo(path)
    return path


async def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with Extractor() as extractor:
        with pytest.raises(ExtractionError, match=r"not read within 0\.2 s") as caught:
            await extractor.extract(slow(tmp_path), "slow.txt", Limits(seconds=0.2))
        assert caught.value.code == "invalid_file"
        await none_left()
        (tmp_path / "a.txt").write_text("one")
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"


async def test_a_cancelled_call_leaves_no_process(tmp_path: Path) -> None:
    async with Extractor() as extractor:
        task = asyncio.create_task(extractor.extract(slow(tmp_path), "slow.txt"))
        await forked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await none_left()
        (tmp_path / "a.txt").write_text("one")
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"


@pytest.mark.parametrize("whom", ["reader", "worker"])
async def test_a_process_that_dies_is_told_and_replaced(tmp_path: Path, whom: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    async with Extractor() as extractor:
        task = asyncio.create_task(extractor.extract(slow(tmp_path), "slow.txt"))
        reader = await forked()
        victim = reader if whom == "reader" else reader.parent()
        assert victim is not None
        victim.send_signal(signal.SIGKILL)
        with pytest.raises(ExtractionError, match="ended before it was done") as caught:
            await task
        assert caught.value.code == "server_error"
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"
    await none_left()


async def test_a_worker_sees_no_secret_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PROVIDERS_KEY", "sk-not-yours")
    async with Extractor() as extractor:
        task = asyncio.create_task(extractor.extract(slow(tmp_path), "slow.txt"))
        environment = (await forked()).environ()
        task.cancel()
        await asyncio.wait([task])
    assert "PATH" in environment
    assert "SOME_PROVIDERS_KEY" not in environment


async def test_a_file_is_cut_by_its_embedders_own_tokenizer() -> None:
    cutting = Cutting(find_folder("bge-small-en-v1.5"), Strategy(100, 30))
    path = FILES / "manual.pdf"
    async with Extractor() as extractor:
        document = await extractor.document(path, path.name, cutting)
        extracted = await extractor.extract(path, path.name)
    tokenize = load(cutting.embedder).tokenize
    assert document.chunks == chunk(extracted, tokenize, cutting.strategy)
    assert document.extracted == extracted
    assert [piece.page for piece in document.chunks] == [1, 2, 2]
    assert document.chunks[-1].tokens == len(tokenize(document.chunks[-1].text)) <= 100


async def test_an_embedder_that_cannot_be_loaded_is_our_fault(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    async with Extractor() as extractor:
        with pytest.raises(ExtractionError) as caught:
            await extractor.document(tmp_path / "a.txt", "a.txt", Cutting(tmp_path))
        assert caught.value.code == "server_error"
        assert (await extractor.extract(tmp_path / "a.txt", "a.txt")).text == "one"


async def test_a_fault_that_only_a_library_knows_is_the_files(tmp_path: Path) -> None:
    """The package's list of parts says that the first begins before the file does."""
    write_docx(tmp_path / "bad.docx")
    data = bytearray((tmp_path / "bad.docx").read_bytes())
    field = data.rindex(b"PK\x05\x06") + 16
    data[field : field + 4] = (int.from_bytes(data[field : field + 4], "little") + 100).to_bytes(4, "little")
    (tmp_path / "bad.docx").write_bytes(data)
    with pytest.raises(ExtractionError, match="damaged") as caught:
        await extract(tmp_path / "bad.docx", "bad.docx")
    assert caught.value.code == "invalid_file"


async def test_a_files_name_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"Pr\xfcfung\n.md")  # as an old system wrote it
    path.write_text("# One")
    found = await extract(path, path.name)
    assert (found.kind, found.title) == ("markdown", "One")
    path.write_text("")
    with pytest.raises(ExtractionError, match=r"^Pr\ufffdfung \.md is empty\.$"):
        await extract(path, path.name)


async def test_two_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(ExtractionError, match="at most 512 MB") as caught:
        await extract(tmp_path / "large.txt", "large.txt")
    assert caught.value.code == "invalid_file"
