"""The plan alone: whatever a folder and a store hold, what it does brings them in step and touches nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.ingest_plan import Plan, Remote, make_plan

ROOT = "manuals-1"
paths = st.sampled_from(["a.md", "b.md", "c.pdf", "x/a.md", "x/b.md", "x/y/c.pdf"])
contents = st.sampled_from(["1", "2", "3"])
folders = st.dictionaries(paths, contents, max_size=6)
statuses = st.sampled_from(["completed", "in_progress", "failed", "cancelled"])


@st.composite
def stores(draw: st.DrawFn, status: st.SearchStrategy[str] = statuses) -> list[Remote]:
    """Anything: doubles, files of other folders, files that nobody's folder has."""
    return [
        Remote(
            f"file-{number}",
            draw(st.sampled_from([ROOT, ROOT, ROOT, "other", ""])),
            draw(paths | st.just("")),
            draw(contents),
            draw(status),
            created=draw(st.integers(0, 3)),
            error=draw(st.sampled_from(["server_error", "invalid_file"])),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


def mine(remote: Mapping[str, Remote]) -> list[Remote]:
    return [file for file in remote.values() if file.root == ROOT and file.path]


def steps(plan: Plan, remote: dict[str, Remote], outcome: str = "completed") -> Iterator[None]:
    """Carries a plan out, and yields after each step, as a crash would find it."""

    def settled(file: Remote, replaces: tuple[Remote, ...]) -> Iterator[None]:
        remote[file.file_id] = file = replace(file, status=outcome, error="invalid_file")
        yield
        for old in replaces:
            del remote[old.file_id]
            yield

    for rename in plan.renames:
        remote[rename.file.file_id] = replace(remote[rename.file.file_id], path=rename.path)
        yield
    for file in plan.removes:
        del remote[file.file_id]
        yield
    for upload in plan.uploads:
        sent = Remote(f"new-{len(remote)}-{upload.path}", ROOT, upload.path, upload.sha256, "in_progress")
        remote[sent.file_id] = sent
        yield
        yield from settled(sent, upload.replaces)
    for wait in plan.waits:
        yield from settled(remote[wait.file.file_id], wait.replaces)


def carried_out(plan: Plan, remote: list[Remote], outcome: str = "completed") -> dict[str, Remote]:
    after = {file.file_id: file for file in remote}
    for _ in steps(plan, after, outcome):
        pass
    return after


@given(folders, stores())
def test_afterwards_the_store_holds_what_the_folder_does(local: dict[str, str], remote: list[Remote]) -> None:
    after = carried_out(make_plan(local, remote, ROOT, retry=True), remote)
    assert sorted((file.path, file.sha256) for file in mine(after)) == sorted(local.items())


@given(folders, stores(), st.booleans(), st.booleans(), st.sampled_from(["completed", "failed"]))
def test_a_second_time_there_is_nothing_to_do(
    local: dict[str, str], remote: list[Remote], keep: bool, retry: bool, outcome: str
) -> None:
    after = carried_out(make_plan(local, remote, ROOT, keep=keep, retry=retry), remote, outcome)
    assert make_plan(local, after.values(), ROOT, keep=keep).empty


@given(folders, stores(), st.booleans(), st.sets(paths | st.sampled_from(["x", "x/y"]), max_size=2))
def test_foreign_and_held_files_are_never_touched(
    local: dict[str, str], remote: list[Remote], keep: bool, held: set[str]
) -> None:
    def taboo(path: str) -> bool:
        return not held.isdisjoint({path, *map(str, PurePosixPath(path).parents)})

    local = {path: content for path, content in local.items() if not taboo(path)}
    after = carried_out(make_plan(local, remote, ROOT, held=held, keep=keep), remote)
    for file in remote:
        if file.root != ROOT or not file.path or taboo(file.path):
            assert after[file.file_id] == file


@given(folders, stores(status=st.just("completed")), st.booleans())
def test_what_stays_is_found_at_every_moment(local: dict[str, str], remote: list[Remote], keep: bool) -> None:
    """A path that was found and is still in the folder is found throughout, old or new, if only by its new name."""
    now = {file.file_id: file for file in remote}
    lasting = {file.path: file.sha256 for file in mine(now) if file.path in local}
    for _ in steps(make_plan(local, remote, ROOT, keep=keep), now):
        found = [file for file in mine(now) if file.status == "completed"]
        for path, content in lasting.items():
            assert any(file.path == path or file.sha256 == content for file in found)


@given(folders, stores(), st.data())
def test_a_crash_between_any_two_steps_is_mended(
    local: dict[str, str], remote: list[Remote], data: st.DataObject
) -> None:
    now = {file.file_id: file for file in remote}
    crash = data.draw(st.integers(0, 12))
    for number, _ in enumerate(steps(make_plan(local, remote, ROOT, retry=True), now)):
        if number == crash:
            break
    after = carried_out(make_plan(local, now.values(), ROOT, retry=True), list(now.values()))
    assert sorted((file.path, file.sha256) for file in mine(after)) == sorted(local.items())


@given(folders, stores())
def test_kept_files_stay(local: dict[str, str], remote: list[Remote]) -> None:
    plan = make_plan(local, remote, ROOT, keep=True)
    after = carried_out(plan, remote)
    assert plan.vanished == 0
    for file in mine({file.file_id: file for file in remote}):
        if file.path not in local:
            assert after[file.file_id].sha256 == file.sha256


@given(folders, folders)
def test_nothing_is_sent_that_is_there(before: dict[str, str], after: dict[str, str]) -> None:
    """Each content that some file of the same kind has already is never sent for a path that is new."""
    remote = [Remote(f"file-{path}", ROOT, path, content, "completed") for path, content in before.items()]
    plan = make_plan(after, remote, ROOT)
    free = [(file.sha256, file.path[-3:]) for file in remote if after.get(file.path) != file.sha256]
    for upload in plan.uploads:
        wanted = (upload.sha256, upload.path[-3:])
        assert free.count(wanted) <= [(r.file.sha256, r.path[-3:]) for r in plan.renames].count(wanted)


def test_the_cases_in_words() -> None:
    there = Remote("file-1", ROOT, "a.md", "1", "completed")
    assert make_plan({"a.md": "1"}, [there], ROOT) == Plan(unchanged=1)
    changed = make_plan({"a.md": "2"}, [there], ROOT)
    assert [(upload.path, upload.replaces) for upload in changed.uploads] == [("a.md", (there,))]
    assert changed.removes == ()
    moved = make_plan({"x/b.md": "1"}, [there], ROOT)
    assert [(rename.file, rename.path) for rename in moved.renames] == [(there, "x/b.md")]
    assert (moved.uploads, moved.removes) == ((), ())
    assert make_plan({"a.txt": "1"}, [there], ROOT).renames == ()  # it is read as something else now
    assert make_plan({}, [there], ROOT).removes == (there,)
    assert make_plan({}, [there], ROOT, held={"a.md"}) == Plan()


def test_an_error_of_the_gateways_own_costs_no_old_version() -> None:
    old = Remote("file-1", ROOT, "a.md", "1", "completed")
    broken = Remote("file-2", ROOT, "a.md", "2", "failed", error="server_error")
    assert make_plan({"a.md": "2"}, [old, broken], ROOT) == Plan(failed=(broken,))
    (wait,) = make_plan({"a.md": "2"}, [old, broken], ROOT, retry=True).waits
    assert (wait.file, wait.replaces, wait.again) == (broken, (old,), True)
    refused = replace(broken, error="invalid_file")
    assert make_plan({"a.md": "2"}, [old, refused], ROOT, retry=True) == Plan(removes=(old,), failed=(refused,))
