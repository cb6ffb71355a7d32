"""The fold, and patches: compared by their text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchrotron.core.canonical import canonical
from synchrotron.core.fold import Rows, apply, apply_to, fold
from synchrotron.core.ids import Audience
from synchrotron.core.patches import DELETE, Patch, RowKey, Target, insert, update

VALUE = st.none() | st.integers(0, 2) | st.sampled_from([1.0, True, "1", ""])
COLUMNS = st.sampled_from(["a", "b", "c"])
ROW = st.fixed_dictionaries({"a": VALUE, "b": VALUE, "c": VALUE})
INSERT = ROW.map(insert)
UPDATE = st.dictionaries(COLUMNS, VALUE).map(update)
PATCH = st.one_of(INSERT, UPDATE, st.just(DELETE), st.none())
TARGET = Target("t", ("k",), Audience("all"))


def text(row: Any) -> str:
    return canonical(None if row is None else dict(row))


@pytest.mark.spec("H5")
@pytest.mark.parametrize(
    ("row", "patch", "after"),
    [
        (None, insert({"a": 1}), {"a": 1}),
        ({"a": 0, "b": 0}, insert({"a": 1}), {"a": 1}),
        (None, update({"a": 1}), None),
        ({"a": 0, "b": 0}, update({"a": 1}), {"a": 1, "b": 0}),
        ({"a": 0}, update({"a": None}), {"a": None}),
        ({"a": 0}, update({}), {"a": 0}),
        ({"a": 0}, DELETE, None),
        (None, DELETE, None),
        ({"a": 0}, None, {"a": 0}),
        (None, None, None),
    ],
)
def test_one_patch_makes_of_a_row(row: Any, patch: Patch | None, after: Any) -> None:
    assert text(apply(row, patch)) == text(after)


@given(st.none() | ROW, st.lists(PATCH), st.lists(PATCH))
def test_folding_in_two_parts_is_folding_at_once(
    row: Any, first: list[Patch | None], then: list[Patch | None]
) -> None:
    assert text(fold(fold(row, first), then)) == text(fold(row, first + then))


@given(st.none() | ROW, st.lists(PATCH), INSERT | st.just(DELETE), st.lists(PATCH))
def test_nothing_before_an_insert_or_delete_matters(
    row: Any, before: list[Patch | None], cut: Patch, after: list[Patch | None]
) -> None:
    assert text(fold(row, [*before, cut, *after])) == text(fold(None, [cut, *after]))


@given(st.none() | ROW, PATCH)
def test_a_patch_twice_is_the_patch_once(row: Any, patch: Patch | None) -> None:
    assert text(fold(row, [patch, patch])) == text(apply(row, patch))


@given(st.none() | ROW, st.lists(PATCH))
def test_a_row_is_changed_by_none_of_its_patches_in_place(row: Any, patches: Any) -> None:
    kept = text(row)
    fold(row, patches)
    assert text(row) == kept


@given(st.lists(PATCH))
def test_a_table_of_rows_holds_the_fold(patches: list[Patch | None]) -> None:
    rows: Rows = {}
    for patch in patches:
        apply_to(rows, TARGET, patch)
    row = fold(None, patches)
    assert text(rows.get(TARGET)) == text(row)
    assert (TARGET in rows) == (row is not None), "no row is kept as None"


@pytest.mark.spec("A5")
def test_patches_are_equal_exactly_where_their_texts_are() -> None:
    kinds = [update({"n": value}) for value in (1, 1.0, True, "1", None, 0.0, -0.0)]
    assert len(set(kinds)) == len(kinds)
    assert all((a == b) == (a is b) for a in kinds for b in kinds)
    assert update({"b": 1, "a": 2}) == update({"a": 2, "b": 1})
    assert insert({"a": 1}) != update({"a": 1})
    assert update({}) != DELETE


@given(ROW)
def test_a_patch_gives_its_values_back(row: dict[str, Any]) -> None:
    assert text(insert(row).values) == text(row)
    assert DELETE.values == {}


def test_a_target_is_a_row_in_an_audience_and_names_itself() -> None:
    assert TARGET.row == RowKey("t", ("k",))
    assert str(RowKey("t", ("k", 2))) == "t k, 2"
