"""Lookups that hang hold up nobody but those who wait for them, and do not pile up."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from backends.remote.dial import dial
from backends.remote.resolve import KEPT_S, Address, Resolver
from tests.remote.raw_server import Client, serving

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@dataclass
class Names:
    """A name service that a test may hold up."""

    port: int = 1
    fails: bool = False
    now: float = 100.0
    asked: list[str] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        if host.startswith("slow"):
            assert self.answers.wait(20)
        if self.fails:
            raise socket.gaierror("nobody to ask")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", self.port))]

    def resolver(self) -> Resolver:
        return Resolver(self, lambda: self.now)


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.answers.set()


async def test_who_waits_for_one_host_shares_one_lookup(names: Names) -> None:
    resolver = names.resolver()
    async with asyncio.timeout(20):
        gone = [asyncio.create_task(resolver.addresses("slow", 1)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*gone, return_exceptions=True)
        )
        late = [asyncio.create_task(resolver.addresses("slow", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        names.answers.set()
        for task in late:
            assert [address[4] for address in await task] == [("127.0.0.1", 1)]
    assert names.asked == ["slow"]


async def test_hosts_wait_neither_for_each_other_nor_does_anything_else(names: Names) -> None:
    resolver = names.resolver()
    async with asyncio.timeout(20):
        hanging = [asyncio.create_task(resolver.addresses(f"slow{number}", 1)) for number in range(40)]
        await asyncio.sleep(0)
        assert await resolver.addresses("quick", 1)
        assert await asyncio.to_thread(lambda: 7) == 7
        assert not any(task.done() for task in hanging)
        names.answers.set()
        await asyncio.gather(*hanging)


async def test_what_was_found_is_kept_for_a_while(names: Names) -> None:
    resolver = names.resolver()
    for _ in range(3):
        assert await resolver.addresses("a", 1)
    assert names.asked == ["a"]
    names.now += KEPT_S
    assert await resolver.addresses("a", 1)
    assert names.asked == ["a"] * 2


async def test_a_failure_is_not_kept(names: Names) -> None:
    resolver = names.resolver()
    names.fails = True
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver.addresses("a", 1)
    names.fails = False
    assert await resolver.addresses("a", 1)
    assert names.asked == ["a"] * 3


async def test_an_address_that_leads_nowhere_is_looked_up_again(names: Names) -> None:
    resolver = names.resolver()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        names.port = silent.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await dial("a", 1, resolver)
    async with serving(Client.left) as server:
        names.port = server.port
        for _ in range(2):
            (await dial("a", 1, resolver)).close()
    assert names.asked == ["a"] * 2


async def test_numbers_are_looked_up_nowhere(names: Names) -> None:
    async with serving(Client.left) as server:
        (await dial("127.0.0.1", server.port, names.resolver())).close()
    assert names.asked == []
