"""Column types: every value has one stored form and one wire form, and SQLite keeps it so."""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchrotron.app.types import ColumnType, Stored, bind, column_type
from synchrotron.core.canonical import canonical, decode
from synchrotron.errors import SchemaError, ValueRefused

ID = "0192f1a2-b3c4-8001-8aaa-0123456789ab"

EXAMPLES: list[tuple[str, Any, Stored, Any]] = [
    # declared, Python form, stored form, wire form
    ("TEXT", "Bücher", "Bücher", "Bücher"),
    ("TEXT", "", "", ""),
    ("VARCHAR(3)", "🦊🦊🦊", "🦊🦊🦊", "🦊🦊🦊"),
    ("SMALLINT", -32768, -32768, -32768),
    ("INTEGER", 2**31 - 1, 2**31 - 1, 2**31 - 1),
    ("BIGINT", -(2**63), -(2**63), -(2**63)),
    ("DOUBLE PRECISION", 1.0, 1.0, 1.0),
    ("DOUBLE PRECISION", 5e-324, 5e-324, 5e-324),
    ("BOOLEAN", True, 1, True),
    ("BOOLEAN", False, 0, False),
    (
        "TIMESTAMP",
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "2026-01-02T03:04:05.000006Z",
        "2026-01-02T03:04:05.000006Z",
    ),
    (
        "TIMESTAMPTZ",
        datetime(1, 1, 1, tzinfo=UTC),
        "0001-01-01T00:00:00.000000Z",
        "0001-01-01T00:00:00.000000Z",
    ),
    ("DATE", date(2026, 1, 2), "2026-01-02", "2026-01-02"),
    ("NUMERIC(10,2)", Decimal("10.50"), 10.5, "10.50"),
    ("NUMERIC(10,2)", Decimal("10.00"), 10, "10.00"),
    ("NUMERIC(15,0)", Decimal("-999999999999999"), -999999999999999, "-999999999999999"),
    ("NUMERIC(15,15)", Decimal("0.123456789012345"), 0.123456789012345, "0.123456789012345"),
    ("UUID", UUID(ID), ID, ID),
    ("JSON", {"b": [1, 1.0, None], "a": True}, '{"a":true,"b":[1,1.0,null]}', None),
    ("JSONB", [], "[]", []),
    ("BYTEA", b"\x00\xff", b"\x00\xff", "AP8="),
    ("BYTEA", b"", b"", ""),
]


def kept_by_sqlite(type: ColumnType, stored: Stored) -> Stored:
    """What a column of this type gives back, affinity and all."""
    db = apsw.Connection(":memory:")
    db.execute(f"CREATE TABLE t (x {type.declared})")
    db.execute("INSERT INTO t VALUES (?)", (stored,))
    kept: Stored = db.execute("SELECT x FROM t").get
    return kept


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def assert_one_form(type: ColumnType, stored: Stored) -> None:
    """SQLite keeps it, it is in its form, and the way over the wire as JSON loses nothing."""
    assert same(kept_by_sqlite(type, stored), stored)
    assert type.check(stored) is None
    wire = decode(canonical(type.to_wire(stored)))
    assert same(type.from_wire(wire), stored)
    if type.plain:
        assert same(wire, stored)


@pytest.mark.spec("M2")
@pytest.mark.parametrize(("declared", "python", "stored", "wire"), EXAMPLES)
def test_a_value_has_one_form_in_each_place(
    declared: str, python: Any, stored: Stored, wire: Any
) -> None:
    type = column_type(declared)
    assert same(kept_by_sqlite(type, bind(python)), stored)
    assert same(type.to_python(stored), python)
    assert same(type.to_wire(stored), python if wire is None else wire)
    assert_one_form(type, stored)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_survives(text: str) -> None:
    assert bind(text) is text
    assert_one_form(column_type("TEXT"), text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_float_survives(number: float) -> None:
    stored = kept_by_sqlite(column_type("DOUBLE PRECISION"), bind(number))
    assert stored == number
    assert_one_form(column_type("DOUBLE PRECISION"), stored)


@given(st.datetimes(timezones=st.timezones()))
def test_any_moment_is_stored_in_utc(moment: datetime) -> None:
    try:
        stored = bind(moment)
    except ValueRefused as error:
        assert "years 1 to 9999" in str(error)  # noqa: PT017 - most moments are in range
        return
    assert isinstance(stored, str) and len(stored) == 27
    assert column_type("TIMESTAMP").to_python(stored) == moment.astimezone(UTC)
    assert_one_form(column_type("TIMESTAMP"), stored)


@given(st.dates())
def test_any_date_survives(day: date) -> None:
    assert column_type("DATE").to_python(bind(day)) == day
    assert_one_form(column_type("DATE"), bind(day))


@given(st.data(), st.integers(0, 15))
def test_any_decimal_of_15_digits_survives(data: st.DataObject, scale: int) -> None:
    digits = data.draw(st.integers(-(10**15) + 1, 10**15 - 1))
    type = column_type(f"NUMERIC(15,{scale})")
    decimal = Decimal(digits).scaleb(-scale)
    stored = kept_by_sqlite(type, bind(decimal))
    assert type.to_python(stored) == decimal
    assert_one_form(type, stored)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


@given(st.lists(json_values) | st.dictionaries(st.text("abc"), json_values))
def test_any_json_survives(value: Any) -> None:
    stored = bind(value)
    assert column_type("JSON").to_python(stored) == value
    assert_one_form(column_type("JSON"), stored)


@given(st.binary())
def test_any_bytes_survive(value: bytes) -> None:
    assert_one_form(column_type("BYTEA"), bind(value))


# --- Values out of their column's form --------------------------------------------------

OUT_OF_FORM: list[tuple[str, Stored, str]] = [
    ("TEXT", "a\0b", "NUL"),
    ("TEXT", "a\ud800", "lone surrogate"),
    ("TEXT", b"a", "pass a str"),
    ("VARCHAR(3)", "abcd", "longer than 3"),
    ("SMALLINT", 32768, "declare a wider type"),
    ("INTEGER", -(2**31) - 1, "range of INTEGER"),
    ("INTEGER", 1.5, "CAST(x AS INTEGER)"),
    ("INTEGER", "one", "pass an int"),
    ("DOUBLE PRECISION", "x", "pass a float"),
    ("DOUBLE PRECISION", float("inf"), "not finite"),
    ("BOOLEAN", 2, "TRUE or FALSE"),
    ("BOOLEAN", "true", "pass a bool"),
    ("TIMESTAMP", "2026-01-02T03:04:05Z", "aware datetime"),
    ("TIMESTAMP", "2026-01-02 03:04:05.000006Z", "aware datetime"),
    ("TIMESTAMP", "2026-02-30T03:04:05.000006Z", "aware datetime"),
    ("TIMESTAMP", "2026-01-02T24:00:00.000000Z", "aware datetime"),
    ("TIMESTAMP", "0000-01-02T03:04:05.000006Z", "aware datetime"),
    ("TIMESTAMPTZ", 1767322800, "aware datetime"),
    ("DATE", "2026-02-29", "pass a date"),
    ("DATE", "20260202", "pass a date"),
    ("NUMERIC(10,2)", 0.1 + 0.2, "use round(x, 2)"),
    ("NUMERIC(10,2)", 0.001, "use round(x, 2)"),
    ("NUMERIC(4,2)", 100, "more than 2 digits before the point"),
    ("NUMERIC(4,2)", float("inf"), "digits before the point"),
    ("NUMERIC(4,2)", "ten", "pass a Decimal"),
    ("UUID", ID.upper(), "lower-case"),
    ("UUID", ID.replace("-", ""), "36"),
    ("JSON", '{"b":1,"a":2}', "canonical"),
    ("JSON", "{", "pass a dict or a list"),
    ("JSONB", "1", "object or array"),
    ("BYTEA", "text", "pass bytes"),
]


@pytest.mark.parametrize(("declared", "stored", "remedy"), OUT_OF_FORM)
def test_a_value_out_of_form_is_told_its_remedy(declared: str, stored: Stored, remedy: str) -> None:
    complaint = column_type(declared).check(stored)
    assert complaint is not None and remedy in complaint


MALFORMED: list[tuple[str, Any]] = [
    ("TEXT", 1),
    ("TEXT", "\0"),
    ("VARCHAR(1)", "ab"),
    ("INTEGER", True),
    ("INTEGER", 1.0),
    ("INTEGER", "1"),
    ("INTEGER", 2**31),
    ("BIGINT", 2**63),
    ("DOUBLE PRECISION", 2**53 + 1),
    ("DOUBLE PRECISION", 10**400),
    ("DOUBLE PRECISION", True),
    ("DOUBLE PRECISION", "1.0"),
    ("DOUBLE PRECISION", float("nan")),
    ("BOOLEAN", 1),
    ("BOOLEAN", "true"),
    ("TIMESTAMP", "2026-01-02T03:04:05+00:00"),
    ("DATE", 20260102),
    ("NUMERIC(10,2)", 10.5),
    ("NUMERIC(10,2)", "10.5"),
    ("NUMERIC(10,2)", "010.50"),
    ("NUMERIC(10,2)", "-0.00"),
    ("NUMERIC(10,2)", "+1.00"),
    ("NUMERIC(10,2)", "1e2"),
    ("NUMERIC(10,2)", "\u0661.\u0660\u0660"),
    ("NUMERIC(10,2)", "10.50\n"),
    ("NUMERIC(4,2)", "100.00"),
    ("NUMERIC(2,2)", "1.00"),
    ("NUMERIC(2,0)", "1."),
    ("UUID", ID + "\n"),
    ("JSON", "{}"),
    ("JSON", 1),
    ("JSON", [float("inf")]),
    ("JSON", ["\0"]),
    ("BYTEA", "AP8"),
    ("BYTEA", "AP9="),
    ("BYTEA", "A P8="),
    ("BYTEA", "Ä"),
    ("BYTEA", 1),
    ("BYTEA", ["AP8="]),
]


@pytest.mark.parametrize(("declared", "wire"), MALFORMED)
def test_a_malformed_value_from_a_message_is_refused(declared: str, wire: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each value has a text of its own
        column_type(declared).from_wire(wire)


def test_a_whole_number_for_a_float_column_is_that_float() -> None:
    assert same(column_type("DOUBLE PRECISION").from_wire(5), 5.0)


def test_there_is_one_zero() -> None:
    """SQLite keeps no sign of a zero; nor does a message bring one in."""
    type = column_type("DOUBLE PRECISION")
    assert str(kept_by_sqlite(type, -0.0)) == "0.0"
    assert str(type.from_wire(-0.0)) == "0.0"
    assert kept_by_sqlite(column_type("NUMERIC(4,2)"), -0.0) == 0
    assert column_type("NUMERIC(4,2)").to_wire(0) == "0.00"


# --- Declarations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "declared"),
    [
        ("text", "TEXT"),
        ("double   precision", "DOUBLE PRECISION"),
        ("VARCHAR ( 20 )", "VARCHAR(20)"),
        ("numeric(10, 2)", "NUMERIC(10,2)"),
        ("NUMERIC ( 10 , 2 )", "NUMERIC(10,2)"),
    ],
)
def test_a_declaration_is_read_in_any_spelling(written: str, declared: str) -> None:
    assert column_type(written).declared == declared
    assert column_type(written) == column_type(declared)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("", "TEXT"),
        ("REAL", "DOUBLE PRECISION"),
        ("FLOAT", "DOUBLE PRECISION"),
        ("FLOAT(24)", "DOUBLE PRECISION"),
        ("INT", "INTEGER"),
        ("INTEGER(11)", "write INTEGER, without a size"),
        ("CHAR(3)", "VARCHAR(n)"),
        ("CHARACTER VARYING(3)", "VARCHAR(n)"),
        ("VARCHAR", "TEXT"),
        ("VARCHAR(0)", "from 1"),
        ("VARCHAR(99999999)", "to 10485760"),
        ("BLOB", "BYTEA"),
        ("BOOL", "BOOLEAN"),
        ("DECIMAL(10,2)", "NUMERIC(p,s)"),
        ("NUMERIC", "precision and scale"),
        ("NUMERIC(10)", "NUMERIC(10,0)"),
        ("NUMERIC(16,2)", "TEXT, or BIGINT"),
        ("NUMERIC(0,0)", "from 1 to 15"),
        ("NUMERIC(2,3)", "scale exceeds"),
        ("DATETIME", "TIMESTAMP"),
        ("TIMESTAMP(3)", "TIMESTAMP, without a size"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"),
        ("TIME", "INTEGER"),
        ("INTERVAL", "BIGINT"),
        ("TEXT[]", "JSON"),
        ("INTEGER ARRAY", "JSON"),
        ("SERIAL", "the system makes the ids"),
        ("MONEY", "NUMERIC(15,2)"),
        ("mood", "CHECK (x IN"),
        ("GEOMETRY(POINT, 4326)", "write one of"),
    ],
)
def test_another_type_is_refused_with_what_to_write_instead(written: str, instead: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        column_type(written)
    assert instead in str(refusal.value)


# --- Parameters ----------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, 1),
        (False, 0),
        (2**63 - 1, 2**63 - 1),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (
            datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-01T23:00:00.000000Z",
        ),
        (Decimal("1E+3"), 1000),
        (Decimal("-0.00"), 0),
        (Decimal("0.10"), 0.1),
        (Decimal("9223372036854775807"), 2**63 - 1),
        (Decimal("1E-300"), 1e-300),
        (OrderedDict(b=1, a=2), '{"a":2,"b":1}'),
    ],
)
def test_a_parameter_is_bound_by_its_python_type(value: Any, stored: Stored) -> None:
    assert same(bind(value), stored)


def test_a_decimal_is_bound_the_same_in_any_decimal_context() -> None:
    with localcontext(prec=3):
        assert bind(Decimal("12345.67")) == 12345.67


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (2**63, "TEXT column"),
        (float("nan"), "pass None"),
        (float("inf"), "pass None"),
        ("a\0", "leave it out"),
        ("\udc80", "lone surrogate"),
        (datetime(2026, 1, 2), "ctx.now"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), "years 1 to 9999"),
        (Decimal("NaN"), "pass None"),
        (Decimal("0.1234567890123456"), "15 significant digits"),
        (Decimal("1E+1000000"), "too large"),
        (Decimal("1E-400"), "too small"),
        ({"a": float("nan")}, "finite"),
        ({1: 2}, "keys are str"),
        ([(1, 2)], "convert the rest"),
        ([datetime(2026, 1, 2, tzinfo=UTC)], "convert the rest"),
        ([object()], "convert the rest"),
        ((1, 2), "list(x)"),
        ({1}, "sorted(x)"),
        (bytearray(b"x"), "bytes(x)"),
        (time(1, 2), "isoformat"),
        (timedelta(1), "total_seconds"),
        (object(), "pass None, str"),
    ],
)
def test_what_cannot_be_a_parameter_is_told_its_remedy(value: Any, remedy: str) -> None:
    with pytest.raises(ValueRefused) as refusal:
        bind(value)
    assert remedy in str(refusal.value)


def test_an_error_does_not_print_a_megabyte() -> None:
    with pytest.raises(ValueRefused) as refusal:
        bind("x" * 1_000_000 + "\0")
    assert len(str(refusal.value)) < 300
