"""What is wrong with a patch, told at a glance and in full."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchrotron.app.schema import read_schema
from synchrotron.core.ids import Audience
from synchrotron.core.messages import RowPatch
from synchrotron.server.form import INDEXED_BYTES_MAX, Form

form = Form(
    read_schema("""
        CREATE TABLE note (
            id TEXT PRIMARY KEY, title TEXT, short VARCHAR(3), size INTEGER, done BOOLEAN,
            weight DOUBLE PRECISION, audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
        CREATE TABLE seat (
            hall TEXT, place TEXT, taker TEXT,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED, PRIMARY KEY (hall, place)
        );
        CREATE TABLE numbered (
            n BIGINT PRIMARY KEY, audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
    """)
)

ALL = Audience("all")
texts = st.sampled_from(["", "a", "b", "abcd", "é", "\0", "\ud800", '"\\', "x" * INDEXED_BYTES_MAX])
anything = st.one_of(
    texts, st.none(), st.booleans(), st.integers(-(2**33), 2**33), st.floats(), st.lists(st.none())
)
names = st.sampled_from(
    ["id", "title", "short", "size", "done", "weight", "hall", "place", "taker", "n", "foreign"]
)
ops: Any = st.sampled_from(["insert", "update", "delete", None])
patches = st.builds(
    RowPatch,
    st.sampled_from(["note", "seat", "numbered", "nowhere"]),
    st.lists(anything, max_size=2),
    texts.map(Audience),
    ops,
    st.none() | st.dictionaries(names, anything, max_size=5),
)


@st.composite
def nearly_right(draw: st.DrawFn) -> RowPatch:
    """A patch with at most one thing wrong with it."""
    op: Literal["insert", "update"] = draw(st.sampled_from(["insert", "update"]))
    key: list[Any] = ["a"]
    audience = ALL
    values: dict[str, Any] = {"title": "t", "done": True, "weight": None}
    if op == "insert":
        values["id"] = "a"
    match draw(st.sampled_from(["value", "text", "key", "both", "more", "audience"])):
        case "value":
            values[draw(names)] = draw(anything)
        case "text":
            values["title"] = draw(texts)
        case "key":
            key = [draw(anything)]
        case "both":
            key = [draw(texts)]
            values |= {"id": key[0]} if op == "insert" else {}
        case "more":
            key.append("b")
        case "audience":
            audience = Audience(draw(texts))
    return RowPatch("note", key, audience, op, values)


@settings(max_examples=1_000)
@given(st.lists(nearly_right() | patches, min_size=1, max_size=4))
def test_what_is_right_at_a_glance_has_nothing_to_complain_of(some: list[RowPatch]) -> None:
    doubtful = {id(patch) for patch in form.in_doubt(some)}
    assert {form.fault(patch) for patch in some if id(patch) not in doubtful} <= {None}


def test_one_that_is_wrong_is_found_among_many_that_are_right() -> None:
    right = [RowPatch("note", [str(i)], ALL, "insert", {"id": str(i), "size": i}) for i in range(9)]
    wrong = RowPatch("note", ["x"], ALL, "insert", {"id": "y", "size": 1})
    other = RowPatch("note", ["x"], ALL, "update", {"size": 1})
    assert form.in_doubt([*right, other]) == []
    assert wrong in form.in_doubt([*right, wrong, other])
    assert other not in form.in_doubt([*right, wrong, other])


@pytest.mark.parametrize(
    "patch",
    [
        RowPatch("note", ["a"], ALL, "insert", {"id": "a", "title": "t", "done": True}),
        RowPatch("note", ["a"], ALL, "update", {"size": 3, "short": None}),
        RowPatch("seat", ["h", "p"], ALL, "insert", {"hall": "h", "place": "p", "taker": None}),
    ],
)
def test_what_is_sent_most_is_told_at_a_glance(patch: RowPatch) -> None:
    assert form.in_doubt([patch, patch]) == []
