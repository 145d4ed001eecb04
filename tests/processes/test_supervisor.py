"""The life cycle of a process, with processes that only pretend: one start for many, back-off, unloading, races."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from backends.errors import BackendError, BadModelFile, DeadlineExceeded, EngineFailed, Unavailable
from backends.processes.supervisor import Supervisor

pytestmark = pytest.mark.anyio


class Engine:
    """Stands in for a `WorkerProcess`."""

    def __init__(self, pid: int, stop_s: float = 0.0) -> None:
        self.pid = pid
        self.stopped = asyncio.Event()
        self._stop_s = stop_s
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def die(self, why: str = "signal 9") -> None:
        self._death.set_result(why)

    async def ended(self) -> str:
        return await asyncio.shield(self._death)

    async def stop(self) -> None:
        await asyncio.sleep(self._stop_s)
        self.stopped.set()
        if not self._death.done():
            self._death.set_result("exit code 0")


class Spawner:
    """Does what the script says at each start: an error to raise, or a time to take; then it starts at once."""

    def __init__(self, *script: BaseException | float, stop_s: float = 0.0, cleanup_s: float = 0.0) -> None:
        self.engines: list[Engine] = []
        self.starts = 0
        self.cleaned = False
        self._script = list(script)
        self._stop_s = stop_s
        self._cleanup_s = cleanup_s

    async def __call__(self) -> Engine:
        self.starts += 1
        step = self._script.pop(0) if self._script else 0.0
        if isinstance(step, BaseException):
            raise step
        try:
            await asyncio.sleep(step)
        except asyncio.CancelledError:
            await asyncio.sleep(self._cleanup_s)
            self.cleaned = True
            raise
        self.engines.append(Engine(1000 + self.starts, self._stop_s))
        return self.engines[-1]


def supervisor(spawn: Spawner, *, keep_alive_s: float = -1, load_timeout_s: float = 5.0) -> Supervisor[Engine]:
    return Supervisor("the model m", spawn, keep_alive_s=keep_alive_s, load_timeout_s=load_timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    """Bounded by the test's patience only."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def use(s: Supervisor[Engine], seconds: float = 0.0) -> int:
    async with s.lease(5.0) as engine:
        await asyncio.sleep(seconds)
        return engine.pid


async def outcome(awaitable: Awaitable[object]) -> object:
    """The result or the backend's error."""
    try:
        return await awaitable
    except BackendError as e:
        return e


# -- starting --------------------------------------------------------------------------------------------------------


async def test_many_leases_start_one_process() -> None:
    spawn = Spawner(0.05)
    s = supervisor(spawn)
    assert s.status == "stopped"
    pids = await asyncio.gather(*(use(s) for _ in range(20)))
    assert set(pids) == {1001}
    assert spawn.starts == 1
    assert s.status == "ready"
    await s.close()


async def test_a_waiter_that_leaves_does_not_cancel_the_load() -> None:
    spawn = Spawner(0.1)
    s = supervisor(spawn)
    first = asyncio.create_task(use(s))
    await until(lambda: s.status == "starting")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await use(s) == 1001
    assert spawn.starts == 1
    await s.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_waiter_that_leaves_just_as_the_load_ends(turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11 swallowed such a cancellation: the request went on for nobody."""
    loaded = asyncio.Event()

    async def spawn() -> Engine:
        await loaded.wait()
        return Engine(1)

    s = Supervisor("the model m", spawn, keep_alive_s=-1, load_timeout_s=5.0)
    waiter = asyncio.create_task(use(s, 0.2))
    await asyncio.sleep(0.01)
    loaded.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await s.close()


async def test_a_short_wait_ends_and_the_load_goes_on() -> None:
    spawn = Spawner(0.2)
    s = supervisor(spawn)
    with pytest.raises(DeadlineExceeded) as caught:
        async with s.lease(0.02):
            pass
    assert caught.value.code == "load_timeout"
    assert caught.value.retry_after
    assert await use(s) == 1001
    assert spawn.starts == 1
    await s.close()


async def test_a_load_without_end_is_given_up() -> None:
    spawn = Spawner(60.0)
    s = supervisor(spawn, load_timeout_s=0.05)
    with pytest.raises(DeadlineExceeded):
        await use(s)
    assert (s.status, s.detail) == ("failed", "loading took longer than 0.05 s")
    assert spawn.cleaned
    await s.close()


async def test_a_failed_start_is_tried_again_by_the_next_request() -> None:
    spawn = Spawner(EngineFailed("no memory"))
    s = supervisor(spawn)
    failures = await asyncio.gather(*(outcome(use(s)) for _ in range(3)))
    assert all(isinstance(e, EngineFailed) for e in failures)
    assert (s.status, s.detail, spawn.starts) == ("failed", "no memory", 1)
    assert await use(s) == 1002
    assert s.detail == ""
    await s.close()


async def test_a_bad_file_is_never_tried_again() -> None:
    spawn = Spawner(BadModelFile("truncated"))
    s = supervisor(spawn)
    errors = [await outcome(use(s)) for _ in range(4)]
    assert [type(e) for e in errors] == [BadModelFile] * 4
    assert {e.message for e in errors if isinstance(e, BadModelFile)} == {"truncated"}
    assert len({id(e) for e in errors}) == 4, "one instance raised again and again keeps every traceback alive"
    assert (s.status, spawn.starts) == ("failed", 1)
    await s.close()


async def test_an_operating_system_that_refuses_is_a_failure_like_others() -> None:
    spawn = Spawner(OSError(12, "Cannot allocate memory"))
    s = supervisor(spawn)
    error = await outcome(use(s))
    assert isinstance(error, EngineFailed)
    assert "Cannot allocate memory" in error.message
    assert s.status == "failed"
    assert await use(s) == 1002
    await s.close()


# -- dying -----------------------------------------------------------------------------------------------------------


async def test_a_process_that_dies_is_replaced_by_itself() -> None:
    spawn = Spawner()
    s = supervisor(spawn)
    await s.start()
    spawn.engines[0].die()
    await until(lambda: len(spawn.engines) == 2)
    await until(lambda: s.status == "ready")
    assert s.restarts == 1
    assert await use(s) == 1002
    await s.close()


async def test_back_off_grows_and_a_lease_waits_for_the_new_process() -> None:
    spawn = Spawner()
    s = supervisor(spawn)
    await s.start()
    before = s.retry_after()
    spawn.engines[0].die()
    await until(lambda: s.status != "ready")
    assert "signal 9" in s.detail
    assert s.retry_after() > before
    assert await use(s) == 1002
    spawn.engines[1].die()
    await until(lambda: s.status != "ready")
    assert await use(s) == 1003
    assert s.restarts == 2
    await s.close()


async def test_a_restart_that_fails_waits_for_a_request() -> None:
    spawn = Spawner(0.0, EngineFailed("again"))
    s = supervisor(spawn)
    await s.start()
    spawn.engines[0].die()
    await until(lambda: spawn.starts == 2 and s.status == "failed")
    await asyncio.sleep(0.05)
    assert (spawn.starts, s.detail) == (2, "again")
    assert await use(s) == 1003
    await s.close()


# -- unloading -------------------------------------------------------------------------------------------------------


async def test_it_is_unloaded_when_nobody_used_it_for_a_while() -> None:
    spawn = Spawner()
    s = supervisor(spawn, keep_alive_s=0.05)
    await use(s)
    assert s.status == "ready"
    await until(lambda: s.status == "stopped")
    assert spawn.engines[0].stopped.is_set()
    assert s.engine is None
    assert await use(s) == 1002
    await s.close()


async def test_a_lease_keeps_it_loaded() -> None:
    spawn = Spawner()
    s = supervisor(spawn, keep_alive_s=0.02)
    assert await use(s, 0.15) == 1001
    assert not spawn.engines[0].stopped.is_set()
    await s.close()


async def test_each_use_begins_the_time_anew() -> None:
    spawn = Spawner()
    s = supervisor(spawn, keep_alive_s=0.3)
    for _ in range(6):
        await use(s, 0.05)
        await asyncio.sleep(0.05)
    assert spawn.starts == 1
    await s.close()


async def test_a_lease_in_the_middle_of_unloading_gets_a_new_process() -> None:
    spawn = Spawner(stop_s=0.1)
    s = supervisor(spawn, keep_alive_s=0.01)
    await use(s)
    await until(lambda: s.status == "draining")
    pid = await use(s)
    assert pid == 1002
    assert spawn.engines[0].stopped.is_set()
    await s.close()


async def test_leases_and_unloading_race() -> None:
    """Whatever the order: a lease always has a process that has not been stopped, and at the end none is left."""
    spawn = Spawner(stop_s=0.003)
    s = supervisor(spawn, keep_alive_s=0.001)

    async def client(i: int) -> None:
        for k in range(15):
            async with s.lease(5.0) as engine:
                assert not engine.stopped.is_set()
                await asyncio.sleep(0.001 * ((i + k) % 3))
                assert not engine.stopped.is_set()
            await asyncio.sleep(0.001 * ((i * k) % 5))

    await asyncio.gather(*(client(i) for i in range(4)))
    await s.close()
    assert all(engine.stopped.is_set() for engine in spawn.engines)
    assert s.status == "stopped"


@pytest.mark.parametrize("turns", range(6))
async def test_a_lease_just_after_the_time_is_up(turns: int) -> None:
    """At each turn of the event loop between the timer and the unloading: the process of a lease is not stopped."""
    spawn = Spawner()
    s = supervisor(spawn, keep_alive_s=0)
    await use(s)
    for _ in range(turns):
        await asyncio.sleep(0)
    async with s.lease(5.0) as engine:
        await asyncio.sleep(0.02)
        assert not engine.stopped.is_set()
    await s.close()


async def test_a_negative_time_is_for_ever() -> None:
    spawn = Spawner()
    s = supervisor(spawn, keep_alive_s=-1)
    await use(s)
    await asyncio.sleep(0.05)
    assert s.status == "ready"
    await s.close()


async def test_a_load_that_nobody_waits_for_any_more_is_unloaded_too() -> None:
    spawn = Spawner(0.05)
    s = supervisor(spawn, keep_alive_s=0.02)
    with contextlib.suppress(DeadlineExceeded):
        async with s.lease(0.01):
            pass
    await until(lambda: len(spawn.engines) == 1 and s.status == "stopped")
    assert spawn.engines[0].stopped.is_set()
    await s.close()


# -- closing ---------------------------------------------------------------------------------------------------------


async def test_closing_waits_for_the_requests_under_way() -> None:
    spawn = Spawner()
    s = supervisor(spawn)
    finished = []

    async def request() -> None:
        async with s.lease(5.0) as engine:
            await asyncio.sleep(0.1)
            finished.append(engine.stopped.is_set())

    task = asyncio.create_task(request())
    await until(lambda: s.status == "ready")
    await s.close()
    assert finished == [False], "it was stopped under a request"
    assert spawn.engines[0].stopped.is_set()
    await task
    with pytest.raises(Unavailable):
        await use(s)


async def test_closing_during_the_start_ends_the_start() -> None:
    spawn = Spawner(60.0, cleanup_s=0.05)
    s = supervisor(spawn)
    waiter = asyncio.create_task(outcome(use(s)))
    await until(lambda: s.status == "starting")
    await s.close()
    assert spawn.cleaned, "the half-started process was left behind"
    assert isinstance(await waiter, Unavailable)
    assert s.status == "stopped"


async def test_closing_during_the_back_off_starts_nothing() -> None:
    spawn = Spawner()
    s = supervisor(spawn)
    await s.start()
    spawn.engines[0].die()
    await until(lambda: s.status != "ready")
    await s.close()
    await asyncio.sleep(0.4)
    assert spawn.starts == 1


async def test_closing_during_the_unloading_waits_for_its_end() -> None:
    spawn = Spawner(stop_s=0.1)
    s = supervisor(spawn, keep_alive_s=0.01)
    await use(s)
    await until(lambda: s.status == "draining")
    await s.close()
    assert spawn.engines[0].stopped.is_set()
    assert s.status == "stopped"


async def test_closing_what_never_started_and_closing_twice() -> None:
    s = supervisor(Spawner())
    await s.close()
    await s.close()
    assert s.status == "stopped"


async def test_a_death_while_closing_starts_nothing() -> None:
    spawn = Spawner()
    s = supervisor(spawn)
    task = asyncio.create_task(use(s, 0.1))
    await until(lambda: s.status == "ready")
    closing = asyncio.create_task(s.close())
    await until(lambda: s.status == "draining")
    spawn.engines[0].die()
    await closing
    await task
    assert spawn.starts == 1
