"""What of a folder is taken for documents, on a real disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest

from gateway.commands.ingest_folder import Reader, Stillness, lock, look, open_file


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_documents_are_taken_by_name_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder, outside = tmp_path / "manuals", tmp_path / "outside"
    write(
        folder,
        "b.md",
        "a/z.pdf",
        "a/b.txt",
        "Ünïcode €.md",
        ".git/config",
        ".hidden",
        "~$a.docx",
        "a.tmp",
        "b.crdownload",
    )
    write(folder, "c.PART", "notes.md~", "Thumbs.db")
    write(outside, "secret.md")
    (folder / "in.md").symlink_to("b.md")
    (folder / "out.md").symlink_to(outside / "secret.md")
    (folder / "dangling.md").symlink_to("nowhere")
    (folder / "loop").symlink_to(".")
    (folder / "out").symlink_to(outside)
    os.mkfifo(folder / "pipe.md")
    found = look(folder)
    assert list(found.files) == ["a/b.txt", "a/z.pdf", "b.md", "in.md", "Ünïcode €.md"]
    assert found.skipped == {"hidden": 2, "temporary": 6, "link": 4, "special": 1}
    assert found.held == set()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.md")).write_text("x")
    (tmp_path / "a\nb.md: added").write_text("x")
    found = look(tmp_path)
    assert (found.files, found.skipped) == ({}, {"without a readable name": 2})


def test_a_path_that_no_attribute_holds_is_told(tmp_path: Path) -> None:
    longest = "/".join(["x" * 200, "y" * 200, "z" * 107 + ".md"])
    write(tmp_path, longest, longest.replace(".md", "z.md"))
    found = look(tmp_path)
    assert list(found.files) == [longest]
    assert [len(path) for path in found.too_long] == [513]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_held(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "closed/b.md", "c.md")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "c.md").chmod(0)
    try:
        listing = Reader().read(look(tmp_path))
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert list(listing.sha256) == ["a.md"]
    assert listing.held == {"closed", "c.md"}
    assert listing.skipped == {"unreadable": 2}


def test_a_file_that_is_gone_before_it_is_read_is_held(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.md")
    found = look(tmp_path)
    (tmp_path / "a.md").unlink()
    (tmp_path / "b.md").unlink()
    (tmp_path / "b.md").symlink_to("/etc/hostname")
    listing = Reader().read(found)
    assert (dict(listing.sha256), listing.held) == ({}, {"a.md", "b.md"})


def test_a_pipe_in_a_files_place_is_no_wait(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    seen = look(tmp_path).files["a.md"]
    (tmp_path / "a.md").unlink()
    os.mkfifo(tmp_path / "a.md")
    with pytest.raises(OSError, match="no file any more"):
        open_file(seen)


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.md")
    reader = Reader()
    before = reader.read(look(tmp_path)).sha256
    found = look(tmp_path)
    facts = (tmp_path / "a.md").stat()
    (tmp_path / "a.md").write_text("A.MD")  # as long, and at the same time: it looks as it did
    os.utime(tmp_path / "a.md", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert look(tmp_path).files == found.files
    assert reader.read(look(tmp_path)).sha256 == before
    write(tmp_path, "b.md", "c.md")
    (tmp_path / "a.md").write_text("longer")
    after = reader.read(look(tmp_path)).sha256
    assert after["b.md"] == before["b.md"]
    assert after["a.md"] != before["a.md"]
    assert "c.md" in after


def test_a_growing_file_waits_until_it_is_still(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.md")
    stillness = Stillness()
    assert stillness.moving(look(tmp_path)) == {"a.md", "b.md"}
    with (tmp_path / "b.md").open("a") as file:
        file.write("more")
    assert stillness.moving(look(tmp_path)) == {"b.md"}
    assert stillness.moving(look(tmp_path)) == frozenset()


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="cannot be read: No such file"):
        look(tmp_path / "away")


def test_two_never_work_on_one_folder(tmp_path: Path) -> None:
    first = lock(tmp_path)
    assert first is not None
    with pytest.raises(click.ClickException, match="Another `outstation ingest`"):
        lock(tmp_path)
    os.close(first)
    second = lock(tmp_path)
    assert second is not None
    os.close(second)
