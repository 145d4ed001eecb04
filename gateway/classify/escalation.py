"""Who is asked when a classifier is not sure: a larger one, or a language model; on the box or beyond, as policies say.

Whatever goes wrong here, what the classifier said stays, and `why` says what went wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends.errors import BackendError, InvalidRequest, ModelNotFound, Unavailable
from backends.onnx.manifest import Manifest
from backends.types import Request
from gateway.classify.asking import Asking, together
from gateway.classify.confidence import said_confidence
from gateway.classify.inputs import Input, prompts_for
from gateway.classify.question import Abilities, Shown, answered_label, question
from gateway.classify.verdict import Opinion, Source, Verdict, opinion_of
from gateway.config import Config, ConfigError, place_of
from gateway.manifests import ManifestOf
from gateway.outcome import Outcome
from gateway.schemas.classify import Escalate, What
from gateway.state import AUTO, Site
from policies.base import Route

AT_ONCE = 4
MOST_QUESTIONS = 32
MOST_LABELS = 64
NONE = "none of these"
"""What a language model may say where labels do not exclude each other: perhaps none is right."""
WIDTH: dict[What, int] = {"prediction": 0, "features": 1, "raw": 2}


@dataclass(frozen=True, slots=True)
class Escalation:
    """What is done with inputs of which a model is not sure.

    Attributes:
        to: models, asked in this order until one is sure.
        below: confidence below which the model counts as not sure; None: what its manifest says.
        what: what a language model is shown.
    """

    to: tuple[str, ...] = (AUTO,)
    below: float | None = None
    what: What = "raw"


def merged(laid_down: Escalation | None, asked: Escalate | bool | None) -> Escalation | None:
    """What the request asks for, within what the operator laid down; None: nobody else is asked."""
    if asked is None or asked is False:
        return laid_down if asked is None else None
    base = laid_down or Escalation()
    if asked is True:
        return base
    what = asked.what or base.what
    return Escalation(
        (asked.to,) if asked.to is not None else base.to,
        base.below if asked.below is None else asked.below,
        # Only ever less is shown than the operator allows.
        min(what, base.what, key=WIDTH.__getitem__),
    )


@dataclass(frozen=True, slots=True)
class Unsure:
    """The verdicts of one model that others are asked about, with all that they need to know.

    Attributes:
        request: that the model was asked; further ones have its controls.
        inputs: as they came; a verdict's is that of its index.
    """

    request: Request
    manifest: Manifest
    inputs: Sequence[Input]
    escalation: Escalation
    verdicts: Sequence[Verdict]

    @property
    def pending(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.unsure]

    def note(self, why: str) -> None:
        """For all that is still pending."""
        for verdict in self.pending:
            verdict.why.append(why)


class Escalator:
    """For one HTTP request."""

    def __init__(self, site: Site, manifest_of: ManifestOf, asking: Asking) -> None:
        self._site = site
        self._manifest_of = manifest_of
        self._asking = asking

    async def improve(self, unsure: Unsure, parent: Outcome, seconds: float) -> None:
        """Asks on, within that time."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                for name in unsure.escalation.to:
                    if unsure.pending:
                        await self._ask(name, unsure, parent)
        except TimeoutError:
            unsure.note("no time was left")

    async def _ask(self, name: str, unsure: Unsure, parent: Outcome) -> None:
        try:
            routes = self._site.resolve(name, "chat").routes
            if "chat" in routes[0].kinds:
                await self._questions(name, routes, unsure, parent)
            elif "classification" in routes[0].kinds:
                await self._larger(name, routes[0], unsure, parent)
            else:
                unsure.note(f"{name}: wrong_task")
        except BackendError as error:
            unsure.note(f"{name}: {error.code}")

    async def _larger(self, name: str, route: Route, unsure: Unsure, parent: Outcome) -> None:
        """One further request, with all of the inputs."""
        pending, manifest = unsure.pending, self._manifest_of(route.model)
        if manifest.task == "find" or route.name == unsure.verdicts[0].edge.route.name:
            raise InvalidRequest(f"{name} cannot say more.", code="wrong_task")
        prompts = prompts_for([unsure.inputs[verdict.index] for verdict in pending], manifest)
        answered = await self._asking.ask_besides(replace(unsure.request, model=name, prompts=prompts), parent)
        for verdict, choice in zip(pending, answered.choices, strict=True):
            opinion = opinion_of(choice.wire or {}, manifest, answered.route)
            assert opinion.confidence is not None
            verdict.why.append(f"{answered.route.name}: {opinion.confidence:.3g}")
            if opinion.confidence >= (manifest.confidence or unsure.escalation.below or unsure.manifest.confidence):
                verdict.settle(opinion)
            elif opinion.confidence > (verdict.final.confidence or 0.0):
                verdict.final = opinion

    async def _questions(self, name: str, routes: Sequence[Route], unsure: Unsure, parent: Outcome) -> None:
        """One chat for each input, a few at once."""
        pending = unsure.pending
        for verdict in pending[MOST_QUESTIONS:]:
            verdict.why.append(f"{name}: not asked about more than {MOST_QUESTIONS} inputs")
        able = Abilities(
            structured=all(r.location == "local" or "structured_output" in r.capabilities for r in routes),
            logprobs=all("logprobs" in route.capabilities for route in routes),
        )
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(verdict: Verdict) -> None:
            async with turns:
                await self._question(name, able, verdict, unsure, parent)

        await together(one(verdict) for verdict in pending[:MOST_QUESTIONS])

    async def _question(self, name: str, able: Abilities, verdict: Verdict, unsure: Unsure, parent: Outcome) -> None:
        manifest, given = unsure.manifest, unsure.inputs[verdict.index]
        likeliest = set(list(verdict.edge.labels)[:MOST_LABELS])
        labels = [label for label in manifest.labels if label in likeliest]
        labels += [] if manifest.exclusive else [NONE]
        shown = Shown(unsure.escalation.what, given, verdict.edge.labels, manifest.features)
        try:
            asked = question(unsure.request, name, labels, shown, able)
            answered = await self._asking.ask_besides(asked, parent)
        except BackendError as error:
            verdict.why.append(f"{name}: {error.code}")
            return
        (choice,) = answered.choices
        label = answered_label(choice.text, labels)
        if label is None:
            verdict.why.append(f"{answered.route.name} named none of the labels")
            return
        verdict.why.append(f"{answered.route.name} was asked")
        source: Source = "local_llm" if answered.route.location == "local" else "remote"
        confidence = said_confidence(choice, label, labels)
        said = {} if label == NONE else {label: confidence}
        verdict.settle(Opinion(answered.route, None if label == NONE else label, confidence, said, source=source))


def check_escalations(config: Config, site: Site) -> None:
    """Refuses one that names a model which is not there, or the same classifier twice. Raises `ConfigError`."""
    seen: set[str] = set()
    for index, row in enumerate(config.escalations):
        if row.model in seen:
            place = place_of(config, "escalations", index, "model")
            raise ConfigError(f"{place}: the model {row.model!r} has an escalation already")
        seen.add(row.model)
        for field, names in (("model", (row.model,)), ("to", row.to)):
            for name in names:
                _check_name(site, name, place_of(config, "escalations", index, field))


def _check_name(site: Site, name: str, place: str) -> None:
    try:
        site.resolve(name)
    except ModelNotFound as error:
        raise ConfigError(f"{place}: {error.message}") from None
    except Unavailable:
        pass  # `auto`, on a box without a model: one may still come
