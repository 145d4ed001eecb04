"""When things go wrong: the process dies, hangs, is full, a client leaves, a file lies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from backends.errors import BadModelFile, DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded
from backends.onnx.host import OnnxHost
from backends.onnx.process import Died
from backends.onnx.settings import OnnxHostSettings, OnnxSettings
from backends.types import Features, Image, Request
from tests.onnx import graphs
from tests.onnx.conftest import Running, ask
from tests.onnx.test_pictures import png, saved

pytestmark = pytest.mark.anyio

LONG = 10_000_000.0  # rounds of the endless model


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return graphs.write(tmp_path / "tiny", graphs.linear())


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return graphs.write(tmp_path / "slow", graphs.endless())


def features(*values: float) -> Request:
    return ask("classification", Features(values))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def yes(host: OnnxHost, model: str = "tiny") -> float:
    (result,), _ = await host.run(model, features(0.0, 1.0))
    return result["probabilities"]["yes"]


def pid_of(host: OnnxHost) -> int:
    pid, _ = host.memory()
    assert pid
    return pid


async def test_a_tiny_model(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        assert host.state("tiny").status == "stopped"
        assert await yes(host) == pytest.approx(0.731, abs=0.001)
        state = host.state("tiny")
        assert (state.status, state.running, state.restarts_total) == ("ready", 0, 0)
        assert state.memory_bytes > 0
        pid, resident = host.memory()
        assert state.pid == pid
        assert resident > state.memory_bytes
        assert [s.name for s in host.models()] == ["tiny"]


async def test_wrong_features(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        with pytest.raises(InvalidRequest, match="takes 2 features; input 0 has 3"):
            await host.run("tiny", features(1, 2, 3))
        with pytest.raises(InvalidRequest, match="takes feature vectors, not text"):
            await host.run("tiny", ask("classification", "text"))


@pytest.mark.parametrize("bad", [1e300, -3.5e38, float("inf"), float("nan")])
async def test_a_feature_that_no_float32_is(running: Running, tiny: Path, bad: float) -> None:
    async with running(tiny) as host:
        with pytest.raises(InvalidRequest) as alone:
            await host.run("tiny", features(0, bad))
        with pytest.raises(InvalidRequest) as second:
            await host.run("tiny", ask("classification", Features((0, 1)), Features((bad, 1))))
        assert (alone.value.param, second.value.param) == ("input.features", "input[1].features")
        assert alone.value.code == "invalid_features"


async def test_too_few_features_are_named_by_their_place(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        with pytest.raises(InvalidRequest) as caught:
            await host.run("tiny", ask("classification", Features((0, 1)), Features((1,))))
        assert caught.value.param == "input[1].features"


# -- death -----------------------------------------------------------------------------------------------------------


async def test_a_killed_process_is_not_noticed_by_who_waits_for_a_first_result(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        await yes(host)
        for ask_it in (lambda: yes(host), lambda: host.count("tiny", features(0.0, 1.0))):
            pid = pid_of(host)
            os.kill(pid, signal.SIGSTOP)
            task: asyncio.Future[object] = asyncio.ensure_future(ask_it())
            await until(lambda: host.state("tiny").running == 1)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                assert await task
            assert pid_of(host) != pid
        assert host.state("tiny").running == 0


class Dying:
    """A process that gives one result, and dies."""

    pid = 1
    open = True

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}
        self.asked = 0
        self._gone = asyncio.Event()

    async def run(self, _message: object) -> AsyncIterator[object]:
        self.asked += 1
        yield [(0, {"score": 1.0})]
        self.open = False
        self._gone.set()
        raise Died("It ended.", retry_after=2)

    async def ended(self) -> str:
        await self._gone.wait()
        return "signal 9"

    async def stop(self) -> None:
        self._gone.set()


async def test_who_has_a_result_already_is_told_of_the_death(tiny: Path) -> None:
    made: list[Dying] = []

    async def start(_: OnnxHostSettings) -> Dying:
        made.append(Dying())
        return made[-1]

    host = OnnxHost(OnnxHostSettings(), start)  # type: ignore[arg-type]
    host.add(OnnxSettings("tiny", tiny))
    with pytest.raises(EngineFailed, match="It ended"):
        await host.run("tiny", ask("classification", Features((0, 1)), Features((1, 0))))
    await host.close()
    assert sum(process.asked for process in made) == 1


async def test_a_process_that_dies_twice_fails_those_in_it_once_and_serves_the_next(
    running: Running, tiny: Path, slow: Path
) -> None:
    async with running(tiny, slow) as host:
        await yes(host)
        pid = pid_of(host)
        tasks = [asyncio.create_task(host.run("slow", features(LONG, i))) for i in range(6)]
        await until(lambda: host.state("slow").status == "ready" and host.state("slow").running == 6)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: host.memory()[0] not in (None, pid) and host.state("slow").status == "ready")
        assert host.state("slow").running == 6
        os.kill(pid_of(host), signal.SIGKILL)
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(outcomes) == 6
        assert all(isinstance(e, EngineFailed) and e.retry_after for e in outcomes)
        assert await yes(host) > 0.7
        assert pid_of(host) != pid
        assert host.state("tiny").restarts_total == 2


async def test_a_process_that_hangs_is_replaced(running: Running, tiny: Path) -> None:
    async with running(tiny, run_timeout_s=1.0, load_timeout_s=5.0) as host:
        await yes(host)
        pid = pid_of(host)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            await yes(host)
        await until(lambda: host.state("tiny").restarts_total == 1)
        assert not psutil.pid_exists(pid)
        assert await yes(host) > 0.7


async def test_the_process_ends_with_the_host(running: Running, slow: Path) -> None:
    async with running(slow) as host:
        task = asyncio.create_task(host.run("slow", features(LONG, 0)))
        await until(lambda: host.state("slow").status == "ready")
        pid = pid_of(host)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not psutil.pid_exists(pid), "even while it computes"


async def test_an_idle_process_ends_and_comes_back(running: Running, tiny: Path) -> None:
    async with running(tiny, keep_alive_s=0.05) as host:
        await yes(host)
        await until(lambda: host.memory()[0] is None)
        assert host.state("tiny").status == "stopped"
        assert await yes(host) > 0.7


# -- waiting ---------------------------------------------------------------------------------------------------------


async def test_no_more_may_wait_than_the_queue_holds(running: Running, slow: Path) -> None:
    async with running(slow, queue_length=3) as host:
        tasks = [asyncio.create_task(host.run("slow", features(LONG, i))) for i in range(3)]
        await until(lambda: host.state("slow").running == 3)
        with pytest.raises(Overloaded) as caught:
            await host.run("slow", features(1, 1))
        assert caught.value.retry_after
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert host.state("slow").running == 0


async def test_a_run_without_end_is_given_up(running: Running, slow: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(slow, run_timeout_s=1.0, load_timeout_s=20.0) as host:
        await host.run("slow", features(1, 1))
        pid = pid_of(host)
        with pytest.raises((DeadlineExceeded, EngineFailed)):
            await host.run("slow", features(LONG, 1))
        await host.run("slow", features(1, 1))
        assert pid_of(host) == pid, "the run was ended, not the process"
    assert "onnxruntime" not in capfd.readouterr().err, "its own lines say what the error says already"


async def test_who_leaves_is_not_computed_for(running: Running, slow: Path) -> None:
    """Neither what waits nor what runs: the lanes are free for the next at once."""
    async with running(slow) as host:
        tasks = [asyncio.create_task(host.run("slow", features(LONG, i))) for i in range(20)]
        await until(lambda: host.state("slow").status == "ready" and host.state("slow").running == 20)
        pid = pid_of(host)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await host.run("slow", features(1, 1))
        assert (pid_of(host), host.state("slow").running) == (pid, 0)


async def test_who_shares_a_run_with_one_who_leaves_is_answered(running: Running, slow: Path) -> None:
    async with running(slow) as host:
        await host.run("slow", features(1, 1))
        stay = [asyncio.create_task(host.run("slow", features(2000 + i, 1))) for i in range(10)]
        leave = [asyncio.create_task(host.run("slow", features(2100 + i, 1))) for i in range(10)]
        await until(lambda: host.state("slow").running == 20)
        for task in leave:
            task.cancel()
        assert len(await asyncio.gather(*stay)) == 10
        await asyncio.gather(*leave, return_exceptions=True)


async def test_counting_keeps_what_it_read(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        request = features(0.0, 1.0)
        assert (await host.count("tiny", request)).tokens == 0
        (result,), _ = await host.run("tiny", request)
        assert result["probabilities"]["yes"] > 0.7
        again = features(0.0, 1.0)
        await host.count("tiny", again)
        for _ in range(300):
            await host.count("tiny", features(0.0, 1.0))
        (result,), _ = await host.run("tiny", again)
        assert result["probabilities"]["yes"] > 0.7, "what is not kept any more is asked for anew"


async def test_counted_before_a_death_answered_after_it(running: Running, tiny: Path) -> None:
    async with running(tiny) as host:
        request = features(0.0, 1.0)
        await host.count("tiny", request)
        pid = pid_of(host)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: host.state("tiny").restarts_total == 1)
        (result,), _ = await host.run("tiny", request)
        assert result["probabilities"]["yes"] > 0.7


# -- files -----------------------------------------------------------------------------------------------------------


async def test_a_bad_file_fails_its_own_model_only(running: Running, tiny: Path, tmp_path: Path) -> None:
    bad = graphs.write(tmp_path / "bad", b"\x80\x04 a pickle")
    async with running(tiny, bad) as host:
        for _ in range(2):
            with pytest.raises(BadModelFile, match="a Python pickle"):
                await yes(host, "bad")
        state = host.state("bad")
        assert state.status == "failed"
        assert "pickle" in state.detail
        assert await yes(host) > 0.7
        assert host.state("tiny").restarts_total == 0
        graphs.write(bad, graphs.linear())
        assert await yes(host, "bad") > 0.7, "pulled again, it is tried again"
        assert host.state("bad").status == "ready"


async def test_no_manifest(running: Running, tmp_path: Path) -> None:
    async with running(tmp_path / "nothing") as host:
        with pytest.raises(BadModelFile, match="cannot be read"):
            await yes(host, "nothing")
        with pytest.raises(BadModelFile):
            host.manifest("nothing")


async def test_a_graph_that_gives_other_than_it_declares(running: Running, tmp_path: Path) -> None:
    model = graphs.linear([[1, 0, 0], [0, 1, 0]])
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    lying = graphs.write(tmp_path / "lying", model)
    async with running(lying) as host:
        with pytest.raises(BadModelFile, match="gives 3 numbers for each input"):
            await yes(host, "lying")


async def test_a_result_that_is_no_number(running: Running, tmp_path: Path) -> None:
    """Only the input that it came of fails."""
    model = graphs.linear([[3e38, 0], [0, 3e38]])
    folder = graphs.write(tmp_path / "big", model, activation="none")
    async with running(folder) as host:
        with pytest.raises(EngineFailed) as caught:
            await host.run("big", features(1e30, -1e30))
        assert caught.value.code == "not_a_number"
        (result,), _ = await host.run("big", features(0, 0))
        assert result == {"probabilities": {"no": 0, "yes": 0}}


async def test_a_head_without_its_base(running: Running, tmp_path: Path) -> None:
    head = graphs.write(tmp_path / "head", graphs.linear(), input="embedding", base="gone", features=[])
    async with running(head) as host:
        for _ in range(2):
            with pytest.raises(BadModelFile, match="head stands on gone, which is not whole"):
                await host.run("head", ask("classification", "text"))
        # What it stands on comes: it is looked at again.
        graphs.write(tmp_path / "gone", graphs.linear())
        with pytest.raises(BadModelFile, match="gone, the base of head, makes no embeddings"):
            await host.run("head", ask("classification", "text"))


async def test_an_execution_provider_that_is_not_there(running: Running, tiny: Path) -> None:
    async with running(tiny, providers=("cuda", "cpu")) as host:
        with pytest.raises(BadModelFile, match=r"'cuda' is not in this build.*CPUExecutionProvider"):
            await yes(host)
        assert "cuda" in host.state("tiny").detail
    async with running(tiny, providers=("cpu",)) as host:
        assert await yes(host) > 0.7


async def test_a_removed_model_gives_its_memory_back(running: Running, tiny: Path, slow: Path) -> None:
    async with running(tiny, slow) as host:
        await yes(host)
        pid = pid_of(host)
        await host.remove(OnnxSettings("slow", slow))
        assert await yes(host) > 0.7
        await host.remove(OnnxSettings("tiny", tiny))
        assert not psutil.pid_exists(pid), "nobody is left"
        host.add(OnnxSettings("tiny", tiny))
        assert await yes(host) > 0.7


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    table = {"input": "image", "image": {"size": 16}, "features": [], "labels": ["red", "green", "blue"]}
    return graphs.write(tmp_path / "colours", graphs.means(16), temperature=0.1, **table)


async def test_pictures(running: Running, colours: Path) -> None:
    from PIL import Image as Pictures

    async with running(colours) as host:
        shown = [Image(saved(Pictures.new("RGB", (50, 30), name))) for name in ("blue", "red", "lime")]
        results, tokens = await host.run("colours", ask("classification", *shown))
        best = [max(r["probabilities"], key=r["probabilities"].__getitem__) for r in results]
        assert (best, tokens) == (["blue", "red", "green"], 0)
        assert results[0]["probabilities"]["blue"] == pytest.approx(1.0, abs=1e-3)
        for data, code in [(b"no picture", "invalid_image"), (png(60_000, 60_000), "image_too_large")]:
            with pytest.raises(InvalidRequest) as caught:
                await host.run("colours", ask("classification", Image(data)))
            assert (caught.value.code, caught.value.param) == (code, "input")
            with pytest.raises(InvalidRequest) as caught:
                await host.run("colours", ask("classification", shown[0], Image(data)))
            assert (caught.value.code, caught.value.param) == (code, "input[1]")
        assert host.state("colours").restarts_total == 0


def oom_score(pid: object) -> int:
    path = Path(f"/proc/{pid}/oom_score_adj")
    return int(path.read_text()) if path.exists() else 1000


async def test_where_memory_runs_out_it_goes_before_the_gateway(running: Running, tiny: Path) -> None:
    if oom_score("self") >= 500:
        pytest.skip("the system has no such order, or this process goes first anyway")
    async with running(tiny) as host:
        await yes(host)
        assert oom_score(pid_of(host)) == 500
