"""An operator's texts from lines, CSV and JSONL, and which of them may calibrate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.training.common import TrainingError
from backends.training.samples import FEWEST_CALIBRATION, Sample, held_apart, read_samples, spread


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_the_same_texts_in_three_forms(tmp_path: Path) -> None:
    texts = [f"pump {n} leaks, 'badly'" for n in range(6)]
    wanted = [Sample(text) for text in texts]
    plain = write(tmp_path, "a.txt", "\n\n".join(texts))
    table = write(tmp_path, "a.csv", "id;report\n" + "".join(f"{n};{text}\n" for n, text in enumerate(texts)))
    rows = write(tmp_path, "a.jsonl", "".join(json.dumps({"report": text, "n": 1}) + "\n" for text in texts))
    assert read_samples(plain, "embed") == wanted
    assert read_samples(table, "embed", "report") == wanted
    assert read_samples(rows, "embed", "report") == wanted


def test_a_reranker_has_queries_too(tmp_path: Path) -> None:
    wanted = [Sample(f"document {n}", f"query {n}") for n in range(6)]
    lines = write(tmp_path, "a.txt", "\n".join(f"{one.query}\t{one.text}" for one in wanted))
    table = write(tmp_path, "a.csv", "query,text\n" + "".join(f"{one.query},{one.text}\n" for one in wanted))
    rows = write(tmp_path, "a.jsonl", "\n".join(json.dumps({"text": o.text, "query": o.query}) for o in wanted))
    assert read_samples(lines, "rerank") == read_samples(table, "rerank") == read_samples(rows, "rerank") == wanted


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "one\ntwo", "has 2 samples"),
        ("a.txt", "one\n" * 9, "a tab and a document"),
        ("a.csv", "words,query\na,b\n", "no column 'text'.*--text"),
        ("a.csv", "query,text\na,\n", "line 2: the text is empty"),
        ("a.jsonl", '{"text": "a", "query": "b"}\n{"text": "a"}', "line 2: .* 'text' and 'query'"),
        ("a.jsonl", "[1]", "line 1: it should be an object"),
        ("a.jsonl", "{", "line 1: no JSON"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(TrainingError, match=said):
        read_samples(path, "embed" if "has 2" in said else "rerank")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_samples(tmp_path / "none", "embed")
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="UTF-8"):
        read_samples(tmp_path / "bad", "embed")


def test_what_measures_does_not_calibrate() -> None:
    samples = [Sample("The pump  leaks"), Sample("b")]
    others = [Sample(f"text {n}") for n in range(FEWEST_CALIBRATION)]
    assert held_apart([Sample("the pump leaks"), *others, others[0]], samples) == others
    with pytest.raises(TrainingError, match=f"Only {FEWEST_CALIBRATION - 1} different texts"):
        held_apart([*others[1:], *samples], samples)


def test_a_part_is_of_everywhere() -> None:
    every = [Sample(str(n)) for n in range(1000)]
    some = [int(sample.text) for sample in spread(every, 10)]
    assert some == list(range(0, 1000, 100))
    assert spread(every[:3], 10) == every[:3]
