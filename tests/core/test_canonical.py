"""Canonical JSON: one text for one value."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchrotron.core.canonical import canonical, decode, parse_canonical

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON is: 1, 1.0 and True are three values, and so are 0.0 and -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (100000.0, "100000.0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e16, "1e16"),
        (1e-7, "1e-7"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (2**63 - 1, "9223372036854775807"),
        (-(2**63), "-9223372036854775808"),
        ("", '""'),
        ('"\\/', r'"\"\\/"'),
        ("\b\f\n\r\t", r'"\b\f\n\r\t"'),
        ("\x01\x1f", r'"\u0001\u001f"'),
        ("\x7f\u2028é🦊<", '"\x7f\u2028é🦊<"'),
        ([], "[]"),
        ({}, "{}"),
        ({"b": [1, 1.0, None], "a": True}, '{"a":true,"b":[1,1.0,null]}'),
        ({"\uffff": 1, "🦊": 2, "é": 3, "Z": 4, "a": 5}, '{"Z":4,"a":5,"é":3,"\uffff":1,"🦊":2}'),
        ({"null": "null"}, '{"null":"null"}'),
        (["1234567890123456789012"], '["1234567890123456789012"]'),
    ],
)
def test_a_value_has_one_text(value: Any, text: str) -> None:
    assert canonical(value) == text
    assert same(parse_canonical(text), value)
    assert same(parse_canonical(text.encode()), value)


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        "a\0b",
        "\ud800",
        "ok \udfff",
        2**63,
        -(2**63) - 1,
        10**40,
        {1: "a"},
        {None: 1},
        {True: 1},
        {(1, 2): 3},
        {1: "a", "1": "b"},
        {"a\0": 1},
        {"\ud800": 1},
        object(),
        1 + 2j,
    ],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value)),
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, {"x": [v]}]], ids=["bare", "inside"])
def test_what_has_no_form_is_refused_wherever_it_stands(value: Any, wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(wrap(value))


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"b":1,"a":1}',
        "[1, 2]",
        " 1",
        "1\n",
        "1.00",
        "1E5",
        "1e5",
        "1e+16",
        "-0",
        "01",
        "+1",
        ".5",
        "1e400",
        "NaN",
        "Infinity",
        r'"\u0041"',
        r'"\/"',
        r'"\u001F"',
        r'"\ud800"',
        r'"\u0000"',
        '"\0"',
        '"\ud800"',
        "9223372036854775808",
        "-9223372036854775809",
        "[",
        "",
        "1 2",
        b"\xff",
        b'"\xc0\x80"',
    ],
)
def test_any_other_spelling_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_canonical(text)


@given(VALUES)
def test_the_text_reads_back_as_the_value(value: Any) -> None:
    text = canonical(value)
    assert same(parse_canonical(text), value)
    assert same(json.loads(text), value), "any other reader of JSON sees the same"
    assert canonical(decode(text)) == text


@given(VALUES, VALUES)
def test_texts_are_equal_exactly_for_the_same_values(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) == same(a, b)


@given(st.dictionaries(TEXTS, SCALARS), st.randoms())
def test_the_order_in_which_keys_were_put_in_does_not_show(value: Any, random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    text = canonical(dict(items))
    assert text == canonical(value)
    assert list(json.loads(text)) == sorted(value), "by code point"
