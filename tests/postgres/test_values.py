"""Values of every column type, from one SQLite through PostgreSQL to another."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from tests.postgres.conftest import Serve

from synchrotron import App, Context

SCHEMA = """
    CREATE TABLE thing (
        id TEXT PRIMARY KEY,
        text_ TEXT, short VARCHAR(5), small SMALLINT, whole INTEGER, big BIGINT,
        double_ DOUBLE PRECISION, truth BOOLEAN, moment TIMESTAMP, moment_tz TIMESTAMPTZ,
        day DATE, price NUMERIC(15,2), whole_price NUMERIC(15,0), tiny NUMERIC(15,15),
        unique_ UUID, doc JSON, docb JSONB, bytes_ BYTEA,
        audience_key TEXT GENERATED ALWAYS AS ('all' || substr(id, 1, 0)) STORED
    );
    CREATE TABLE keyed (
        a UUID NOT NULL, b BIGINT NOT NULL, c TIMESTAMP NOT NULL, d NUMERIC(10,2) NOT NULL,
        e BYTEA NOT NULL, f BOOLEAN NOT NULL, g DATE NOT NULL,
        n INTEGER,
        audience_key TEXT GENERATED ALWAYS AS ('unit:' || a || ':' || b) STORED,
        PRIMARY KEY (a, b, c, d, e, f, g)
    );
"""
ID = UUID("00000000-0000-8000-8000-00000000000f")
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
DOC = {
    'é"\\\n\t\U0001f600': [1, 1.0, -0.5, 1e22, 1e-7, 5e-324, 10**18, True, None, "", {}, []],
    "": {"a": {"b": [[], [[]]]}},
}
COLUMNS: dict[str, list[Any]] = {
    "text_": ["", "ü\U0001f600'\"\\ \t\n\r", "x" * 100_000],
    "short": ["", "ééééé"],
    "small": [0, -(2**15), 2**15 - 1],
    "whole": [0, -(2**31), 2**31 - 1],
    "big": [0, -(2**63), 2**63 - 1],
    "double_": [0.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1, 1e22, 1e16, -1.5],
    "truth": [True, False],
    "moment": [FIRST, LAST, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)],
    "moment_tz": [FIRST, LAST, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)],
    "day": [date(1, 1, 1), date(9999, 12, 31)],
    "price": [Decimal("0.00"), Decimal("-9999999999999.99"), Decimal("0.01"), Decimal("10.50")],
    "whole_price": [Decimal(0), Decimal(999999999999999)],
    "tiny": [Decimal("0.000000000000001").quantize(Decimal("1e-15"))],
    "unique_": [ID, UUID(int=2**128 - 1)],
    "doc": [{}, [], DOC],
    "docb": [{}, [], DOC],
    "bytes_": [b"", bytes(range(256)) * 5],
}


def make_app() -> App:
    app = App("values", schema=SCHEMA, audiences="SELECT id AS user_id, audience_key FROM thing")

    @app.action
    def write(ctx: Context, *, numbers: list[int]) -> None:
        """Rows with the values of these places in COLUMNS; the last ones for all beyond."""
        for n in numbers:
            values = {name: some[min(n, len(some) - 1)] for name, some in COLUMNS.items()}
            names = ", ".join(values)
            marks = ", ".join("?" * len(values))
            ctx.execute(
                f"INSERT INTO thing (id, {names}) VALUES (?, {marks})", (f"t{n}", *values.values())
            )

    @app.action
    def empty(ctx: Context, *, id: str) -> None:
        """Everything NULL that was set before: NULL is a value like any other."""
        ctx.execute(
            f"UPDATE thing SET {', '.join(f'{name} = NULL' for name in COLUMNS)} WHERE id = ?",
            (id,),
        )

    @app.action
    def join(ctx: Context, *, user: str) -> None:
        ctx.execute("INSERT INTO thing (id) VALUES (?)", (user,))

    @app.action
    def key(ctx: Context, *, n: int) -> None:
        ctx.execute(
            "INSERT INTO keyed (a, b, c, d, e, f, g, n) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (ID, 7, FIRST, Decimal("10.50"), b"\x00\xff", True, date(1, 1, 1), n),
        )

    @app.action
    def count(ctx: Context, *, n: int) -> None:
        ctx.execute("UPDATE keyed SET n = ?", (n,))

    return app


@pytest.mark.spec("H5")
def test_every_type_comes_through_unchanged_with_its_extremes_and_null(serve: Serve) -> None:
    app = make_app()
    server = serve(app)
    count = max(map(len, COLUMNS.values()))
    with (
        app.open(":memory:", transport=server.connect("ann")) as ann,
        app.open(":memory:", transport=server.connect("bob")) as bob,
    ):
        ann.run(app.actions["join", 1], user="ann")
        ann.sync()
        ann.run(app.actions["write", 1], numbers=list(range(count)))
        ann.run(app.actions["write", 1], numbers=[count])
        ann.run(app.actions["empty", 1], id=f"t{count}")
        ann.run(app.actions["join", 1], user="bob")
        ann.run(app.actions["key", 1], n=1)
        ann.sync()
        ann.run(app.actions["count", 1], n=2)
        ann.sync()
        assert {o.state for o in ann.outcomes()} == {"accepted"}, ann.outcomes()
        bob.sync()
        rows = "SELECT * FROM thing ORDER BY id"
        assert [repr(r) for r in bob.query(rows)] == [repr(r) for r in ann.query(rows)]
        assert len(bob.query(rows)) == count + 3
        [keyed] = ann.query("SELECT * FROM keyed")
        assert keyed["n"] == 2
    check_in_postgresql(server.database, count)


def check_in_postgresql(database: str, count: int) -> None:
    """SELECT gives what an analyst expects to see."""
    with psycopg.connect(database) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, some in COLUMNS.items():
            rows = connection.execute(
                f"SELECT {name} FROM thing WHERE id ~ '^t[0-9]' ORDER BY id".encode()
            ).fetchall()
            want = [some[min(n, len(some) - 1)] for n in range(count)]
            assert [expected(name, value) for (value,) in rows] == [*want, None], name
        assert connection.execute("SELECT n, audience_key FROM keyed").fetchall() == [
            (2, f"unit:{ID}:7")
        ]


def expected(name: str, value: Any) -> Any:
    if name == "moment" and value is not None:
        return value.replace(tzinfo=UTC)
    return value


def test_a_number_in_json_keeps_its_form_in_what_is_sent(serve: Serve) -> None:
    """PostgreSQL's jsonb writes 1e22 as a whole number: patches keep the canonical text."""
    app = make_app()
    server = serve(app)
    with app.open(":memory:", transport=server.connect("ann")) as ann:
        ann.run(app.actions["join", 1], user="ann")
        ann.run(app.actions["write", 1], numbers=[2])
        ann.sync()
    with app.open(":memory:", transport=server.connect("ann")) as again:
        again.sync()
        [row] = again.query("SELECT docb FROM thing WHERE id = 't2'")
        assert json.dumps(row["docb"], sort_keys=True) == json.dumps(DOC, sort_keys=True)
