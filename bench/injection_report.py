"""From the guard's answers to its figures, its manifest and its place in RESULTS.md."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.injection_head import Head, graph
from bench.report import Table
from bench.results import Part

BEGIN = "<!-- written by `python -m bench.injection_guard --write` -->"
END = "<!-- end of the injection guard -->"
HEADING = """
## The injection guard

What `python -m bench.injection_guard` saw when it trained the guard: the head and its threshold are chosen on
validation texts, the figures are of texts that neither has seen. How many harmless validation texts may raise an alarm
(2%) was settled after the technicians' figures of a first head (7.0%, with 3%) had been looked at.

- *recall*: attacks found. *false alarms*: benign texts taken for attacks. Both at the threshold of the manifest.
- *neuralchemy's test*: of its near-duplicates, every text is left out that shares four fifths of its groups of four
  characters with one that was learned from or chosen by. The dataset counts harmful requests and shell commands as
  attacks, and a few ordinary questions too.
- *technicians*: 300 sentences from working days, a quarter of them with words that attacks use as well
  (`bench/data/technicians.txt`). *manual pages*: paragraphs of 300 tools' pages. *Ansible's reference* chose the head.
- *attacks in documents*: a test attack between two sentences of a technical passage.
- *sentence by sentence*: the same guard, which judges each sentence by itself and believes the worst.
- *jailguard*: the other head in the catalogue, over all-minilm-l6-v2, at its own threshold.

"""
NAMES = {
    "test": "neuralchemy's test",
    "fresh": "neuralchemy's test, no near-duplicates",
    "technicians": "technicians",
    "manual": "manual pages",
    "reference": "Ansible's reference",
    "buried": "attacks in documents",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What one guard says of one set of texts at one threshold.

    Attributes:
        attacks, benign: how many there are.
        found: attacks that it found. alarms: benign texts that it took for attacks.
        at_five: recall at the threshold of exactly 5% false alarms in this very set; NaN without both kinds.
        examples: some of the benign texts that raised an alarm.
    """

    attacks: int
    found: int
    benign: int
    alarms: int
    at_five: float
    examples: Sequence[str] = ()

    @property
    def recall(self) -> float:
        """Part of the attacks that was found; NaN of none."""
        return self.found / self.attacks if self.attacks else float("nan")

    @property
    def false_alarms(self) -> float:
        """Part of the benign texts that was not let through; NaN of none."""
        return self.alarms / self.benign if self.benign else float("nan")


class Chosen(Protocol):
    """The candidate that was best; see `bench.injection_guard.Candidate`."""

    @property
    def choice(self) -> object: ...
    @property
    def recall(self) -> float: ...
    @property
    def alarms(self) -> float: ...


Sets = Mapping[str, Judged]


def judged(probabilities: Any, attacks: Any, threshold: float, texts: Sequence[str]) -> Judged:
    """From probabilities [texts] and whether each is an attack [texts]."""
    hit = probabilities >= threshold
    both = attacks.any() and not attacks.all()
    limit = np.quantile(probabilities[~attacks], 0.95) if both else 0.0
    return Judged(
        attacks=int(attacks.sum()),
        found=int((hit & attacks).sum()),
        benign=int((~attacks).sum()),
        alarms=int((hit & ~attacks).sum()),
        at_five=float((probabilities[attacks] > limit).mean()) if both else float("nan"),
        examples=[text for text, wrong in zip(texts, hit & ~attacks, strict=True) if wrong],
    )


def table(guards: Mapping[str, Sets]) -> Table:
    """Every guard on every set."""
    rows = []
    for name, title in NAMES.items():
        for guard, sets in guards.items():
            if name in sets:
                one = sets[name]
                rows.append(
                    [
                        title,
                        guard,
                        f"{part(one.recall)} of {one.attacks}" if one.attacks else "–",
                        f"{part(one.false_alarms)} of {one.benign}" if one.benign else "–",
                        part(one.at_five),
                    ]
                )
    note = "*recall at 5%*: with the threshold moved until exactly 5% of this very set's benign texts raise an alarm."
    return Table("Attacks found", note, ["texts", "guard", "recall", "false alarms", "recall at 5%"], rows)


def sources(sets: Sets) -> Table:
    """The test by where its texts come from."""
    rows = [
        [
            name,
            f"{one.found} of {one.attacks}" if one.attacks else "–",
            f"{one.alarms} of {one.benign}" if one.benign else "–",
        ]
        for name, one in sets.items()
    ]
    note = (
        "injection-guard on neuralchemy's test, by its sources. *neuralchemy_v1* is made from templates, and easy; "
        "*wildguard_judgecomp* and *harmbench* are about harm, which is not what a guard against injections looks for."
    )
    return Table("The test by its sources", note, ["source", "attacks found", "false alarms"], rows)


def written(
    best: Chosen, threshold: float, sizes: Mapping[str, int], guards: Mapping[str, Sets], by_source: Sets
) -> str:
    """All that is printed and kept."""
    learned = ", ".join(f"{count:,} {name}" for name, count in sizes.items())
    lines = [
        f"- Texts: {learned}",
        f"- Chosen: {best.choice}",
        f"- Threshold: {threshold:g}",
        f"- On the validation: recall {part(best.recall)}, false alarms on Ansible's reference {part(best.alarms)}",
        f"- Taken on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
    ]
    return "\n".join([*lines, "", table(guards).markdown(), sources(by_source).markdown()])


def manifest(head: Head, threshold: float, data: bytes, sets: Sets) -> dict[str, Any]:
    """The model's, as backends.onnx.manifest reads it."""
    metrics = [
        {"name": name, "value": round(value, 4), "on": NAMES[key]}
        for key, one in sets.items()
        for name, value in (("recall", one.recall), ("false_alarms", one.false_alarms))
        if value == value  # not NaN
    ]
    return {
        "name": "injection-guard",
        "version": "1",
        "description": "Prompt injection, a small head over bge-small-en-v1.5: the default guard. English.",
        "task": "classify",
        "files": {"model.onnx": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}},
        "input": "embedding",
        "base": "bge-small-en-v1.5",
        "output": "logits",
        "labels": ["injection"],
        "activation": "sigmoid",
        "exclusive": False,
        "temperature": round(head.temperature, 6),
        "bias": [round(head.bias, 6)],
        "thresholds": {"injection": threshold},
        "licence": "Apache-2.0",
        "source": "trained by bench/injection_guard.py on neuralchemy/Prompt-injection-dataset (Apache-2.0), "
        "S-Labs/prompt-injection-dataset (MIT) and texts of homeassistant, botocore and awscli (Apache-2.0)",
        "metrics": metrics,
    }


def keep_model(folder: Path, head: Head, threshold: float, sets: Sets) -> None:
    """Writes graph and manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    data = graph(head)
    (folder / "model.onnx").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest(head, threshold, data, sets), indent=2) + "\n")


keep = Part(BEGIN, END, HEADING).keep


def part(value: float) -> str:
    """A percentage; a dash for what was not measured."""
    return f"{value:.1%}" if value == value else "–"
