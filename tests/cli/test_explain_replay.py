"""`explain` and `replay` as commands: what they ask, what they print, how they fail."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gateway.audit import Audit
from gateway.audit_rows import Decision
from tests.cli.conftest import FakeGateway, Outstation

if TYPE_CHECKING:
    from tests.conftest import Gateway

PLAN: dict[str, Any] = {
    "object": "outstation.plan",
    "model": "auto",
    "routes": [
        {"route": "local/m", "prompt_tokens": 12, "prompt_tokens_exact": True, "cost_usd": 0.0, "ttft_s": 0.25,
         "total_s": 2.0, "redact": [], "placeholders": {}},
        {"route": "acme/large", "prompt_tokens": 9, "prompt_tokens_exact": False, "cost_usd": 0.00125, "ttft_s": None,
         "total_s": None, "redact": ["email", "phone"], "placeholders": {"email": 1, "phone": 2}},
    ],
    "dropped": [{"route": "beta/b", "policy": "privacy", "reason": "holds email\x1b[2J", "code": "privacy_denied"}],
    "reasons": ["auto", "local in 0.3 s"],
    "data_classes": ["email", "phone"],
    "refused": None,
}  # fmt: skip


def test_explain_asks_as_a_client_would(outstation: Outstation, scripted: FakeGateway) -> None:
    scripted.stream = [json.dumps(PLAN).encode()]
    arguments = ("--model", "x", "--locality", "only_local", "--deadline-ms", "5", "--max-tokens", "7")
    result = outstation("explain", "Hi", *arguments, "--data-class", "health", "--data-class", "email")
    assert result.exit_code == 0
    assert scripted.bodies == [
        {
            "model": "x",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 7,
            "outstation": {"locality": "only_local", "deadline_ms": 5, "data_classes": ["health", "email"]},
        }
    ]


def test_explain_prints_what_the_request_is_like(outstation: Outstation, scripted: FakeGateway) -> None:
    signals = {"signals": {"injection": 0.95, "language": "de"}, "late_signals": ["toxicity"]}
    scripted.stream = [json.dumps(PLAN | signals).encode()]
    lines = outstation("explain", "Hi").stdout.splitlines()
    assert lines[1] == "Signals: injection 0.95, language de, toxicity not known in time"


def test_explain_prints_the_plan(outstation: Outstation, scripted: FakeGateway) -> None:
    scripted.stream = [json.dumps(PLAN).encode()]
    lines = outstation("explain", "Hi").stdout.splitlines()
    assert lines == [
        "Data classes: email, phone",
        "Reasons: auto; local in 0.3 s",
        "",
        "   ROUTE       PROMPT  FIRST TOKEN  COST UP TO  REDACTED",
        "1  local/m     12      0.25 s       free        -",
        "2  acme/large  ~9      -            $0.001250   1 email, 2 phone",
        "",
        "DROPPED  BY       WHY",
        "beta/b   privacy  holds email[2J",
    ]
    assert json.loads(outstation("explain", "Hi", "--json").stdout) == PLAN


def test_explain_prints_a_refusal(outstation: Outstation, scripted: FakeGateway) -> None:
    refused = {"status": 503, "code": "offline", "message": "Nothing may leave."}
    scripted.stream = [json.dumps({**PLAN, "routes": [], "refused": refused}).encode()]
    result = outstation("explain", "Hi")
    assert "Refused with 503: Nothing may leave." in result.stdout
    assert "ROUTE " not in result.stdout


def test_explain_tells_what_the_gateway_refuses(outstation: Outstation, scripted: FakeGateway) -> None:
    scripted.refusal = (404, "There is no model 'x' here.")
    result = outstation("explain", "Hi", "--model", "x")
    assert (result.exit_code, result.stderr) == (1, "Error: There is no model 'x' here.\n")


@pytest.mark.parametrize("arguments", [(), ("Hi", "--locality", "here"), ("Hi", "--deadline-ms", "0")])
def test_explain_wrongly_used(outstation: Outstation, arguments: tuple[str, ...]) -> None:
    assert outstation("explain", *arguments).exit_code == 2


def test_explain_of_a_real_gateway(outstation: Outstation, gateway: Gateway) -> None:
    plan = json.loads(outstation("explain", "Say hello.", "--json", "--url", gateway.url).stdout)
    assert plan["routes"][0]["route"] == "local/smollm2-135m-instruct"
    assert "auto" in outstation("explain", "Say hello.", "--url", gateway.url).stdout


# -- replay ----------------------------------------------------------------------------------------------------------

ROUTE = {
    "name": "local/m", "model": "m", "location": "local", "context_length": 4096, "capabilities": [], "provider": "",
    "price": None, "parameters_b": 0.1, "quality": 0.0, "sha256": "",
}  # fmt: skip
FACTS: dict[str, Any] = {
    "request": {
        "model": "auto", "kind": "chat", "needs": [], "max_tokens": None, "top_logprobs": None, "n": 1, "prompts": 0,
        "locality": None, "deadline_s": None, "stream": False, "key": "", "declared": [],
    },
    "routes": [ROUTE],
    "planned": ["local/m"],
    "states": {"local/m": {"name": "m", "status": "ready"}},
    "prompt_tokens": {"local/m": 100},
    "cached_tokens": {},
    "estimated_tokens": 100,
    "learned": {},
    "health": {"acme/large": {"reason": "", "retry_after": None, "ttft_s": 0.5, "tokens_per_s": 100.0}},
    "offline": "",
    "data_classes": ["email"],
    "unfound": [],
    "scan_failed": False,
    "spent": {"key_day": 0.0, "key_month": 0.0, "site_day": 0.0, "site_month": 0.0},
    "completion_tokens": 256,
    "sticky": "",
    "elapsed_s": 0.0,
    "at": 0.0,
}  # fmt: skip
POLICY = """
[[keys]]
name = "k"
env = "A_KEY_THAT_IS_NOT_SET_HERE"
[routing]
locality = "prefer_remote"
[[providers]]
name = "acme"
base_url = "https://acme.example/v1"
key_env = "NOR_THIS_ONE"
data = { email = "redact" }
[[providers.models]]
name = "large"
context_length = 10000
input_price = 1
output_price = 10
"""


def write(home: Path, *rows: Decision) -> None:
    home.mkdir(parents=True, exist_ok=True)
    audit = Audit(home / "audit.db", 90)
    audit.start()
    for row in rows:
        audit.decision(row)
    audit.close()


def rows(count: int, age_s: float = 60.0) -> list[Decision]:
    made = Decision(
        "r",
        0.0,
        reasons=("auto",),
        attempts=(("local/m", "ok", 2.0),),
        route="local/m",
        total_s=2.0,
        prompt_tokens=100,
        completion_tokens=50,
        data_classes=("email",),
        facts=orjson.dumps(FACTS),
    )
    from dataclasses import replace

    return [replace(made, request_id=f"r{n}", at=time.time() - age_s + n) for n in range(count)]


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "other.toml").write_text(POLICY)
    return str(tmp_path / "other.toml")


def test_replay_prints_what_would_change(outstation: Outstation, home: Path, policy: str) -> None:
    write(home, *rows(3), Decision("mute", time.time() - 5))
    result = outstation("replay", "--policy", policy)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 decisions, 3 would change.",
        "1 row without facts to decide by passed over.",
        "",
        "BEFORE   AFTER       REQUESTS  WHY",
        "local/m  acme/large  3         prefer_remote",
        "",
        "                          BEFORE   AFTER",
        "cost                      $0.0000  $0.0018",
        "median time of 3 changed  2.00 s   1.00 s",
        "requests sent to acme     0        3",
        "",
        "WOULD GO TO  DATA CLASS  REQUESTS",
        "acme         email       3",
        "3 requests would reach acme redacted, if all that must be replaced can be: no text is kept to try it on.",
    ]


def test_replay_for_machines(outstation: Outstation, home: Path, policy: str) -> None:
    write(home, *rows(2), Decision("mute", time.time() - 5))
    data = json.loads(outstation("replay", "--policy", policy, "--json").stdout)
    first, second = data.pop("changed")
    assert (first["request_id"], first["before"], first["after"]) == ("r0", "local/m", "acme/large")
    assert (first["left_before"], first["left_after"], first["redacted_after"]) == ([], ["acme"], True)
    assert first["cost_after"] == pytest.approx((100 + 50 * 10) / 1e6)
    assert first["total_s_after"] == pytest.approx(0.5 + 50 / 100)
    assert second["request_id"] == "r1"
    assert data == {
        "decisions": 2,
        "without_facts": 1,
        "changes": 2,
        "cost_usd": {"before": 0.0, "after": pytest.approx(0.0012)},
        "median_s": {"of": 2, "before": 2.0, "after": 1.0},
        "redaction": "assumed to succeed",
        "left_the_site": {"before": {}, "after": {"acme": 2}},
        "would_leave": {"acme": {"requests": 2, "redacted": 2, "unsearched": 0, "data_classes": {"email": 2}}},
    }


def test_replay_of_what_would_not_change(outstation: Outstation, tmp_path: Path, policy: str) -> None:
    other_home = tmp_path / "elsewhere"
    write(other_home, *rows(1), *rows(1, age_s=3 * 3600))
    Path(policy).write_text("")
    result = outstation("replay", "--policy", policy, "--since", "1h", "--home", str(other_home))
    assert result.stdout.splitlines()[0] == "1 decision, 0 would change."
    assert "BEFORE   AFTER " not in result.stdout
    assert outstation("replay", "--policy", policy, "--home", str(other_home)).stdout.startswith("2 decisions")


def test_replay_without_an_audit(outstation: Outstation, policy: str) -> None:
    for more in ((), ("--json",)):
        result = outstation("replay", "--policy", policy, *more)
        assert result.exit_code == 1
        assert "There is no audit at" in result.stderr
        assert result.stdout == ""


def test_replay_refuses_a_policy_that_cannot_work(outstation: Outstation, home: Path, policy: str) -> None:
    write(home, *rows(1))
    Path(policy).write_text('[[rules]]\nname = "r"\nwhen = "1 +"\ndeny = "x"\n')
    result = outstation("replay", "--policy", policy)
    assert result.exit_code == 1
    assert "line 3: rules[0].when" in result.stderr
    assert outstation("replay", "--policy", policy + ".gone").exit_code == 2
    assert outstation("replay").exit_code == 2
    assert outstation("replay", "--policy", policy, "--since", "long").exit_code == 2
