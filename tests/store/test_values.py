"""Rows and values: what is read back, and what may not be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from synchrotron import App, Context, Replica, Row
from synchrotron.core.canonical import canonical
from synchrotron.core.ids import derive_id
from synchrotron.errors import (
    AudienceRefused,
    ConstraintError,
    KeyRefused,
    SchemaError,
    ValueRefused,
)

Do = Callable[..., Any]
Patches = Callable[[Replica], dict[tuple[Any, ...], Any]]
ID = "0192f1a2-b3c4-8001-8aaa-0123456789ab"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

VALUES = """
    CREATE TABLE v (
        id TEXT PRIMARY KEY, short VARCHAR(3), small SMALLINT, whole INTEGER, big BIGINT,
        x DOUBLE PRECISION, yes BOOLEAN, at TIMESTAMP, atz TIMESTAMPTZ, day DATE,
        price NUMERIC(10, 2), u UUID, j JSON, jb JSONB, data BYTEA,
        audience_key TEXT NOT NULL DEFAULT 'all'
    )"""
PYTHON: dict[str, Any] = {
    "id": "é🦊",
    "short": "🦊🦊🦊",
    "small": -(2**15),
    "whole": 2**31 - 1,
    "big": -(2**63),
    "x": 1.0,
    "yes": True,
    "at": MOMENT,
    "atz": MOMENT,
    "day": date(2026, 1, 2),
    "price": Decimal("10.00"),
    "u": UUID(ID),
    "j": {"b": [1, 1.0, None], "a": True},
    "jb": [],
    "data": b"\x00\xff",
    "audience_key": "all",
}


@pytest.fixture
def values(path: str, application: Callable[..., App]) -> Any:
    app = application(VALUES)

    @app.action
    def fill(ctx: Context) -> Any:
        names = ", ".join(PYTHON)
        marks = ", ".join(f":{name}" for name in PYTHON)
        ctx.execute(f"INSERT INTO v ({names}) VALUES ({marks})", PYTHON)
        return ctx.execute("SELECT * FROM v")[0]

    with app.open(path, user="alice") as replica:
        yield replica


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict | list):
        return canonical(a) == canonical(b)
    return type(a) is type(b) and a == b


# ---- reading back --------------------------------------------------------------------


def test_every_column_is_read_back_as_its_python_type(values: Replica) -> None:
    inside = values.run(values._definition.actions["fill", 1]).result
    [outside] = values.query("SELECT * FROM v")
    for row in (inside, outside):
        assert list(row) == list(PYTHON)
        assert {name for name in PYTHON if not same(row[name], PYTHON[name])} == set()


def test_a_column_under_another_name_or_from_a_subquery_keeps_its_type(values: Replica) -> None:
    values.run(values._definition.actions["fill", 1])
    [row] = values.query("SELECT t.yes AS flag, d FROM (SELECT yes, day AS d FROM v) AS t")
    assert row == {"flag": True, "d": date(2026, 1, 2)}
    assert row["flag"] is True


def test_an_expression_is_what_sqlite_makes_of_it(values: Replica) -> None:
    values.run(values._definition.actions["fill", 1])
    [row] = values.query(
        "SELECT yes + 0 AS yes, max(at) AS at, price * 2 AS price, j || '' AS j, NULL AS n FROM v"
    )
    assert dict(row) == {
        "yes": 1,
        "at": "2026-01-02T03:04:05.000006Z",
        "price": 20,
        "j": '{"a":true,"b":[1,1.0,null]}',
        "n": None,
    }


def test_null_is_none_in_every_column(values: Replica, do: Do) -> None:
    do(values, "INSERT INTO v (id) VALUES ('a')")
    [row] = values.query("SELECT * FROM v")
    assert {name for name in row if row[name] is not None} == {"id", "audience_key"}


def test_rows_fit_into_types_of_the_application(values: Replica) -> None:
    import dataclasses

    @dataclasses.dataclass
    class V:
        yes: bool
        day: date
        price: Decimal
        u: UUID

    values.run(values._definition.actions["fill", 1])
    sql = "SELECT yes, day, price, u FROM v"
    assert values.query(sql, into=V) == [V(True, date(2026, 1, 2), Decimal("10.00"), UUID(ID))]


def test_a_moment_of_another_zone_is_stored_in_utc(values: Replica) -> None:
    @values._definition.action
    def at(ctx: Context) -> None:
        zone = timezone(timedelta(hours=5, minutes=30))
        ctx.execute("INSERT INTO v (id, at) VALUES ('a', ?)", (MOMENT.astimezone(zone),))

    values.run(at)
    assert values.query("SELECT at FROM v") == [{"at": MOMENT}]
    assert values.query("SELECT id FROM v WHERE at = ?", (MOMENT,)) == [{"id": "a"}]


# ---- rows ----------------------------------------------------------------------------


def test_a_row_is_a_read_only_mapping(replica: Replica, do: Do) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    [row] = replica.query("SELECT n, id FROM item")
    assert isinstance(row, Row)
    assert isinstance(row, Mapping)
    assert list(row) == ["n", "id"]
    assert len(row) == 2
    assert row["id"] == "a"
    assert row.get("x", 5) == 5
    assert "n" in row
    assert dict(row) == row == {"id": "a", "n": 1}
    assert repr(row) == "Row({'n': 1, 'id': 'a'})"
    with pytest.raises(KeyError, match="nothing"):
        row["nothing"]
    with pytest.raises(TypeError):
        row["n"] = 2  # type: ignore[index]


def test_a_write_gives_no_rows_but_with_returning(replica: Replica, do: Do) -> None:
    assert do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)") == []
    assert do(replica, "UPDATE item SET n = 2 RETURNING id, n, label") == [
        {"id": "a", "n": 2, "label": "#a"}
    ]
    assert do(replica, "DELETE FROM item WHERE id = 'b' RETURNING id") == []


# ---- values out of their column's form -------------------------------------------------


@pytest.mark.parametrize(
    ("column", "sql", "remedy"),
    [
        ("short", "'long'", "declare TEXT"),
        ("short", "x'00'", "pass a str"),
        ("id", "'a' || char(0)", "NUL"),
        ("small", "32768", "declare a wider type"),
        ("whole", "2147483648", "declare a wider type"),
        ("whole", "1.5", "CAST"),
        ("whole", "'one'", "pass an int"),
        ("x", "9e999", "not finite"),
        ("x", "'one'", "pass a float"),
        ("yes", "2", "pass a bool"),
        ("yes", "'true'", "pass a bool"),
        ("at", "datetime('now')", "aware datetime"),
        ("at", "'2026-02-30T00:00:00.000000Z'", "aware datetime"),
        ("atz", "CURRENT_TIMESTAMP", "aware datetime"),
        ("day", "'2026-1-2'", "pass a date"),
        ("day", "5", "pass a date"),
        ("price", "0.125", "use round(x, 2)"),
        ("price", "1e9", "declare a larger NUMERIC"),
        ("u", "upper('0192f1a2-b3c4-8001-8aaa-0123456789ab')", "lower-case"),
        ("j", "json_object('b', 1, 'a', 2)", "pass a dict"),
        ("jb", "'1'", "pass a dict or a list"),
        ("j", "'{}' || ' '", "canonical"),
        ("data", "'text'", "pass bytes"),
    ],
)
def test_a_value_out_of_its_columns_form_is_refused(
    values: Replica, do: Do, column: str, sql: str, remedy: str
) -> None:
    insert = (
        f"INSERT INTO v (id) VALUES ({sql})"
        if column == "id"
        else f"INSERT INTO v (id, {column}) VALUES ('k', {sql})"
    )
    with pytest.raises(ValueRefused) as refusal:
        do(values, insert)
    text = str(refusal.value)
    assert text.startswith("table v, row ")
    assert f"column {column}: " in text
    assert remedy in text
    assert values.query("SELECT * FROM v") == []
    assert values.log() == []


def test_a_value_is_judged_at_the_end_of_the_action(values: Replica, do: Do) -> None:
    do(values, "INSERT INTO v (id, day) VALUES ('a', 'soon')", "UPDATE v SET day = '2026-01-02'")
    with pytest.raises(ValueRefused, match="column day"):
        do(values, "UPDATE v SET whole = 1", "UPDATE v SET day = 'soon'")
    assert values.query("SELECT day, whole FROM v") == [{"day": date(2026, 1, 2), "whole": None}]


def test_a_parameter_that_sqlite_cannot_hold_is_refused(values: Replica) -> None:
    @values._definition.action
    def store(ctx: Context, *, which: int) -> None:
        odd = [2**63, float("nan"), "a\0", "\ud800", datetime(2026, 1, 2), (1,), object()][which]
        ctx.execute("INSERT INTO v (id, big) VALUES ('a', ?)", (odd,))

    for which in range(7):
        with pytest.raises(ValueRefused, match=r"pass|time zone|leave it out"):
            values.run(store, which=which)
    assert values.query("SELECT * FROM v") == []


# ---- keys (A3) -----------------------------------------------------------------------

ALL = "audience_key TEXT DEFAULT 'all' NOT NULL"
KEYS = f"""
    CREATE TABLE text_key (id TEXT PRIMARY KEY, n INTEGER, {ALL});
    CREATE TABLE uuid_key (id UUID PRIMARY KEY, n INTEGER, {ALL});
    CREATE TABLE int_key (id BIGINT PRIMARY KEY, n INTEGER, {ALL});
    CREATE TABLE composite (
        a TEXT, b TEXT, audience_key TEXT DEFAULT 'all' NOT NULL, PRIMARY KEY (a, b)
    );
    CREATE TABLE child (
        id TEXT PRIMARY KEY, parent TEXT REFERENCES text_key (id),
        audience_key TEXT DEFAULT 'all' NOT NULL
    );
"""


@pytest.fixture
def keys(path: str, application: Callable[..., App]) -> Any:
    with application(KEYS).open(path, user="alice") as replica:
        yield replica


@pytest.mark.spec("A3")
@pytest.mark.parametrize("table", ["text_key", "uuid_key"])
def test_an_omitted_text_or_uuid_key_is_a_new_id_of_its_table(
    keys: Replica, do: Do, patches: Patches, table: str
) -> None:
    do(
        keys,
        f"INSERT INTO {table} (n) VALUES (1), (2)",
        f"INSERT INTO {table} DEFAULT VALUES",
        "INSERT INTO child DEFAULT VALUES",
    )
    seed = keys.log()[0].seed
    made = [key for name, key in patches(keys) if name == table]
    assert made == [derive_id(seed, table, "n", ordinal) for ordinal in range(3)]
    assert ("child", derive_id(seed, "child", "n", 0)) in patches(keys)


@pytest.mark.spec("A4")
def test_omitted_keys_and_new_id_count_together(keys: Replica, patches: Patches) -> None:
    @keys._definition.action
    def make(ctx: Context) -> list[str]:
        first = ctx.new_id("text_key")
        keyed = ctx.new_id("text_key", "x", 1)
        [row] = ctx.execute("INSERT INTO text_key (n) VALUES (1) RETURNING id")
        again = ctx.new_id("text_key", "x", 1)
        other = ctx.new_id("uuid_key")
        return [first, keyed, row["id"], again, ctx.new_id("text_key"), other]

    ids = keys.run(make).result
    seed = keys.log()[0].seed
    n = [derive_id(seed, "text_key", "n", ordinal) for ordinal in range(3)]
    keyed = derive_id(seed, "text_key", "key", "x", 1)
    assert ids == [n[0], keyed, n[1], keyed, n[2], derive_id(seed, "uuid_key", "n", 0)]
    with pytest.raises(Exception, match="no table 'nothing'"):
        keys.run(keys._definition.action(name="bad")(lambda ctx: ctx.new_id("nothing")))


@pytest.mark.spec("A3")
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO text_key (id) VALUES (NULL)",
        "INSERT INTO uuid_key (id, n) SELECT NULL, 1",
        "INSERT INTO int_key (id) VALUES (NULL)",
        "INSERT INTO int_key (n) VALUES (1)",
        "INSERT INTO composite (a) VALUES ('x')",
        "INSERT INTO composite (a, b) VALUES ('x', NULL)",
        "UPDATE text_key SET id = NULL",
    ],
)
def test_a_key_that_is_null_or_cannot_be_made_is_refused_with_the_remedy(
    keys: Replica, do: Do, sql: str
) -> None:
    do(keys, "INSERT INTO text_key (id) VALUES ('a')")
    with pytest.raises(
        KeyRefused, match=r"give every column of a primary key a value.*ctx\.new_id"
    ):
        do(keys, sql)
    assert len(keys.log()) == 1


def test_a_column_that_is_no_key_and_null_is_a_constraint_error(keys: Replica, do: Do) -> None:
    with pytest.raises(ConstraintError, match=r"NOT NULL constraint failed: child\.audience_key"):
        do(keys, "INSERT INTO child (audience_key) VALUES (NULL)")


def test_a_key_with_a_default_of_its_own_is_refused_at_definition(
    application: Callable[..., App],
) -> None:
    with pytest.raises(SchemaError, match="DEFAULT"):
        application("CREATE TABLE t (id TEXT PRIMARY KEY DEFAULT 'x', audience_key TEXT NOT NULL)")


# ---- audiences -----------------------------------------------------------------------


@pytest.mark.spec("A11")
def test_a_row_does_not_move_to_another_audience(keys: Replica, do: Do, patches: Patches) -> None:
    do(keys, "INSERT INTO text_key (id) VALUES ('a')")
    with pytest.raises(AudienceRefused, match="text_key a would move from audience all to b"):
        do(keys, "UPDATE text_key SET audience_key = 'b'")
    do(keys, "UPDATE text_key SET audience_key = 'b', id = 'c'")
    assert {key: op for key, (op, _) in patches(keys).items()} == {
        ("text_key", "a"): "delete",
        ("text_key", "c"): "insert",
    }


@pytest.mark.spec("A10")
def test_a_row_outside_the_declared_audiences_is_refused(keys: Replica) -> None:
    @keys._definition.action(audience=["room:{room}", "lobby"])
    def enter(ctx: Context, *, room: str, where: str) -> None:
        ctx.execute("INSERT INTO text_key (audience_key) VALUES (?)", (where,))

    keys.run(enter, room="1", where="room:1")
    keys.run(enter, room="1", where="lobby")
    with pytest.raises(AudienceRefused, match="declares lobby, room:1: declare it too"):
        keys.run(enter, room="1", where="room:2")
    assert len(keys.log()) == 2
