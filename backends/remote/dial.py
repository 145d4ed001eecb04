"""TCP connections to a host that may have several addresses, some of which lead nowhere."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from itertools import chain, zip_longest

from backends.remote.resolve import Address, Resolver

STAGGER_S = 0.25  # the head start of one address over the next (RFC 8305 recommends as much)


async def dial(host: str, port: int, resolver: Resolver) -> socket.socket:
    """To the first address that answers; how long that may take is the caller's to bound.

    Raises:
        OSError: none answers.
        ValueError: a name that cannot be one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # asks nobody
        addresses: list[Address] = [(*address[:3], "", address[4]) for address in found]
    except socket.gaierror:
        addresses = await resolver.addresses(host, port)
    order = families_in_turn(addresses)
    try:
        return await (_reach(order[0]) if len(order) == 1 else race(order))
    except BaseException:  # out of time is a cancellation here
        resolver.forget(host, port)
        raise


def families_in_turn(addresses: list[Address]) -> list[Address]:
    """IPv6 and IPv4 by turns, the resolver's first choice first: the one family may have no way out at all."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(first, others)) if address is not None]


async def race(addresses: list[Address], stagger_s: float = STAGGER_S) -> socket.socket:
    """In order, each a little later than the one before, or as soon as that one failed."""
    waiting, running = deque(addresses), set[asyncio.Task[socket.socket]]()
    failure: BaseException = OSError("no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_reach(waiting.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=stagger_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                failure = error
        raise failure
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_unused)


async def _reach(address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


def _unused(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
