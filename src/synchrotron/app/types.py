"""The column types: one form for one value, in every place where a value can be.

A value has three forms, and the declared type of its column says what they are:

    Python form   what applications see       datetime(2026, 1, 2, tzinfo=UTC), Decimal("10.50")
    stored form   what SQLite holds           "2026-01-02T00:00:00.000000Z",    10.5
    wire form     JSON, as patches carry it   "2026-01-02T00:00:00.000000Z",    "10.50"

Two replicas hold the same value exactly if its wire forms have the same text. So
each value of a column has one stored form and one wire form, and going from either
to the other and back loses nothing. SQLite itself would keep anything in any
column: what an action leaves behind is therefore judged by `check`, at its end.

NULL is NULL in all three forms. Callers keep it as it is: no method here is given None.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from types import NoneType
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from synchrotron.core.canonical import canonical, decode, parse_canonical
from synchrotron.errors import SchemaError, ValueRefused

Stored: TypeAlias = int | float | str | bytes | None
"""What SQLite holds."""

NUMERIC_PRECISION_MAX = 15
"""Decimal digits that a float keeps apart; SQLite has no wider decimals."""
VARCHAR_LENGTH_MAX = 10_485_760
"""PostgreSQL's limit, in characters."""
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class ColumnType(ABC):
    """A declared column type. What stands here holds where stored and wire form are the same.

    `declared` is the type as the schema writes it, in upper case.
    """

    declared: str
    plain: ClassVar[bool] = True
    """The wire form is the stored form, so hot loops may skip both conversions."""
    textual: ClassVar[bool] = True
    """SQLite and PostgreSQL make the same text of a value when they cast it."""

    @abstractmethod
    def check(self, stored: Stored) -> str | None:
        """None where `stored` is in this column's form, else what is wrong and the remedy."""

    def to_wire(self, stored: Any) -> Any:
        """The wire form of a value that is in its stored form."""
        return stored

    def from_wire(self, wire: Any) -> Stored:
        """The stored form of a value from a message. Raises `ValueError` where it has none."""
        stored: Stored = wire
        if complaint := self.check(stored):
            raise ValueError(f"{shown(wire)} {complaint}")
        return stored

    def to_python(self, stored: Any) -> Any:
        """The Python form of a value that is in its stored form."""
        return stored


@dataclass(frozen=True)
class Text(ColumnType):
    """TEXT, and VARCHAR(n) with n counted in characters, as PostgreSQL counts them."""

    length: int | None = None

    def check(self, stored: Stored) -> str | None:
        if type(stored) is not str:
            return "is not text: pass a str, or write CAST(x AS TEXT)"
        if self.length is not None and len(stored) > self.length:
            return f"is longer than {self.length} characters: shorten it, or declare TEXT"
        # The common case at once: this judges every text that an action writes.
        return None if stored.isascii() and "\0" not in stored else formless_text(stored)


@dataclass(frozen=True)
class Integer(ColumnType):
    """SMALLINT, INTEGER and BIGINT: whole numbers of PostgreSQL's range."""

    bits: int

    def check(self, stored: Stored) -> str | None:
        # A bool is an int in Python; here it is another type's value.
        if type(stored) is not int:
            return "is not an integer: pass an int, or write CAST(x AS INTEGER)"
        if stored.bit_length() >= self.bits and stored != -1 << self.bits - 1:
            remedy = "declare a wider type" if self.bits < 64 else "keep it as TEXT"
            return f"is outside the range of {self.declared}: {remedy}"
        return None


@dataclass(frozen=True)
class Double(ColumnType):
    """DOUBLE PRECISION: finite, and with one zero, since SQLite keeps no sign of it."""

    plain = False
    textual = False

    def check(self, stored: Stored) -> str | None:
        if type(stored) is not float:
            return "is not a floating-point number: pass a float, or write CAST(x AS REAL)"
        return None if math.isfinite(stored) else "is not finite: write NULL instead"

    def from_wire(self, wire: Any) -> Stored:
        # Other writers of JSON leave the `.0` out.
        stored = float(wire) if type(wire) is int and abs(wire) < 2**1023 else wire
        if complaint := "stands for no float exactly" if stored != wire else self.check(stored):
            raise ValueError(f"{shown(wire)} {complaint}")
        return float(stored) + 0.0


@dataclass(frozen=True)
class Boolean(ColumnType):
    """BOOLEAN: 0 and 1 in SQLite, which knows no other truth."""

    plain = False
    textual = False

    def check(self, stored: Stored) -> str | None:
        if type(stored) is int and 0 <= stored <= 1:
            return None
        return "is not a truth value: pass a bool, or write TRUE or FALSE"

    def to_wire(self, stored: Any) -> Any:
        return stored == 1

    def from_wire(self, wire: Any) -> Stored:
        if type(wire) is not bool:
            raise ValueError(f"{shown(wire)} is neither true nor false")
        return int(wire)

    def to_python(self, stored: Any) -> Any:
        return stored == 1


@dataclass(frozen=True)
class Timestamp(ColumnType):
    """TIMESTAMP and TIMESTAMPTZ: a moment in UTC, of 27 characters, so that it sorts as text."""

    textual = False
    form: ClassVar[re.Pattern[str]] = re.compile(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
    )

    def check(self, stored: Stored) -> str | None:
        if type(stored) is str and self.form.fullmatch(stored) and is_iso(datetime, stored):
            return None
        return "is not a moment: pass an aware datetime, or text like 2026-01-02T03:04:05.000006Z"

    def to_python(self, stored: Any) -> Any:
        return datetime.fromisoformat(stored)


@dataclass(frozen=True)
class Date(ColumnType):
    """DATE: `2026-01-02`."""

    textual = False
    form: ClassVar[re.Pattern[str]] = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

    def check(self, stored: Stored) -> str | None:
        if type(stored) is str and self.form.fullmatch(stored) and is_iso(date, stored):
            return None
        return "is not a date: pass a date, or text like 2026-01-02"

    def to_python(self, stored: Any) -> Any:
        return date.fromisoformat(stored)


@dataclass(frozen=True)
class Numeric(ColumnType):
    """NUMERIC(p,s): a decimal, held as the SQLite number nearest to it.

    Up to 15 digits a float and a decimal name each other, so that nothing is lost. On
    the wire it is text with exactly s decimals, as PostgreSQL writes it.
    """

    precision: int
    scale: int
    plain = False
    textual = False

    def check(self, stored: Stored) -> str | None:
        if type(stored) is not int and type(stored) is not float:
            return "is not a number: pass a Decimal, an int or a float"
        if not abs(stored) < self.bound:  # also where it is not finite
            whole = self.precision - self.scale
            return f"has more than {whole} digits before the point: declare a larger NUMERIC(p,s)"
        if round(stored, self.scale) != stored:
            return f"has more than {self.scale} decimals: use round(x, {self.scale})"
        return None

    def to_wire(self, stored: Any) -> Any:
        return f"{stored:.{self.scale}f}"

    @cached_property
    def bound(self) -> int:
        return int(10 ** (self.precision - self.scale))

    @cached_property
    def form(self) -> re.Pattern[str]:
        """The one spelling of each decimal: no leading zeros, no negative zero."""
        whole = self.precision - self.scale
        digits = f"(0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "0"
        decimals = rf"\.[0-9]{{{self.scale}}}" if self.scale else ""
        return re.compile(f"(-(?=.*[1-9]))?{digits}{decimals}")

    def from_wire(self, wire: Any) -> Stored:
        if type(wire) is not str or not self.form.fullmatch(wire):
            raise ValueError(f"{shown(wire)} is not the text of a {self.declared}")
        # SQLite turns 10.0 into 10; so do we, to have one stored form.
        number = float(wire)
        return int(number) if number.is_integer() else number

    def to_python(self, stored: Any) -> Any:
        return Decimal(self.to_wire(stored))


@dataclass(frozen=True)
class Uuid(ColumnType):
    """UUID: 36 lower-case characters, in SQLite as in JSON."""

    form: ClassVar[re.Pattern[str]] = re.compile(
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    )

    def check(self, stored: Stored) -> str | None:
        if type(stored) is str and self.form.fullmatch(stored):
            return None
        return "is not a UUID of 36 lower-case characters: pass a uuid.UUID, or str(uuid.UUID(x))"

    def to_python(self, stored: Any) -> Any:
        return UUID(stored)


@dataclass(frozen=True)
class Json(ColumnType):
    """JSON and JSONB: an object or an array, as canonical text (A5), in messages as itself."""

    plain = False
    textual = False

    def check(self, stored: Stored) -> str | None:
        try:
            if type(stored) is str and isinstance(parse_canonical(stored), dict | list):
                return None
        except ValueError:
            pass
        return (
            "is not the canonical text of a JSON object or array: pass a dict or a list "
            "(SQL's own JSON functions do not sort keys)"
        )

    def to_wire(self, stored: Any) -> Any:
        return decode(stored)

    def from_wire(self, wire: Any) -> Stored:
        if not isinstance(wire, dict | list):
            raise ValueError(f"{shown(wire)} is neither a JSON object nor an array")
        return canonical(wire)

    def to_python(self, stored: Any) -> Any:
        return decode(stored)


@dataclass(frozen=True)
class Bytes(ColumnType):
    """BYTEA: bytes; base64 (RFC 4648, section 4) in messages."""

    plain = False
    textual = False

    def check(self, stored: Stored) -> str | None:
        return None if type(stored) is bytes else "is not a blob: pass bytes"

    def to_wire(self, stored: Any) -> Any:
        return b64encode(stored).decode()

    def from_wire(self, wire: Any) -> Stored:
        try:
            stored = b64decode(wire, validate=True)
        except (TypeError, ValueError):
            stored = None
        # Padding has spare bits: only one spelling of them is canonical.
        if stored is None or b64encode(stored).decode() != wire:
            raise ValueError(f"{shown(wire)} is not base64")
        return stored


def formless_text(text: str) -> str | None:
    """What keeps a str from having a form in SQLite, JSON and PostgreSQL alike, if anything."""
    if "\0" in text:
        return "holds a NUL character: leave it out, or use BYTEA"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds a lone surrogate, which no database can store: leave it out"
    return None


def is_iso(kind: type[date], text: str) -> bool:
    try:
        kind.fromisoformat(text)
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """A value as an error message shows it: what it is, not all of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


# --- From a declaration to its type -------------------------------------------------

SIMPLE_TYPES: dict[str, ColumnType] = {
    type.declared: type
    for type in (
        Text("TEXT"),
        Integer("SMALLINT", 16),
        Integer("INTEGER", 32),
        Integer("BIGINT", 64),
        Double("DOUBLE PRECISION"),
        Boolean("BOOLEAN"),
        Timestamp("TIMESTAMP"),
        Timestamp("TIMESTAMPTZ"),
        Date("DATE"),
        Uuid("UUID"),
        Json("JSON"),
        Json("JSONB"),
        Bytes("BYTEA"),
    )
}

INSTEAD = {
    "DOUBLE PRECISION": "REAL, FLOAT, DOUBLE, FLOAT4, FLOAT8",
    "SMALLINT": "TINYINT, INT2",
    "INTEGER": "INT, MEDIUMINT, INT4",
    "BIGINT": "INT8, UNSIGNED BIG INT",
    "VARCHAR(n)": "CHAR, CHARACTER, CHARACTER VARYING, VARYING CHARACTER, NATIVE CHARACTER, "
    "NCHAR, NVARCHAR, BPCHAR",
    "VARCHAR(n) with its length, or TEXT": "VARCHAR",
    "TEXT": "CLOB, STRING, CITEXT, NAME, XML",
    "BYTEA": "BLOB, BINARY, VARBINARY",
    "BOOLEAN": "BOOL, BIT",
    "NUMERIC(p,s) with its precision and scale": "NUMERIC, DECIMAL, DEC, NUMBER",
    "NUMERIC(15,2), or BIGINT and count cents": "MONEY",
    "TIMESTAMP": "DATETIME, TIMESTAMP WITHOUT TIME ZONE",
    "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE",
    "INTEGER and count seconds, or TEXT with a CHECK": "TIME, TIMETZ, TIME WITH TIME ZONE, "
    "TIME WITHOUT TIME ZONE",
    "BIGINT and count seconds or milliseconds": "INTERVAL",
    "TEXT with CHECK (x IN ('a', 'b'))": "ENUM",
    "TEXT or UUID, and the system makes the ids": "SERIAL, SMALLSERIAL, BIGSERIAL, "
    "SERIAL2, SERIAL4, SERIAL8",
}
_instead = {name: write for write, names in INSTEAD.items() for name in names.split(", ")}
_declaration = re.compile(r"([A-Z_][A-Z0-9_ ]*?) ?(?:\( ?([0-9]+) ?(?:, ?([0-9]+) ?)?\))?")


def column_type(declared: str) -> ColumnType:
    """The type that a schema declares. `SchemaError` says what to write instead of any other."""
    written = " ".join(declared.upper().split())
    if type := SIMPLE_TYPES.get(written):
        return type
    if not written:
        raise SchemaError("no type is declared: write one, such as TEXT")
    match = _declaration.fullmatch(written)
    name, *sizes = match.groups() if match else (written,)
    if type := _sized_type(name, [int(size) for size in sizes if size is not None]):
        return type
    raise SchemaError(f"{written} is not a column type here: write {_substitute(name)}")


def _substitute(name: str) -> str:
    if name in SIMPLE_TYPES:
        return f"{name}, without a size"
    if name.endswith("]") or "ARRAY" in name.split():
        return "JSON, or a table of its own"
    known = ", ".join([*SIMPLE_TYPES, "VARCHAR(n)", "NUMERIC(p,s)"])
    return _instead.get(name, f"one of {known}; for an enumeration TEXT with CHECK (x IN ('a'))")


def _sized_type(name: str, sizes: list[int]) -> ColumnType | None:
    match name, sizes:
        case "VARCHAR", [length]:
            if not 1 <= length <= VARCHAR_LENGTH_MAX:
                raise SchemaError(f"VARCHAR({length}): a length is from 1 to {VARCHAR_LENGTH_MAX}")
            return Text(f"VARCHAR({length})", length)
        case "NUMERIC", [precision]:
            raise SchemaError(f"NUMERIC({precision}) leaves out its scale: NUMERIC({precision},0)")
        case "NUMERIC", [precision, scale]:
            if not 1 <= precision <= NUMERIC_PRECISION_MAX:
                raise SchemaError(
                    f"NUMERIC({precision},{scale}): a precision is from 1 to "
                    f"{NUMERIC_PRECISION_MAX}, which is what SQLite keeps exactly; "
                    "for more digits write TEXT, or BIGINT in a smaller unit"
                )
            if scale > precision:
                raise SchemaError(f"NUMERIC({precision},{scale}): the scale exceeds the precision")
            return Numeric(f"NUMERIC({precision},{scale})", precision, scale)
        case _:
            return None


# --- From a Python value to what SQLite is given --------------------------------------


def bind(value: Any) -> Stored:
    """What SQLite is given for a parameter, by the value's Python type.

    The column is not known here. A str passes as it is, also for a UUID or a moment:
    `ColumnType.check` judges what is in the row at the end of the action.
    Raises `ValueRefused` with the remedy.
    """
    binder = _BINDERS.get(type(value))
    return binder(value) if binder else _bind_other(value)


def _bind_str(value: str) -> Stored:
    # The common case first: this is called for every parameter of every statement.
    if "\0" not in value and value.isascii():
        return value
    if complaint := formless_text(value):
        raise ValueRefused(f"{shown(value)} {complaint}")
    return value


def _bind_int(value: int) -> Stored:
    if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return value
    raise ValueRefused(f"{shown(value)} does not fit in 64 bits: pass it as a str to a TEXT column")


def _bind_float(value: float) -> Stored:
    if math.isfinite(value):
        return value
    raise ValueRefused(f"{value} is not a finite number: pass None")


def _bind_datetime(value: datetime) -> Stored:
    if value.utcoffset() is None:
        raise ValueRefused(
            f"{value!r} has no time zone: pass ctx.now, datetime.now(UTC), "
            "or value.replace(tzinfo=UTC) if it is in UTC"
        )
    try:
        moment = value.astimezone(UTC)
    except OverflowError as error:
        raise ValueRefused(f"{value!r} lies outside the years 1 to 9999 in UTC") from error
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _bind_decimal(value: Decimal) -> Stored:
    # Nothing here may round by the caller's decimal context.
    if not value.is_finite():
        raise ValueRefused(f"{value} is not a finite number: pass None")
    if abs(value.adjusted()) < 400 and (value == (whole := int(value)) and whole in INT64):
        return whole
    significant = "".join(map(str, value.as_tuple().digits)).strip("0")
    if len(significant) <= NUMERIC_PRECISION_MAX and Decimal(repr(float(value))) == value:
        return float(value)
    raise ValueRefused(
        f"{shown(value)} has more than {NUMERIC_PRECISION_MAX} significant digits, or is too large "
        "or too small for SQLite: round it, or pass it as a str to a TEXT column"
    )


def _bind_json(value: Any) -> Stored:
    try:
        text = canonical(value)
        if decode(text) == value:
            return text
    except ValueError as error:
        raise ValueRefused(f"{shown(value)} is not JSON: {error}") from error
    # What reads back as something else is not JSON's own.
    raise ValueRefused(
        f"{shown(value)} holds what is not JSON's own: keys are str, and values are dict, "
        "list, str, int, float, bool or None; convert the rest first"
    )


_BINDERS: dict[type, Callable[[Any], Stored]] = {
    # In the order in which subclasses are looked for: a bool is an int, a datetime is a date.
    str: _bind_str,
    bool: int,
    int: _bind_int,
    NoneType: lambda value: None,
    float: _bind_float,
    bytes: lambda value: value,
    datetime: _bind_datetime,
    date: date.isoformat,
    Decimal: _bind_decimal,
    UUID: str,
    dict: _bind_json,
    list: _bind_json,
}

# What a subclass (a member of an enumeration, for one) holds underneath.
_UNDERNEATH: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: b"".__add__,
}

_REMEDIES: dict[type, str] = {
    tuple: "pass list(x) for a JSON column",
    set: "pass sorted(x) for a JSON column",
    frozenset: "pass sorted(x) for a JSON column",
    bytearray: "pass bytes(x)",
    memoryview: "pass bytes(x)",
    time: "pass x.isoformat() for a TEXT column",
    timedelta: "pass a number, such as x.total_seconds()",
}


def _bind_other(value: Any) -> Stored:
    for kind, binder in _BINDERS.items():
        if isinstance(value, kind):
            return binder(_UNDERNEATH[kind](value) if kind in _UNDERNEATH else value)
    remedy = _REMEDIES.get(
        type(value),
        "pass None, str, bool, int, float, bytes, datetime, date, Decimal, UUID, dict or list",
    )
    raise ValueRefused(f"a {type(value).__name__} cannot be a parameter: {remedy}")
