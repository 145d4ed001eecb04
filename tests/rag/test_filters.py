"""Filters: what is refused and where, and that Python, SQLite and PostgreSQL agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from rag.filters import attributes, matches, parse, to_sql
from rag.store.engine import Cursor
from rag.store.schema import statements
from rag.types import Comparison, Compound
from tests.rag.stores import SMALL, Site, put

KEYS = ("a", "b", "it's ? %s")
TEXTS = st.sampled_from(["", "a", "B", "é", "\U0001f600", "\uffff", "1", "true", "x' OR 1=1 --", "100%"]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4
)
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e300, 2.0**53, 5e-324]) | st.integers(-3, 3)
VALUES = NUMBERS | TEXTS | st.booleans()
COMPARISONS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["eq", "ne"]), "key": st.sampled_from(KEYS), "value": VALUES},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["gt", "gte", "lt", "lte"]),
            "key": st.sampled_from(KEYS),
            "value": NUMBERS | TEXTS,
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["in", "nin"]),
            "key": st.sampled_from(KEYS),
            "value": st.lists(VALUES, max_size=4),
        }
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=8,
).filter(lambda raw: _depth(raw) <= 10)
HAVE = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)


def _depth(raw: dict[str, Any]) -> int:
    return 1 + max(map(_depth, raw.get("filters", [])), default=0)


def test_a_filter_is_read() -> None:
    raw = {
        "type": "and",
        "filters": [
            {"type": "eq", "key": "lang", "value": "en"},
            {"type": "or", "filters": [{"type": "nin", "key": "year", "value": [1, True, "x"]}]},
        ],
    }
    several = Comparison("nin", "year", (1.0, True, "x"))
    assert parse(raw) == Compound("and", (Comparison("eq", "lang", "en"), Compound("or", (several,))))


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (None, "filters"),
        ([], "filters"),
        ({}, "filters.type"),
        ({"type": "like", "key": "a", "value": 1}, "filters.type"),
        ({"type": ["eq"], "key": "a", "value": 1}, "filters.type"),
        ({"type": "eq", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a" * 65, "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a\0", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "filters.value"),
        ({"type": "eq", "key": "a", "value": 10**400}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "\ud800"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "x" * 513}, "filters.value"),
        ({"type": "gt", "key": "a", "value": True}, "filters.value"),
        ({"type": "in", "key": "a", "value": 1}, "filters.value"),
        ({"type": "in", "key": "a", "value": [1, None]}, "filters.value[1]"),
        ({"type": "in", "key": "a", "value": [1] * 1_001}, "filters.value"),
        ({"type": "eq", "key": "a", "value": 1, "boost": 2}, "filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [{"type": "eq", "key": "a", "value": 1}, 7]}, "filters.filters[1]"),
        ({"type": "and", "filters": [{"type": "eq", "key": "a", "value": 1}] * 100}, "filters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(raw: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    assert caught.value.param == place
    assert caught.value.message.startswith(f"`{place}` ")


def test_filters_nest_ten_deep() -> None:
    raw: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(9):
        raw = {"type": "and", "filters": [raw]}
    parse(raw)
    with pytest.raises(InvalidRequest, match="deeper than 10"):
        parse({"type": "or", "filters": [raw]})


def test_attributes_are_bounded() -> None:
    assert attributes({"a": 1, "b": "x", "c": True}) == {"a": 1.0, "b": "x", "c": True}
    assert isinstance(attributes({"a": True})["a"], bool)
    for wrong in ([], {"a": None}, {"a": [1]}, {str(n): n for n in range(17)}, {"a" * 65: 1}, {"a": "x" * 513}, {1: 1}):
        with pytest.raises(InvalidRequest):
            attributes(wrong)


@pytest.mark.parametrize(
    ("op", "value", "have", "passes"),
    [
        ("eq", 1, 1.0, True),
        ("eq", 1, True, False),
        ("eq", True, 1.0, False),
        ("eq", "1", 1.0, False),
        ("ne", 1, None, True),
        ("ne", 1, "1", True),
        ("nin", [1, 2], 2.0, False),
        ("in", [], 1.0, False),
        ("nin", [], None, True),
        ("gt", 1, "2", False),
        ("lte", "b", "a", True),
        ("gte", 0, True, False),
        ("lt", 1, None, False),
    ],
)
def test_comparisons_are_typed(op: str, value: Any, have: Any, passes: bool) -> None:
    wanted = parse({"type": op, "key": "a", "value": value})
    assert matches(wanted, {} if have is None else {"a": have}) is passes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=FILTERS, several=st.lists(HAVE, min_size=1, max_size=4))
def test_python_and_the_databases_agree(site: Site, raw: dict[str, Any], several: list[dict[str, Any]]) -> None:
    wanted = parse(raw)
    store = site.store.stores.create("", SMALL)
    have = {
        put(site.store, store.id, str(n), attributes(each)).file_id: attributes(each) for n, each in enumerate(several)
    }
    with site.store._engine.read() as cursor:
        found = _found(cursor, wanted, store.id)
    assert found == {id_ for id_, each in have.items() if matches(wanted, each)}
    site.store.stores.delete(store.id)


def _found(cursor: Cursor, wanted: Any, store_id: str) -> set[str]:
    n = cursor.one("SELECT n FROM stores WHERE id = ?", (store_id,))
    assert n is not None
    condition, values = to_sql(wanted, n[0], "m.n")
    sql = f"SELECT f.id FROM members m JOIN files f ON f.n = m.file WHERE m.store = ? AND {condition}"
    return {id_ for (id_,) in cursor.all(sql, (n[0], *values))}


def test_the_schema_names_no_dialect() -> None:
    words = dict.fromkeys(("serial", "int", "real", "text", "bytes", "strict"), "")
    assert all(one.startswith(("CREATE ", "INSERT ", "--")) for one in statements(1, words))
