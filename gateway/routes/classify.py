"""`POST /v1/classify`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request as HTTPRequest

from backends.errors import BackendError, InvalidRequest, ModelNotFound, Unavailable
from backends.types import Image, Request, Usage
from gateway.classify.asking import Asking
from gateway.classify.escalation import Escalation, Escalator, merged
from gateway.classify.inputs import Input, inputs_of, prompts_for
from gateway.classify.panel import Member, Panel
from gateway.classify.verdict import failed_object, verdict_object
from gateway.errors import error_body
from gateway.manifests import ManifestOf
from gateway.outcome import new_id
from gateway.routes.answer import Answer
from gateway.routes.embeddings import UNSEARCHED
from gateway.routes.inference import Inference, controls, outcome_of
from gateway.schemas.classify import LABELS_SHOWN, MOST_IMAGES, ClassifyRequest, Escalate
from gateway.schemas.parse import check, parse_json, read_body
from gateway.state import Site
from gateway.upload import is_form, read_form
from policies.capability import wrong_task

NAMES = {"prompt": "input"}
FILES = ("file", "image")
TEXTS = frozenset({"model", "models", "user"})


def classify_endpoint(
    inference: Inference, site: Site, manifest_of: ManifestOf
) -> Callable[[HTTPRequest], Awaitable[Answer]]:
    """The endpoint's function."""
    laid_down = {row.model: Escalation(row.to, row.below, row.what) for row in inference.escalations}

    def members_of(http: HTTPRequest, asked: _Asked) -> list[Member]:
        """Each model that is asked, with the inputs as it takes them.

        Raises:
            ModelNotFound, InvalidRequest: there is no such model, or it does or takes something else.
        """
        escalate = asked.wire.escalate
        if isinstance(escalate, Escalate) and escalate.to is not None:
            _check_there(site, escalate.to)
        base = _base(http, asked, inference.key_classes)
        members = []
        for name in asked.wire.names:
            route = site.resolve(name, "classification").routes[0]
            if "classification" not in route.kinds:
                raise wrong_task("classification", route)
            manifest = manifest_of(route.model)
            request = replace(base, model=name, prompts=prompts_for(asked.inputs, manifest))
            how = None if manifest.task == "find" else merged(laid_down.get(route.model), escalate)
            members.append(Member(request, manifest, asked.inputs, how))
        return members

    async def classify(http: HTTPRequest) -> Answer:
        asked = await (_form(http) if is_form(http) else _json(http))
        members = members_of(http, asked)
        asking = Asking(inference.dispatcher, inference.children)
        escalator = Escalator(site, manifest_of, asking)
        panel = Panel(inference.dispatcher, members, asking, escalator)

        def body(_model: str, _results: Sequence[Mapping[str, Any]], usage: Usage) -> bytes:
            return _body(panel, members, asked.wire, usage)

        return inference.whole(http, members[0].request, body, NAMES, through=panel)

    return classify


class _Asked(NamedTuple):
    wire: ClassifyRequest
    raw: Mapping[str, Any]
    inputs: tuple[Input, ...]


async def _json(http: HTTPRequest) -> _Asked:
    raw = parse_json(await read_body(http))
    if "input" not in raw and "text" in raw:
        raw = {**raw, "input": raw["text"]}
    wire = check(ClassifyRequest, raw)
    return _Asked(wire, raw, inputs_of(wire.input))


async def _form(http: HTTPRequest) -> _Asked:
    raw, files = await read_form(http, FILES, MOST_IMAGES, TEXTS)
    if not files or not all(files):
        wrong = "is empty" if files else "is missing"
        raise InvalidRequest(f"A file {wrong}: send an image as `file`.", param="file")
    if isinstance(raw.get("models"), str):
        raw["models"] = [raw["models"]]
    wire = check(ClassifyRequest, {**raw, "input": "files"})
    return _Asked(wire, raw, tuple(Image(data) for data in files))


def _base(http: HTTPRequest, asked: _Asked, key_classes: Mapping[str, frozenset[str]]) -> Request:
    """What the requests of all models have in common."""
    said = controls(asked.wire, http, key_classes)
    if any(isinstance(one, Image) for one in asked.inputs):
        said["declared"] |= UNSEARCHED
    options = {"truncate": bool(asked.wire.truncate)}
    return Request(outcome_of(http).id, "", "classification", options=options, raw=asked.raw, **said)


def _check_there(site: Site, name: str) -> None:
    """Raises `ModelNotFound`, before anybody is asked."""
    try:
        site.resolve(name, "chat")
    except ModelNotFound as error:
        raise ModelNotFound(error.message, param="escalate.to") from None
    except Unavailable:
        pass  # nobody is there now: `why` will say so


def _body(panel: Panel, members: Sequence[Member], wire: ClassifyRequest, usage: Usage) -> bytes:
    results: list[dict[str, Any]] = []
    for member, verdicts in zip(members, panel.verdicts, strict=True):
        if isinstance(verdicts, BackendError):
            results += _failed(member, verdicts)
        else:
            results += [
                verdict_object(verdict, member.manifest, wire.top_k or LABELS_SHOWN, wire.threshold)
                for verdict in verdicts
            ]
    said: dict[str, Any] = {"id": f"clf-{new_id()}", "object": "classification"}
    if len(members) == 1:
        said["model"] = results[0]["model"]
    if len(results) == 1:
        said["labels"] = results[0]["labels"]
    said["results"] = results
    said["usage"] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    return orjson.dumps(said)


def _failed(member: Member, error: BackendError) -> list[dict[str, Any]]:
    """One entry for each input, as of the models that answered."""
    said = orjson.loads(error_body(error, NAMES))["error"]
    name, version = member.manifest.name, member.manifest.version
    return [failed_object(index, name, version, said) for index in range(len(member.inputs))]
