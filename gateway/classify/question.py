"""A classification put to a language model in words, and what it answers read strictly. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.types import Features, Grammar, Image, Request, Sampling
from gateway.classify.confidence import ALTERNATIVES
from gateway.classify.inputs import Input, data_url
from gateway.schemas.classify import What
from policies.detect_body import MEDIA

SPECIAL = frozenset("\\.^$|?*+()[]{}/-#&~")
FIELD = "label"
BESIDE_LABEL = 16
"""Tokens around the label: braces, quotes, the field's name."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What every model that may be asked can do.

    Attributes:
        structured: keep to a schema.
        logprobs: tell how likely its words were.
    """

    structured: bool
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model gets to see of an input, and what a smaller model made of it."""

    what: What
    given: Input
    prediction: Mapping[str, float | None]
    features: Sequence[str] = ()


def seen(what: What, given: Input) -> What:
    """What can be shown: only a vector has features, so of all else the prediction alone is left."""
    return "prediction" if what == "features" and isinstance(given, str | Image) else what


def question(base: Request, model: str, labels: Sequence[str], shown: Shown, able: Abilities) -> Request:
    """The chat that asks for the label. `base`: whose controls it has."""
    system = _instructions(labels, shown, able.structured)
    user = _content(shown)
    pictured = isinstance(user, list)
    limit = BESIDE_LABEL + max(len(label.encode()) for label in labels)
    messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
    raw: dict[str, Any] = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": limit}
    schema = _schema(labels)
    if able.structured:
        named = {"name": "classification", "strict": True, "schema": schema}
        raw["response_format"] = {"type": "json_schema", "json_schema": named}
        grammar = Grammar("json_schema", orjson.dumps(schema).decode())
    else:
        grammar = Grammar("regex", "|".join(f"({_literal(label)})" for label in labels))
    if able.logprobs:
        raw |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
    return Request(
        id=base.id,
        model=model,
        kind="chat",
        messages=messages,
        sampling=Sampling(temperature=0.0, max_tokens=limit, top_logprobs=ALTERNATIVES if able.logprobs else None),
        needs=frozenset({"vision"} if pictured else ()),
        locality=base.locality,
        deadline_s=base.deadline_s,
        raw=raw,
        key=base.key,
        # What the input was said to hold may show in what was made of it; that it is a picture does not.
        declared=base.declared if pictured else base.declared - {MEDIA},
        grammar=grammar,
        trusted=_trusted(system, user, labels, shown),
    )


def _trusted(system: str, user: str | list[dict[str, Any]], labels: Sequence[str], shown: Shown) -> frozenset[str]:
    """What comes from here and from the manifest: labels, names of features; the rest that is said of a vector are
    numbers. A text that is shown came from outside, and is none of it even where it reads like a label."""
    own = frozenset({system, FIELD, *labels})
    if isinstance(user, list):
        return own
    outside = isinstance(shown.given, str) and seen(shown.what, shown.given) == "raw"
    return own - {user} if outside else own | {user}


def _instructions(labels: Sequence[str], shown: Shown, structured: bool) -> str:
    names = "\n".join(f"- {label}" for label in labels)
    what = {
        "raw": "what you are given",
        "features": "the measurements that you are given",
        "prediction": "something that you cannot see, from the probabilities that a smaller model gave",
    }[seen(shown.what, shown.given)]
    form = (
        'Answer with JSON: {"label": "…"}, with one of the categories, exactly as written above.'
        if structured
        else "Answer with one of the categories, exactly as written above, and nothing else."
    )
    return f"Sort {what} into exactly one of these categories:\n{names}\n{form}"


def _content(shown: Shown) -> str | list[dict[str, Any]]:
    given, what = shown.given, seen(shown.what, shown.given)
    if what == "prediction":
        return orjson.dumps(
            {label: None if p is None else round(p, 3) for label, p in shown.prediction.items()}
        ).decode()
    if isinstance(given, str):
        return given
    if isinstance(given, Image):
        return [{"type": "image_url", "image_url": {"url": data_url(given)}}]
    values = given.values if isinstance(given, Features) else [given[name] for name in shown.features]
    return orjson.dumps(dict(zip(shown.features, values, strict=True))).decode()


def _schema(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {FIELD: {"type": "string", "enum": list(labels)}},
        "required": [FIELD],
        "additionalProperties": False,
    }


def _literal(text: str) -> str:
    """A regular expression that matches just that."""
    return "".join(f"\\{char}" if char in SPECIAL else char for char in text)


def answered_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the answer names; None: it names none, or says more than that."""
    said: Any = text.strip()
    if said.startswith("{"):
        try:
            said = orjson.loads(said)
        except orjson.JSONDecodeError:
            return None
        said = said.get(FIELD) if isinstance(said, dict) and len(said) == 1 else None
    if not isinstance(said, str):
        return None
    if said.strip() in labels:
        return said.strip()
    named = said.strip("\"'`*. \n")
    alike = [label for label in labels if label.casefold() == named.casefold()]
    return alike[0] if len(alike) == 1 else None
