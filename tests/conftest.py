"""What every room's tests share: the real model's file, and real gateways in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m-instruct"
START_TIMEOUT_S = 120.0


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would the processes that tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The real model: `$OUTSTATION_TEST_MODEL`, or where `make test` pulls it to."""
    return find_model(MODEL, "OUTSTATION_TEST_MODEL")


def find_model(name: str, variable: str) -> Path:
    """A model's file: what the environment variable names, or where `make test` pulls it to."""
    named = os.environ.get(variable)
    homes = [Path(os.environ.get("OUTSTATION_HOME", ROOT / ".outstation")), ROOT / ".outstation"]
    places = [Path(named)] if named else [home / "models" / f"{name}.gguf" for home in homes]
    for place in places:
        if place.is_file():
            return place
    pytest.fail(f"The model is not at {places[0]}: run `make test`, or set {variable} to a copy.")


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    home: Path

    @property
    def base_url(self) -> str:
        """As SDKs want it."""
        return f"{self.url}/v1"

    def status(self) -> dict[str, object]:
        """The first model's state."""
        state: dict[str, object] = httpx2.get(f"{self.url}/outstation/status").json()["models"][0]
        return state

    def wait(self, path: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until `path` answers 200."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if httpx2.get(self.url + path).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer:\n{self.log.read_text()}")


Starter = Callable[..., Gateway]


@pytest.fixture(scope="session")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts `outstation serve` with a configuration, in an empty home, on a free port; all are stopped at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(config: str = "", env: dict[str, str] | None = None, wait_for: str | None = "/healthz") -> Gateway:
        home = tmp_path_factory.mktemp("home")
        (home / "outstation.toml").write_text(config, encoding="utf-8")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OUTSTATION_")}
        port = free_port()
        log = home / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "--port", str(port)],
                cwd=home,
                env={**clean, "PYTHONPATH": str(ROOT), "OUTSTATION_HOME": str(home), **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running.append(process)
        gateway = Gateway(f"http://127.0.0.1:{port}", process, log, home)
        if wait_for:
            gateway.wait(wait_for)
        return gateway

    yield start
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def model_config(model_file: Path) -> Callable[..., str]:
    """A configuration that serves the real model; keyword arguments are further lines of its `[[models]]`."""

    def config(rest: str = "", **model: object) -> str:
        lines = {"name": f'"{MODEL}"', "file": f'"{model_file}"', "load": '"start"', **model}
        return rest + "\n[[models]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items()) + "\n"

    return config


@pytest.fixture(scope="session")
def gateway(start_gateway: Starter, model_config: Callable[..., str]) -> Gateway:
    """The gateway with the real model, shared: tests must leave it as they found it."""
    return start_gateway(model_config('[aliases]\n"gpt-4o-mini" = "auto"\n'), wait_for="/readyz")
