"""Citations: what is cited is a quote, what is quoted is cited, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunks import Strategy, chunk
from rag.citation_runs import Run, Shared
from rag.citation_words import Reader
from rag.citations import Citation, Rules, checked, citations, unsupported
from rag.context import Source, block, source
from rag.extract.limits import Limits
from rag.extract.readers import read
from rag.extract.source import Source as File
from rag.rank import Candidate, Scores
from rag.rank_passages import passages
from rag.types import Page

FILES = Path(__file__).parent / "files"
SAFETY = (
    "Disconnect the pump from the mains before any work on it. Wait five minutes until the capacitors of the drive "
    "have discharged."
)
OPERATION = (
    "E07 | Motor overheated | Let it cool for 30 minutes, clean the fan cover\n"
    "E12 | Dry running | Fill and vent the casing\n"
    "Speed | 1450 rpm\n"
    "Change the oil every 2000 hours of operation. Use 0.4 litres of ISO VG 46."
)


def made(number: int, text: str, start: int = 0) -> Source:
    return Source(number, f"file-{number}", "pump.pdf", start, start + len(text), text, pages=(Page(number, start),))


SOURCES = (made(1, SAFETY, 100), made(2, OPERATION, 5000))


def quotes(answer: str, *texts: str) -> list[str]:
    sources = [made(n, text) for n, text in enumerate(texts, 1)] if texts else SOURCES
    return [one.quote for one in citations(answer, sources)]


def keys(text: str) -> list[str]:
    return list(Reader().words(text).keys)


# -- by example


def test_a_quote_is_cited_where_it_ends() -> None:
    (one,) = citations("First: disconnect the pump from the mains before any work on it, they say.", SOURCES)
    quote = "Disconnect the pump from the mains before any work on it"
    assert (one.quote, one.start, one.end, one.page, one.marked) == (quote, 100, 100 + len(quote), 1, False)
    assert one.index == len("First: disconnect the pump from the mains before any work on it")
    assert one.source is SOURCES[0]


def test_a_marker_that_follows_is_part_of_the_place() -> None:
    answer = "Change the oil every **2000 hours of operation**. [2] Then go."
    (one,) = citations(answer, SOURCES)
    assert answer[: one.index].endswith("[2]")
    assert one.marked
    assert one.start == 5000 + OPERATION.index("Change")


def test_what_the_model_says_in_its_own_words_is_not_cited() -> None:
    answer = "Before you touch the pump, pull its plug, and be patient for a while [1]."
    found = checked(answer, SOURCES)
    assert found.citations == ()
    assert [(one.number, one.source, answer[one.start : one.end]) for one in found.unsupported] == [
        (1, SOURCES[0], "[1]")
    ]


def test_a_marker_of_no_source_is_unsupported() -> None:
    assert [(one.number, one.source) for one in unsupported("The oil [7].", SOURCES)] == [(7, None)]
    assert [one.number for one in unsupported("The oil [1].", ())] == [1]


def test_a_marker_lets_a_shorter_run_count() -> None:
    assert quotes("Renew it every 2000 hours.") == []
    assert quotes("Renew it every 2000 hours [2].") == ["every 2000 hours"]
    assert quotes("Renew it every 2000 hours [1].") == []


@pytest.mark.parametrize("answer", ["1450 rpm", "1450 rpm.", "**1450 rpm**", "| Value |\n|---|\n| 1450 rpm |"])
def test_a_value_that_is_a_whole_answer_or_cell_counts(answer: str) -> None:
    assert quotes(answer) == ["1450 rpm"]


def test_a_single_word_counts_if_it_is_a_name_or_its_source_is_named() -> None:
    assert quotes("E07") == ["E07"]
    assert quotes("1450") == quotes("pump") == quotes("See E07 there") == []
    assert quotes("1450 [2]") == ["1450"]
    assert quotes("Dry [2]") == [], "it tells too little"
    assert quotes("Overheated [2]") == ["overheated"]
    assert quotes("| Code | E07 | [2] |") == ["E07"]


def test_few_words_without_a_marker_are_chance() -> None:
    assert quotes("Please wait a few minutes until the end of the day, and clean the room.") == []


def test_the_longest_run_wins_and_no_word_is_cited_twice() -> None:
    short, long_ = "the red valve of the second boiler leaks", "now check the red valve of the second boiler first"
    found = citations("Now check the red valve of the second boiler leaks", [made(1, short), made(2, long_)])
    assert [(one.source.number, one.quote) for one in found] == [(2, "now check the red valve of the second boiler")]


def test_what_another_source_has_left_over_is_cited_if_it_is_enough() -> None:
    one = "alpha beta gamma delta epsilon zeta theta kappa"
    other = "zeta theta kappa lambda sigma omega omicron"
    answer = "alpha beta gamma delta epsilon zeta theta kappa lambda sigma omega omicron"
    assert quotes(answer, one, other) == [one]
    assert quotes(f"{answer} upsilon", one, f"{other} upsilon") == [one, "lambda sigma omega omicron upsilon"]


def test_of_equal_runs_the_source_that_is_named_is_cited_then_the_best() -> None:
    two = [made(1, SAFETY), made(2, SAFETY)]
    answer = "Disconnect the pump from the mains before any work on it"
    assert [one.source.number for one in citations(answer, two)] == [1]
    assert [one.source.number for one in citations(f"{answer} [2].", two)] == [2]
    assert unsupported(f"{answer} [1][2].", two) == ()


def test_each_claim_goes_to_the_source_behind_it() -> None:
    text = "Close the main valve with lever A. Open the drain valve with lever B."
    answer = "Close the main valve with lever A [1]. Open the drain valve with lever B [2]."
    found = citations(answer, [made(1, text), made(2, text)])
    assert [(one.source.number, answer[: one.index][-3:]) for one in found] == [(1, "[1]"), (2, "[2]")]


@pytest.mark.parametrize("marker", ["[1, 2]", "[1][2]", "【2】", "［2］", "[^2]", "[2; 1]", "【2†source】", "[ 2 ]"])
def test_markers_as_models_write_them(marker: str) -> None:
    answer = f"Renew it every 2000 hours {marker}."
    (one,) = citations(answer, SOURCES)
    assert (one.quote, one.marked) == ("every 2000 hours", True)
    assert marker.endswith(answer[: one.index][-1:])


def test_a_marker_with_a_cell_of_its_own_speaks_for_the_row() -> None:
    found = checked("| Only every 2000 hours | if you can | [2] |\n| Blue | paint | [2] |", SOURCES)
    assert [(one.quote, one.marked) for one in found.citations] == [("every 2000 hours", True)]
    assert len(found.unsupported) == 1


def test_a_marker_may_lead_its_line() -> None:
    answer = "It says:\n- [2] Due every 2000 hours\n- [1] Nothing of use"
    found = checked(answer, SOURCES)
    assert [(one.quote, one.marked) for one in found.citations] == [("every 2000 hours", True)]
    assert [one.number for one in found.unsupported] == [1]


def test_a_line_that_only_names_sources_speaks_for_the_whole_answer() -> None:
    answer = "New oil is due every 2000 hours of operation.\n\nSources:\n[2] pump.pdf, page 2\n[1] pump.pdf, page 1"
    found = checked(answer, SOURCES)
    assert [(one.quote, one.marked) for one in found.citations] == [("every 2000 hours of operation", True)]
    assert [one.number for one in found.unsupported] == [1]


def test_in_code_a_number_in_brackets_is_none() -> None:
    assert unsupported("Use `argv[1]` here.\n```\nx = [1]\ny[2]\n```\n", SOURCES) == ()


# -- what counts as the same


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("set the “inlet  valve” to manual, then start", 'Set the "inlet valve"\nto manual; then start'),
        ("the operator's manual shows this lever", "the operator’s manual shows this lever"),
        ("open *the* **main** `inlet` valve _slowly_ now", "open the main inlet valve slowly now"),
        ("the maximum flow office temperature", "the maxi-\nmum \ufb02ow of\ufb01ce temperature"),
        ("the maximum flow office temperature", "the maxi\u00admum flow of\u00ad\nfice tempera\u200bture"),
        ("a self-priming pump needs water once", "A SELF-\nPRIMING PUMP NEEDS WATER ONCE"),
        ("heat it to 20 °C within 5 min, then stop", "Heat it to 20\u00a0°C within 5min then stop"),
        ("between −5 and +5 mm, or 10–20 mm wide", "between -5 and +5 mm, or 10-20 mm wide"),
        (
            "die Größe des Gehäuses beträgt höchstens",
            "Die Gro\u0308ße des Geha\u0308uses betra\u0308gt ho\u0308chstens",
        ),
        ("１４５０ ｒｐｍ at full load of motor", "1450 rpm at full load of motor"),
        ("a resistance of 5 Ω between both wires", "a resistance of 5 \u2126 between both wires"),
    ],
)
def test_what_writers_and_printers_change_does_not_count(answer: str, text: str) -> None:
    assert quotes(answer, text) == [text]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("wait until pressure reaches 3.2 bar", "wait until pressure reaches 32 bar"),
        ("wait until pressure reaches 1,450 bar", "wait until pressure reaches 1450 bar"),
        ("keep the temperature above -5", "keep the temperature above 5"),
        ("keep the temperature at ≤ 5", "keep the temperature at ≥ 5"),
        ("keep the temperature at < 5", "keep the temperature at > 5"),
        ("keep the laser power below 5 mW", "keep the laser power below 5 MW"),
        ("keep the measured conductance at 5 S", "keep the measured conductance at 5 s"),
        ("keep the internal pressure at 5 MPa", "keep the internal pressure at 5 mPa"),
        ("keep the measured speed below 5 m/s", "keep the measured speed below 5 m"),
        ("keep the measured surface below 5 m²", "keep the measured surface below 5 m2"),
        ("tolerance of the shaft in percent 5 %", "tolerance of the shaft in percent 5 ‰"),
        ("choose the distance between 10-20", "choose the distance between 10"),
        ("replace the defective board P-101", "replace the defective board P-102"),
        ("replace the defective board E07", "replace the defective board E7"),
    ],
)
def test_numbers_and_units_do(answer: str, text: str) -> None:
    last = text.rsplit(maxsplit=1)[-1]
    for quote in quotes(answer, text):
        assert not quote.endswith(last)
    assert keys(answer)[-2:] != keys(text)[-2:]


@pytest.mark.parametrize(
    ("answer", "quote", "text"),
    [
        (
            "Laut Handbuch ist das Öl alle 2000 Betriebsstunden zu wechseln.",
            "das Öl alle 2000 Betriebsstunden zu wechseln",
            "Wartung: Es ist das Öl alle 2000 Betriebsstunden zu wechseln, sonst nicht. das Öl",
        ),
        (
            "手册说：每运行2000小时更换一次机油。",
            "每运行2000小时更换一次机油",
            "维护\n每运行2000小时更换一次机油，用量0.4升。",
        ),
        (
            "まず作業の前にポンプの電源を切ってください。",
            "作業の前にポンプの電源を切って",
            "必ず作業の前にポンプの電源を切ってから",
        ),
        ("ปิดวาล์วทางเข้าก่อนเริ่มงานทุกครั้ง", "ปิดวาล์วทางเข้าก่อนเริ่มงาน", "ให้ปิดวาล์วทางเข้าก่อนเริ่มงานเสมอ"),
    ],
)
def test_other_languages(answer: str, quote: str, text: str) -> None:
    (found,) = quotes(answer, text)
    assert quote in found


def test_short_chance_in_chinese_is_no_quote() -> None:
    assert quotes("这个问题的答案是没有的，请再试一次。", "这个泵的问题是没有水，请联系厂家。") == []


# -- real files


def pdf(name: str) -> list[Source]:
    """Its passages, one for each page or so, as a search brings them."""
    extracted = read(File(FILES / name, name, Limits(), lambda page, pages, scanned: None))
    pieces = chunk(extracted, lambda text: [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)], Strategy())
    scores = Scores(0.5, None, 0.5, None, 0.5)
    found = passages([Candidate(n, "file", n, piece, scores) for n, piece in enumerate(pieces)], 20)
    return [source(n, passage, name, extracted.pages) for n, passage in enumerate(found, 1)]


def test_an_answer_from_a_manual_points_at_its_pages() -> None:
    answer = (
        "Before starting:\n\n1. **Open the suction valve fully** [1].\n2. Vent the casing at plug V2 until liquid "
        "comes without bubbles [1].\n\n| Code | Remedy |\n|---|---|\n| E12 | Fill and vent the casing [1] |\n\n"
        "The oil (0.4 litres of ISO VG 46) lasts long [1]. Paint it blue [1]."
    )
    found = checked(answer, pdf("manual.pdf"))
    assert [(one.quote, one.page, one.marked) for one in found.citations] == [
        ("Open the suction valve fully", 2, True),
        ("Vent the casing at plug V2 until liquid comes without bubbles", 2, True),
        ("E12", 2, False),
        ("Fill and vent the casing", 2, True),
        ("0.4 litres of ISO VG 46", 3, True),
    ]
    assert [answer[one.start - 14 : one.end] for one in found.unsupported] == ["Paint it blue [1]"]


@pytest.mark.parametrize("name", ["manual.pdf", "manual-sizes.pdf", "columns.pdf", "owner-password.pdf"])
def test_every_sentence_of_a_file_is_found_again(name: str) -> None:
    sources = pdf(name)
    for one in sources:
        for sentence in re.split(r"(?<=[.!?])\s+", one.text):
            telling = [word for word in re.findall(r"\w+", sentence) if len(word) > 4]
            if len(telling) < 5:
                continue
            (found,) = citations(f"It says:\n\n{' '.join(sentence.split())}\n", sources)
            assert keys(found.quote) == keys(sentence)


def test_what_a_model_sees_of_a_bracketed_number_is_still_the_sources() -> None:
    text = "Set register [3] of the controller board to zero."
    shown = block(made(1, text)).splitlines()[2]
    assert shown != text
    assert quotes(shown, text) == [text.rstrip(".")]


# -- laws

WORD = st.sampled_from(
    "the of a is 5 10 bar mW MW pump valve casing E07 Motor [1] [2] 油 泵 self-priming 3.2 | . \n **x**".split(" ")
)  # fmt: skip
TEXT = st.lists(WORD, max_size=40).map(" ".join)


def laws(answer: str, sources: list[Source]) -> tuple[Citation, ...]:
    """Of any answer and any sources."""
    found = checked(answer, sources)
    words = Reader().words(re.sub(r"\[\d+\]", lambda marker: "\x00" * len(marker[0]), answer))
    last = 0
    for one in found.citations:
        assert one.quote == one.source.text[one.start - one.source.start : one.end - one.source.start] != ""
        assert one.page == one.source.page_at(one.start)
        before = [n for n, end in enumerate(words.ends) if end <= one.index]
        length = len(keys(one.quote))
        first = len(before) - length
        assert words.keys[first : len(before)] == keys(one.quote), "it is what the answer says right there"
        assert first >= last, "no word is cited twice"
        last = len(before)
    assert [one.index for one in found.citations] == sorted(one.index for one in found.citations)
    for marker in found.unsupported:
        assert str(marker.number) in answer[marker.start : marker.end]
        assert marker.source is None or marker.source.number == marker.number
    return found.citations


@given(TEXT, st.lists(TEXT, max_size=4))
def test_every_citation_is_a_quote_and_no_two_overlap(answer: str, texts: list[str]) -> None:
    laws(answer, [made(n, text, 10 * n) for n, text in enumerate(texts, 1)])


@given(st.text(max_size=120), st.lists(st.text(max_size=80), max_size=3), st.integers(0, 80), st.integers(0, 80))
def test_the_same_of_any_signs(answer: str, texts: list[str], start: int, end: int) -> None:
    texts = [*texts, answer[start:end]]
    laws(answer, [made(n, text) for n, text in enumerate(texts, 1)])


@given(TEXT, st.sampled_from([SAFETY, OPERATION]), TEXT)
def test_a_sentence_that_is_pasted_anywhere_is_cited(before: str, text: str, behind: str) -> None:
    sentence = re.split(r"(?<=[.\n])\s*", text)[0]
    found = laws(f"{before}\n\n{sentence}\n\n{behind}", [*SOURCES])
    assert any(" ".join(keys(sentence)) in " ".join(keys(one.quote)) for one in found)


@given(
    st.lists(st.sampled_from(["alpha", "beta", "1", "油", "[1]"]), max_size=30),
    st.lists(st.sampled_from(["gamma", "delta", "2", "泵"])),
)
def test_without_a_common_word_there_is_no_citation(answer: list[str], text: list[str]) -> None:
    assert citations(" ".join(answer), [made(1, " ".join(text))]) == ()


def runs_one_by_one(answer: list[int], text: list[int]) -> set[tuple[int, int]]:
    """(start, length) of all common runs that cannot be longer at either side, by trying all."""
    found = set()
    for start in range(len(answer)):
        length = max(
            (
                n
                for n in range(len(answer) - start + 1)
                for at in range(len(text) - n + 1)
                if text[at : at + n] == answer[start : start + n]
            ),
            default=0,
        )
        found.add((start, length))
    return {(s, n) for s, n in found if n > 1 and (s - 1, n + 1) not in found}


NUMBERS = st.lists(st.integers(0, 3), max_size=14)


@given(NUMBERS, NUMBERS)
def test_runs_are_all_the_longest(answer: list[int], text: list[int]) -> None:
    found = Shared(answer, [0, len(answer)]).runs(text)
    assert {(run.start, run.length) for run in found} == runs_one_by_one(answer, text)
    for run in found:
        assert answer[run.start : run.end] == text[run.source : run.source + run.length]


def test_no_run_goes_over_a_stretchs_end() -> None:
    assert Shared([1, 2, 3, 4], [0, 2, 4]).runs([1, 2, 3, 4]) == [Run(0, 2, 0), Run(2, 2, 2)]
    assert Shared([1, 5, 2], [0, 1, 3], [0]).runs([7, 1, 9]) == [Run(0, 1, 1)]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("valve " * 100_000, "valve " * 100_000),
        ("x" * 1_000_000, "x" * 1_000_000),
        ("open valve " * 50_000, "open valve " * 20_000 + "valve open " * 20_000),
        ("[1]" * 30_000, "valve " * 10),
        ("| " * 100_000 + "[1] |\n" * 20_000, "| " * 100_000),
        ("1 " * 100_000 + "-1" * 100_000 + "1." * 100_000, "1-" * 100_000),
        ("a-\n" * 100_000, "a\u0300" * 100_000),
        ("`" * 100_000 + "```" * 50_000 + "[" * 100_000 + "【1" * 50_000, "." * 100_000),
        (".\"'" * 100_000 + "  \n" * 50_000, "…" * 100_000),
    ],
)  # fmt: skip
def test_hostile_texts_take_no_longer_than_they_are(answer: str, text: str) -> None:
    # Where anything were quadratic, this would take hours.
    checked(answer, [made(1, text), made(2, text)])


def test_rules_can_be_set() -> None:
    assert citations("clean the fan", [made(1, "clean the fan cover")], Rules(words=3, telling=1)) != ()
