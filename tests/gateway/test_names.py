"""Names of persons, from the model that finds them to what leaves."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import pytest

from backends.errors import Overloaded
from backends.fake import FakeBackend, say
from backends.types import Chunk, Request, Result, Usage
from gateway.app import build_app
from gateway.audit_reader import decisions
from gateway.config import load_config
from gateway.names import Names, model_finder
from gateway.pieces import REMEMBERED
from gateway.providers import remote_routes
from gateway.record import read_facts
from gateway.small_models import runner
from policies.names import literals
from tests.gateway.conftest import living
from tests.gateway.small_models import SmallModel, judging, manifest
from tests.gateway.test_routing import FakeRemote
from tests.onnx.conftest import folder, running  # noqa: F401 - fixtures

pytestmark = pytest.mark.anyio

PEOPLE = ("Maria Gonzales", "Öztürk", "J. van der Berg", "Sinéad O'Brien", "Lindqvist")
SITE = """
[routing]
locality = "prefer_remote"
[privacy]
names = "rampart"
names_timeout_ms = 200
[[providers]]
name = "acme"
base_url = "http://127.0.0.1:9/v1"
data = { name = "redact", default = "allow" }
[[providers.models]]
name = "large"
context_length = 100000
input_price = 0
output_price = 0
"""
ALLOWED = SITE.replace('name = "redact", ', "")
DENIED = SITE.replace('name = "redact"', 'name = "deny"')
M = "Ask Maria Gonzales why the pump hums; Gonzales has seen it."


@dataclass
class Small:
    """A small model that knows some people; it fails or hangs if told to."""

    people: Sequence[str] = PEOPLE
    fails: Exception | None = None
    hangs: bool = False
    seen: list[str] = field(default_factory=list)

    async def run(self, model: str, request: Request) -> tuple[list[Result], int]:
        assert (model, request.kind) == ("rampart", "classification")
        if self.fails:
            raise self.fails
        if self.hangs:
            await asyncio.Event().wait()
        texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
        self.seen += texts
        return [{"spans": [*self.spans(text)]} for text in texts], 1

    def spans(self, text: str):
        for name in self.people:
            for match in re.finditer(re.escape(name), text, re.IGNORECASE):
                yield match.start(), match.end(), "SURNAME", 0.9


@pytest.fixture
def site(tmp_path):
    def made(small: Small | None, text: str = SITE, script=None, others=()):
        file = tmp_path / "outstation.toml"
        file.write_text(text)
        config = load_config(file, environ={"OUTSTATION_HOME": str(tmp_path)})
        remote = [(route, FakeRemote(route.name, script or say("from afar"))) for route in remote_routes(config)]
        return build_app(
            config, [FakeBackend("m", say("here")), *others], remote=remote, run=small.run if small else None
        )

    return made


async def ask(app, exchange, content=M, path="/v1/chat/completions", **fields):
    begun = exchange(app, {"model": "auto", "messages": [{"role": "user", "content": content}], **fields}, path)
    await begun.end()
    return begun


def sent(app) -> list[Request]:
    return app.current.site.backends["acme/large"].requests


async def test_a_name_goes_as_a_placeholder_and_comes_back(site, exchange):
    app = site(Small(), script=say("[NAME_1]: ", "[NA", "ME_2] it is."))
    async with living(app):
        begun = await ask(app, exchange)
        plan = (await ask(app, exchange, path="/v1/outstation/explain")).json
    assert sent(app)[0].raw["messages"][0]["content"] == "Ask [NAME_1] why the pump hums; [NAME_2] has seen it."
    assert begun.json["choices"][0]["message"]["content"] == "Maria Gonzales: Gonzales it is."
    assert plan["data_classes"] == ["name"]
    assert plan["routes"][0]["placeholders"] == {"name": 2}
    home = app.current.config.home
    (row,) = decisions(home / "audit.db", 0.0)
    assert (row.data_classes, row.redacted) == (("name",), True)
    assert b"Gonzales" not in row.facts and b"Gonzales" not in (home / "audit.db").read_bytes()
    assert read_facts(row.facts).snapshot.data_classes == {"name"}


async def test_who_may_not_see_names_is_not_asked(site, exchange):
    app = site(Small(), DENIED)
    async with living(app):
        named = await ask(app, exchange)
        plain = await ask(app, exchange, "Why does it hum?")
    assert named.headers["x-outstation-route"] == "local/m"
    assert "not acme/large (privacy: holds name)" in named.headers["x-outstation-reason"]
    assert plain.headers["x-outstation-route"] == "acme/large"


UNKNOWN = [{"metadata": {"id": "Maria Gonzales"}}, {"metadata": {"name": "Lindqvist"}}, {"url": "Maria Gonzales"}]


@pytest.mark.parametrize("fields", UNKNOWN)
@pytest.mark.parametrize("text", [SITE, DENIED])
async def test_a_name_in_a_field_that_we_do_not_know_stays(site, exchange, fields, text):
    app = site(Small(), text)
    async with living(app):
        begun = await ask(app, exchange, "Why does it hum?", model="acme/large", **fields)
        message = {"role": "user", "content": "Why?", **fields}
        within = await ask(app, exchange, model="acme/large", messages=[message])
    assert [one.json["error"]["code"] for one in (begun, within)] == ["privacy_denied"] * 2
    assert sent(app) == []


async def test_what_the_gateway_wrote_itself_is_not_searched():
    small = Small()
    names = Names(model_finder(small.run, "rampart"), 1.0)
    raw = {"messages": [{"role": "system", "content": "Sort: Lindqvist"}, {"role": "user", "content": "Öztürk"}]}
    assert await names.of("r", raw, trusted=frozenset({"Sort: Lindqvist"})) == ("Öztürk",)
    assert small.seen == ["Öztürk"]


@pytest.mark.parametrize(
    "small", [Small(fails=Overloaded("full")), Small(fails=KeyError("x")), Small(hangs=True), None]
)
@pytest.mark.parametrize("text", [SITE, DENIED])
async def test_while_names_cannot_be_searched_nobody_gets_any(site, exchange, small, text):
    app = site(small, text)
    async with living(app):
        begun = await ask(app, exchange, "Why does it hum?")
        refused = await ask(app, exchange, model="acme/large")
    assert begun.headers["x-outstation-route"] == "local/m"
    assert "not acme/large (privacy: not searched (name))" in begun.headers["x-outstation-reason"]
    assert (refused.status, refused.json["error"]["code"]) == (400, "privacy_scan_failed")
    assert sent(app) == []
    rows = list(decisions(app.current.config.home / "audit.db", 0.0))
    assert {read_facts(row.facts).snapshot.unknown for row in rows} == {frozenset({"name"})}


@pytest.mark.parametrize("email", ["allow", "redact"])
async def test_who_may_see_names_is_asked_all_the_same(site, exchange, email):
    text = ALLOWED.replace("{ default", f'{{ email = "{email}", default')
    app = site(Small(hangs=True), text)
    async with living(app):
        begun = await ask(app, exchange, "Write to bob@example.com.")
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert ("bob" in sent(app)[0].raw["messages"][0]["content"]) == (email == "allow")


@pytest.mark.parametrize(
    ("when", "route"),
    [
        ("'name' in request.data_classes", "local/m"),
        ("!('name' in request.data_classes)", "local/m"),
        ("'health' in request.data_classes", "acme/large"),
        ("size(request.data_classes) > 9", "acme/large"),
    ],
)
async def test_a_rule_to_which_names_make_a_difference_fails_closed(site, exchange, when, route):
    rule = f'[[rules]]\nname = "r"\nwhen = "{when}"\nlocality = "only_local"\n'
    app = site(Small(hangs=True), ALLOWED + rule)
    async with living(app):
        begun = await ask(app, exchange)
    assert begun.headers["x-outstation-route"] == route


async def test_a_request_that_stays_is_not_searched(site, exchange):
    small = Small()
    app = site(small)
    async with living(app):
        await ask(app, exchange, model="local/m")
    assert small.seen == []


async def test_off_nothing_is_searched_and_the_class_is_only_declared(site, exchange):
    small = Small()
    app = site(small, SITE.replace('names = "rampart"', ""))
    async with living(app):
        begun = await ask(app, exchange)
        declared = await ask(app, exchange, model="acme/large", outstation={"data_classes": ["name"]})
    assert begun.headers["x-outstation-route"] == "acme/large"
    assert declared.json["error"]["code"] == "privacy_denied"
    assert small.seen == []


@pytest.mark.parametrize("seed", range(20))
async def test_names_of_a_list_never_leave(site, exchange, seed):
    rng = random.Random(seed)
    words = ["the pump", "12 bar", "“", "(", "über", ", and", "\n", "ok."]
    people = rng.sample(PEOPLE, 3)

    def text():
        return " ".join(rng.choice((rng.choice(words), rng.choice(people))) for _ in range(rng.randint(0, 200)))

    messages = [
        {"role": "system", "content": text()},
        {"role": "user", "content": [{"type": "text", "text": text()}, {"type": "text", "text": text()}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "send", "arguments": orjson.dumps({"to": text()}).decode()},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": orjson.dumps({"said": [text()]}).decode()},
    ]
    app = site(Small(people))
    async with living(app):
        await ask(app, exchange, messages=messages, model="acme/large")
    assert len(sent(app)) == 1
    body = orjson.dumps(sent(app)[0].raw).decode() + str(sent(app)[0])
    for name in people:
        assert name not in body and name.split()[-1] not in body


@pytest.mark.parametrize(
    ("what", "given", "source", "why"),
    [
        ("prediction", "red", "remote", "0.5 is below 0.7; acme/large was asked"),
        ("raw", "It hums.", "remote", "0.5 is below 0.7; acme/large was asked"),
        ("raw", "red", "edge", "0.5 is below 0.7; acme/large: privacy_denied"),
    ],
)
async def test_labels_that_read_like_names_keep_no_classification_back(site, exchange, what, given, source, why):
    judge = judging(lambda _: {"red": 0.5, "green": 0.5})
    unsure = SmallModel("c", judge, manifest=manifest(labels=("red", "green"), confidence=0.7))
    app = site(Small(["red", "green"]), DENIED, say('{"label": "green"}'), [unsure])
    async with living(app):
        body = {"model": "c", "input": given, "escalate": {"to": "acme/large", "what": what}}
        begun = exchange(app, body, "/v1/classify")
        await begun.end()
    (result,) = begun.json["results"]
    assert (result["source"], result["why"]) == (source, why)
    assert len(sent(app)) == (source == "remote")


async def test_what_was_searched_is_not_searched_again():
    small = Small()
    names = Names(model_finder(small.run, "rampart"), 1.0)
    first = {"messages": [{"role": "user", "content": M}]}
    assert await names.of("r", first) == ("Maria Gonzales", "Maria", "Gonzales")
    longer = {"messages": [*first["messages"], {"role": "user", "content": "And Öztürk?"}]}
    assert set(await names.of("r", longer) or ()) == {"Maria Gonzales", "Maria", "Gonzales", "Öztürk"}
    assert small.seen == [M, "And Öztürk?"]


async def test_no_text_is_kept_and_not_too_much_else():
    names = Names(model_finder(Small().run, "rampart"), 30.0)
    many = [{"role": "user", "content": f"Ask Lindqvist {n}"} for n in range(REMEMBERED + 10)]
    assert await names.of("r", {"messages": many}) == ("Lindqvist",)
    assert len(names._told._known) == REMEMBERED
    assert "Lindqvist" not in str(names._told._known)


async def test_a_long_text_is_searched_in_pieces_that_overlap():
    small = Small()
    names = Names(model_finder(small.run, "rampart"), 5.0)
    text = "".join(f"line {n} by {rng}\n" for n, rng in enumerate(PEOPLE * 400))
    found = await names.of("r", {"messages": [{"role": "user", "content": text}]}, large=True)
    assert set(PEOPLE) <= set(found or ())
    assert max(map(len, small.seen)) <= 480


async def test_too_few_answers_tell_nothing():
    async def one(texts):
        return [[]]

    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    assert await Names(one, 1.0).of("r", {"messages": messages}) is None
    assert await Names(one, 1.0).of("r", {"messages": messages[:1]}) == ()


async def test_results_that_come_in_no_order_are_put_in_theirs():
    class Late(FakeBackend):
        async def generate(self, request):
            for index in (2, 0, 1):
                yield Chunk(index, finish_reason="stop", wire={"score": float(index)})
            yield Usage(7, 0)

    request = Request("r", "m", "rerank", prompts=("a", "b", "c"))
    results, tokens = await runner({"m": Late()})("m", request)
    assert ([result["score"] for result in results], tokens) == ([0.0, 1.0, 2.0], 7)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ask Maria Gonzales to call Tom about the pump.", {"Maria Gonzales", "Tom"}),
        ("Bitte Herrn Jan van der Berg fragen, ob die Pumpe P-101 läuft.", {"Jan van der Berg"}),
        ("Why did J. R. Smith reset the drive fault F12?", {"J. R. Smith"}),
        ("ASK MARIA GONZALES TO CALL TOM.", {"MARIA GONZALES", "TOM"}),
        ("Bosch pump P-101 tripped on high vibration at 14:32.", set()),
    ],
)
async def test_the_real_model_finds_people_and_leaves_pumps_alone(folder, running, text, names):  # noqa: F811
    async with running(folder("rampart"), threads=1) as host:
        found = await Names(model_finder(host.run, "rampart"), 60.0).of("r", {"messages": [{"content": text}]})
    assert set(found or ()) == {part for name in names for part in literals([name])}
