"""A gateway in a process of its own, without a model: it starts, says what is wrong, and leaves cleanly."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gateway.config import ConfigError
from gateway.server import listen

ROOT = Path(__file__).parents[2]


def test_without_a_model_it_serves_and_says_what_to_do(start_gateway):
    gateway = start_gateway()
    assert httpx2.get(gateway.url + "/healthz").status_code == 200
    answer = httpx2.get(gateway.url + "/readyz")
    assert answer.status_code == 503
    assert "outstation pull" in answer.json()["reasons"][0]
    assert httpx2.get(gateway.base_url + "/models").json()["data"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_success(start_gateway, number):
    gateway = start_gateway()
    gateway.process.send_signal(number)
    assert gateway.process.wait(timeout=15) == 0
    assert "Traceback" not in gateway.log.read_text()


def test_an_idle_keep_alive_connection_does_not_hold_it_up(start_gateway):
    gateway = start_gateway("[server]\ndrain_timeout_s = 1")
    with httpx2.Client() as client:
        client.get(gateway.url + "/healthz")
        gateway.process.terminate()
        assert gateway.process.wait(timeout=15) == 0


def test_a_request_that_is_still_arriving_when_it_stops_gets_an_answer(start_gateway):
    gateway = start_gateway("[server]\ndrain_timeout_s = 1")
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        # An answer to another request: by then this one has begun.
        assert httpx2.get(gateway.url + "/healthz").status_code == 200
        gateway.process.terminate()
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert b" 503 " in answer.split(b"\r\n")[0]
    assert b'"stopping"' in answer
    assert gateway.process.wait(timeout=15) == 0
    log = gateway.log.read_text()
    assert "outcome=error error=stopping" in log
    assert "Traceback" not in log


def test_a_client_without_a_host_header_is_refused_in_the_apis_shape(start_gateway):
    gateway = start_gateway()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert b" 403 " in answer.split(b"\r\n")[0]
    assert b'"host_not_allowed"' in answer


def test_a_configured_model_that_is_not_there_is_named(start_gateway):
    gateway = start_gateway('[[models]]\nname = "gone"', wait_for=None)
    assert gateway.process.wait(timeout=30) == 1
    assert "the model 'gone'" in gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


def test_a_taken_port_is_named():
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="Cannot listen"):
        listen("192.0.2.1", 0)


def test_no_engine_is_imported_before_it_is_needed():
    code = (
        "import sys, gateway.app; from gateway.config import load_config; gateway.app.build_app(load_config(), []);"
        "print(*sorted({'numpy', 'llama_cpp', 'onnxruntime', 'torch', 'rich', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
