"""Reading a CSV of labelled texts: what is wrong is said with its line, and no text counts twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.training.common import TrainingError
from backends.training.examples import FEWEST, LIMITS, Examples, Limits, key_of, read_examples


def lines(label: str, count: int = FEWEST) -> list[str]:
    return [f"{label} of kind {number},{label}" for number in range(count)]


def read(folder: Path, content: str | bytes, text: str = "text", limits: Limits = LIMITS) -> Examples:
    path = folder / "data.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_examples(path, text, limits=limits)


def table(*rows: str, header: str = "text,label") -> str:
    return "\n".join([header, *rows]) + "\n"


def refused(folder: Path, content: str | bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(TrainingError) as caught:
        read(folder, content, limits=limits)
    return caught.value.message


def test_each_row_is_an_example(tmp_path: Path) -> None:
    found = read(tmp_path, table(*lines("leak"), *lines("noise"), '"a, quoted\ntext",noise'))
    assert found.texts[0] == "leak of kind 0"
    assert found.texts[-1] == "a, quoted\ntext"
    assert (found.rows, len(found.texts), found.duplicates) == (2 * FEWEST + 1, 2 * FEWEST + 1, 0)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_spreadsheets_of_other_countries(tmp_path: Path, delimiter: str) -> None:
    rows = table(*lines("leak"), *lines("noise")).replace(",", delimiter)
    assert len(read(tmp_path, "\ufeff" + rows).texts) == 2 * FEWEST


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [f"{number},{line}" for number, line in enumerate([*lines("leak"), *lines("noise")])]
    found = read(tmp_path, table(*rows, header="id,report,label"), text="report")
    assert found.texts[0] == "leak of kind 0"


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    said = refused(tmp_path, table(*lines("leak"), header="report,kind"))
    assert "'text'" in said
    assert "'report', 'kind'" in said
    assert "--text" in said


def test_not_utf8_names_the_line_and_the_way_out(tmp_path: Path) -> None:
    said = refused(tmp_path, table(*lines("leak")).encode() + "Überdruck,leak\n".encode("cp1252"))
    assert f"line {FEWEST + 2}" in said
    assert "0xdc" in said
    assert "iconv" in said


def test_empty_cells_are_named_by_line_and_blank_lines_are_not_rows(tmp_path: Path) -> None:
    said = refused(tmp_path, table("pump leaks,leak", "", ",", "  ,leak", "hums,", "x,y"))
    assert "2 rows" in said
    assert "line 5, 6" in said


def test_too_few_of_a_label_says_how_many_are_needed(tmp_path: Path) -> None:
    said = refused(tmp_path, table(*lines("leak"), *lines("noise", 3)))
    assert f"at least {FEWEST}" in said
    assert "'noise' has 3" in said


def test_duplicates_do_not_fill_a_label(tmp_path: Path) -> None:
    same = [f"IT  Hums {'!' * (number % 2)},noise" for number in range(20)]
    assert "'noise' has 2" in refused(tmp_path, table(*lines("leak"), *same))


def test_one_label_only(tmp_path: Path) -> None:
    assert "only the label 'leak'" in refused(tmp_path, table(*lines("leak")))


def test_a_column_of_numbers_is_not_labels(tmp_path: Path) -> None:
    said = refused(tmp_path, table(*(f"text {number},{number}" for number in range(600))))
    assert "600 labels" in said


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    assert "no rows" in refused(tmp_path, "text,label\n")
    assert "no column" in refused(tmp_path, "")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_examples(tmp_path / "nowhere.csv")


def test_a_text_under_two_labels_is_left_out_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, table(*lines("leak"), *lines("noise"), "Drips,leak", "drips ,noise", "drips,leak"))
    assert (found.contradictions, found.duplicates) == (1, 2)
    assert "Drips" not in found.texts


def test_what_is_held_in_memory_is_bounded(tmp_path: Path) -> None:
    content = table(*lines("leak"), *lines("noise"))
    assert "more than 10 rows" in refused(tmp_path, content, Limits(rows=10))
    assert "more than 100 characters" in refused(tmp_path, content, Limits(characters=100))


def test_a_field_of_megabytes_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in refused(tmp_path, table("x" * 200_000 + ",leak"))


@given(st.text(max_size=30))
def test_a_key_is_its_own_key(text: str) -> None:
    assert key_of(key_of(text)) == key_of(text)
    assert key_of(f"  {text}\t") == key_of(text)
