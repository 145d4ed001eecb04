"""A new configuration while requests run: the old one ends with its last request, a bad one changes nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pytest

from backends.fake import FakeBackend, say
from backends.models.store import Origin, Store
from backends.types import Chunk, Usage
from gateway.app import build_app, build_generation
from gateway.audit_reader import decisions
from gateway.config import Config, load_config
from gateway.pool import Pool
from gateway.providers import remote_routes
from gateway.reload import Gateway, Generation
from gateway.shared import Shared, build_shared
from tests.conftest import MODEL
from tests.gateway.conftest import HELLO, living
from tests.gateway.test_routing import FakeRemote
from tests.models.gguf_writer import gguf

pytestmark = pytest.mark.anyio

A = '[[models]]\nname = "a"\n'
B = '[[models]]\nname = "b"\n'
ACME = """
[[providers]]
name = "acme"
base_url = "http://127.0.0.1:9/v1"
[[providers.models]]
name = "large"
context_length = 100000
input_price = 1
output_price = 1
"""


@dataclass
class Bench:
    """A gateway whose file can be written, and every backend that was ever made for it."""

    file: Path
    made: list[FakeBackend] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    env: dict[str, str] = field(default_factory=dict)
    refuse: Exception | None = None
    gateway: Gateway = None  # type: ignore[assignment]

    def load(self) -> Config:
        return load_config(self.file, environ={"OUTSTATION_HOME": str(self.file.parent), **self.env})

    def build(self, config: Config, shared: Shared) -> Generation:
        local = [shared.pool.get(row, partial(self._local, row.name))[0] for row in config.models]
        remote = [(r, shared.pool.get(r, partial(self._remote, r.name))[0]) for r in remote_routes(config)]
        if self.refuse:
            raise self.refuse
        return build_generation(config, shared, local, remote)

    def _local(self, name: str) -> list[FakeBackend]:
        waits = [Chunk(0, "from "), self.gate, Chunk(0, name), Chunk(0, finish_reason="stop"), Usage(1, 2)]
        return self._keep(FakeBackend(name, lambda r: waits if r.stream else say(f"from {name}")(r)))

    def _remote(self, name: str) -> list[FakeBackend]:
        return self._keep(FakeRemote(name, say("from afar")))

    def _keep(self, backend: FakeBackend) -> list[FakeBackend]:
        self.made.append(backend)
        return [backend]

    def start(self, text: str, **options: float) -> Gateway:
        self.file.write_text(text)
        config = self.load()
        self.gateway = Gateway(config, partial(build_shared, config), self.build, self.load, **options)
        return self.gateway

    async def reload(self, text: str) -> str:
        self.file.write_text(text)
        return await self.gateway.reload()

    @property
    def closed(self) -> list[str]:
        return [backend.name for backend in self.made if backend.closed]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "outstation.toml")


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "outstation")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


async def answer(app, exchange, **fields):
    headers = fields.pop("headers", {})
    begun = exchange(app, {**HELLO, **fields}, **headers)
    await begun.end()
    return begun


# -- requests and generations ----------------------------------------------------------------------------------------


async def test_a_request_under_way_ends_in_the_configuration_that_it_began_in(bench, exchange):
    app = bench.start(A)
    running = exchange(app, {**HELLO, "model": "a", "stream": True})
    await running.until_contains(b"from ")
    assert await bench.reload(B) == ""
    assert (await answer(app, exchange, model="a")).status == 404
    assert b"from b" in (await answer(app, exchange, model="b")).body
    assert bench.closed == []
    bench.gate.set()
    await running.end()
    assert running.body.endswith(b"data: [DONE]\n\n")
    await until(lambda: bench.closed == ["a"])


async def test_what_is_still_said_alike_stays_the_same_object(bench):
    app = bench.start(A + B + ACME)
    before = dict(app.current.site.backends)
    assert await bench.reload(B + ACME + '[aliases]\n"x" = "b"\n') == ""
    assert app.current.site.backends == {"b": before["b"], "acme/large": before["acme/large"]}
    await until(lambda: bench.closed == ["a"])
    assert await bench.reload(B + ACME.replace("input_price = 1", "input_price = 2")) == ""
    assert app.current.site.backends["acme/large"] is not before["acme/large"]
    await until(lambda: bench.closed == ["a", "acme/large"])


async def test_the_end_of_one_generation_closes_nothing_that_another_still_uses(bench, exchange):
    """Three at once: the first ends, and a request of the second still runs on what the third has not."""
    app = bench.start(A)
    first = exchange(app, {**HELLO, "model": "a", "stream": True})
    await first.until_contains(b"from ")
    await bench.reload(B)
    second = exchange(app, {**HELLO, "model": "b", "stream": True})
    await second.until_contains(b"from ")
    await bench.reload('[[models]]\nname = "c"\n')
    first.hang_up.tell()
    await first.end()
    await until(lambda: bench.closed == ["a"])
    bench.gate.set()
    await second.end()
    assert second.body.endswith(b"data: [DONE]\n\n")
    await until(lambda: bench.closed == ["a", "b"])


async def test_a_model_that_comes_back_while_it_is_in_use_is_not_made_again(bench, exchange):
    app = bench.start(A)
    running = exchange(app, {**HELLO, "model": "a", "stream": True})
    await running.until_contains(b"from ")
    await bench.reload(B)
    await bench.reload(A)
    bench.gate.set()
    await running.end()
    await until(lambda: bench.closed == ["b"])
    assert [backend.name for backend in bench.made] == ["a", "b"]


async def test_two_reloads_at_once_come_one_after_the_other(bench):
    app = bench.start(A)
    bench.file.write_text(A + B)
    assert await asyncio.gather(app.reload(), app.reload()) == ["", ""]
    assert [backend.name for backend in bench.made] == ["a", "b"]
    assert sorted(app.current.site.backends) == ["a", "b"]


async def test_an_old_generation_is_forgotten(bench, exchange):
    app = bench.start(A + ACME)
    await bench.reload(A)
    await answer(app, exchange)
    old = weakref.ref(app.current.app)
    await bench.reload(B)
    await until(lambda: bench.closed == ["a", "acme/large"])
    gc.collect()
    assert old() is None


async def test_a_request_without_end_is_not_waited_for_without_end(bench, exchange, caplog):
    app = bench.start(A)
    running = exchange(app, {**HELLO, "model": "a", "stream": True})
    await running.until_contains(b"from ")
    old = app.current
    # Past its bound already: the time is up as soon as it is looked at.
    limits = old.config.limits.model_copy(update={"total_timeout_s": -1e6})
    old.config = old.config.model_copy(update={"limits": limits})
    await bench.reload(B)
    await until(lambda: bench.closed == ["a"])
    assert "1 requests of an old configuration did not end" in caplog.text
    bench.gate.set()
    await running.end()


# -- what changes without a restart ----------------------------------------------------------------------------------

KEYS = '[[keys]]\nname = "k"\nenv = "K"\ndata_classes = ["health"]\n'


async def test_keys(bench, exchange):
    bench.env["K"] = "first"
    app = bench.start(A)
    assert (await answer(app, exchange)).status == 200
    await bench.reload(A + KEYS)
    assert (await answer(app, exchange)).status == 401
    assert (await answer(app, exchange, headers={"authorization": "Bearer first"})).status == 200
    bench.env["K"] = "second"
    await bench.reload(A + KEYS)
    assert (await answer(app, exchange, headers={"authorization": "Bearer first"})).status == 401


async def test_aliases_rules_and_the_switch(bench, exchange):
    app = bench.start(A + ACME)
    assert (await answer(app, exchange, model="mine")).status == 404
    await bench.reload(A + ACME + '[aliases]\nmine = "acme/large"\n')
    assert (await answer(app, exchange, model="mine")).headers["x-outstation-route"] == "acme/large"
    await bench.reload(A + ACME + '[[rules]]\nname = "r"\nwhen = "request.max_tokens > 5"\ndeny = "Too long."\n')
    assert (await answer(app, exchange, max_tokens=9)).json["error"]["code"] == "denied_by_rule"
    await bench.reload(A + ACME + "[routing]\noffline = true\n")
    assert app.shared.boundary.passable is False
    assert (await answer(app, exchange, model="acme/large")).json["error"]["code"] == "offline"
    await bench.reload(A + ACME)
    assert (await answer(app, exchange, model="acme/large")).status == 200


async def test_budgets_and_privacy(bench, exchange):
    control = {"model": "acme/large", "max_tokens": 1000}
    mail = [{"role": "user", "content": "write to bob.smith@example.org"}]
    app = bench.start(A + ACME)
    assert (await answer(app, exchange, **control)).status == 200
    assert (await answer(app, exchange, **control, messages=mail)).json["error"]["code"] == "privacy_denied"
    await bench.reload(A + ACME.replace("[[providers.models]]", 'data = { email = "allow" }\n[[providers.models]]'))
    assert (await answer(app, exchange, **control, messages=mail)).status == 200
    await bench.reload(A + ACME + "[budget]\nsite_day = 0.000001\n")
    assert (await answer(app, exchange, **control)).json["error"]["code"] == "budget_exhausted"


async def test_money_spent_outlives_a_reload(bench, exchange):
    app = bench.start(A + ACME)
    await answer(app, exchange, model="acme/large")
    spent = app.shared.books.spending.spent("").site_day
    assert spent > 0
    await bench.reload(A + ACME + '[aliases]\nx = "a"\n')
    assert app.shared.books.spending.spent("").site_day == spent


async def test_each_row_names_the_policy_that_decided_it(bench, exchange):
    app = bench.start(A)
    async with living(app):
        began = time.time()
        await answer(app, exchange)
        await bench.reload(A + '[aliases]\nx = "a"\n')
        await answer(app, exchange)
        rows = lambda: list(decisions(app.current.config.home / "audit.db", began - 1, began + 60))  # noqa: E731
        await until(lambda: len(rows()) == 2)
        first, second = rows()
    assert first.policy_hash != second.policy_hash == app.current.policy


async def test_a_pulled_model_survives(tmp_path):
    file = tmp_path / "outstation.toml"
    file.write_text("")
    load = partial(load_config, file, environ={"OUTSTATION_HOME": str(tmp_path)})
    app = build_app(load(), load=load)
    store = Store(tmp_path)
    store.prepare(0)
    store.part("tiny").write_bytes(gguf())
    store.add("tiny", store.part("tiny"), Origin("a test", "0" * 64, "mit", {}))
    app.current.site.resolve("tiny")
    pulled = app.current.site.backends["tiny"]
    app.current.site.start = lambda: None  # type: ignore[method-assign] # no process is wanted here
    file.write_text('[aliases]\nx = "tiny"\n')
    new = load()
    assert app._build(new, app.shared).site.backends["tiny"] is pulled


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[server\n", "not valid TOML"),
        (B + "[limits]\nmax_choices = 0\n", "line 4: limits.max_choices"),
        (B + '[aliases]\nx = "gone"\n', "there is no model 'gone' here"),
        (B + '[[rules]]\nname = "r"\nwhen = "request.max_tokens >"\ndeny = "x"\n', "line 5: rules[0].when"),
        (B + '[[keys]]\nname = "k"\nenv = "NOT_SET"\n', "NOT_SET holds nothing"),
    ],
)
async def test_a_bad_file_is_refused_whole(bench, exchange, caplog, text, reason):
    app = bench.start(A)
    before = app.current
    assert reason in await bench.reload(text)
    assert app.current is before
    assert b"from a" in (await answer(app, exchange, model="a")).body
    assert f"refused, the old one stays: {bench.file}" in caplog.text
    assert reason in caplog.text
    assert set(bench.closed) <= {"b"}
    assert app.shared.pool.keep(before.site.backends.values()) == [], "what was made for the bad one is given back"


async def test_a_file_that_is_gone_changes_nothing(bench, exchange):
    app = bench.start(A)
    bench.file.unlink()
    assert "does not exist" in await app.reload()
    assert (await answer(app, exchange)).status == 200


async def test_a_defect_in_building_changes_nothing_and_leaves_nothing(bench, exchange, caplog):
    app = bench.start(A)
    bench.refuse = RuntimeError("a defect")
    assert await bench.reload(B) == "RuntimeError"
    assert bench.closed == ["b"]
    assert (await answer(app, exchange)).status == 200
    bench.refuse = None
    assert await bench.reload(B) == ""


async def test_an_open_address_never_loses_its_keys(bench):
    """The file says loopback now, but the socket is still open to all."""
    bench.env["K"] = "x"
    app = bench.start('[server]\nhost = "0.0.0.0"\n' + KEYS + A)
    assert "without an API key" in await bench.reload(A)
    assert app.current.config.access


async def test_what_needs_a_restart_is_said_and_nothing_else_is(bench, caplog):
    app = bench.start(A)
    later = '[server]\nhost = "localhost"\nport = 9\n[audit]\nkeep_days = 3\n[logging]\nlevel = "debug"\n'
    assert await bench.reload(A + later) == ""
    assert "with the next start: server.host, server.port, audit, logging" in caplog.text
    assert app.current.config.server.host == "127.0.0.1"
    caplog.clear()
    assert await bench.reload(A + "[server]\nport = 0\nmax_body_bytes = 5\n") == ""
    assert "next start" not in caplog.text
    assert app.current.config.server.max_body_bytes == 5


async def test_a_class_that_nothing_finds_is_told(bench, caplog):
    bench.start(A)
    data = ACME.replace("[[providers.models]]", 'data = { credit_card = "deny" }\n[[providers.models]]')
    assert await bench.reload(A + data) == ""
    assert "data class credit_card: no text is searched for it" in caplog.text


# -- when it is looked for -------------------------------------------------------------------------------------------


async def test_a_changed_file_is_noticed_and_a_bad_one_waits_for_the_next_change(bench, caplog):
    app = bench.start(A, look_s=0.01)
    async with living(app):
        bench.file.write_text(A + B)
        await until(lambda: "b" in app.current.site.backends)
        bench.file.write_text("[server\n")
        await until(lambda: "refused" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("refused") == 1
        bench.file.unlink()
        await asyncio.sleep(0.05)
        replacement = bench.file.with_suffix(".new")
        replacement.write_text(B)
        replacement.rename(bench.file)
        await until(lambda: list(app.current.site.backends) == ["b"])


async def test_a_file_that_was_read_on_a_signal_is_not_read_again(bench, caplog):
    app = bench.start(A, look_s=0.01)
    async with living(app):
        assert await bench.reload(B) == ""
        await asyncio.sleep(0.1)
    assert caplog.text.count("configuration reloaded") == 1


async def test_a_defect_does_not_end_the_watch(bench):
    app = bench.start(A, look_s=0.01)
    async with living(app):
        bench.refuse = RuntimeError("a defect")
        bench.file.write_text(A + B)
        await until(lambda: len(bench.made) == 2)
        bench.refuse = None
        bench.file.write_text(B + A)
        await until(lambda: "b" in app.current.site.backends)


async def test_sighup(bench):
    app = bench.start(A)
    before = signal.getsignal(signal.SIGHUP)
    try:
        async with living(app):
            bench.file.write_text(B)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: list(app.current.site.backends) == ["b"])
        os.kill(os.getpid(), signal.SIGHUP)  # one that comes too late does no harm
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_stopping_while_it_reloads_starts_nothing_and_leaves_no_task(bench):
    loading = asyncio.Event()
    loop = asyncio.get_running_loop()
    app = bench.start(A)
    load = bench.load

    def slow() -> Config:
        loop.call_soon_threadsafe(loading.set)
        time.sleep(0.05)
        return load()

    before = signal.getsignal(signal.SIGHUP)
    try:
        async with living(app):
            bench.file.write_text(B)
            app._load = slow
            reloading = asyncio.create_task(app.reload())
            await loading.wait()
        assert await reloading == "the gateway is stopping"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [backend.name for backend in bench.made] == ["a"]
    assert bench.closed == ["a"]
    assert not [task for task in app._tasks if not task.done()]


async def test_without_a_file_there_is_nothing_to_read(make_app):
    assert await make_app().reload() == "there is no file to read"


# -- the pool --------------------------------------------------------------------------------------------------------


def test_the_pool_tells_settings_by_kind_and_value_and_backends_by_identity():
    pool, script = Pool(), say("x")
    (one,) = pool.get("x", lambda: [FakeBackend("same", script)])
    (other,) = pool.get(("x",), lambda: [FakeBackend("same", script)])
    assert pool.get("x", list) == [one]
    assert pool.get("x", list)[0] is one is not other
    assert (one == other) is True, "equal, and still two"
    (gone,) = pool.keep([other])
    assert gone is one
    assert pool.get(("x",), list)[0] is other
    assert pool.keep([]) == [other]
    assert pool.keep([]) == []


# -- a process -------------------------------------------------------------------------------------------------------


def logged(gateway, text: str, count: int = 1) -> None:
    end = time.monotonic() + 30
    while gateway.log.read_text().count(text) < count:
        assert time.monotonic() < end, gateway.log.read_text()
        time.sleep(0.02)


def test_serve_reads_its_file_again(start_gateway):
    gateway = start_gateway("")
    file = gateway.home / "outstation.toml"
    file.write_text("[limits]\nmax_choices = 0\n")
    gateway.process.send_signal(signal.SIGHUP)
    logged(gateway, "refused, the old one stays")
    assert "line 2: limits.max_choices" in gateway.log.read_text()
    assert httpx2.get(f"{gateway.base_url}/models").status_code == 200
    file.write_text(f'[[keys]]\nname = "k"\nsha256 = "{"0" * 64}"\n')  # and nobody tells it
    logged(gateway, "configuration reloaded")
    assert httpx2.get(f"{gateway.base_url}/models").status_code == 401
    gateway.process.terminate()
    assert gateway.process.wait(timeout=15) == 0
    assert "Traceback" not in gateway.log.read_text()


def test_a_stream_and_its_engine_go_on(start_gateway, model_config):
    gateway = start_gateway(model_config(), wait_for="/readyz")
    pid = gateway.status()["pid"]
    body = {"model": MODEL, "prompt": "1 2 3", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with httpx2.stream("POST", f"{gateway.base_url}/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        (gateway.home / "outstation.toml").write_text(model_config('[aliases]\n"mine" = "auto"\n'))
        gateway.process.send_signal(signal.SIGHUP)
        logged(gateway, "configuration reloaded")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    listed = httpx2.get(f"{gateway.base_url}/models").json()["data"]
    assert "mine" in [model["id"] for model in listed]
    assert gateway.status()["pid"] == pid
