"""`/v1/classify`: every kind of input, several models at once, and what is refused."""

import asyncio
from base64 import b64encode

import httpx2
import pytest

from backends.errors import InvalidRequest, Overloaded
from backends.fake import FakeBackend
from backends.types import Chunk, Features, Image, Usage
from gateway.audit_reader import decisions
from gateway.schemas.classify import MOST_IMAGES, MOST_INPUTS
from gateway.schemas.task_responses import Classification
from tests.gateway.conftest import living
from tests.gateway.small_models import SmallModel, judging, manifest

pytestmark = pytest.mark.anyio
PATH = "/v1/classify"
PNG = b"\x89PNG\r\n\x1a\n pixels"
URL = "data:image/png;base64," + b64encode(PNG).decode()
LIKELY = {"pump": 0.75, "valve": 0.25}


def classifier(name: str = "c", judge=lambda prompt: LIKELY, **fields: object) -> SmallModel:
    return SmallModel(name, judging(judge), manifest=manifest(name=name, **fields))


async def ask(exchange, app, **body):
    begun = exchange(app, body, PATH)
    await begun.end()
    if begun.status == 200:
        Classification.model_validate_json(begun.body)
    return begun


async def test_a_text(make_app, exchange):
    backend = classifier()
    begun = await ask(exchange, make_app(backend), model="c", input="it drips")
    (result,) = begun.json["results"]
    assert result.pop("latency_ms") > 0
    assert result == {
        "index": 0, "model": "c", "version": "7", "label": "pump", "confidence": 0.75, "labels": LIKELY,
        "source": "edge", "route": "local/c", "edge_label": "pump", "edge_confidence": 0.75, "why": "",
    }  # fmt: skip
    assert begun.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}
    assert begun.headers["x-outstation-route"] == "local/c"
    assert begun.headers["x-outstation-attempts"] == "1"
    (request,) = backend.requests
    assert (request.kind, request.prompts, request.options) == ("classification", ("it drips",), {"truncate": False})


async def test_the_simple_shape_that_others_have_is_a_part_of_ours(make_app, exchange):
    begun = await ask(exchange, make_app(classifier()), model="c", text="it drips", top_k=1)
    assert (begun.json["object"], begun.json["model"]) == ("classification", "c")
    assert begun.json["labels"] == {"pump": 0.75}


async def test_texts_by_several_models_at_once(make_app, exchange):
    """Each is a request of its own, and they run together."""
    others_began = asyncio.Event()

    def waits(request):
        return [others_began, *judging(lambda _: LIKELY)(request)]

    def tells(request):
        others_began.set()
        return judging(lambda prompt: {"pump": 0.0, "valve": 1.0})(request)

    first, second = (
        SmallModel("a", waits, manifest=manifest(name="a")),
        SmallModel("b", tells, manifest=manifest(name="b", version="9")),
    )
    begun = await ask(exchange, make_app(first, second), models=["a", "b"], input=["x", "y"])
    said = [(r["model"], r["version"], r["index"], r["label"]) for r in begun.json["results"]]
    assert said == [("a", "7", 0, "pump"), ("a", "7", 1, "pump"), ("b", "9", 0, "valve"), ("b", "9", 1, "valve")]
    assert "labels" not in begun.json
    assert "model" not in begun.json
    assert begun.json["usage"]["prompt_tokens"] == 8
    assert second.requests[0].id == f"{first.requests[0].id}.2"


async def test_each_model_has_its_own_row_in_the_audit_and_its_own_figures(make_app, exchange, connect, tmp_path):
    app = make_app(classifier("a"), classifier("b"), classifier("c"))
    async with living(app):
        begun = await ask(exchange, app, models=["a", "b", "c"], input="x")
        figures = (await connect(app).get("/metrics")).text
    name = begun.headers["x-request-id"]
    rows = {row.request_id: row for row in decisions(tmp_path / "audit.db", 0.0)}
    assert set(rows) == {name, f"{name}.2", f"{name}.3"}
    assert {row.route for row in rows.values()} == {"local/a", "local/b", "local/c"}
    assert {(row.endpoint, row.ending, row.status) for row in rows.values()} == {(PATH, "success", 200)}
    for model in "abc":
        line = f'outstation_requests_total{{endpoint="{PATH}",model="{model}",outcome="success"}} 1.0'
        assert line in figures
    assert app.shared.running_ids == set()


def failing(name: str, error: Exception) -> SmallModel:
    return SmallModel(name, lambda _: [error], manifest=manifest(name=name))


@pytest.mark.parametrize("models", [["full", "c"], ["c", "full"]])
async def test_one_model_that_fails_does_so_alone(make_app, exchange, tmp_path, models):
    app = make_app(failing("full", Overloaded("It is full.", retry_after=1)), classifier())
    async with living(app):
        begun = await ask(exchange, app, models=models, input=["x", "y"])
    assert begun.status == 200
    results = begun.json["results"]
    assert [(r["model"], r["index"]) for r in results] == [(model, index) for model in models for index in (0, 1)]
    assert [r["label"] for r in results if r["model"] == "c"] == ["pump", "pump"]
    error = {"message": "It is full.", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert [r for r in results if r["model"] == "full"] == [
        {"index": index, "model": "full", "version": "7", "error": error} for index in (0, 1)
    ]
    assert begun.json["usage"]["prompt_tokens"] == 4
    name = begun.headers["x-request-id"]
    rows = {
        row.request_id: (row.route, row.ending, row.error, row.status) for row in decisions(tmp_path / "audit.db", 0)
    }
    # The request's own row says what its client saw.
    own, other = ("local/c", "success", "", 200), ("local/full", "error", "queue_full", 429)
    assert rows == {name: own, f"{name}.2": other}
    assert begun.headers["x-outstation-route"] == "local/c"


async def test_if_all_models_fail_the_first_ones_error_is_the_answer(make_app, exchange, tmp_path):
    wrong = failing("wrong", InvalidRequest("too long", param="prompt", code="context_length_exceeded"))
    app = make_app(failing("full", Overloaded("full", retry_after=1)), wrong)
    async with living(app):
        begun = await ask(exchange, app, models=["full", "wrong"], input="x")
    assert (begun.status, begun.json["error"]["code"]) == (429, "queue_full")
    rows = {row.route: (row.ending, row.error, row.status) for row in decisions(tmp_path / "audit.db", 0)}
    full, long = ("error", "queue_full", 429), ("error", "context_length_exceeded", 400)
    assert rows == {"local/full": full, "local/wrong": long}
    begun = await ask(exchange, app, models=["wrong", "full"], input="x")
    assert (begun.status, begun.json["error"]["param"]) == (400, "input")


async def test_a_defect_of_one_model_is_the_whole_requests_and_ends_the_others(make_app, exchange):
    slow = SmallModel("slow", lambda _: [asyncio.Event()], manifest=manifest(name="slow"))
    begun = await ask(exchange, make_app(slow, failing("odd", KeyError("x"))), models=["slow", "odd"], input="x")
    assert (begun.status, begun.json["error"]["code"]) == (500, "internal_error")
    assert slow.ended == ["cancelled"]


async def test_a_hang_up_ends_all_models(make_app, exchange):
    slow = [SmallModel(name, lambda _: [asyncio.Event()], manifest=manifest(name=name)) for name in "ab"]
    begun = exchange(make_app(*slow), {"models": ["a", "b"], "input": "x"}, PATH)
    async with asyncio.timeout(5):
        while not all(backend.requests for backend in slow):
            await asyncio.sleep(0.001)
    begun.hang_up.gone = True
    begun.hang_up.tell()
    await begun.end()
    assert [backend.ended for backend in slow] == [["cancelled"], ["cancelled"]]
    assert begun.status == 0


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ({"image": URL}, (Image(PNG),)),
        ([{"image": URL}] * MOST_IMAGES, (Image(PNG),) * MOST_IMAGES),
    ],
)
async def test_images(make_app, exchange, given, prompts):
    backend = classifier(input="image", image={"size": 8})
    begun = await ask(exchange, make_app(backend), model="c", input=given)
    assert begun.status == 200
    assert backend.requests[0].prompts == prompts
    assert backend.requests[0].declared == {"media"}


@pytest.mark.parametrize("given", [{"features": [1, 2.5]}, {"features": {"hertz": 2.5, "bar": 1}}])
async def test_features_in_order_or_by_name(make_app, exchange, given):
    backend = classifier(input="features", features=("bar", "hertz"))
    assert (await ask(exchange, make_app(backend), model="c", input=given)).status == 200
    assert (await ask(exchange, make_app(backend), model="c", input=[given, given])).status == 200
    assert backend.requests[0].prompts == (Features((1.0, 2.5)),)
    assert backend.requests[1].prompts == (Features((1.0, 2.5)),) * 2


async def form(app, files, **fields):
    """A form as `curl -F` sends it."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8484") as client:
        return await client.post(PATH, data=fields, files=files)


async def test_an_image_in_a_form(make_app):
    one, two = (classifier(name, input="image", image={"size": 8}) for name in ("1", "c"))
    app = make_app(one, two)
    said = await form(app, [("file", ("a.png", PNG)), ("image", ("b.png", PNG + b"2"))], models=["1", "c"], top_k="1")
    Classification.model_validate_json(said.content)
    assert [list(result["labels"]) for result in said.json()["results"]] == [["pump"]] * 4
    assert one.requests[0].prompts == two.requests[0].prompts == (Image(PNG), Image(PNG + b"2"))
    single = await form(app, [("file", ("a.png", PNG))], models="1", escalate='{"below": 0.5}')
    assert single.json()["results"][0]["why"] == "0.75 is at least 0.5"


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ([], {"model": "c"}, "file"),
        ([("file", ("a.png", b""))], {"model": "c"}, "file"),
        ([("photo", ("a.png", PNG))], {"model": "c"}, "photo"),
        ([("file", ("a.png", PNG))] * (MOST_IMAGES + 1), {"model": "c"}, None),
        ([("file", ("a.png", PNG))], {}, "model"),
        ([("file", ("a.png", PNG))], {"model": "c", "top_k": "many"}, "top_k"),
        ([("file", ("a.png", PNG))], {"model": "c", "text": "x" * 70_000}, None),
        ([("file", ("a.png", PNG))], {"model": "t"}, "input"),
    ],
)  # fmt: skip
async def test_wrong_forms(make_app, files, fields, param):
    backend = classifier(input="image", image={"size": 8})
    said = await form(make_app(backend, classifier("t")), files or {"x": (None, "1")}, **fields)
    assert said.status_code == 400
    assert said.json()["error"]["param"] == param
    assert backend.requests == []


async def test_a_form_that_is_too_large(make_app):
    backend = classifier(input="image", image={"size": 8})
    said = await form(make_app(backend, config="[server]\nmax_body_bytes = 1000"), {"file": PNG * 100}, model="c")
    assert (said.status_code, said.json()["error"]["code"]) == (413, "body_too_large")
    assert backend.requests == []


async def test_a_body_that_only_says_that_it_is_a_form(make_app, connect):
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        said = await connect(make_app(classifier())).post(PATH, content=b"{}", headers={"content-type": kind})
        assert said.status_code == 400


async def test_a_threshold_leaves_labels_out(make_app, exchange):
    app = make_app(classifier(), classifier("many", exclusive=False, thresholds={"valve": 0.125}))
    (high,) = (await ask(exchange, app, model="c", input="x", threshold=0.8)).json["results"]
    assert (high["label"], high["labels"], high["confidence"]) == (None, {}, 0.75)
    (some,) = (await ask(exchange, app, model="c", input="x", threshold=0.5)).json["results"]
    assert (some["label"], some["labels"]) == ("pump", {"pump": 0.75})


async def test_of_labels_that_exclude_no_other_none_may_be_right(make_app, exchange):
    app = make_app(classifier(judge=lambda _: {"pump": 0.125, "valve": 0.0}, exclusive=False))
    (result,) = (await ask(exchange, app, model="c", input="x")).json["results"]
    assert (result["label"], result["confidence"]) == (None, 0.875)


async def test_a_model_that_finds_places_in_a_text(make_app, exchange):
    wire = {"spans": [(0, 4, "NAME", 0.75), (8, 12, "CITY", 0.875), (20, 24, "NAME", 0.5)]}
    script = [Chunk(0, finish_reason="stop", wire=wire), Usage(3, 0)]
    known = manifest(task="find", labels=("NAME", "CITY"))
    app = make_app(SmallModel("c", lambda _: script, manifest=known))
    begun = await ask(exchange, app, model="c", input="Anna in Rome with Tom", threshold=0.6, escalate=True)
    (result,) = begun.json["results"]
    assert result["labels"] == {"CITY": 0.875, "NAME": 0.75}
    assert result["spans"] == [
        {"start": 0, "end": 4, "label": "NAME", "probability": 0.75},
        {"start": 8, "end": 12, "label": "CITY", "probability": 0.875},
    ]
    assert (result["confidence"], result["source"]) == (None, "edge")


TEXT, VECTOR, PICTURE = {"model": "c"}, {"model": "v"}, {"model": "p"}
WRONG = [
    ({**TEXT}, "input"),
    ({**TEXT, "input": ""}, "input"),
    ({**TEXT, "input": []}, "input"),
    ({**TEXT, "input": 3}, "input"),
    ({**TEXT, "input": ["x", ""]}, "input[1]"),
    ({**TEXT, "input": ["x", {"image": URL}]}, "input[1]"),
    ({**TEXT, "input": ["x"] * (MOST_INPUTS + 1)}, "input"),
    ({**TEXT, "input": ["x"] * 10_000}, "input"),
    ({**TEXT, "input": {}}, "input"),
    ({**TEXT, "input": {"image": URL, "features": [1]}}, "input"),
    ({**TEXT, "input": {"image": URL}}, "input"),
    ({**TEXT, "input": {"features": [1.0]}}, "input"),
    ({**PICTURE, "input": "x"}, "input"),
    ({**PICTURE, "input": {"image": "x"}}, "input.image"),
    ({**PICTURE, "input": {"image": "data:text/plain;base64,AAAA"}}, "input.image"),
    ({**PICTURE, "input": {"image": "data:image/png;base64,"}}, "input.image"),
    ({**PICTURE, "input": [{"image": URL}, {"image": "data:image/png;base64,%"}]}, "input[1].image"),
    ({**PICTURE, "input": {"image": "https://example.org/cat.png"}}, "input.image"),
    ({**PICTURE, "input": [{"image": URL}] * (MOST_IMAGES + 1)}, "input"),
    ({**VECTOR, "input": {"features": []}}, "input.features"),
    ({**VECTOR, "input": {"features": [1.0]}}, "input.features"),
    ({**VECTOR, "input": {"features": [1.0, 2.0, 3.0]}}, "input.features"),
    ({**VECTOR, "input": {"features": [1.0, "2"]}}, "input.features[1]"),
    ({**VECTOR, "input": {"features": [1.0, None]}}, "input.features[1]"),
    ({**VECTOR, "input": {"features": {"bar": 1.0}}}, "input.features"),
    ({**VECTOR, "input": {"features": {"bar": 1.0, "volt": 2.0}}}, "input.features"),
    ({**VECTOR, "input": [{"features": [1.0, 2.0]}, {"features": [1.0]}]}, "input[1].features"),
    ({"input": "x"}, "model"),
    ({**TEXT, "models": ["c"], "input": "x"}, "model"),
    ({**TEXT, "input": "x", "stream": True}, "stream"),
    ({"models": [], "input": "x"}, "models"),
    ({"models": ["c", "c"], "input": "x"}, "models"),
    ({"models": ["c"] * 9, "input": "x"}, "models"),
    ({"model": "m", "input": "x"}, "model"),
    ({"models": ["c", "m"], "input": "x"}, "model"),
    ({"models": ["c", "v"], "input": "x"}, "input"),
    ({**TEXT, "input": "x", "top_k": 0}, "top_k"),
    ({**TEXT, "input": "x", "threshold": 2}, "threshold"),
    ({**TEXT, "input": "x", "escalate": "auto"}, "escalate"),
    ({**TEXT, "input": "x", "escalate": {"below": 1.5}}, "escalate.below"),
    ({**TEXT, "input": "x", "escalate": {"what": "all"}}, "escalate.what"),
    ({**TEXT, "input": "x", "escalate": {"who": "m"}}, "escalate.who"),
    ({**TEXT, "input": "x", "outstation": {"locality": "only_remote"}}, "outstation.locality"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:60] for fields, _ in WRONG])
async def test_wrong_requests(make_app, exchange, fields, param):
    models = [
        classifier(),
        classifier("v", input="features", features=("bar", "hertz")),
        classifier("p", input="image", image={"size": 8}),
    ]
    begun = await ask(exchange, make_app(FakeBackend("m"), *models), **fields)
    assert begun.status == 400
    assert begun.json["error"]["param"] == param
    assert begun.json["error"]["message"]
    assert begun.headers["x-outstation-route"] == "none"
    assert [model.requests for model in models] == [[], [], []]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_what_is_no_number(make_app, connect, number):
    body = b'{"model": "v", "input": {"features": [1, %b]}}' % number.encode()
    said = await connect(make_app(classifier("v", input="features", features=("a", "b")))).post(PATH, content=body)
    assert (said.status_code, said.json()["error"]["code"]) == (400, "invalid_json")


async def test_what_only_the_model_can_refuse(make_app, exchange):
    """That bytes are no image is found out where they are decoded."""
    error = InvalidRequest("It is no image.", param="input")
    backend = SmallModel("p", lambda _: [error], manifest=manifest(input="image", image={"size": 8}))
    begun = await ask(exchange, make_app(backend), model="p", input={"image": URL})
    assert (begun.status, begun.json["error"]["param"]) == (400, "input")


@pytest.mark.parametrize("fields", [{"model": "nobody"}, {"model": "c", "escalate": {"to": "nobody"}}])
async def test_an_unknown_model(make_app, exchange, fields):
    begun = await ask(exchange, make_app(classifier()), input="x", **fields)
    assert (begun.status, begun.json["error"]["code"]) == (404, "model_not_found")
    assert begun.json["error"]["param"] == ("escalate.to" if "escalate" in fields else "model")


async def test_a_client_that_takes_the_same_id_as_a_further_inference(make_app, exchange):
    """Backends and the boundary tell requests apart by it, so it is given to one only."""
    app = make_app(classifier("a"), classifier("b"))
    app.shared.running_ids.add("mine.2")
    begun = exchange(app, {"models": ["a", "b"], "input": "x"}, PATH, x_request_id="mine")
    await begun.end()
    assert begun.status == 200
    ids = {backend.requests[0].id for backend in app.current.site.backends.values()}
    assert ids == {"mine", "mine.3"}
