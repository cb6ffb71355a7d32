"""SQL's own clock and dice inside an action are the context's, at first and on every replay."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import apsw
import pytest

from synchrotron import App, Context
from synchrotron.core.ids import SeededRandom
from synchrotron.errors import StatementRefused
from synchrotron.testing.memory_server import MemoryServer

NOW_MS = 1_700_000_000_123
SCHEMA = """
    CREATE TABLE roll (
        id TEXT PRIMARY KEY, at TEXT, made TEXT, julian DOUBLE PRECISION, number BIGINT,
        bytes BYTEA, pick INTEGER, position BIGINT,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    )"""


@pytest.fixture
def rolling(application: Callable[..., App]) -> Any:
    app = application(SCHEMA)

    @app.action(audience="all")
    def roll(ctx: Context) -> Any:
        ctx.execute(
            """INSERT INTO roll (at, made, julian, number, bytes, pick, position) VALUES (
                strftime('%Y-%m-%d %H:%M:%f', 'now'), CURRENT_TIMESTAMP, julianday('now'),
                random(), randomblob(5), ?, (SELECT count(*) FROM roll)
            )""",
            (ctx.random.randrange(100),),
        )
        return ctx.now, ctx.execute("SELECT datetime('now') AS now, date() AS day")[0]

    return app, roll


@pytest.mark.spec("A3")
def test_sqls_clock_and_dice_are_the_contexts(rolling: Any, path: str) -> None:
    app, roll = rolling
    with app.open(path, user="alice", clock=lambda: NOW_MS) as replica:
        now, said = replica.run(roll).result
        assert now == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
        assert said == {"now": "2023-11-14 22:13:20", "day": "2023-11-14"}
        dice = SeededRandom(replica.log()[0].seed)
        pick = dice.randrange(100)
        [row] = replica.query("SELECT * FROM roll")
        assert row["at"] == "2023-11-14 22:13:20.123"
        assert row["made"] == "2023-11-14 22:13:20"
        assert row["pick"] == pick
        assert row["number"] == int.from_bytes(dice.randbytes(8), "big", signed=True)
        assert row["bytes"] == dice.randbytes(5)


def test_each_action_has_its_own_moment_and_dice(rolling: Any, path: str) -> None:
    app, roll = rolling
    clock = iter(range(NOW_MS, NOW_MS + 10_000, 1000))
    with app.open(path, user="alice", clock=lambda: next(clock)) as replica:
        for _ in range(3):
            replica.run(roll)
        rows = replica.query("SELECT * FROM roll")
    assert len({row["at"] for row in rows}) == 3
    assert len({row["number"] for row in rows}) == 3
    assert len({row["bytes"] for row in rows}) == 3


@pytest.mark.spec("A3", "A4")
def test_a_replay_gets_the_same(rolling: Any) -> None:
    app, roll = rolling
    now = [NOW_MS]

    def clock() -> int:
        now[0] += 1000
        return now[0]

    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}}, clock=clock)
    a, b = (
        app.open(":memory:", transport=server.connect(user), clock=clock)
        for user in ("alice", "bob")
    )
    a.sync()
    b.sync()
    a.run(roll)
    a.run(roll)
    b.run(roll)
    a.run(roll)
    seen = {
        row["id"]: row for row in (*a.query("SELECT * FROM roll"), *b.query("SELECT * FROM roll"))
    }
    b.sync()
    assert a.sync().replayed == 1, "history changed before its last one"
    b.sync()
    a.sync()
    rows = a.query("SELECT * FROM roll ORDER BY at")
    assert (
        rows
        == b.query("SELECT * FROM roll ORDER BY at")
        == sorted((dict(row) for row in server.rows("roll")), key=lambda row: row["at"])
    )
    assert [row["position"] for row in rows] == [0, 1, 2, 3], "they did run again"
    for row in rows:
        assert {**row, "position": None} == {**seen[row["id"]], "position": None}


@pytest.mark.parametrize(
    ("length", "bytes"), [("0", 1), ("-5", 1), ("NULL", 1), ("2.9", 2), ("'x'", 1), ("7", 7)]
)
def test_randomblob_takes_what_sqlites_own_takes(
    rolling: Any, do: Callable[..., Any], length: str, bytes: int
) -> None:
    with rolling[0].open(":memory:", user="alice") as replica:
        assert do(replica, f"SELECT length(randomblob({length})) AS n") == [{"n": bytes}]


MOMENT = "'2023-11-14 22:13:20.123'"


@pytest.mark.spec("A3")
@pytest.mark.parametrize(
    ("sql", "means"),
    [
        ("date()", f"date({MOMENT})"),
        ("time('NOW')", f"time({MOMENT})"),
        ("datetime('now', '+1 day', 'weekday 0')", f"datetime({MOMENT}, '+1 day', 'weekday 0')"),
        ("datetime('now', 'subsec')", f"datetime({MOMENT}, 'subsec')"),
        ("datetime('subsec')", f"datetime({MOMENT}, 'subsec')"),
        ("unixepoch('subsecond')", f"unixepoch({MOMENT}, 'subsecond')"),
        ("unixepoch()", f"unixepoch({MOMENT})"),
        ("julianday()", f"julianday({MOMENT})"),
        ("strftime('%s %f')", f"strftime('%s %f', {MOMENT})"),
        ("strftime('%J', 'now')", f"strftime('%J', {MOMENT})"),
        ("timediff('now', '2020-01-01')", f"timediff({MOMENT}, '2020-01-01')"),
        ("CURRENT_TIMESTAMP", f"datetime({MOMENT})"),
        ("CURRENT_DATE", f"date({MOMENT})"),
        ("current_time", f"time({MOMENT})"),
        ("datetime('2026-01-02', '+1 day')", "datetime('2026-01-02', '+1 day')"),
        ("datetime(0, 'unixepoch')", "datetime(0, 'unixepoch')"),
        ("datetime(NULL)", "NULL"),
        ("date('nonsense')", "NULL"),
        ("strftime(NULL, 'now')", "NULL"),
    ],
)  # fmt: skip
def test_every_way_to_ask_sql_for_the_time_gives_the_contexts(
    rolling: Any, do: Callable[..., Any], path: str, sql: str, means: str
) -> None:
    expected = apsw.Connection(":memory:").execute(f"SELECT {means}").get
    with rolling[0].open(path, user="alice", clock=lambda: NOW_MS) as replica:
        assert do(replica, f"SELECT {sql} AS t") == [{"t": expected}]
        assert do(replica, f"SELECT {sql} AS t") == [{"t": expected}], "prepared as well"


@pytest.mark.spec("A3")
@pytest.mark.parametrize("zone", ["localtime", "UTC"])
def test_the_machines_time_zone_is_refused_in_actions(
    rolling: Any, do: Callable[..., Any], path: str, zone: str
) -> None:
    with rolling[0].open(path, user="alice") as replica:
        with pytest.raises(StatementRefused, match="differs between replicas"):
            do(replica, f"SELECT datetime('2026-01-02', '{zone}') AS t")
        assert replica.query(f"SELECT datetime('2026-01-02', '{zone}') AS t")[0]["t"] > "2026"
