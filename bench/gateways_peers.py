"""The gateways that `bench.gateways` measures: how each is started in front of the upstream, and how it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from bench.peers import Peer
from bench.upstream import MODEL

GATEWAYS = ["direct", "outstation", "litellm", "portkey", "asgi-aiohttp", "asgi-httpx2"]
BARE = {"asgi-aiohttp": "on_aiohttp", "asgi-httpx2": "on_httpx2"}
KEY_VARIABLE = "BENCH_UPSTREAM_KEY"
KEY = "sk-bench-upstream"

# Everything that a request can meet on its way out: prices, a budget, data classes of each kind, rules that are read
# and do not hold, the audit. No local model, so that nothing else is measured.
OUTSTATION = """\
[[providers]]
name = "up"
base_url = "{base}/v1"
key_env = "{key}"
data = {{ default = "allow", secret = "deny", email = "redact" }}

[[providers.models]]
name = "{model}"
context_length = 32768
input_price = 0.5
cached_price = 0.1
output_price = 1.5
capabilities = ["tools", "structured_output", "logprobs"]

[privacy]
default = "deny"

[budget]
site_day = 100000.0
site_month = 1000000.0
key_day = 100000.0

[[rules]]
name = "health stays"
when = "'health' in request.data_classes"
locality = "only_local"

[[rules]]
name = "too long"
when = "request.prompt_tokens > 30000 || site.spent_day > 90000.0"
deny = "Too long."
"""

LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {base}/v1
      api_key: {key}
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway and how to speak to it.

    Attributes:
        peer: how to start it; None: the upstream itself is asked.
        model: the upstream's model, in its words.
        headers: what each request to it needs besides.
        requests: how many the latency is taken from.
        streams: whether the streams are tried.
    """

    name: str
    peer: Peer | None
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: int = 2000
    streams: bool = True


@dataclass(frozen=True, slots=True)
class Places:
    """Where the peers are installed; see the Makefile."""

    litellm: Path
    portkey: Path


@dataclass(frozen=True, slots=True)
class Pins:
    """Which cores the gateway has to itself, and which the upstream and the load share; None: nothing is pinned."""

    gateway: frozenset[int] | None = None
    load: frozenset[int] | None = None

    def __str__(self) -> str:
        if self.gateway is None or self.load is None:
            return "nothing is pinned: gateway, upstream and load share all cores"
        return f"the gateway alone on core {_cores(self.gateway)}; upstream and load on core {_cores(self.load)}"

    def command(self, command: list[str], cores: frozenset[int] | None) -> list[str]:
        """The command line with its process, and all threads it will start, on those cores."""
        return command if cores is None else ["taskset", "--cpu-list", _cores(cores), *command]


def pins() -> Pins:
    """The first core for the gateway, all others for the rest; none where that cannot be had or told."""
    if not hasattr(os, "sched_getaffinity") or shutil.which("taskset") is None:
        return Pins()
    cores = sorted(os.sched_getaffinity(0))
    return Pins(frozenset(cores[:1]), frozenset(cores[1:])) if len(cores) > 1 else Pins()


def upstream(where: Pins, *extra: str) -> Peer:
    """The upstream, as a process of its own."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        return where.command([sys.executable, "-m", "bench.upstream", "--port", str(port), *extra], where.load)

    return Peer("upstream", command, "/")


def outstation(base: str) -> Gateway:
    """This gateway, with every policy and the audit at work."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        config = folder / "outstation.toml"
        config.write_text(OUTSTATION.format(base=base, key=KEY_VARIABLE, model=MODEL))
        script = Path(sys.executable).with_name("outstation")
        serve = ["serve", "--config", str(config), "--port", str(port)]
        return ["env", f"OUTSTATION_HOME={folder / 'home'}", str(script), *serve]

    peer = Peer("gateway-outstation", command, "/healthz", environment={KEY_VARIABLE: KEY})
    return Gateway("outstation", peer, model=f"up/{MODEL}")


def litellm(base: str, folder: Path) -> Gateway:
    """LiteLLM's proxy with one worker and one model, without its database; nothing is fetched from the internet."""

    def command(port: int, model: Path, work: Path) -> list[str]:
        config = work / "litellm.yaml"
        config.write_text(LITELLM.format(base=base, key=KEY, model=MODEL))
        options = ["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
        return [str(folder / "bin" / "litellm"), "--config", str(config), "--port", str(port), *options]

    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # nobody here asks for a key
    }
    peer = Peer("gateway-litellm", command, "/health/liveliness", environment=environment)
    return Gateway("litellm", peer, requests=300, streams=False)


def portkey(base: str, folder: Path) -> Gateway:
    """Portkey's gateway on Node; each request names its upstream in headers, as Portkey has it."""

    def command(port: int, model: Path, work: Path) -> list[str]:
        script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        return ["node", str(script), f"--port={port}", "--headless"]

    headers = {
        "Authorization": f"Bearer {KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{base}/v1",
    }
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    return Gateway("portkey", Peer("gateway-portkey", command, "/", environment=environment), headers=headers)


def bare(name: str, base: str) -> Gateway:
    """A bare ASGI app on uvicorn, uvloop and httptools; see `bench.gateways_apps`."""

    def command(port: int, model: Path, folder: Path) -> list[str]:
        server = [sys.executable, "-m", "uvicorn", "--factory", f"bench.gateways_apps:{BARE[name]}"]
        options = ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
        return [*server, "--host", "127.0.0.1", "--port", str(port), *options]

    return Gateway(name, Peer(f"gateway-{name}", command, "/", environment={"BENCH_UPSTREAM": base}))


def available(base: str, wanted: list[str], places: Places, where: Pins) -> list[Gateway]:
    """Those of `wanted` that can be started here, pinned; says on stderr how to get one that cannot."""
    makers: dict[str, Callable[[], Gateway]] = {
        "direct": lambda: Gateway("direct", None),
        "outstation": lambda: outstation(base),
        "litellm": lambda: litellm(base, places.litellm),
        "portkey": lambda: portkey(base, places.portkey),
        **{name: lambda name=name: bare(name, base) for name in BARE},  # type: ignore[misc]
    }
    missing = {
        "litellm": not (places.litellm / "bin" / "litellm").exists(),
        "portkey": not (places.portkey / "node_modules").exists() or shutil.which("node") is None,
    }
    for name in wanted:
        if missing.get(name):
            print(f"{name} is not here: start the bench with `make bench-gateways`.", file=sys.stderr)
    return [_pinned(makers[name](), where) for name in wanted if not missing.get(name)]


def versions(places: Places) -> str:
    """The versions of what is measured, ours and theirs."""
    from importlib.metadata import version

    names = ("outstation", "uvicorn", "uvloop", "httptools", "aiohttp", "httpx2")
    found = [f"{name} {version(name)}" for name in names]
    code = "from importlib.metadata import version; print('litellm', version('litellm'))"
    found += _said([str(places.litellm / "bin" / "python"), "-c", code])
    manifest = places.portkey / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    if manifest.exists():
        found.append(f"@portkey-ai/gateway {json.loads(manifest.read_text())['version']}")
    return ", ".join(found + [f"node {line}" for line in _said(["node", "--version"])])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children, so far."""
    parent = psutil.Process(pid)
    total = 0.0
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _pinned(gateway: Gateway, where: Pins) -> Gateway:
    peer = gateway.peer
    if peer is None:
        return gateway

    def command(port: int, model: Path, folder: Path) -> list[str]:
        assert peer is not None
        return where.command(peer.command(port, model, folder), where.gateway)

    return replace(gateway, peer=replace(peer, command=command))


def _said(command: list[str]) -> list[str]:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [asked.stdout.strip()] if asked.returncode == 0 else []


def _cores(cores: frozenset[int]) -> str:
    return ",".join(str(core) for core in sorted(cores))
