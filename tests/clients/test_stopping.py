"""What a client sees when the gateway is told to stop, and that no engine outlives it."""

import time

import httpx2
import openai
import psutil
import pytest

USER = [{"role": "user", "content": "Count."}]
ENDLESS = {"ignore_eos": True}


def begin(gateway, max_tokens):
    client = openai.OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model="auto", messages=USER, stream=True, max_tokens=max_tokens, extra_body=ENDLESS
    )
    next(stream)
    return client, stream


def gone(pid):
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_short_answer_is_finished_first(start_gateway, model_config):
    gateway = start_gateway(model_config("[server]\ndrain_timeout_s = 60"), wait_for="/readyz")
    engine = gateway.status()["pid"]
    client, stream = begin(gateway, 30)
    gateway.process.terminate()
    chunks = list(stream)
    client.close()
    assert chunks[-1].choices[0].finish_reason == "length"
    assert gateway.process.wait(timeout=30) == 0
    assert gone(engine)


def test_a_long_one_ends_with_an_error_in_the_stream(start_gateway, model_config):
    gateway = start_gateway(model_config("[server]\ndrain_timeout_s = 1", context_length=8192), wait_for="/readyz")
    engine = gateway.status()["pid"]
    client, stream = begin(gateway, 8000)
    gateway.process.terminate()
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)
    client.close()
    assert gateway.process.wait(timeout=30) == 0
    assert gone(engine)
    assert "Traceback" not in gateway.log.read_text()


def test_a_killed_engine_is_a_clean_error_and_comes_back(start_gateway, model_config):
    gateway = start_gateway(model_config(), wait_for="/readyz")
    engine = psutil.Process(gateway.status()["pid"])
    client, stream = begin(gateway, 2000)
    engine.kill()
    with pytest.raises(openai.APIError):
        list(stream)
    with client:
        answer = client.with_options(max_retries=5).chat.completions.create(model="auto", messages=USER, max_tokens=3)
    assert answer.usage.completion_tokens == 3
    assert gateway.status()["restarts_total"] == 1
    assert httpx2.get(gateway.url + "/readyz").status_code == 200
