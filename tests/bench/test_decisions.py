"""The bench of decisions: what it plants, what it counts, what it prints."""

from __future__ import annotations

import random

import pytest

from bench import decisions_report as report
from bench.decisions import RULES, Site, body, configured, found, main, parse, plans, scans
from bench.decisions_planted import Kind, card, iban, kinds, luhn_digit, planted, weighted
from bench.decisions_texts import KINDS, text
from gateway.policies import detector_of
from policies.base import decide
from policies.detect import Detector

RNG_SEED = 5


def test_the_check_digits_are_those_of_published_numbers() -> None:
    """Examples that the issuers print themselves."""
    assert luhn_digit("401288888888188") == "1"
    assert weighted("756123456789", (1, 3) * 6) % 10 == 3  # 756.1234.5678.97


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_what_is_planted_is_found_and_what_is_no_such_number_is_not(kind: Kind) -> None:
    rng = random.Random(RNG_SEED)
    detector = detector_of(configured(""))
    assert found(detector, kind, 20, rng) == 20
    nobody = Kind(kind.name, kind.cls, lambda rng: "4711", kind.named)
    assert found(detector, nobody, 5, rng) == 0


def test_a_number_that_is_found_in_part_or_under_another_class_does_not_count() -> None:
    detector = Detector({"part": "4711"})
    assert found(detector, Kind("", "part", lambda rng: "4711"), 5, random.Random(RNG_SEED)) == 5
    assert found(detector, Kind("", "part", lambda rng: "4711 B"), 5, random.Random(RNG_SEED)) == 0
    assert found(detector, Kind("", "iban", card), 5, random.Random(RNG_SEED)) == 0


def test_a_planted_number_stands_in_its_sentence_as_it_was_made() -> None:
    rng = random.Random(RNG_SEED)
    said, value = planted(Kind("IBAN", "iban", iban, "IBAN "), rng)
    assert f"IBAN {value}" in said
    assert len(said) > len(value) + 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_as_long_as_asked_and_no_two_are_alike(kind: str) -> None:
    rng = random.Random(RNG_SEED)
    first, second = text(kind, rng, 4096), text(kind, rng, 4096)
    assert 4090 <= len(first.encode()) <= 4096
    assert first != second


def test_the_sites_decide_and_are_timed() -> None:
    site = Site(2, 6, RULES)
    assert len(site.routes) == 8
    asked = site.requests(random.Random(RNG_SEED))
    made = [decide(site.policies, request, site.routes, snapshot) for request, snapshot in asked]
    assert all(plan.routes for plan in made), "a plan without routes is cheaper than those of the traffic"
    assert len({tuple(route.name for route in plan.routes) for plan in made}) > 1
    assert any(plan.redact for plan in made)
    assert any(plan.estimates for plan in made)
    assert len(plans(site, 40, random.Random(RNG_SEED))) == 36  # the first tenth warms up


def test_a_search_is_of_the_whole_body() -> None:
    detector = detector_of(configured(""))
    assert detector.classes(body("write to bob.smith@example.org")) == {"email"}
    assert len(scans("prose", 10, random.Random(RNG_SEED))) == 9


def test_the_tables_say_what_was_measured() -> None:
    results = report.Results(
        {"one": [0.00002, 0.00004]}, {"prose": [0.0005]}, {"A": ("national_id", 9, 10), "B": ("national_id", 10, 10)}
    )
    written = "\n".join(table.markdown() for table in report.tables(results, 4096))
    for cell in ("30.0 µs", "0.50 ms", "4,096 bytes", "90.00%", "1 of 10", "1 of 20", "95.00%"):
        assert cell in written


def test_the_results_are_kept_between_their_markers(tmp_path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nothers' words\n")
    for said in ("first", "second"):
        report.keep(path, said)
    kept = path.read_text()
    assert kept.startswith("# Results\n\nothers' words\n\n## Decisions\n")
    assert (kept.count("second"), kept.count("first"), kept.count(report.BEGIN)) == (1, 0, 1)
    path.write_text(report.BEGIN)
    with pytest.raises(ValueError, match="markers"):
        report.keep(path, "third")


def test_the_command_prints_all_tables(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--plans", "20", "--scans", "10", "--planted", "2"])
    assert main() == 0
    printed = capsys.readouterr().out
    assert printed.count("### ") == 3
    assert "GiB of memory" in printed
    assert parse([]).write is False
