"""How many lanes there are, of how many threads, and who may have the last free one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from backends.onnx.jobs import Job
from backends.onnx.lanes import MOST_LANES, Lanes, shape
from backends.onnx.sessions import Figures

WAIT_S = 30.0


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [(1, 0, (1, 1)), (2, 0, (2, 1)), (4, 0, (4, 1)), (8, 0, (4, 2)), (64, 0, (4, 4)), (8, 8, (1, 8)), (4, 3, (1, 3))],
)
def test_lanes_and_their_threads(cores: int, threads: int, expected: tuple[int, int]) -> None:
    assert shape(cores, threads) == expected


@given(st.integers(1, 256), st.integers(0, 256))
def test_no_more_threads_than_cores(cores: int, threads: int) -> None:
    lanes, each = shape(cores, threads)
    assert 1 <= lanes <= MOST_LANES
    assert 1 <= lanes * each <= cores


class Gated:
    """A reranker that gives its results once its gate is open."""

    rate = 5000.0

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(task="rerank")
        self.figures = Figures()
        self.gate = threading.Event()
        self.begun: Queue[int] = Queue()

    def length(self, _given: object) -> int:
        return 1000  # each in a run of its own

    def outcomes(self, given: list[Any], _stop: object) -> list[Any]:
        self.begun.put(len(given))
        assert self.gate.wait(WAIT_S)
        return given


class Site:
    """Two lanes, and the models that they compute."""

    def __init__(self, slow_s: float) -> None:
        self.told: Queue[dict[str, Any]] = Queue()
        self.models = {"gated": Gated(), "quick": Gated()}
        self.models["quick"].gate.set()
        channel: Any = SimpleNamespace(send=self.told.put)
        room: Any = SimpleNamespace(models=self.models)
        self.lanes = Lanes(channel, room, 100, 1e9, n=2, slow_s=slow_s)
        for _ in range(2):
            threading.Thread(target=self.lanes.compute, daemon=True).start()

    def ask(self, key: str, model: str) -> None:
        self.lanes.begin(key)
        it: Any = self.models[model]
        self.lanes.submit(Job(key, model, it, {}, pieces=[[np.ones(1, np.float32)]], texts=[""]))

    def ended(self) -> str:
        while "tokens" not in (message := self.told.get(timeout=WAIT_S)):  # with its only results, or by themselves
            pass
        return str(message["id"])


@pytest.fixture
def site() -> Iterator[Callable[[float], Site]]:
    made: list[Site] = []

    def make(slow_s: float) -> Site:
        made.append(Site(slow_s))
        return made[-1]

    yield make
    for one in made:
        one.models["gated"].gate.set()


def test_a_slow_model_never_has_the_last_lane(site: Callable[[float], Site]) -> None:
    here = site(-1.0)  # each run is a slow one
    for i in range(4):
        here.ask(f"slow {i}", "gated")
    here.models["gated"].begun.get(timeout=WAIT_S)
    here.ask("short", "quick")
    assert here.ended() == "short", "while the other lane still computes"
    here.models["gated"].gate.set()
    assert {here.ended() for _ in range(4)} == {f"slow {i}" for i in range(4)}


def test_a_model_that_is_not_slow_has_all_lanes_while_nobody_else_waits(site: Callable[[float], Site]) -> None:
    here = site(WAIT_S)
    for i in range(2):
        here.ask(f"{i}", "gated")
    for _ in range(2):
        here.models["gated"].begun.get(timeout=WAIT_S)
