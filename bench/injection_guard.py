"""`python -m bench.injection_guard [--write]`: trains the injection guard, a small head over bge-small's embeddings.

The head and its threshold are chosen on validation texts only; the figures are of texts that it never saw. Everything
is fetched as packages (bench/injection_data.py); with --write the model goes to backends/models/bundled/.
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench import injection_report as report
from bench.injection_data import PUBLISHED, Corpora, Labelled, corpora, manual, near, sentences
from bench.injection_embedding import BGE, BUNDLED, MINILM, Embedder, Vectors
from bench.injection_head import Head, fit

HERE = Path(__file__).parent
FALSE_ALARMS = 0.02
"""Of the validation's benign texts; the test may have 5%, and a threshold never fits other texts as well as its own."""
HIDDEN = ((64,), (128, 64))
PENALTIES = (1e-3,)
SHARES = (0.1, 0.3, 1.0)
MEMBERS = 3
SENTENCES = "injection-guard, sentence by sentence"


@dataclass(frozen=True, slots=True)
class Choice:
    """How a head is made. `share`: the weight of a text that is not neuralchemy's."""

    hidden: tuple[int, ...]
    penalty: float
    share: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A head with its threshold, and what the validation says of it.

    Attributes:
        threshold: the logit from which a text counts as an attack.
        recall: of neuralchemy's validation.
        alarms: part of the benign technical reference that is taken for an attack.
    """

    choice: Choice
    head: Head
    threshold: float
    recall: float
    alarms: float

    @property
    def worth(self) -> float:
        """Missed attacks and false alarms of technical text weigh the same."""
        return self.recall - self.alarms


def main() -> int:
    """Trains, judges, prints; with --write keeps the model, and the figures in RESULTS.md."""
    args = parse(sys.argv[1:])
    args.cache.mkdir(parents=True, exist_ok=True)
    texts = corpora(args.cache, args.seed)
    pages = manual(args.manual, 300, random.Random(args.seed)) if args.manual else []
    embedder = Embedder(BGE, args.cache)
    best = choose(texts, embedder, args.seed)
    head, threshold = calibrated(best, texts, embedder)
    sets = judging(texts, pages)

    def ours(some: Sequence[Labelled]) -> Any:
        return head.probabilities(embedder.best(head.logits, some))

    guards = {
        "injection-guard": judge(ours, threshold, sets),
        SENTENCES: judge(by_sentence(ours), threshold, sets),
        "jailguard": judge(jailguard(args.cache), 0.5, sets),
    }
    sizes = {
        "to learn from": len(texts.train),
        "to choose by": len(texts.validation) + len(texts.technical),
        "to judge by": sum(len(some) for name, some in sets.items() if name not in ("fresh", "reference")),
    }
    written = report.written(best, threshold, sizes, guards, judge(ours, threshold, of_sources(texts.test)))
    print(written)
    for text in guards["injection-guard"]["technicians"].examples:
        print(f"false alarm: {text}", file=sys.stderr)
    if args.write:
        report.keep_model(BUNDLED / "injection-guard", head, threshold, guards["injection-guard"])
        report.keep(HERE / "RESULTS.md", written)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.injection_guard", description=__doc__)
    parser.add_argument("--cache", type=Path, default=HERE / "out" / "guard", help="packages and vectors stay there")
    parser.add_argument("--manual", type=Path, help="manual pages to judge by as well: the folder of man1 and man8")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the model in backends/models/bundled/")
    return parser.parse_args(argv)


def choose(texts: Corpora, embedder: Embedder, seed: int) -> Candidate:
    """The best of all candidates on the validation."""
    found = []
    for choice in (Choice(*values) for values in product(HIDDEN, PENALTIES, SHARES)):
        found.append(candidate(choice, texts, embedder, seed))
        one = found[-1]
        print(f"{choice}: recall {one.recall:.3f}, false alarms {one.alarms:.3f}", file=sys.stderr)
    return max(found, key=lambda one: one.worth)


def candidate(choice: Choice, texts: Corpora, embedder: Embedder, seed: int) -> Candidate:
    """One head, learned from the training texts; its threshold from the validation."""
    vectors, owner = embedder.windows(texts.train)
    truth = np.array([one.attack for one in texts.train])[owner]
    weights = np.array([1.0 if one.kind.startswith(PUBLISHED) else choice.share for one in texts.train])[owner]
    head = fit(vectors, truth, weights, choice.hidden, choice.penalty, range(seed, seed + MEMBERS))
    published = [one for one in texts.validation if one.kind.startswith(PUBLISHED)]
    scores, attacks = embedder.best(head.logits, published), labels(published)
    threshold = float(np.quantile(scores[~attacks], 1 - FALSE_ALARMS))
    alarms = embedder.best(head.logits, texts.technical) > threshold
    return Candidate(choice, head, threshold, float((scores[attacks] > threshold).mean()), float(alarms.mean()))


def calibrated(best: Candidate, texts: Corpora, embedder: Embedder) -> tuple[Head, float]:
    """The head with probabilities that fit the validation (Platt 1999), and its threshold as one of them."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    scores = embedder.best(best.head.logits, texts.validation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        platt = LogisticRegression(C=1e6).fit(scores[:, None], labels(texts.validation))
    slope, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    head = best.head.with_calibration(temperature=1 / slope, bias=offset / slope)
    threshold = head.probabilities(np.array([best.threshold]))
    return head, float(np.ceil(threshold[0] * 1000) / 1000)


def judging(texts: Corpora, pages: Sequence[Labelled]) -> Mapping[str, Sequence[Labelled]]:
    """The sets that judge, by their names in the report."""
    learned = [one.text for one in [*texts.train, *texts.validation]]
    doubles = near([one.text for one in texts.test], learned)
    sets: dict[str, Sequence[Labelled]] = {
        "test": texts.test,
        "fresh": [one for one, double in zip(texts.test, doubles, strict=True) if not double],
        "technicians": texts.technicians,
        "manual": pages,
        "reference": texts.technical,
        "buried": texts.buried,
    }
    return {name: some for name, some in sets.items() if some}


def of_sources(test: Sequence[Labelled]) -> Mapping[str, Sequence[Labelled]]:
    """The test's texts by where its makers had them from."""
    kinds = sorted({one.kind for one in test})
    return {kind.removeprefix(f"{PUBLISHED}: "): [one for one in test if one.kind == kind] for kind in kinds}


def judge(
    probabilities: Callable[[Sequence[Labelled]], Any], threshold: float, sets: Mapping[str, Sequence[Labelled]]
) -> report.Sets:
    """What a guard says of each set."""
    return {
        name: report.judged(probabilities(some), labels(some), threshold, [one.text for one in some])
        for name, some in sets.items()
    }


def by_sentence(probabilities: Callable[[Sequence[Labelled]], Any]) -> Callable[[Sequence[Labelled]], Any]:
    """A guard that reads a text sentence by sentence, and believes the worst of them."""

    def found(some: Sequence[Labelled]) -> Any:
        parts = [sentences(one.text) or [one.text] for one in some]
        each = probabilities([Labelled(text, False, "") for texts in parts for text in texts])
        worst = np.zeros(len(some))
        np.maximum.at(worst, np.repeat(np.arange(len(some)), [len(texts) for texts in parts]), each)
        return worst

    return found


def jailguard(cache: Path) -> Callable[[Sequence[Labelled]], Any]:
    """The other guard in the catalogue."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(BUNDLED / "jailguard" / "model.onnx")
    embedder = Embedder(MINILM, cache)

    def found(vectors: Vectors) -> Any:
        return session.run(None, {"embedding": vectors})[0][:, 0]

    return lambda some: embedder.best(found, some)


def labels(some: Sequence[Labelled]) -> Any:
    """Whether each is an attack."""
    return np.array([one.attack for one in some], dtype=bool)


if __name__ == "__main__":
    sys.exit(main())
