"""Whether the gateway's port is free."""

from __future__ import annotations

import socket


def in_use(host: str, port: int) -> str:
    """Why `host:port` cannot be listened on; empty if it can (or if the system chooses the port)."""
    if port == 0:
        return ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do, so that connections of the last run that linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
