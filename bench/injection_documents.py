"""`python -m bench.injection_documents [--write]`: what the injection guard holds of documents, by its bound for them.

Documents full of instructions, without any attack: what the packages of this environment say of themselves (their
READMEs, the environment's lock file pins them), split by the package's name into those to choose a bound by and those
to judge it by, and this repository's own docs/. The guard has learned from none of them. In the same documents attacks
are hidden: of neuralchemy's validation to choose by, of its test to judge by.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.injection_data import PUBLISHED, Labelled, neuralchemy, sentences, some
from bench.injection_embedding import BGE, BUNDLED, Embedder, Vectors
from bench.injection_guard import by_sentence
from bench.injection_texts import buried
from bench.report import Table
from bench.results import Part, machine

HERE = Path(__file__).parent
OWN = "outstation"
PAGE = 50
"""Sentences and lines of one."""
MOST_PAGES, MOST_PARAGRAPHS = 3, 6
"""Of one document: changelogs of thousands of lines would be all that is seen."""
LONGEST_ATTACK = 200
BOUNDS = (0.616, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
HELD = 0.2
"""Part of such pages that may be held."""
KEPT = Part(
    "<!-- written by `python -m bench.injection_documents --write` -->",
    "<!-- end of the guard on documents -->",
    """
## The injection guard on documents

What `python -m bench.injection_documents` saw: documents full of instructions, without an attack, judged sentence by
sentence as retrieved text is.

- *pages*: 50 sentences or lines each, at most three of a README. *held*: one of them at least is over the bound.
- *paragraphs*: of 30 to 160 words, at most six of a README. *attacks found*: each paragraph once more, with an attack
  of less than 200 characters between two of its sentences.
- *READMEs*: of the packages that are installed for development here, split by a hash of the package's name. Attacks to
  choose by are neuralchemy's validation's, those to judge by its test's.
- *docs/*: this repository's own. The bound that is set, 0.99, was chosen when these had been looked at, so for it they
  judge nothing; the second half of the READMEs does.

""",
)


@dataclass(frozen=True, slots=True)
class Documents:
    """One set. `planted`: its paragraphs, each with an attack in it."""

    pages: Sequence[str]
    paragraphs: Sequence[str]
    planted: Sequence[str]


@dataclass(frozen=True, slots=True)
class Scores:
    """The worst sentence of each text, as a probability."""

    pages: Any
    paragraphs: Any
    planted: Any


def main() -> int:
    """Judges, prints; with --write keeps the figures in RESULTS.md."""
    parser = argparse.ArgumentParser(prog="bench.injection_documents", description=__doc__)
    parser.add_argument("--cache", type=Path, default=HERE / "out" / "guard", help="packages and vectors stay there")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="a folder of Markdown files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the figures in RESULTS.md")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    judge = by_sentence(guard(Embedder(BGE, args.cache)))

    def scored(texts: Sequence[str]) -> Any:
        return judge([Labelled(text, False, "") for text in texts])

    found = {}
    for name, one in sets(args.cache, args.docs, random.Random(args.seed)).items():
        found[name] = Scores(scored(one.pages), scored(one.paragraphs), scored(one.planted))
    written = report(found)
    print(written)
    if args.write:
        KEPT.keep(HERE / "RESULTS.md", written)
    return 0


def sets(cache: Path, docs: Path, rng: random.Random) -> Mapping[str, Documents]:
    """By their names in the report; the first is the one to choose by."""
    choosing, judging = (attacks(neuralchemy(cache, part)) for part in ("validation", "test"))
    readmes = {name: text for name, text in sorted(installed().items()) if len(text.split()) > 100}
    first = [text for name, text in readmes.items() if half(name) == 0]
    second = [text for name, text in readmes.items() if half(name) == 1]
    own = [path.read_text(encoding="utf-8") for path in sorted(docs.glob("*.md"))]
    return {
        "READMEs, to choose by": documents(first, choosing, rng),
        "READMEs, to judge by": documents(second, judging, rng),
        "docs/": documents(own, judging, rng, pages=None, paragraphs=None),
    }


def documents(
    texts: Iterable[str],
    hidden: Sequence[str],
    rng: random.Random,
    pages: int | None = MOST_PAGES,
    paragraphs: int | None = MOST_PARAGRAPHS,
) -> Documents:
    """Pages and paragraphs of texts, so many of each at most."""
    whole, parts = [], []
    for text in texts:
        whole += pages_of(text)[:pages]
        blocks = list(paragraphs_of(text))
        parts += blocks if paragraphs is None else some(blocks, paragraphs, rng)
    return Documents(whole, parts, list(buried(parts, hidden, rng)))


def installed() -> dict[str, str]:
    """What each package of this environment says of itself, by its name."""
    found = {}
    for one in importlib.metadata.distributions():
        _, _, text = (one.read_text("METADATA") or "").replace("\r\n", "\n").partition("\n\n")
        if (name := one.metadata["Name"].lower()) != OWN:
            found[name] = text
    return found


def half(name: str) -> int:
    """Which of the two a package belongs to: 0 or 1."""
    return hashlib.sha256(name.encode()).digest()[0] % 2


def attacks(texts: Iterable[Labelled]) -> list[str]:
    """Those that fit between two sentences."""
    return [
        one.text for one in texts if one.attack and len(one.text) < LONGEST_ATTACK and one.kind.startswith(PUBLISHED)
    ]


def pages_of(text: str) -> list[str]:
    """A text in pages; the last one only if it is half of one at least."""
    each = sentences(text)
    found = [each[at : at + PAGE] for at in range(0, len(each), PAGE)]
    return ["\n".join(page) for page in found if 2 * len(page) >= PAGE]


def paragraphs_of(text: str) -> Iterator[str]:
    """Running text only: no tables, code, lists or headings."""
    for block in re.split(r"\n\s*\n", re.sub(r"```.*?(```|\Z)", "\n\n", text, flags=re.DOTALL)):
        if 30 <= len(block.split()) <= 160 and not re.match(r"\s*([|<#>+*-]|\.\. |\d+\.|    |\t)", block):
            yield " ".join(block.split())


def guard(embedder: Embedder) -> Callable[[Sequence[Labelled]], Any]:
    """The one in the catalogue: a probability for each text."""
    import onnxruntime  # type: ignore[import-untyped]

    folder = BUNDLED / "injection-guard"
    manifest = json.loads((folder / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    bias, temperature = manifest["bias"][0], manifest["temperature"]

    def logits(vectors: Vectors) -> Any:
        return session.run(None, {"embedding": vectors})[0].reshape(-1)

    return lambda texts: 1 / (1 + np.exp(-(embedder.best(logits, texts) + bias) / temperature))


def chosen(scores: Scores) -> float:
    """The lowest bound that holds no more pages than may be; 1: none does."""
    return next((bound for bound in BOUNDS if float((scores.pages > bound).mean()) <= HELD), 1.0)


def report(found: Mapping[str, Scores]) -> str:
    """All that is printed and kept."""
    first, *others = found
    bound = chosen(found[first])
    lines = [
        machine(),
        f"- The lowest bound with at most {HELD:.0%} of the pages of *{first}* held: {bound:g}",
        *(f"- At {bound:g}, {name}: {_said(found[name], bound)}" for name in others),
    ]
    note = "The texts of a column that are over the bound, and how many there are."
    header = ["bound", "documents", "pages held", "paragraphs held", "attacks found"]
    rows = [
        [f"{bound:g}", name, *(_of(values, bound) for values in (one.pages, one.paragraphs, one.planted))]
        for bound in BOUNDS
        for name, one in found.items()
    ]
    return "\n".join([*lines, "", Table("What is held, by the bound", note, header, rows).markdown()])


def _said(one: Scores, bound: float) -> str:
    held, missed = float((one.pages > bound).mean()), float((one.planted <= bound).mean())
    return f"{held:.0%} of the pages held, {missed:.0%} of the hidden attacks pass"


def _of(values: Any, bound: float) -> str:
    over = int((values > bound).sum())
    return f"{over} of {len(values)} ({over / max(1, len(values)):.0%})"


if __name__ == "__main__":
    sys.exit(main())
