"""Random ways through random schemas, which prefer what is troublesome (quotes, escapes, digits): whatever is allowed
validates. No model computes; its vocabulary is the real one."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.errors import InvalidRequest
from backends.llama.bindings import Model
from backends.llama.constraint import Constraint
from backends.llama.grammar import Grammars, canonical
from backends.types import Grammar
from bench.schemas_load import fault, forms
from bench.schemas_random import Schema

MOST_TOKENS = 300
ATOMS = (
    "a", "é", "€", ".", '"', r"\\", r"\n", r"\d", r"\w", r"\s", r"\S", r"\W", r"\D", "[a-c]", "[^a]", '[^"]', r"[^\\]",
    r'[^\s"]', "[é-ü]", "[^é]", r"[\w-]", r"[^\w]", r"[^\W]", "(ab|c)", "(a|)", r"[\d.]", "[ -~]", "[^ -~]", r"[\]]",
    r"[^\]]", "[a^]", r"[^\x00-\x1f]", r"[\x00-\x41]", r"[\x20-\x22]",
)  # fmt: skip
TIMES = ("", "", "", "?", "*", "+", "{2}", "{1,3}", "{0,2}")
BOUNDS = (0, 1, -1, 0.5, -0.5, 10, -100, 0.1, 0.001, 1e-5, 99.99, -2.5, 1e6, 123456.789)

Kind = NDArray[np.bool_]


class Walker:
    """Chooses among the tokens that are allowed."""

    def __init__(self, model: Model) -> None:
        self.pieces = [model.piece(token) for token in range(model.n_vocab)]
        self.ends = np.isin(np.arange(model.n_vocab), sorted(model.eog))
        self.short = self._those(lambda piece: 0 < len(piece) <= 2)
        self.closing = self._those(lambda piece: piece in (b'"', b"]", b"}", b"],", b'",', b'"}', b"},", b'"]', b"}}"))
        self.marks = self._those(lambda piece: any(c in piece for c in b'\\"{}[]:,.-+eEu'))
        self.spaces = self._those(lambda piece: not piece.strip())

    def _those(self, wanted: Callable[[bytes], bool]) -> Kind:
        return np.array([wanted(piece) for piece in self.pieces]) & ~self.ends

    def walk(self, constraint: Constraint, rng: random.Random) -> str | None:
        """A completion; None: it got too long."""
        text = b""
        for length in range(MOST_TOKENS):
            free = ~constraint.blocked()
            if (free & self.ends).any() and rng.random() < 0.5:
                return text.decode()
            free = _some(free & ~self.ends, ~self.spaces, 0.9, rng)
            if not free.any():
                return text.decode()
            free = _some(free, self.closing, 0.8 if length > 40 else 0.0, rng)
            free = _some(free, rng.choice((self.short, self.marks)), 0.8, rng)
            token = rng.choice(np.flatnonzero(free).tolist())
            constraint.take([token])
            text += self.pieces[token]
            if constraint.done:
                return text.decode()
        return None


def _some(free: Kind, liked: Kind, chance: float, rng: random.Random) -> Kind:
    """Only those that are liked, if there are such, in so many of the cases."""
    both = free & liked
    return both if rng.random() < chance and both.any() else free


@pytest.fixture(scope="module")
def model(model_file):
    return Model(model_file, vocab_only=True)


@pytest.fixture(scope="module")
def grammars(model):
    return Grammars(model.grammar_tokenizer, model.n_vocab)


@pytest.fixture(scope="module")
def walker(model):
    return Walker(model)


def walked(walker: Walker, grammars: Grammars, schema: Schema, seed: int, times: int) -> int:
    """How many completions ended; each of them is valid."""
    ended = 0
    for number in range(times):
        constraint = grammars.compile(Grammar("json_schema", canonical(schema)))
        text = walker.walk(constraint, random.Random(f"{seed}-{number}"))
        if text is not None:
            ended += 1
            assert not fault(schema, text), (schema, text)
    return ended


def test_random_schemas(walker, grammars):
    asked = [form for form in forms(120, seed=17) if form.enforceable]
    assert sum(walked(walker, grammars, form.schema, 1, 2) for form in asked) > 1.8 * len(asked)


def pattern(rng: random.Random) -> Schema:
    said = "".join(rng.choice(ATOMS) + rng.choice(TIMES) for _ in range(rng.randint(1, 4)))
    said = f"({said}|{rng.choice(ATOMS)})" if rng.random() < 0.2 else said
    schema = {"type": "string", "pattern": f"{rng.choice(('^', '^', ''))}{said}{rng.choice(('$', '$', ''))}"}
    return schema | {"maxLength": rng.randint(3, 8)} if rng.random() < 0.6 else schema


def number(rng: random.Random) -> Schema:
    schema: Schema = {"type": rng.choice(("number", "number", "integer"))}
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if rng.random() < 0.35:
            schema[keyword] = rng.choice((*BOUNDS, round(rng.uniform(-5, 5), rng.randint(0, 6))))
    return schema | {"multipleOf": rng.choice((1, 2, 0.5, 0.25, 3, 10))} if rng.random() < 0.2 else schema


@pytest.mark.parametrize("made", [pattern, number])
def test_random_patterns_and_bounds(walker, grammars, made):
    rng, ended, refused = random.Random(3), 0, []
    for seed in range(150):
        schema = made(rng)
        try:
            ended += walked(walker, grammars, schema, seed, 2)
        except InvalidRequest as error:
            refused.append(error.message)
    assert ended > 150
    assert all("nsatisfiable" in why or "can satisfy" in why for why in refused), "bounds that leave nothing"
