"""Ingest against files and vector stores in memory: every case, and a death at every request."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from gateway.commands.client import Unreachable
from gateway.commands.ingest import Wanted, _once, _open
from gateway.commands.ingest_folder import Listing, Reader, look
from gateway.commands.ingest_objects import Folder, Report
from gateway.commands.ingest_sync import Sync
from gateway.commands.ingest_watch import Watch
from tests.cli.ingest_double import Double, Killed

ROOT = "manuals-1"


class Told:
    """What was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now_: list[str] = []

    def done(self, path: str, text: str) -> None:
        self.lines.append(f"{path}: {text}")

    def now(self, done: int, total: int, failed: int, text: str) -> None:
        self.now_.append(text)

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    fill(folder, {"pump.md": "pump", "valve.md": "valve", "x/motor.md": "motor", "same.md": "pump"})
    return folder


def fill(folder: Path, files: dict[str, str]) -> None:
    """Those files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def expected(folder: Path) -> list[tuple[str, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)


def wanted(folder: Path, **changes: Any) -> Wanted:
    return Wanted(**{"folder": folder, "store": "manuals", "data_class": None, "delete": None, "root": ROOT, **changes})


def run(double: Double, folder: Path, **changes: Any) -> tuple[Report, Listing, Told]:
    told = Told()
    _, report, listing = _once(double, wanted(folder, **changes), told, lambda _: None)  # type: ignore[arg-type]
    return report, listing, told


def the_only(double: Double) -> str:
    (store_id,) = double.stores
    return store_id


def test_all_cases_of_a_folder(folder: Path) -> None:
    double = Double()
    report, _, told = run(double, folder)
    assert report.counts == {"added": 4, "unchanged": 0, "kept": 0}
    assert "pump.md: added" in told.lines
    store = the_only(double)
    assert double.paths(store) == expected(folder)
    assert double.sent == ["manuals/pump.md", "manuals/same.md", "manuals/valve.md", "manuals/x/motor.md"]
    double.sent.clear()
    before = double.changes
    assert run(double, folder)[0].counts == {"unchanged": 4, "kept": 0}
    assert double.changes == before
    fill(folder, {"pump.md": "pump 2", "v/valve.md": "valve", "x/motor.md": "motor", "new.md": "new"})
    report, _, told = run(double, folder)
    assert double.sent == ["manuals/new.md", "manuals/pump.md"]
    assert double.paths(store) == expected(folder)
    assert report.counts == {"added": 1, "changed": 1, "renamed": 1, "removed": 1, "unchanged": 1, "kept": 0}
    assert sorted(told.lines) == [
        "new.md: added", "pump.md: changed", "same.md: removed", "v/valve.md: renamed, was valve.md"
    ]  # fmt: skip
    assert len(double.files) == 4


def test_vanished_files_may_stay(folder: Path) -> None:
    double = Double()
    run(double, folder)
    (folder / "valve.md").unlink()
    (folder / "pump.md").write_text("pump 2")
    report, _, _ = run(double, folder, delete=False)
    assert report.counts["kept"] == 1
    assert ("valve.md", b"valve") in double.paths(the_only(double))
    assert ("pump.md", b"pump") not in double.paths(the_only(double))


def test_an_empty_folder_empties_the_store_only_if_that_is_said(folder: Path) -> None:
    double = Double()
    run(double, folder)
    fill(folder, {})
    with pytest.raises(click.ClickException, match=r"has 4 files of it.*--delete"):
        run(double, folder)
    assert len(double.files) == 4
    assert run(double, folder, delete=True)[0].counts["removed"] == 4
    assert double.files == {}


def test_what_others_put_there_stays(folder: Path) -> None:
    double = Double()
    store, other = double.store("manuals"), double.store("other")
    theirs = [double.file("pump.md", b"pump")["id"], double.file("old.md", b"old")["id"]]
    for file, attributes in zip(theirs, ({}, {"root": "else", "path": "old.md"}), strict=True):
        double.member(store, file, attributes, "completed")
    lost = double.file("pump.md", b"pump")["id"]  # in no store, but no run of ours named it so
    busy = double.file("manuals/pump.md", b"pump")["id"]  # named as ours, and in use elsewhere
    double.member(other, busy, {}, "completed")
    run(double, folder)
    shared = next(id_ for id_, path in double.found(store).items() if path == "valve.md")
    double.member(other, shared, {}, "completed")
    (folder / "valve.md").unlink()
    run(double, folder)
    assert {*theirs, lost, shared, busy} <= double.files.keys()
    assert set(theirs) <= double.stores[store]["members"].keys()
    assert list(double.stores[other]["members"]) == [busy, shared]
    assert busy not in double.stores[store]["members"]
    assert shared not in double.stores[store]["members"]


def test_the_users_own_attributes_survive_a_renaming(folder: Path) -> None:
    double = Double()
    run(double, folder)
    members = double.stores[the_only(double)]["members"]
    one = next(one for one in members.values() if one["attributes"]["path"] == "valve.md")
    one["attributes"]["lang"] = "de"
    (folder / "valve.md").rename(folder / "x" / "V.md")
    run(double, folder)
    assert (one["attributes"]["lang"], one["attributes"]["path"]) == ("de", "x/V.md")


def test_failures_are_told_and_the_rest_goes_on(folder: Path) -> None:
    double = Double(largest=10)
    fill(folder, {"a.md": "bad", "b.md": "", "c.md": "x" * 11, "d.md": "good", "e.md": "y" * 12, "f.md": "flaky"})
    report, _, told = run(double, folder)
    assert report.failures == {
        "a.md": ("invalid_file", "It is bad."),
        "b.md": ("refused", "The file is empty."),
        "c.md": ("body_too_large", "The file is too large."),
        "e.md": ("body_too_large", "The file is too large."),
        "f.md": ("server_error", "It is flaky."),
    }
    assert report.counts["added"] == 1
    assert "a.md: failed. It is bad." in told.lines
    changes = double.changes
    again, _, _ = run(double, folder)
    assert again.failures == report.failures  # though nothing but `f.md` was begun again, and b, c tried again
    assert double.changes == changes + 3


def test_an_old_version_is_found_until_the_new_one_is_read(folder: Path) -> None:
    double = Double(looks=3)
    run(double, folder)
    store = the_only(double)
    (folder / "pump.md").write_text("pump 2")
    reader = Reader()
    sync = Sync(double, store, Folder(ROOT, "manuals"), Told(), reader)  # type: ignore[arg-type]
    listing = reader.read(look(folder))
    sync.carry_out(sync.plan(listing, retry=False), listing)
    while sync.pending:
        assert "pump.md" in double.found(store).values()
        sync.follow()
    assert double.paths(store) == expected(folder)


def test_an_error_of_the_gateways_own_takes_no_old_version_away(folder: Path) -> None:
    double = Double()
    run(double, folder)
    (folder / "pump.md").write_text("flaky")
    report, _, _ = run(double, folder)
    assert report.failures == {"pump.md": ("server_error", "It is flaky.")}
    assert ("pump.md", b"pump") in double.paths(the_only(double))


def test_a_file_written_to_while_it_is_sent_is_sent_again(folder: Path) -> None:
    class Writing(Double):
        def upload(self, path: str, name: str, content: Any, fields: Any) -> Any:
            if name != "manuals/pump.md" or name in self.sent:
                return super().upload(path, name, content, fields)
            (folder / "pump.md").write_text("pump, half")
            done = super().upload(path, name, content, fields)
            (folder / "pump.md").write_text("pump, half and whole")
            return done

    double = Writing()
    report, _, _ = run(double, folder)
    assert double.paths(the_only(double)) == expected(folder)
    assert report.counts["added"] == 4
    assert len(double.files) == 4


CHANGED = {"pump.md": "pump 2", "v/valve.md": "valve", "new.md": "new", "same.md": "bad"}


@pytest.mark.parametrize("half", [0.0, 0.5])
def test_killed_at_any_request_the_next_run_brings_it_in_step(folder: Path, half: float) -> None:
    """Nothing lost, nothing twice, nothing left over; and what stays in the folder is found throughout."""
    before = expected(folder)
    request = 0
    while True:
        request += 1
        double = Double(broken_at=request + half)
        fill(folder, {path: content.decode() for path, content in before})
        alive = 0
        for files in ({path: content.decode() for path, content in before}, CHANGED):
            fill(folder, files)
            try:
                run(double, folder)
                alive += 1
            except Killed:
                run(double, folder)
            store = the_only(double)
            assert double.paths(store) == expected(folder), request
            assert double.files.keys() == double.stores[store]["members"].keys(), request
        if alive == 2:
            break
    assert request > 15


def test_stores_by_name(folder: Path) -> None:
    double = Double()
    with pytest.raises(click.ClickException, match="There is no vector store vs_7"):
        _open(double, wanted(folder, store="vs_7"))  # type: ignore[arg-type]
    made = _open(double, wanted(folder, data_class="health"))  # type: ignore[arg-type]
    assert (made["name"], made["outstation"]) == ("manuals", {"data_class": "health"})
    assert _open(double, wanted(folder, store=made["id"]))["id"] == made["id"]  # type: ignore[arg-type]
    with pytest.raises(click.ClickException, match="has the data class health"):
        _open(double, wanted(folder, data_class="documents"))  # type: ignore[arg-type]
    second = double.store("manuals")
    with pytest.raises(click.ClickException, match=f"Several.*{made['id']}, {second}"):
        _open(double, wanted(folder))  # type: ignore[arg-type]
    double.stores[second]["status"] = "expired"
    assert _open(double, wanted(folder))["id"] == made["id"]  # type: ignore[arg-type]
    double.stores[made["id"]]["status"] = "expired"
    with pytest.raises(click.ClickException, match="has expired"):
        _open(double, wanted(folder))  # type: ignore[arg-type]


class Clock:
    """Stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watching(double: Double, folder: Path) -> tuple[Watch, Told, Clock]:
    told, reader, clock = Told(), Reader(), Clock()

    def begin(report: Report) -> Sync:
        store = _open(double, wanted(folder))  # type: ignore[arg-type]
        return Sync(double, store["id"], Folder(ROOT, "manuals"), told, reader, report=report, clock=clock)  # type: ignore[arg-type]

    watch = Watch(
        folder,
        begin,
        reader,
        told,
        lambda report: told.say(f"in step: {dict(report.counts)}"),
        may_empty=False,
        clock=clock,
    )
    return watch, told, clock


def steps(watch: Watch, count: int = 6) -> list[float]:
    return [watch.step() for _ in range(count)]


def test_watching_follows_each_change_once_it_is_still(folder: Path) -> None:
    double = Double()
    watch, told, _ = watching(double, folder)
    steps(watch)
    store = the_only(double)
    assert double.paths(store) == expected(folder)
    (folder / "late.md").write_text("begin")
    steps(watch, 1)
    with (folder / "late.md").open("a") as file:
        file.write(", end")
    steps(watch, 1)
    assert "late.md" not in dict(double.paths(store))
    steps(watch, 2)
    assert dict(double.paths(store))["late.md"] == b"begin, end"
    assert double.sent.count("manuals/late.md") == 1
    (folder / "pump.md").unlink()
    (folder / "valve.md").rename(folder / "x" / "valve.md")
    steps(watch)
    assert double.paths(store) == expected(folder)
    assert told.lines[-1] == "in step: {'unchanged': 3, 'kept': 0, 'added': 5, 'renamed': 1, 'removed': 1}"


def test_an_idle_watch_asks_the_gateway_for_nothing(folder: Path) -> None:
    double = Double()
    watch, _, clock = watching(double, folder)
    steps(watch)
    double.down = True
    assert steps(watch) == [2.0] * 6
    double.down = False
    (lost, *_) = double.stores[the_only(double)]["members"]
    double.delete(f"/v1/files/{lost}")
    steps(watch)
    assert double.paths(the_only(double)) != expected(folder)
    clock.now += 301  # then it looks whether others changed the store
    steps(watch)
    assert double.paths(the_only(double)) == expected(folder)


def test_watching_survives_a_gateway_that_restarts(folder: Path) -> None:
    double = Double(down=True)
    watch, told, _ = watching(double, folder)
    assert steps(watch) == [4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert told.lines == ["No gateway answers."]
    double.down = False
    steps(watch)
    assert told.lines[1] == "It goes on."
    assert double.paths(the_only(double)) == expected(folder)
    double.down = True
    (folder / "pump.md").write_text("pump 2")
    steps(watch)
    assert told.lines.count("No gateway answers.") == 2
    double.down = False
    steps(watch)
    assert double.paths(the_only(double)) == expected(folder)


def test_an_upload_whose_answer_was_lost_is_found_again(folder: Path) -> None:
    double = Double(broken_at=2.5, by=Unreachable("The line went dead."))
    watch, told, _ = watching(double, folder)
    steps(watch)
    assert told.lines.count("The line went dead.") == 1
    assert double.paths(the_only(double)) == expected(folder)
    assert len(double.sent) == len(double.files) == 4


def test_a_file_that_was_left_once_and_is_gone_is_not_taken(folder: Path) -> None:
    double = Double()
    left = double.file("manuals/late.md", b"late")["id"]
    watch, told, _ = watching(double, folder)
    steps(watch)
    double.delete(f"/v1/files/{left}")
    (folder / "late.md").write_text("late")
    steps(watch)
    assert double.paths(the_only(double)) == expected(folder)
    assert not any("There is no" in line for line in told.lines)


def test_watching_waits_for_a_share_that_is_away(folder: Path) -> None:
    double = Double()
    watch, told, _ = watching(double, folder)
    steps(watch)
    folder.rename(folder.with_name("away"))
    steps(watch)
    assert sum("cannot be read" in line for line in told.lines) == 1
    folder.mkdir()
    steps(watch)
    assert sum("The folder is empty" in line for line in told.lines) == 1
    assert len(double.paths(the_only(double))) == 4
    folder.rmdir()
    folder.with_name("away").rename(folder)
    steps(watch)
    assert double.paths(the_only(double)) == expected(folder)
    assert len(double.sent) == 4


def test_a_wrong_start_ends_a_watch(folder: Path) -> None:
    double = Double()
    double.store("manuals")
    double.store("manuals")
    watch, _, _ = watching(double, folder)
    with pytest.raises(click.ClickException, match="Several"):
        watch.step()


def test_a_file_that_is_refused_is_not_sent_at_each_change(folder: Path) -> None:
    double = Double(largest=10)
    (folder / "big.md").write_text("x" * 11)
    watch, told, _ = watching(double, folder)
    steps(watch)
    (folder / "new.md").write_text("new")
    changes = double.changes
    steps(watch)
    assert double.changes == changes + 2  # of the new one alone
    assert told.lines.count("big.md: failed. The file is too large.") == 1
    (folder / "big.md").write_text("small")
    steps(watch)
    assert double.paths(the_only(double)) == expected(folder)


def test_a_gateway_that_does_nothing_ends_the_waiting(folder: Path) -> None:
    double, clock = Double(looks=10_000), Clock()
    store = double.store("manuals")
    reader = Reader()
    sync = Sync(double, store, Folder(ROOT, "manuals"), Told(), reader, clock=clock)  # type: ignore[arg-type]
    listing = reader.read(look(folder))
    sync.carry_out(sync.plan(listing, retry=False), listing)
    sync.follow()
    clock.now += 899
    sync.follow()
    clock.now += 2
    with pytest.raises(click.ClickException, match="not gone on for 15 minutes; 4 files wait"):
        sync.follow()
