"""The guard: synced tables change only inside actions, and actions see only what is shared."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from synchrotron import App, Context, Replica
from synchrotron.app.ddl import NEW_ID
from synchrotron.errors import (
    LocalTableRefused,
    MachineError,
    NotReadOnly,
    QueryError,
    RefusedInAction,
    StatementRefused,
    UsageError,
    WriteOutsideAction,
)

Do = Callable[..., Any]
LOCAL = """
    CREATE TABLE seen (id TEXT PRIMARY KEY);
    CREATE VIRTUAL TABLE words USING fts5 (note, id UNINDEXED);
    CREATE TRIGGER see AFTER INSERT ON item BEGIN INSERT INTO seen VALUES (new.id); END;
"""

# ---- queries -------------------------------------------------------------------------


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO item (id) VALUES ('b')",
        "UPDATE item SET n = 2",
        "UPDATE item SET n = 2 RETURNING n",
        "DELETE FROM item",
        "REPLACE INTO item (id) VALUES ('a')",
        "WITH x AS (SELECT 1) DELETE FROM item",
        "DELETE FROM synchrotron_action",
        "UPDATE synchrotron_replica SET n = 0",
        "DELETE FROM seen",
    ],
)
def test_a_query_that_writes_is_refused_with_the_remedy(
    path: str, application: Callable[..., App], do: Do, sql: str
) -> None:
    with application(local=LOCAL).open(path, user="alice") as replica:
        do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
        for _ in range(2):
            with pytest.raises(WriteOutsideAction, match=r"@app\.action and call replica\.run"):
                replica.query(sql)
        assert replica.query("SELECT id, n FROM item") == [{"id": "a", "n": 1}]
        assert replica.query("SELECT * FROM seen") == [{"id": "a"}]
        assert len(replica.log()) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA foreign_keys = OFF",
        "PRAGMA table_info(item)",
        "PRAGMA wal_checkpoint",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "VACUUM",
        "ANALYZE",
        "REINDEX",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "CREATE VIEW x AS SELECT 1",
        "CREATE INDEX x ON item (n)",
        "CREATE TRIGGER x AFTER INSERT ON item BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE x USING fts5 (y)",
        "DROP TABLE item",
        "ALTER TABLE item RENAME TO thing",
    ],
)
def test_a_query_that_does_more_than_read_is_refused(replica: Replica, sql: str) -> None:
    with pytest.raises(NotReadOnly, match="a query only reads"):
        replica.query(sql)
    assert replica.query("SELECT name FROM sqlite_master WHERE name IN ('x', 'thing')") == []
    assert replica.query("SELECT count(*) AS n FROM item") == [{"n": 0}]


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT 1; DELETE FROM item", "one statement at a time"),
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT colour FROM item", "no such column: colour"),
        ("SELECT ?", "binding"),
        ("SELECT 1 AS a, 2 AS a", "two columns are named 'a'"),
        ("SELECT * FROM item JOIN pair ON true", "two columns are named 'audience_key'"),
        ("SELECT CAST(x'ff' AS TEXT) AS t", "not UTF-8"),
        ("SELECT 1 \0", "NUL"),
        ("SELECT '\ud800'", "surrogate"),
        (f"SELECT {NEW_ID}('item') AS id", r"ctx\.new_id|no such function"),
        ("SELECT abs(-9223372036854775808) AS n", "overflow"),
    ],
)
def test_a_query_that_cannot_run_says_why(replica: Replica, sql: str, complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint):
        replica.query(sql)
    assert replica.query("SELECT 1 AS n; -- and a comment") == [{"n": 1}]


def test_parameters_that_are_no_sequence_are_explained(replica: Replica) -> None:
    with pytest.raises(QueryError, match=r"write \(value,\)"):
        replica.query("SELECT ?", "a")


def test_a_query_may_use_the_clock_and_dice_of_the_machine(replica: Replica) -> None:
    [row] = replica.query(
        "SELECT datetime('now') AS at, random() AS number, length(randomblob(4)) AS n"
    )
    assert row["at"] > "2025"
    assert isinstance(row["number"], int)
    assert row["n"] == 4


def test_a_query_sees_what_was_committed_and_may_read_everything(
    path: str, application: Callable[..., App], do: Do
) -> None:
    with application(local=LOCAL).open(path, user="alice") as replica:
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        assert replica.query("SELECT * FROM seen") == [{"id": "a"}]
        assert replica.query("SELECT count(*) AS n FROM sqlite_master")[0]["n"] > 0
        assert replica.query("SELECT count(*) AS n FROM synchrotron_action") == [{"n": 1}]
        assert replica.query("SELECT value FROM json_each(?)", ([1, 2],)) == [
            {"value": 1},
            {"value": 2},
        ]


# ---- actions -------------------------------------------------------------------------


@pytest.mark.spec("A3")
@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("PRAGMA optimize", "PRAGMA"),
        ("PRAGMA table_info(item)", "PRAGMA"),
        ("ANALYZE", "ANALYZE|schema"),
        ("CREATE TABLE x (y)", "a change of the schema"),
        ("CREATE TEMP TABLE x (y)", "a change of the schema"),
        ("CREATE INDEX x ON item (n)", "a change of the schema"),
        ("CREATE VIEW x AS SELECT 1", "a change of the schema"),
        ("DROP TABLE item", "a change of the schema"),
        ("ALTER TABLE item ADD COLUMN y", "schema|ALTER"),
        ("ATTACH ':memory:' AS x", "ATTACH"),
        ("REINDEX item", "REINDEX"),
        ("BEGIN", "TRANSACTION"),
        ("COMMIT", "TRANSACTION"),
        ("END", "TRANSACTION"),
        ("ROLLBACK", "TRANSACTION"),
        ("VACUUM", "SQLite refuses|VACUUM|ATTACH"),
        ("SAVEPOINT synchrotron_replay", "reserved"),
        ("RELEASE Synchrotron_Replay", "reserved"),
        ('ROLLBACK TO "synchrotron_apply"', "reserved"),
        ("SELECT * FROM sqlite_master", "not a synced table"),
        ("SELECT * FROM pragma_table_info('item')", "not a synced table"),
        ("SELECT * FROM dbstat", "not a synced table|no such table"),
        ("SELECT * FROM synchrotron_action", "not a synced table"),
        ("UPDATE synchrotron_replica SET n = 0", "not a synced table"),
        ("SELECT last_insert_rowid()", r"last_insert_rowid\(\)"),
        ("SELECT CHANGES()", r"changes\(\)"),
        ("SELECT total_changes()", r"total_changes\(\)"),
        ("SELECT sqlite_version()", r"sqlite_version\(\)"),
        ("SELECT 1 WHERE 0 = (SELECT changes())", r"changes\(\)"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("", "no statement"),
        ("SELEC", "syntax error"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT ?", "binding"),
        ("SELECT 1 AS a, 2 AS a", "two columns are named 'a'"),
        ("SELECT 'a\0'", "NUL"),
        ("SELECT '\udfff'", "surrogate"),
        (f"SELECT {NEW_ID}('nowhere')", "no table 'nowhere'"),
        ("SELECT abs(-9223372036854775808)", "overflow"),
        ("SELECT length(randomblob(1000000001))", "too big"),
        ("INSERT OR ROLLBACK INTO item (id) VALUES ('a')", "OR ROLLBACK"),
        ("UPDATE or rollback item SET id = 'a'", "OR ROLLBACK"),
        ("INSERT OR/**/ROLLBACK INTO item (id) VALUES ('a')", "OR ROLLBACK"),
        (
            "WITH c AS (SELECT '--' AS t) INSERT OR ROLLBACK INTO item (id) SELECT t FROM c",
            "OR ROLLBACK",
        ),
    ],
)
def test_what_an_action_may_not_do_is_refused_and_leaves_nothing(
    replica: Replica, sql: str, complaint: str
) -> None:
    app = replica._definition

    @app.action
    def refused(ctx: Context, *, sql: str) -> None:
        ctx.execute("INSERT INTO item (id) VALUES ('before')")
        ctx.execute(sql)

    action: Any = app.actions["refused", 1]
    monkey = sql.encode("utf-8", "surrogatepass").decode("utf-8", "replace") == sql
    if monkey and "\0" not in sql:
        for _ in range(2):
            with pytest.raises(StatementRefused, match=complaint):
                replica.run(action, sql=sql)
    else:
        with pytest.raises((StatementRefused, UsageError), match=complaint):
            replica.run(action, sql=sql)
    assert replica.query("SELECT * FROM item") == []
    assert replica.log() == []
    assert replica._engine.store.writer.in_transaction is False


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'OR ROLLBACK' AS \"or rollback\" -- OR ROLLBACK",
        "INSERT INTO item (id) VALUES ('INSERT OR ROLLBACK')",
        "SELECT max(n) AS m FROM item WHERE note LIKE '%;%'; /* it's the end; really */ ;",
        "SELECT value FROM json_each('[1, 2]')",
        "SELECT date('2026-01-02', '+1 day') AS d",
        "WITH RECURSIVE c (i) AS (VALUES (1) UNION SELECT i+1 FROM c WHERE i<9) SELECT i FROM c",
        "SELECT row_number() OVER (ORDER BY id) AS r FROM item",
    ],
)
def test_what_only_looks_forbidden_is_allowed(replica: Replica, do: Do, sql: str) -> None:
    do(replica, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM seen",
        "SELECT id FROM item WHERE id IN (SELECT id FROM seen)",
        "INSERT INTO seen VALUES ('x')",
        "DELETE FROM seen",
        "SELECT * FROM words",
        "SELECT * FROM words_content",
        "INSERT INTO words (note, id) VALUES ('x', 'y')",
    ],
)
def test_an_action_neither_reads_nor_writes_local_tables(
    path: str, application: Callable[..., App], do: Do, sql: str
) -> None:
    with application(local=LOCAL).open(path, user="alice") as replica:
        with pytest.raises(LocalTableRefused, match="local to each replica"):
            do(replica, "INSERT INTO item (id) VALUES ('a')", sql)
        assert replica.query("SELECT * FROM seen") == []
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        assert replica.query("SELECT * FROM seen") == [{"id": "a"}]


def test_a_refusal_that_the_action_swallows_harms_only_its_statement(
    replica: Replica, do: Do
) -> None:
    error = do(
        replica, "INSERT INTO item (id) VALUES ('a')", "PRAGMA foreign_keys = OFF", swallow=True
    )
    assert isinstance(error, StatementRefused)
    assert replica.query("SELECT id FROM item") == [{"id": "a"}]


def test_text_that_is_not_utf8_is_refused_where_it_is_read(replica: Replica, do: Do) -> None:
    with pytest.raises(RefusedInAction, match="not UTF-8"):
        do(replica, "INSERT INTO item (id) VALUES ('a')", "SELECT CAST(x'ff' AS TEXT) AS t")
    assert replica.query("SELECT * FROM item") == []
    assert replica.log() == []


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO item (id, note) VALUES ('a', CAST(x'ff' AS TEXT))",
        "INSERT INTO item (id) VALUES (CAST(x'ff' AS TEXT))",
        "UPDATE item SET note = CAST(x'c080' AS TEXT)",
        "UPDATE item SET note = CAST(x'ff' AS TEXT) RETURNING note",
    ],
)
def test_text_that_is_not_utf8_is_refused_where_it_is_stored(
    replica: Replica, do: Do, sql: str, swallow: bool
) -> None:
    do(replica, "INSERT INTO item (id) VALUES ('here')")
    with pytest.raises(RefusedInAction, match="table item: a text that is not UTF-8"):
        do(replica, sql, swallow=swallow)
    assert replica.query("SELECT id, note FROM item") == [{"id": "here", "note": None}]
    assert len(replica.log()) == 1


def test_a_context_ends_with_its_action(replica: Replica) -> None:
    kept: list[Context] = []

    @replica._definition.action
    def keep(ctx: Context) -> None:
        kept.append(ctx)

    replica.run(keep)
    for use in (
        lambda ctx: ctx.execute("SELECT 1"),
        lambda ctx: ctx.executemany("DELETE FROM item WHERE id = ?", [("a",)]),
        lambda ctx: ctx.new_id("item"),
    ):
        with pytest.raises(StatementRefused, match="after the action ended"):
            use(kept[0])


def test_an_action_does_not_run_another_one_through_the_replica(replica: Replica) -> None:
    app = replica._definition

    @app.action
    def inner(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id) VALUES ('inner')")

    @app.action
    def outer(ctx: Context) -> None:
        replica.run(inner)

    with pytest.raises(UsageError, match=r"call inner\(ctx"):
        replica.run(outer)
    assert replica.log() == []
    replica.run(inner)


# ---- other programs ------------------------------------------------------------------


@pytest.fixture
def closed_file(tmp_path: Path, application: Callable[..., App], do: Do) -> Path:
    file = tmp_path / "replica.db"
    with application().open(file, user="alice") as replica:
        do(
            replica,
            "INSERT INTO item (id, n) VALUES ('a', 1)",
            "INSERT INTO pair (a, b) VALUES ('x', 1)",
        )
    return file


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO item (id) VALUES ('b')",
        "INSERT OR REPLACE INTO pair (a, b) VALUES ('x', 1)",
        "INSERT INTO item (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET n = 3",
        "UPDATE item SET n = 2",
        "DELETE FROM item",
        "UPDATE pair SET v = 1",
        "DELETE FROM pair WHERE b = 1",
    ],
)
def test_another_programs_write_fails_with_the_remedy(
    closed_file: Path, application: Callable[..., App], sql: str
) -> None:
    with closing(sqlite3.connect(closed_file, isolation_level=None)) as other:
        with pytest.raises(
            sqlite3.OperationalError,
            match="no such function: this_table_is_synced_by_synchrotron_change_it_only_in_actions",
        ):
            other.execute(sql)
        assert other.execute("SELECT id, n FROM item").fetchall() == [("a", 1)], "reading is free"
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with application().open(closed_file) as replica:
        assert replica.query("SELECT id, n FROM item") == [{"id": "a", "n": 1}]


@pytest.mark.parametrize(
    "sql",
    ["INSERT INTO item (n) VALUES (1)", "INSERT OR REPLACE INTO item (id) VALUES ('a')"],
)
def test_another_programs_write_that_needs_a_new_id_fails_before(
    closed_file: Path, sql: str
) -> None:
    with (
        closing(sqlite3.connect(closed_file)) as other,
        pytest.raises(sqlite3.OperationalError, match="only_in_actions_with_replica_run"),
    ):
        other.execute(sql)


def test_tables_that_a_migration_adds_are_guarded_as_well(
    closed_file: Path, application: Callable[..., App]
) -> None:
    later = application(
        migrations=["CREATE TABLE more (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL)"]
    )
    later.open(closed_file).close()
    with (
        closing(sqlite3.connect(closed_file)) as other,
        pytest.raises(sqlite3.OperationalError, match="this_table_is_synced"),
    ):
        other.execute("INSERT INTO more VALUES ('a', 'all')")


def test_the_machines_own_failures_are_no_refusals() -> None:
    assert not issubclass(MachineError, RefusedInAction)
