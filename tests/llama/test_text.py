"""From bytes to text: nothing leaks, nothing is lost, and it does not matter how the model cut it."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from backends.llama.text import StopMatcher, TextAssembler
from backends.types import TokenLogprob

# Few letters, so that stops occur, overlap, repeat and are prefixes of each other.
LETTERS = st.text("aab😀", max_size=24)
STOPS = st.lists(st.text("ab😀", min_size=1, max_size=5), max_size=4).map(tuple)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def cut(value: str | bytes, at: list[int]) -> list[str] | list[bytes]:
    """`value` in pieces, some of them empty."""
    places = [0, *sorted(i % (len(value) + 1) for i in at), len(value)]
    return [value[i:j] for i, j in pairwise(places)]  # type: ignore[return-value]


CUTS = st.lists(st.integers(0, 200), max_size=30)


def specified(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """What must be shown, character by character: the first stop to be completed ends it, the longest if several do."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(text=LETTERS, stops=STOPS, at=CUTS)
@example(text="aab", stops=("ab", "aab"), at=[1, 2])
@example(text="aaab", stops=("aab", "aaac"), at=[3])
def test_stops_do_not_depend_on_how_the_text_is_cut(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    matcher = StopMatcher(stops)
    shown, stopped = "", False
    expected = specified(text, stops)
    for piece in cut(text, at):
        more, stopped = matcher.push(str(piece))
        shown += more
        assert expected[0].startswith(shown), "a stop string, or a part of one, was shown"
        if stopped:
            break
    if not stopped:
        shown += matcher.flush()
    assert (shown, stopped) == expected
    assert text.startswith(shown + matcher.found)
    assert matcher.found in stops if stopped else not matcher.found


@given(text=LETTERS, stops=STOPS, at=CUTS)
def test_no_more_is_held_back_than_could_become_a_stop(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    matcher, pushed, shown = StopMatcher(stops), "", ""
    for piece in cut(text, at):
        more, stopped = matcher.push(str(piece))
        if stopped:
            return
        pushed, shown = pushed + str(piece), shown + more
        held = pushed[len(shown) :]
        assert held == "" or any(s.startswith(held) and s != held for s in stops)


def test_an_empty_stop_is_none() -> None:
    assert StopMatcher(("",)).push("text") == ("text", False)


@given(text=TEXT, at=CUTS)
def test_any_text_cut_at_any_byte_is_put_together_again(text: str, at: list[int]) -> None:
    assembler = TextAssembler()
    shown = "".join(assembler.push(bytes(piece))[0] for piece in cut(text.encode(), at))  # type: ignore[arg-type]
    assert shown + assembler.flush()[0] == text


@given(text=TEXT, stops=STOPS, at=CUTS)
def test_stops_and_cut_characters_together(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    assembler, shown, stopped = TextAssembler(stops), "", False
    for piece in cut(text.encode(), at):
        more, _, stopped = assembler.push(bytes(piece))  # type: ignore[arg-type]
        shown += more
        if stopped:
            break
    if not stopped:
        shown += assembler.flush()[0]
    assert (shown, stopped) == specified(text, stops)


@given(text=TEXT, last=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), data=st.data())
def test_a_character_cut_by_the_end_is_dropped(text: str, last: str, data: st.DataObject) -> None:
    raw = last.encode()
    part = raw[: data.draw(st.integers(1, len(raw) - 1))]
    assembler = TextAssembler()
    shown = assembler.push(text.encode() + part)[0] + assembler.flush()[0]
    assert shown == text


def test_bytes_that_are_no_utf8_are_marked_and_the_rest_survives() -> None:
    assembler = TextAssembler()
    shown = "".join(assembler.push(piece)[0] for piece in (b"a", b"\xff", b"b", b"\xf0\x9f", b"c"))
    assert shown == "a�b�c"


# -- log-probabilities -----------------------------------------------------------------------------------------------


def tokens_of(pieces: list[bytes]) -> list[TokenLogprob]:
    """One log-probability each; the value tells them apart."""
    return [TokenLogprob(p.decode("utf-8", "replace"), -float(i), tuple(p)) for i, p in enumerate(pieces)]


@given(text=LETTERS, stops=STOPS, at=CUTS)
@example(text="😀", stops=("😀",), at=[1])
@example(text="a😀b", stops=("😀",), at=[1, 2])
@example(text="a😀b", stops=("😀b",), at=[1, 2, 5])
def test_each_token_is_reported_once_and_none_of_the_stop(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    pieces = [bytes(p) for p in cut(text.encode(), at)]  # type: ignore[arg-type]
    assembler, reported, shown = TextAssembler(stops), [], ""
    pushed, stopped = 0, False
    for piece, logprob in zip(pieces, tokens_of(pieces), strict=True):
        more, ready, stopped = assembler.push(piece, logprob)
        shown, reported = shown + more, [*reported, *ready]
        pushed += 1
        if stopped:
            break
    if not stopped:
        more, ready = assembler.flush()
        shown, reported = shown + more, [*reported, *ready]
    order = [-lp.logprob for lp in reported]
    if not stopped:
        assert order == list(range(len(pieces)))
        return
    # Those before the stop string, in order; a token is left out if it lies in the stop string wholly.
    begins = [sum(map(len, pieces[:i])) for i in range(pushed)]
    visible = len(shown.encode())
    with_text = [i for i in order if pieces[int(i)]]
    assert order == sorted(order)
    assert with_text == [i for i in range(pushed) if begins[i] < visible and pieces[i]]


def test_a_logprob_comes_with_the_text_that_its_token_completes() -> None:
    assembler = TextAssembler()
    first, second = tokens_of([b"\xf0\x9f", b"\x98\x80"])
    assert assembler.push(b"\xf0\x9f", first) == ("", (), False)
    assert assembler.push(b"\x98\x80", second) == ("😀", (first, second), False)


@pytest.mark.parametrize(("piece", "reported"), [(b"", 1), (b"x", 1), (b"st", 0)])
def test_control_tokens_are_reported_at_once_and_a_possible_stop_waits(piece: bytes, reported: int) -> None:
    assembler = TextAssembler(("stop",))
    assert len(assembler.push(piece, tokens_of([piece])[0])[1]) == reported
