"""From what `bench.schemas` saw to its tables, and their places in RESULTS.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.report import Table
from bench.results import Part
from bench.schemas_load import EACH_REFUSED, TOKENS, Filled, Form, Wave

COMMAND = "written by `make bench-schemas BENCH_ARGS=--write`"
HEADING = """
## Structured output

What `make bench-schemas` saw: answers that the decoder holds to a JSON schema or to a grammar, asked over HTTP of a
gateway with one model.

"""


def part(of: str, *, first: bool = False) -> Part:
    """Of the schemas, or of one model's rates."""
    return Part(f"<!-- {COMMAND}: {of} -->", f"<!-- end of {of} -->", HEADING if first else "\n")


@dataclass(frozen=True, slots=True)
class Pair:
    """One round of one grammar: held to it, and free with as many tokens of each answer."""

    held: Wave
    free: Wave


def filled_table(asked: Sequence[Form], rounds: Mapping[str, Sequence[Filled]], clients: int) -> Table:
    """How the forms ended."""
    rows = []
    for name, filled in rounds.items():
        count = Counter(one.outcome for one in filled)
        finished = count["valid"] + count["invalid"]
        share = f"{count['valid'] / finished:.1%}" if finished else "–"
        rows.append(
            [
                name,
                *map(str, (len(filled), finished)),
                f"**{share}** ({count['valid']} of {finished})",
                *map(str, (count["invalid"], count["cut"], count["refused"], count["failed"])),
            ]
        )
    wrong = sum(not form.enforceable for form in asked)
    note = (
        f"{len(asked)} random schemas (`bench/schemas_random.py`), {clients} answers at once, greedy ones and others "
        f"in the same steps, at most {TOKENS} tokens each. *valid*: whole answers that jsonschema validates, Draft "
        "2020-12 with formats. *cut*: at the limit, told as `length`. *refused*: 400 `unsupported_schema`; one schema "
        f"in {EACH_REFUSED} ({wrong}) has a keyword that cannot be enforced."
    )
    header = ["sampling", "asked", "finished", "valid", "invalid", "cut", "refused", "failed"]
    return Table("Random schemas", note, header, rows)


def rate_table(model: str, rounds: Mapping[str, Sequence[Pair]], streams: int, tokens: int) -> Table:
    """Tokens/s held and free, and what is kept."""
    rows = []
    for name, pairs in rounds.items():
        held, free = ([getattr(pair, kind).rate for pair in pairs] for kind in ("held", "free"))
        rows.append(
            [
                name,
                _spread(free),
                _spread(held),
                f"**{median(held) / median(free):.1%}**",
                f"{median(sum(pair.held.counts) / streams for pair in pairs):.0f}",
                str(sum(pair.held.failed + pair.free.failed for pair in pairs)),
            ]
        )
    note = (
        f"{streams} streams at once; tokens/s of all of them together, time to the first token included. Each round "
        f"asks once with the grammar, at most {tokens} tokens an answer, and once without it, as many tokens of each "
        "answer, in turns. *kept*: by the medians of the rounds."
    )
    header = ["held to", "tokens/s, free", "held", "kept", "tokens an answer", "failed"]
    return Table(f"Under a grammar: {model}", note, header, rows)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f}–{max(values):.0f})"
