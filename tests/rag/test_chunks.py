"""How a text is cut: whatever it is, and whatever the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.chunks import Strategy, chunk
from rag.types import Chunk, Extracted, Heading, Page
from rag.windows import windows

Offsets = Sequence[tuple[int, int]]


def words(text: str) -> Offsets:
    """As BERT: words and signs; a very long word is one unknown token."""
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def pieces(text: str) -> Offsets:
    """As WordPiece on words that it does not know: three letters a token, but one for what is longer than 100."""
    found = []
    for match in re.finditer(r"\w+|[^\w\s]", text):
        start, end = match.span()
        step = 3 if end - start <= 100 else end - start
        found += [(at, min(end, at + step)) for at in range(start, end, step)]
    return found


def spaced(text: str) -> Offsets:
    """As byte-level BPE: a blank belongs to the word behind it, and a word without one is two tokens."""
    found = []
    for match in re.finditer(r"\s?\S+|\s+", text):
        start, end = match.span()
        if text[start].isspace() or end - start < 2:
            found.append((start, end))
        else:
            found += [(start, start + 1), (start + 1, end)]
    return found


TOKENIZERS = (words, pieces, spaced)

word = st.one_of(st.text("abcdeé漢字🙂", min_size=1, max_size=12), st.just("x" * 700), st.just("漢字。" * 60))
line = st.one_of(
    st.builds(" ".join, st.lists(word, max_size=30)),
    st.builds(lambda n: "End of it. " * n, st.integers(1, 40)),
    st.builds(lambda n: "    return value\n" * n, st.integers(1, 30)),
)
lines = st.lists(st.tuples(line, st.sampled_from(["\n", "\n\n", "\n  \n", " "]), st.integers(0, 5)), max_size=40)


@st.composite
def documents(draw: st.DrawFn) -> Extracted:
    """Text with rows, headings and pages at the beginnings of some of its lines."""
    text = ""
    rows, headings, pages = [], [], [Page(1, 0)]
    for body, end, kind in draw(lines):
        start = len(text)
        text += body
        if kind == 1 and body.strip():
            rows.append((start, len(text)))
        elif kind == 2 and body.strip():
            headings.append(Heading(draw(st.integers(1, 4)), body.split()[0][:20], start))
        elif kind == 3 and start > pages[-1].start:
            pages.append(Page(len(pages) + 1, start))
        text += end
    return Extracted(text, "text", headings=tuple(headings), rows=tuple(rows), pages=tuple(pages))


strategies = st.builds(
    lambda most, share, structure: Strategy(most, int(most * share), structure),
    st.integers(100, 300),
    st.floats(0, 0.5),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(documents(), st.sampled_from(TOKENIZERS), strategies)
def test_whatever_the_text_its_chunks_hold_all_of_it_and_none_is_too_long(
    document: Extracted, tokenize: object, strategy: Strategy
) -> None:
    assert callable(tokenize)
    chunks = chunk(document, tokenize, strategy)
    text = document.text
    covered = 0
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text.strip()
        assert piece.tokens == len(tokenize(piece.text)) <= strategy.max_tokens
        assert not text[covered : piece.start].strip()  # nothing is left out
        assert piece.end > covered  # each says something new
        covered = piece.end
    assert not text[covered:].strip()
    for before, after in pairwise(chunks):
        assert before.start < after.start
        # A tokenizer may see one token more where a text begins, and another where it ends.
        assert len(tokenize(text[after.start : before.end])) <= strategy.overlap + 2


@settings(max_examples=100, deadline=None)
@given(documents(), st.sampled_from(TOKENIZERS), strategies)
def test_a_row_that_fits_is_whole_in_some_chunk_and_cut_in_none(
    document: Extracted, tokenize: object, strategy: Strategy
) -> None:
    assert callable(tokenize)
    chunks = chunk(document, tokenize, strategy)
    for place in document.rows:
        row = document.text[slice(*place)].strip()
        # By the whole text and by itself; of a word that is one unknown token each character is counted.
        if max(map(len, row.split())) > 64 or len(tokenize(row)) + 2 > strategy.max_tokens:
            continue
        start = document.text.index(row, place[0])
        end = start + len(row)
        assert any(piece.start <= start and end <= piece.end for piece in chunks)
        assert not any(start < piece.start < end for piece in chunks)
        assert not any(start < piece.end < end for piece in chunks)


@settings(max_examples=60, deadline=None)
@given(documents(), strategies)
def test_a_chunk_knows_its_page_and_what_it_stands_under(document: Extracted, strategy: Strategy) -> None:
    for piece in chunk(document, words, strategy):
        assert piece.page == max(page.number for page in document.pages if page.start <= piece.start)
        path: list[Heading] = []
        for heading in document.headings:
            if heading.start <= piece.start:
                path = [above for above in path if above.level < heading.level] + [heading]
        assert piece.headings == tuple(heading.text for heading in path)


def texts(chunks: Sequence[Chunk]) -> list[str]:
    return [piece.text for piece in chunks]


def test_a_short_text_is_one_chunk() -> None:
    assert chunk(Extracted("  Two words.\n", "text"), words) == (Chunk("  Two words.", 0, 12, 3),)


def test_overlap_is_as_asked() -> None:
    text = " ".join(f"w{i}" for i in range(5000))
    found = chunk(Extracted(text, "text"), words)
    assert {piece.tokens for piece in found[:-1]} == {800}
    assert {len(words(text[b.start : a.end])) for a, b in pairwise(found)} == {400}
    apart = chunk(Extracted(text, "text"), words, Strategy(500, 0))
    assert " ".join(texts(apart)) == text


def test_a_cut_comes_before_a_heading_then_after_a_paragraph_a_line_a_sentence() -> None:
    def first(end: str, headings: tuple[Heading, ...] = ()) -> str:
        text = "a " * 79 + end + "b " * 200
        return chunk(Extracted(text, "text", headings=headings), words, Strategy(100, 0))[0].text.split(" ", 79)[-1]

    assert first("one. two three\nfour five\n\nsix ") == "one. two three\nfour five"
    assert first("one. two three\nfour five ") == "one. two three"
    assert first("one. two three ") == "one."
    assert first("one two three ")[:18] == "one two three b b "
    at = len("a " * 79 + "one\n")
    assert first("one\ntwo\n\nthree\n\n", (Heading(1, "two", at),)) == "one"


def test_a_heading_is_never_left_behind_by_its_text() -> None:
    parts = [f"# H{i}\n\n" + "word " * n + "\n\n" for i, n in enumerate([70, 25, 90, 99, 3, 60])]
    text = "".join(parts)
    headings = tuple(Heading(1, m[0][2:], m.start()) for m in re.finditer(r"# H\d", text))
    for structure in (False, True):
        for piece in chunk(Extracted(text, "markdown", headings=headings), words, Strategy(100, 0, structure)):
            assert not re.search(r"# H\d\Z", piece.text)


def test_structure_puts_sections_together_until_a_higher_heading() -> None:
    text = f"# A\n\nx\n\n## A1\n\ny\n\n# B\n\n{'z ' * 20}\n\n## B1\n\n{'long ' * 150}\n\n## B2\n\nend"
    headings = tuple(
        Heading(len(m[1]), m[2], m.start()) for m in re.finditer(r"^(#+) (\w+)$", text, flags=re.MULTILINE)
    )
    found = chunk(Extracted(text, "markdown", headings=headings), words, Strategy(100, 0, by_structure=True))
    assert found[0].text.endswith("z")  # A and B stand at one level, and fit together
    assert [piece.headings for piece in found] == [("A",), ("B", "B1"), ("B", "B1"), ("B", "B2")]
    deeper = text.replace("# A\n", "## A\n", 1)
    headings = (Heading(2, "A", 0), *(Heading(h.level, h.text, h.start + 1) for h in headings[1:]))
    found = chunk(Extracted(deeper, "markdown", headings=headings), words, Strategy(100, 0, by_structure=True))
    assert found[0].text.endswith("y")


def test_a_heading_without_text_goes_with_what_stands_under_it() -> None:
    text = f"# A\n\n{'x ' * 40}\n\n# B\n\n## B1\n\n{'long ' * 90}\n\n## B2\n\n{'more ' * 90}"
    headings = tuple(
        Heading(len(m[1]), m[2], m.start()) for m in re.finditer(r"^(#+) (\w+)$", text, flags=re.MULTILINE)
    )
    found = chunk(Extracted(text, "markdown", headings=headings), words, Strategy(100, 0, by_structure=True))
    assert [piece.headings for piece in found] == [("A",), ("B",), ("B", "B2")]
    assert found[1].text.startswith("# B\n\n## B1\n\nlong")


def test_a_row_longer_than_a_chunk_is_cut_between_words_and_alone() -> None:
    row = "; ".join(f"c{i}: v{i}" for i in range(100))
    text = f"a: 1; b: 2\n{row}\na: 3; b: 4\n"
    rows = tuple((m.start(), m.end()) for m in re.finditer("[^\n]+", text))
    found = chunk(Extracted(text, "csv", rows=rows), words, Strategy(100, 0))
    assert len(found) > 3
    assert all(piece.tokens <= 100 for piece in found)
    assert all(re.match(r"[ac]\d*:|v\d", piece.text) for piece in found)


def test_a_megabyte_without_a_blank_is_cut_by_characters() -> None:
    for tokenize in TOKENIZERS:
        found = chunk(Extracted("a" * 300_000, "text"), tokenize, Strategy(800, 0))
        assert "".join(texts(found)) == "a" * 300_000
        assert max(len(piece.text) for piece in found) <= 800


def test_indentation_of_a_chunks_first_line_stays() -> None:
    text = "".join(f"def f{i}():\n    return {i}\n" for i in range(60))
    rows = tuple((m.start(), m.end()) for m in re.finditer("[^\n]+", text))
    found = chunk(Extracted(text, "code", rows=rows), words, Strategy(100, 50))
    assert all(re.match(r"def f\d+|    return", piece.text) for piece in found)


@pytest.mark.parametrize(("most", "overlap"), [(99, 0), (4097, 0), (800, 401), (800, -1), (101, 51)])
def test_limits_of_a_strategy(most: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"must lie between"):
        Strategy(most, overlap)


@settings(max_examples=60, deadline=None)
@given(documents(), st.sampled_from(TOKENIZERS), st.integers(20, 200))
def test_windows_are_the_whole_text_and_each_fits(document: Extracted, tokenize: object, room: int) -> None:
    assert callable(tokenize)
    places = windows(document.text, tokenize, room)
    assert "".join(document.text[start:end] for start, end in places) == document.text
    assert all(len(tokenize(document.text[start:end])) <= room for start, end in places)


def test_windows_are_about_equally_long_and_cut_between_words() -> None:
    text = "word " * 800
    places = windows(text, words, 510)
    assert [len(words(text[start:end])) for start, end in places] == [400, 400]
    assert all(text[start:end].startswith("word") for start, end in places)
