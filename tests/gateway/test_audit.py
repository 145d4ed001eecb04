"""The audit: one row a request, none lost to a crash, none changed unseen; nothing leaves while it cannot be kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Unavailable
from gateway.audit import Audit, Decision, verify
from gateway.audit_journal import NAMES, Journal
from gateway.audit_reader import decisions, last_decisions, ledger, opened
from gateway.audit_rows import LONGEST_BODY, Departure, decision_row, departure_line, to_decision, to_departure
from gateway.audit_writer import Item, Writer
from gateway.commands.audit import audit as audit_command

ROOT = Path(__file__).parents[2]
NOW = 1_780_000_000.0
DAY = 86_400.0
FULL = Decision(
    request_id="req_1",
    at=NOW,
    endpoint="/v1/chat/completions",
    key="kiosk",
    model="auto",
    stream=True,
    ending="error",
    error="timeout",
    status=503,
    route="cloud/large",
    reasons=("auto: the default", "local/small failed: queue_full"),
    attempts=(("local/small", "queue_full", 0.001), ("cloud/large", "timeout", 1.5)),
    drops=(("local/tiny", "capability", "context"),),
    ttft_s=0.25,
    total_s=1.5,
    prompt_tokens=100,
    cached_tokens=10,
    completion_tokens=20,
    cost=0.0125,
    model_hash="ab" * 32,
    policy_hash="cd" * 32,
    data_classes=("email", "phone"),
    redacted=True,
    continued=True,
    facts=b'{"snapshot": [1, 2]}',
)


SWAP = """
UPDATE rows SET id = -1 WHERE id = 5;
UPDATE rows SET id = 5 WHERE id = 7;
UPDATE rows SET id = 7 WHERE id = -1;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "audit.db"


@contextmanager
def running(path: Path, keep_days: int = 36_500, **options: Any) -> Iterator[Audit]:
    audit = Audit(path, keep_days, **options)
    audit.start()
    try:
        yield audit
    finally:
        audit.close()


def depart(audit: Audit, request_id: str, usd: float = 0.5, key: str = "kiosk") -> None:
    audit.depart(request_id, "cloud", "api.example.org", 1234, frozenset({"phone", "email"}), True, usd, key)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def filled(path: Path, count: int = 6) -> None:
    """Decisions with a departure each: rows 1 to 2 * count, odd ones departures."""
    with running(path, clock=lambda: NOW) as audit:
        for number in range(count):
            depart(audit, f"r{number}")
            audit.decision(replace(FULL, request_id=f"r{number}", at=NOW + number))


def spent(path: Path) -> list[tuple[Any, ...]]:
    """(key, US dollars, UTC day)."""
    with opened(path) as db:
        return list(db.execute("SELECT key, usd, day FROM spent ORDER BY day, key"))


def change(path: Path, sql: str) -> None:
    with apsw.Connection(str(path)) as db:
        db.execute(sql)
    db.close()


# What is kept


def test_rows_come_back_as_they_were(path: Path) -> None:
    with running(path, clock=lambda: NOW) as audit:
        assert audit.healthy and audit.why == ""
        depart(audit, "req_1")
        audit.decision(FULL)
        eventually(lambda: list(decisions(path, 0, NOW + 1)))
        assert list(decisions(path, 0, NOW + 1)) == [FULL]
        assert list(decisions(path, NOW + 1, NOW + 2)) == []
        assert list(decisions(path, 0, NOW)) == [], "`until` is not part of it"
        assert list(ledger(path, NOW)) == [
            Departure(1, "req_1", NOW, "cloud", "api.example.org", 1234, ("email", "phone"), True, 0.5, "kiosk")
        ]
        assert list(ledger(path, NOW + 1)) == []
        assert audit.lost == 0
    assert verify(path).rows == 2


def test_nobody_else_can_read_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    with running(path) as audit:
        depart(audit, "a")
        eventually(lambda: list(ledger(path)))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert {"audit.db", "audit.db-wal", "audit.db-shm", *NAMES} == set(modes)
    assert set(modes.values()) == {0o600}


def test_money_is_added_up_by_key_and_day(path: Path) -> None:
    midnight = NOW // DAY * DAY + DAY
    with running(path) as audit:
        audit.decision(replace(FULL, at=midnight - 10, total_s=1, cost=1.0))
        audit.decision(replace(FULL, at=midnight - 10, total_s=20, cost=2.0))
        audit.decision(replace(FULL, at=midnight, key="van", cost=4.0))
        audit.decision(replace(FULL, at=midnight, cost=8.0))
        audit.decision(replace(FULL, at=midnight, cost=0.0))
    counted: list[Any] = []
    with running(path, on_open=counted.extend):
        assert sorted(counted, key=lambda row: (row[2], row[0])) == [
            ("kiosk", 1.0, "2026-05-28"),
            ("kiosk", 10.0, "2026-05-29"),
            ("van", 4.0, "2026-05-29"),
        ]


texts = st.text(max_size=30)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Decision,
        request_id=texts,
        at=st.floats(0, 4e9),
        model=texts,
        reasons=st.lists(texts, max_size=4).map(tuple),
        attempts=st.lists(st.tuples(texts, texts, numbers), max_size=3).map(tuple),
        drops=st.lists(st.tuples(texts, texts, texts), max_size=3).map(tuple),
        ttft_s=st.none() | numbers,
        cost=st.floats(0, 1e6),
        facts=st.binary(max_size=50),
    )
)
def test_any_decision_can_be_read_back(decision: Decision) -> None:
    row = decision_row(decision)
    assert to_decision(row.body, row.facts) == decision
    assert row.body == decision_row(decision).body
    assert list(json.loads(row.body)) == sorted(json.loads(row.body))


@given(texts, texts, st.floats(0, 4e9), st.integers(0, 2**53), st.frozensets(texts, max_size=4), st.booleans())
def test_any_departure_can_be_read_back(
    name: str, host: str, at: float, size: int, classes: frozenset[str], redacted: bool
) -> None:
    departure = Departure(7, name, at, name, host, size, tuple(sorted(classes)), redacted, 0.25, host)
    line = departure_line(departure)
    assert line.index(b"\n") == len(line) - 1
    assert to_departure(line) == departure


def test_what_a_client_makes_endless_is_cut(path: Path) -> None:
    endless = "x" * 1_000_000
    row = decision_row(replace(FULL, model=endless, reasons=(endless,) * 50))
    assert len(row.body) <= LONGEST_BODY
    assert to_decision(row.body, b"").model == "x" * 200
    assert to_decision(decision_row(replace(FULL, model="a\ud800b")).body, b"").model == "a?b"


@pytest.mark.parametrize(
    "bad", [{"cost": float("nan")}, {"at": float("inf")}, {"facts": "text"}, {"prompt_tokens": 2**70}]
)
def test_one_impossible_row_does_not_stop_the_others(path: Path, bad: dict[str, Any]) -> None:
    with running(path) as audit:
        audit.decision(replace(FULL, **bad))
        audit.decision(FULL)
        eventually(lambda: list(decisions(path, 0, NOW + 1)))
        assert audit.lost == 1 and audit.healthy
    assert verify(path).ok


# The chain


def test_an_untouched_audit_is_right(path: Path) -> None:
    filled(path)
    found = verify(path)
    assert (found.ok, found.rows, found.first, found.last) == (True, 12, 1, 12)
    with running(path) as audit:
        audit.decision(FULL)
    assert verify(path, known=found.head).ok, "the chain has gone on behind the hash that was noted"
    assert verify(path).rows == 13


@pytest.mark.parametrize(
    ("sql", "first_bad", "why"),
    [
        ("UPDATE rows SET body = replace(body, 'kiosk', 'van') WHERE id = 4", 4, "row 4 is changed"),
        ("UPDATE rows SET body = 'x' WHERE id = 4", 4, "row 4 is not a row of the audit"),
        ("UPDATE rows SET body = '[1]' WHERE id = 3", 3, "row 3 is not a row of the audit"),
        ("UPDATE rows SET facts = x'00' WHERE id = 4", 4, "row 4 is changed"),
        ("UPDATE rows SET at = at + 1 WHERE id = 4", 4, "row 4 is changed"),
        ("UPDATE rows SET hash = zeroblob(32) WHERE id = 4", 4, "row 4 is changed"),
        ("UPDATE rows SET kind = 'decision' WHERE id = 3", 3, "row 3 is not a row of the audit"),
        ("UPDATE rows SET id = 100 WHERE id = 12", 12, "row 12 is missing, with all up to 99"),
        ("DELETE FROM rows WHERE id = 1", 1, "row 1 is missing"),
        ("DELETE FROM rows WHERE id IN (5, 6)", 5, "row 5 is missing, with all up to 6"),
        ("DELETE FROM rows WHERE id > 9", 10, "rows 10 to 12 are missing at the end"),
        ("DELETE FROM rows", 1, "rows 1 to 12 are missing at the end"),
        ("INSERT INTO rows SELECT 13, kind, at, body, facts, hash FROM rows WHERE id = 12", 13, "row 13 is changed"),
        (
            SWAP,
            5,
            "row 5 is changed, or in another's place",
        ),
        ("UPDATE chain SET head_hash = zeroblob(32)", 12, "row 12 is not the one that was written last"),
        ("UPDATE chain SET anchor_id = 2, anchor_hash = zeroblob(32)", 3, "row 3 is preceded by others"),
        ("DELETE FROM chain", None, "the end of the chain is not noted"),
        ("UPDATE spent SET usd = 0.01", None, "the total of 2026-05-28"),
        ("DELETE FROM spent", None, "the total of 2026-05-28"),
    ],
)
def test_what_was_done_to_it_is_found(path: Path, sql: str, first_bad: int | None, why: str) -> None:
    filled(path)
    change(path, sql)
    found = verify(path)
    assert not found.ok
    assert found.first_bad == first_bad
    assert found.why.startswith(why)


def test_a_chain_that_was_written_anew_lacks_the_hash_that_was_noted(path: Path) -> None:
    filled(path)
    noted = verify(path).head
    path.unlink()
    filled(path, count=5)
    assert verify(path).ok, "from the inside it looks right"
    assert "no row has the hash" in verify(path, known=noted).why


# Age


def test_old_rows_go_and_the_chain_goes_on(path: Path) -> None:
    filled(path)
    head = verify(path).head
    with running(path, keep_days=1, clock=lambda: NOW + DAY + 3.5) as audit:
        eventually(lambda: len(list(decisions(path, 0, 3e9))) == 2)
        assert spent(path) == [("kiosk", pytest.approx(0.075), "2026-05-28")], "what was spent is not forgotten"
    found = verify(path, known=head)
    assert (found.ok, found.first, found.last) == (True, 10, 12), "rows 1 to 9 were older"
    with running(path, keep_days=1, clock=lambda: NOW + 3 * DAY) as audit:
        eventually(lambda: not list(decisions(path, 0, 3e9)))
        audit.decision(replace(FULL, at=NOW + 3 * DAY))
    assert (verify(path).ok, verify(path).rows, verify(path).first) == (True, 1, 13)


def test_a_clock_that_was_wrong_tears_no_hole(path: Path) -> None:
    with running(path) as audit:
        for at in (NOW, 0.0, NOW):
            audit.decision(replace(FULL, at=at))
    with running(path, keep_days=1, clock=lambda: NOW):
        pass
    assert verify(path).rows == 3


# Crashes

CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
import apsw
from gateway.audit import Audit, Decision
audit = Audit(Path(sys.argv[1]), 36500)
audit.start()
if sys.argv[2] == "locked":
    lock = apsw.Connection(sys.argv[1])
    lock.execute("BEGIN EXCLUSIVE")
number = 0
while True:
    number += 1
    name = f"r{number}"
    audit.depart(name, "cloud", "api.example.org", 10, frozenset(), False, 0.25, "kiosk")
    audit.depart(name, "other", "api.example.net", 10, frozenset({"email"}), True, 0.5, "kiosk")
    print("sent", number, flush=True)
    if number % 2:
        audit.decision(Decision(name, time.time(), key="kiosk", cost=0.125))
    if number == int(sys.argv[3]):
        time.sleep(60)
"""


def killed(path: Path, how: str, count: int, reach: int) -> int:
    """Runs a gateway's audit until `reach` requests have departed, and kills it. Returns how many were acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), how, str(count)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(reach)]
        child.send_signal(signal.SIGKILL)
        # A full pipe takes a line in two parts: the end of the last one may have died with the process.
        lines += child.stdout.read().rpartition("\n")[0].splitlines()
    assert child.returncode == -signal.SIGKILL
    return int(lines[-1].split()[1])


@pytest.mark.parametrize(("how", "count", "reach"), [("free", 10**9, 2000), ("free", 10**9, 1), ("locked", 300, 300)])
def test_what_left_survives_a_kill_and_ends_once(path: Path, how: str, count: int, reach: int) -> None:
    acknowledged = killed(path, how, count, reach)
    assert acknowledged >= reach
    with running(path):
        sent = list(ledger(path))
        names = [departure.request_id for departure in sent]
        assert set(names) >= {f"r{number}" for number in range(1, acknowledged + 1)}
        assert [departure.number for departure in sent] == list(range(1, len(sent) + 1))
        ended = {decision.request_id: decision for decision in decisions(path, 0, 1e11)}
        assert len(ended) == len(list(decisions(path, 0, 1e11))), "an outcome each, and not two"
        assert set(ended) == set(names)
        crashed = [decision for decision in ended.values() if decision.ending == "crashed"]
        assert {d.request_id for d in crashed} >= {f"r{n}" for n in range(2, acknowledged + 1, 2)}
        assert {d.cost for d in crashed if d.request_id != f"r{acknowledged + 1}"} == {0.75}
        assert all(d.key == "kiosk" for d in crashed)
        cost = sum(decision.cost for decision in ended.values())
        assert sum(usd for _, usd, _ in spent(path)) == pytest.approx(cost)
    if how == "locked":
        assert len(crashed) == 300, "nothing had reached the database: the journal alone knew"
    rows = verify(path)
    assert rows.ok
    with running(path):
        pass
    assert verify(path) == rows, "recovered once"


def test_only_the_request_that_was_under_way_crashed(path: Path) -> None:
    """A client may use the same id again."""
    first = Audit(path, 36_500)
    first.start()
    depart(first, "again")
    first.decision(replace(FULL, request_id="again"))
    depart(first, "again", usd=0.125)
    first.close()
    with running(path) as audit:
        endings = [(decision.ending, decision.cost) for decision in last_decisions(path, 10)]
    assert sorted(endings) == [("crashed", 0.125), ("error", 0.0125)]
    assert audit.lost == 0


def test_a_second_gateway_lets_nothing_leave(path: Path) -> None:
    with running(path) as first, running(path) as second:
        assert "another gateway uses this home" in second.why
        with pytest.raises(Unavailable, match="another gateway"):
            depart(second, "a")
        depart(first, "a")
    assert [departure.request_id for departure in ledger(path)] == ["a"]


# The journal


def lines_of(folder: Path) -> list[int]:
    return [len((folder / name).read_bytes().splitlines()) for name in NAMES]


def line(number: int) -> bytes:
    return departure_line(Departure(number, f"r{number}", NOW, "cloud", "h", 1, (), False, 0.0))


def test_the_journal_takes_turns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, full_bytes=3 * len(line(1)))
    assert [journal.append(line(n)) for n in range(1, 5)] == [None] * 4, "the other file has not been emptied yet"
    journal.clear(1)
    assert journal.append(line(5)) == 0
    assert [journal.append(line(n)) for n in range(6, 9)] == [None] * 3
    assert lines_of(tmp_path) == [5, 3]
    assert [departure.number for departure, _ in journal.rows()[0]] == [1, 2, 3, 4, 5, 6, 7, 8]
    journal.clear(0)
    assert journal.append(line(9)) == 1
    assert journal.append(line(10)) is None
    assert lines_of(tmp_path) == [1, 4]
    journal.close()


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).write_bytes(
        line(1) + line(2)[:20] + b"\n\n" + b'{"a": 1}\n[]\n\xff\n' + line(4) + line(3)[:-1]
    )
    journal = Journal(tmp_path)
    rows, torn = journal.rows()
    assert [departure.number for departure, _ in rows] == [1, 3, 4]
    assert all(to_departure(row.body) == departure for departure, row in rows)
    assert torn == 4
    journal.close()


def test_a_busy_journal_stays_small(path: Path) -> None:
    with running(path) as audit:
        for number in range(15_000):
            if number % 1000 == 0:
                eventually(lambda: not audit._queue)
            depart(audit, f"r{number}")
        assert sum((path.parent / name).stat().st_size for name in NAMES) < 15_000 * 200 * 0.9
        eventually(lambda: len(list(ledger(path))) == 15_000)
    assert lines_of(path.parent) == [0, 0]


# When it cannot be kept


def test_nothing_leaves_before_the_start_and_after_the_end(path: Path) -> None:
    audit = Audit(path, 1)
    assert not audit.healthy
    audit.decision(FULL)
    assert audit.lost == 1
    with pytest.raises(Unavailable) as before:
        depart(audit, "a")
    assert before.value.code == "audit_unavailable"
    audit.start()
    audit.close()
    audit.close()
    with pytest.raises(Unavailable):
        depart(audit, "a")


def test_a_damaged_file_lets_nothing_leave_and_the_box_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    counted: list[Any] = []
    with running(path, on_open=counted.append) as audit:
        assert not audit.healthy
        with pytest.raises(Unavailable, match=r"it is not a database\. Move it aside") as refusal:
            depart(audit, "a")
        assert refusal.value.code == "audit_unavailable" and refusal.value.retry_after
        audit.decision(FULL)
        assert counted == []
        path.rename(path.with_suffix(".old"))
        eventually(lambda: audit.healthy)
        with pytest.raises(Unavailable):
            depart(audit, "a")  # decided before anyone knew what had been spent
        assert counted == [[]]
        depart(audit, "b")
        eventually(lambda: len(list(ledger(path))) == 1)
        assert counted == [[]]
    assert last_decisions(path, 5) == [replace(FULL, facts=b"")], "it waited"


def test_who_does_not_count_late_lets_nothing_leave(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    with running(path) as audit:
        path.unlink()
        eventually(lambda: audit.healthy)
        for _ in range(2):
            with pytest.raises(Unavailable, match="Restart the gateway"):
                depart(audit, "a")


def test_a_locked_file_stops_what_would_leave_and_loses_little(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(path) as audit:
        lock = apsw.Connection(str(path))
        lock.execute("BEGIN IMMEDIATE")
        depart(audit, "a")
        eventually(lambda: not audit.healthy)
        with pytest.raises(Unavailable, match="another process has it locked"):
            depart(audit, "b")
        for _ in range(10_001):
            audit.decision(FULL)
        assert audit.lost == 1
        assert [r.message for r in caplog.records if "being lost" in r.message] == [
            f"decisions are being lost: {audit.why}"
        ]
        lock.execute("ROLLBACK")
        lock.close()
        eventually(lambda: audit.healthy)
        depart(audit, "c")
    assert verify(path).rows == 10_002
    assert [departure.request_id for departure in ledger(path)] == ["a", "c"]


DISK = """
import resource, sys, time
from pathlib import Path
from backends.errors import Unavailable
from gateway.audit import Audit, Decision
audit = Audit(Path(sys.argv[1]), 36500)
audit.start()
audit.depart("r0", "cloud", "h", 1, frozenset(), False, 0.0)
time.sleep(0.2)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
refused = 0
for number in range(1, 6):
    try:
        audit.depart(f"r{number}", "cloud", "h", 1, frozenset(), False, 0.0)
    except Unavailable as error:
        refused += 1
assert refused, "nothing was refused"
assert not audit.healthy, "it did not notice"
time.sleep(0.2)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
deadline = time.monotonic() + 20
while True:
    try:
        audit.depart("last", "cloud", "h", 1, frozenset(), False, 0.0)
        break
    except Unavailable:
        assert time.monotonic() < deadline, audit.why
        time.sleep(0.05)
assert audit.healthy, audit.why
audit.close()
print(refused)
"""


def test_a_disk_that_takes_no_more_refuses_and_recovers(path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", DISK, str(path)], capture_output=True, cwd=ROOT, text=True)
    assert child.returncode == 0, child.stderr
    with running(path):
        names = [departure.request_id for departure in ledger(path)]
    assert names[0] == "r0" and names[-1] == "last"
    assert len(names) == 7 - int(child.stdout), "each that was let go, and no other"
    assert verify(path).ok


def test_a_commit_that_succeeded_after_all_is_not_repeated(path: Path) -> None:
    queue: deque[Item] = deque([FULL])
    writer = Writer(path, DAY, lambda: NOW, queue, threading.Event())
    assert writer.work()
    rows = [decision_row(FULL)]
    assert writer._store is not None
    writer._store.append(rows)
    writer._batch = rows  # as if the commit had said that it failed
    writer._fail(OSError("I/O error"))
    assert "I/O error" in writer.why
    queue.append(FULL)
    assert writer.work() and writer.why == ""
    writer.finish()
    assert verify(path).rows == 3


def test_clients_are_not_told_where_files_are(path: Path) -> None:
    path.mkdir(parents=True)
    with running(path) as audit, pytest.raises(Unavailable) as refusal:
        depart(audit, "a")
    assert "could not be recorded" in refusal.value.message
    assert str(path.parent) not in refusal.value.message


def test_it_notices_that_its_file_was_taken_away(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(path) as audit:
        path.rename(path.with_suffix(".old"))
        audit.decision(FULL)
        eventually(lambda: not audit.healthy)
        eventually(lambda: audit.healthy)
    assert any("removed or replaced" in record.message for record in caplog.records)
    assert verify(path).rows == 1


def test_the_loop_never_waits_for_the_disk(path: Path) -> None:
    """All that is written is written by the thread: `decision` only queues."""
    with running(path) as audit:
        threads = {thread.name for thread in threading.enumerate()}
        assert "audit" in threads
        lock = apsw.Connection(str(path))
        lock.execute("BEGIN IMMEDIATE")
        for number in range(100):
            depart(audit, f"r{number}")
            audit.decision(replace(FULL, request_id=f"r{number}"))
        lock.execute("ROLLBACK")
        lock.close()
    assert verify(path).rows == 200


# The commands


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("OUTSTATION_HOME", str(path.parent))
    return lambda *arguments: CliRunner().invoke(audit_command, arguments, prog_name="audit")


def test_verify_says_what_it_found(path: Path, run: Callable[..., Any]) -> None:
    filled(path)
    head = verify(path).head
    result = run("verify")
    assert result.exit_code == 0
    assert result.output == f"12 rows are as they were written (1 to 12).\nhead {head}\n"
    assert run("verify", "--head", head.upper()).exit_code == 0
    assert run("verify", "--head", "00").exit_code == 1
    change(path, "DELETE FROM rows WHERE id = 7")
    result = run("verify")
    assert result.exit_code == 1
    assert "row 7 is missing" in result.output
    result = run("verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["first_bad"] == 7


def test_ls_lists_the_last_while_the_gateway_writes(path: Path, run: Callable[..., Any]) -> None:
    with running(path) as audit:
        for number in range(5):
            audit.decision(replace(FULL, request_id=f"r{number}", at=time.time() - 3600 * (5 - number)))
        audit.decision(
            Decision("free", time.time(), route="local/small", prompt_tokens=7, reasons=("the\x1b[2J default\n",))
        )
        eventually(lambda: len(last_decisions(path, 10)) == 6)
        head, *rows = run("ls", "-n", "2").output.splitlines()
        assert head.split() == ["TIME", "KEY", "ROUTE", "ENDING", "PROMPT", "COMPLETION", "USD", "REASON"]
        assert rows[0].split()[2:6] == ["kiosk", "cloud/large", "error:", "timeout"]
        assert rows[0].endswith("100     20          0.012500  auto: the default; local/small failed: queue_full")
        assert rows[1].split()[2:] == ["-", "local/small", "success", "7", "0", "-", "the[2J", "default"]
        names = [row["request_id"] for row in json.loads(run("ls", "--since", "150m", "--json").output)]
        assert names == ["r3", "r4", "free"]
        assert "facts" not in json.loads(run("ls", "--json").output)[0]


def test_egress_lists_what_left_with_totals(path: Path, run: Callable[..., Any]) -> None:
    with running(path):
        pass
    assert "Nothing has left the site." in run("egress").output
    with running(path) as audit:
        for number in range(3):
            depart(audit, f"r{number}")
        audit.depart("x", "other", "b.example.org", 10, frozenset(), False, 0.0)
    head, *rows = run("egress", "-n", "2").output.splitlines()
    assert head.split() == ["TIME", "PROVIDER", "HOST", "BYTES", "CLASSES", "REDACTED"]
    assert rows[0].split()[2:] == ["cloud", "api.example.org", "1234", "email,", "phone", "yes"]
    assert rows[1].split()[2:] == ["other", "b.example.org", "10", "-", "no"]
    assert rows[2:] == [
        "cloud: 3 sent, 3.7 kB, 3 with data classes, 3 redacted",
        "other: 1 sent, 10 B, 0 with data classes, 0 redacted",
    ]
    data = json.loads(run("egress", "--json", "--since", "1h").output)
    assert [row["request_id"] for row in data["departures"]] == ["r0", "r1", "r2", "x"]
    assert data["totals"][0] == {"provider": "cloud", "departures": 3, "bytes": 3702, "classified": 3, "redacted": 3}


@pytest.mark.parametrize("command", ["verify", "ls", "egress"])
def test_commands_say_that_there_is_none(path: Path, run: Callable[..., Any], command: str) -> None:
    result = run(command)
    assert isinstance(result.exception, Unavailable)
    assert "There is no audit at" in result.exception.message
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    assert "it is not a database" in run(command).exception.message


@pytest.mark.parametrize("age", ["", "7", "7w", "-1d", "1.5h", "9999999999d"])
def test_an_age_that_is_none_is_a_wrong_usage(run: Callable[..., Any], age: str) -> None:
    result = run("ls", f"--since={age}")
    assert result.exit_code == 2
    assert "7d" in result.output
