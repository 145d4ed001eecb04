"""`run` and `ps` against a scripted gateway: pipes, a real terminal, and every way an answer can end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.client import Gateway, _chunks
from tests.cli.conftest import DONE, USAGE, FakeGateway, Outstation, delta

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "gateway.cli"]


def test_one_answer_is_streamed(outstation: Outstation, scripted: FakeGateway) -> None:
    result = outstation("run", "auto", "Hi", "--temperature", "0", "--max-tokens", "9", "--system", "Be brief.")
    assert result.exit_code == 0
    assert result.stdout == "Hello, site.\n"
    (body,) = scripted.bodies
    assert body["model"] == "auto"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["temperature"], body["max_completion_tokens"], body["stream"]) == (0, 9, True)


def test_a_pipe_follows_the_prompt(outstation: Outstation, scripted: FakeGateway) -> None:
    outstation("run", "auto", "Summarise", piped="the text\n")
    outstation("run", "auto", piped="only the pipe")
    assert [body["messages"][0]["content"] for body in scripted.bodies] == ["Summarise\n\nthe text", "only the pipe"]


def test_a_real_pipe_through_a_real_process(scripted: FakeGateway) -> None:
    done = subprocess.run(
        [*COMMAND, "run", "auto", "Summarise"],
        input="Grüße ✓".encode(),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"Hello, site.\n"
    assert scripted.bodies[0]["messages"][0]["content"] == "Summarise\n\nGrüße ✓"


def test_nothing_to_ask_is_wrong_usage(outstation: Outstation, scripted: FakeGateway) -> None:
    result = outstation("run", "auto", piped=" \n")
    assert result.exit_code == 2
    assert "There is nothing to ask" in result.stderr


def test_figures_are_told_on_request(outstation: Outstation, scripted: FakeGateway) -> None:
    result = outstation("run", "auto", "Hi", "-v")
    assert "tiny: 9 prompt tokens (4 cached)" in result.stderr
    assert "3 tokens at" in result.stderr


def test_an_answer_cut_at_the_limit_says_so(outstation: Outstation, scripted: FakeGateway) -> None:
    scripted.stream.insert(2, b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}\n\n')
    result = outstation("run", "auto", "Hi")
    assert result.exit_code == 0
    assert "cut at the token limit" in result.stderr


def test_the_key_comes_from_the_environment(
    outstation: Outstation, scripted: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTSTATION_API_KEY", "secret")
    outstation("run", "auto", "Hi")
    outstation("ps", "--url", scripted.url + "/v1/")
    assert scripted.keys == ["Bearer secret", "Bearer secret"]


def test_a_refusal_is_told_in_the_gateways_words(outstation: Outstation, scripted: FakeGateway) -> None:
    scripted.refusal = (404, "The model 'x' does not exist.")
    result = outstation("run", "x", "Hi")
    assert result.exit_code == 1
    assert result.stderr == "Error: The model 'x' does not exist.\n"
    scripted.refusal = (401, "A key is needed.")
    assert "Put the key into OUTSTATION_API_KEY" in outstation("ps").stderr


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([delta("Hel"), b'data: {"error": {"message": "The engine died."}}\n\n'], "The engine died."),
        ([delta("Hel")], "The answer was cut off"),
        ([delta("Hel"), b"data: {broken\n\n"], "The answer was cut off"),
    ],
)
def test_a_cut_answer_is_never_taken_for_a_whole_one(
    outstation: Outstation, scripted: FakeGateway, stream: list[bytes], expected: str
) -> None:
    scripted.stream = stream
    result = outstation("run", "auto", "Hi")
    assert result.exit_code == 1
    assert result.stdout == "Hel\n"
    assert expected in result.stderr


@pytest.mark.parametrize("command", [("ps",), ("run", "auto", "Hi")])
def test_an_absent_gateway_says_what_to_start(outstation: Outstation, command: tuple[str, ...]) -> None:
    result = outstation(*command, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "No gateway answers at http://127.0.0.1:9" in result.stderr
    assert "`outstation serve`" in result.stderr


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://[", ""])
def test_a_url_that_is_none(outstation: Outstation, url: str) -> None:
    result = outstation("ps", "--url", url)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_events_may_be_split_anywhere_and_hold_any_character() -> None:
    text = "a\u2028b\x85c\x0bd\r\ne ✓"
    stream = b": ping\r\n\r\n" + delta(text).replace(b"\n\n", b"\r\n\r\n") + USAGE + DONE
    for size in range(1, 40):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        first, last = list(_chunks(iter(pieces)))
        assert first["choices"][0]["delta"]["content"] == text
        assert last["usage"]["prompt_tokens"] == 9


def model(**changes: Any) -> dict[str, Any]:
    state = {
        "name": "tiny", "status": "ready", "detail": "", "memory_bytes": 287_000_000, "context_length": 8192,
        "waiting": 2, "running": 3, "max_sequences": 16, "kv_cells": 8192, "kv_cells_used": 4096,
        "kv_cells_kept": 1000, "decode_rate": 143.26,
    }  # fmt: skip
    return state | changes


def test_ps_shows_what_runs(outstation: Outstation, scripted: FakeGateway) -> None:
    stopped = model(
        name="other", status="failed", detail="it is truncated\x1b", memory_bytes=0, kv_cells=0, decode_rate=0
    )
    scripted.status["models"] = [model(), stopped]
    head, first, second, detail = outstation("ps").stdout.splitlines()
    assert head.split() == ["NAME", "STATE", "MEMORY", "CONTEXT", "KV", "QUEUE", "RUNNING", "TOK/S"]
    assert first.split() == ["tiny", "ready", "287.0", "MB", "8192", "3096/8192,", "1000", "kept", "2", "3/16", "143.3"]
    assert second.split() == ["other", "failed", "-", "8192", "-", "2", "3/16", "-"]
    assert detail == "other: it is truncated"
    assert json.loads(outstation("ps", "--json").stdout) == scripted.status


def test_ps_of_a_gateway_without_models(outstation: Outstation, scripted: FakeGateway) -> None:
    assert "The gateway has no models" in outstation("ps").stdout


class Terminal:
    """A process in a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._text = ""

    def until(self, expected: str) -> str:
        """Everything up to and with `expected` since the last call."""
        deadline = time.monotonic() + 30
        while expected not in self._text:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{expected!r} did not come; seen: {self._text!r}"
            self._text += os.read(self._master, 4096).decode()
        seen, _, self._text = self._text.partition(expected)
        return seen + expected

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def interrupt_until(self, expected: str) -> None:
        """Interrupts again and again: between its prompt and its wait, readline does not notice."""
        for _ in range(100):
            self.interrupt()
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                break
        self.until(expected)

    def leave(self) -> int:
        """The exit code of a process that is about to end."""
        return self.process.wait(30)


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    """`outstation` with these arguments in a pseudo-terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"}
    command = [*COMMAND, *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment)
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_conversation_in_a_terminal(scripted: FakeGateway) -> None:
    with terminal("run", "auto", "--system", "Be brief.") as tty:
        tty.until(">>> ")
        tty.type("Hi\n")
        tty.until("Hello, site.")
        tty.until(">>> ")
        tty.type("And?\n")
        tty.until("Hello, site.")
        tty.until(">>> ")
        tty.type("/clear\n")
        tty.until("Forgotten.")
        tty.type("/nonsense\n")
        tty.until("There is no /nonsense")
        tty.until(">>> ")
        tty.type('"""two\nlines"""\n')
        tty.until("Hello, site.")
        tty.until(">>> ")
        tty.type("/bye\n")
        assert tty.leave() == 0
        roles = [[message["role"] for message in body["messages"]] for body in scripted.bodies]
        assert roles == [["system", "user"], ["system", "user", "assistant", "user"], ["system", "user"]]
        assert scripted.bodies[1]["messages"][2]["content"] == "Hello, site."
        assert scripted.bodies[2]["messages"][1]["content"] == "two\nlines"


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(scripted: FakeGateway) -> None:
    scripted.hold = threading.Event()
    with terminal("run", "auto") as tty:
        tty.until(">>> ")
        tty.type("Hi\n")
        tty.until(", site.")
        tty.interrupt()
        tty.until("(stopped)")
        scripted.hold.set()
        tty.until(">>> ")
        tty.interrupt_until("/bye or Ctrl-D leaves.")
        tty.type("Go on\n")
        tty.until("Hello")
        tty.until(">>> ")
        tty.type("\x04")
        assert tty.leave() == 0
        assert scripted.bodies[1]["messages"][1] == {"role": "assistant", "content": "Hello, site."}


def test_a_conversation_survives_a_gateway_that_is_gone_for_a_moment(scripted: FakeGateway) -> None:
    scripted.refusal = (503, "The model is loading.")
    with terminal("run", "auto") as tty:
        tty.until(">>> ")
        tty.type("Hi\n")
        tty.until("The model is loading.")
        scripted.refusal = None
        tty.type("Hi\n")
        tty.until("Hello, site.")
        tty.type("/bye\n")
        assert tty.leave() == 0


def test_what_a_model_says_does_not_drive_the_terminal(scripted: FakeGateway) -> None:
    scripted.stream = [delta("a\x1b[2J\x07b\u009bc"), DONE]
    with terminal("run", "auto", "Hi") as tty:
        seen = tty.until("bc")
        assert "\x1b[2J" not in seen
        assert "a[2Jbc" in seen
        tty.leave()


def test_ctrl_c_ends_a_single_answer_with_130(scripted: FakeGateway) -> None:
    scripted.hold = threading.Event()
    with subprocess.Popen(
        [*COMMAND, "run", "auto", "Hi"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Hello"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_an_answer_is_closed_when_it_is_left(scripted: FakeGateway) -> None:
    scripted.hold = threading.Event()
    chunks = Gateway(scripted.url).chat({"model": "auto", "messages": []})
    assert next(chunks)["choices"][0]["delta"]["content"] == "Hello"
    chunks.close()
    scripted.hold.set()


def test_ps_shows_which_providers_can_be_asked(outstation: Outstation, scripted: FakeGateway) -> None:
    route = {"route": "acme/large", "context_length": 32768, "retry_after_s": None}
    scripted.status["providers"] = [
        {**route, "reason": "", "ttft_s": 0.25, "tokens_per_s": 40.0},
        {**route, "reason": "no connection", "ttft_s": None, "tokens_per_s": None},
    ]
    lines = outstation("ps").stdout.splitlines()
    assert lines[-2].split() == ["acme/large", "reachable", "32768", "0.25", "s", "40.0"]
    assert "no connection" in lines[-1]
