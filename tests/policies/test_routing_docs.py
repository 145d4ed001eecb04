"""docs/routing.md says what the policies do."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from backends.types import ModelState, Request, Sampling
from gateway.schemas.settings import FileConfig
from policies.base import Route, Snapshot, Spent
from policies.capability import ESTIMATE_MARGIN
from policies.rules import compile_rules
from policies.variables import FUNCTIONS, VARIABLES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "routing.md").read_text()
LOCAL, SMALL, LARGE = (
    Route("local/smollm2-135m-instruct", "smollm2-135m-instruct"),
    Route("acme/small", "acme/small", "remote"),
    Route("acme/large", "acme/large", "remote"),
)
NOON = Snapshot(at=1_700_049_600)  # Wednesday
ASK = Request("r", "auto", "chat")


def rules():
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    return [rule for block in blocks for rule in FileConfig.model_validate(tomllib.loads(block)).rules]


@pytest.mark.parametrize(
    ("name", "request_", "site", "kept"),
    [
        ("patients", replace(ASK, declared=frozenset({"health"})), NOON, (LOCAL,)),
        ("kiosk", replace(ASK, key="kiosk", sampling=Sampling(max_tokens=1001)), NOON, ()),
        ("kiosk", replace(ASK, key="kiosk", needs=frozenset({"tools"})), NOON, ()),
        ("night", ASK, replace(NOON, at=NOON.at + 9 * 3600), (SMALL, LOCAL)),
        ("night", ASK, replace(NOON, at=NOON.at + 3 * 86400), (SMALL, LOCAL)),
        (
            "rush",
            replace(ASK, deadline_s=5.0),
            replace(NOON, states={LOCAL.name: ModelState("m", "ready", waiting=5)}, spent=Spent(site_day=2.4)),
            (LARGE, SMALL),
        ),
        ("", replace(ASK, key="kiosk", sampling=Sampling(max_tokens=1000)), NOON, (LOCAL, LARGE, SMALL)),
    ],
)
def test_each_example_does_what_it_looks_like(name, request_, site, kept):
    verdict = compile_rules(rules())(request_, (LOCAL, LARGE, SMALL), site)
    assert (verdict.kept, verdict.reason) == (kept, name and f"rule {name}")


def test_every_example_is_tried():
    assert [rule.name for rule in rules()] == ["patients", "kiosk", "night", "rush"]


def test_variables_are_all_there_with_their_types():
    rows = re.findall(r"^\| (`(?:key|request|signals|site)[^|]*) \| ([^|]+) \|", TEXT, flags=re.MULTILINE)
    documented = {name: type_ for names, type_ in rows for name in re.findall(r"`([^`]+)`", names)}
    assert documented == {name: variable.type for name, variable in VARIABLES.items()}


def test_functions_are_all_there():
    listed = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("and these functions:") :]))
    assert {name for name in FUNCTIONS if not name.startswith("get")} <= listed


def test_every_code_of_a_policy_is_there():
    sources = "".join(path.read_text() for path in (ROOT / "policies").glob("*.py"))
    codes = set(re.findall(r'\bcode="(\w+)"', sources)) | {"context_length_exceeded"}
    assert codes == set(re.findall(r"^\| `(\w+)` \| \d+ \|", TEXT, flags=re.MULTILINE))


def test_the_margin_is_what_it_says():
    assert f"more than {ESTIMATE_MARGIN} times" in TEXT
