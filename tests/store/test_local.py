"""Local tables: derived from synced rows by triggers, whatever changes those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synchrotron import App, Context, Replica
from synchrotron.errors import MachineError, SchemaError
from synchrotron.testing.memory_server import MemoryServer

Do = Callable[..., Any]
SEARCH = """
    CREATE VIRTUAL TABLE words USING fts5 (note, id UNINDEXED);
    CREATE TRIGGER words_in AFTER INSERT ON item BEGIN
        INSERT INTO words (note, id) VALUES (new.note, new.id);
    END;
    CREATE TRIGGER words_out AFTER DELETE ON item BEGIN
        DELETE FROM words WHERE id = old.id;
    END;
    CREATE TRIGGER words_over AFTER UPDATE ON item BEGIN
        UPDATE words SET note = new.note, id = new.id WHERE id = old.id;
    END;
"""
TOTAL = """
    CREATE TABLE total (sum INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE history (what TEXT);
    CREATE INDEX history_what ON history (what);
    CREATE TRIGGER total_in AFTER INSERT ON pair WHEN new.v > 0 BEGIN
        INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
        UPDATE total SET sum = sum + new.v;
        INSERT INTO history VALUES (CASE WHEN new.v > 5 THEN 'large' ELSE 'small' END);
    END;
    CREATE TRIGGER total_out AFTER DELETE ON pair BEGIN
        UPDATE total SET sum = sum - old.v;
    END;
"""


def found(replica: Replica, word: str) -> list[str]:
    rows = replica.query("SELECT id FROM words WHERE words MATCH ? ORDER BY id", (word,))
    return [row["id"] for row in rows]


def indexed(replica: Replica) -> list[tuple[Any, Any]]:
    """What the index holds, whether or not a row is there."""
    return [(row["id"], row["note"]) for row in replica.query("SELECT * FROM words ORDER BY id")]


def noted(replica: Replica) -> list[tuple[Any, Any]]:
    return [(row["id"], row["note"]) for row in replica.query("SELECT * FROM item ORDER BY id")]


# ---- following -----------------------------------------------------------------------


def test_local_tables_follow_what_actions_do(
    path: str, application: Callable[..., App], do: Do, patches: Callable[..., Any]
) -> None:
    with application(local=SEARCH + TOTAL).open(path, user="alice") as replica:
        do(replica, "INSERT INTO item (id, note) VALUES ('a', 'red fox'), ('b', 'red hen')")
        assert found(replica, "red") == ["a", "b"]
        do(replica, "UPDATE item SET note = 'blue fox' WHERE id = 'a'")
        assert (found(replica, "red"), found(replica, "fox")) == (["b"], ["a"])
        do(replica, "REPLACE INTO item (id, note) VALUES ('b', 'fox')")
        do(replica, "DELETE FROM item WHERE id = 'a'")
        assert found(replica, "fox") == ["b"]
        do(replica, "INSERT INTO pair (a, b, v) VALUES ('x', 1, 7), ('x', 2, 2)")
        assert replica.query("SELECT sum FROM total") == [{"sum": 9}]
        assert {key[0] for key in patches(replica)} == {"pair"}, "nothing of it is sent"


def test_what_an_action_takes_back_is_taken_back_there_too(
    path: str, application: Callable[..., App], do: Do
) -> None:
    with application(local=SEARCH).open(path, user="alice") as replica:
        do(replica, "INSERT INTO item (id, note) VALUES ('a', 'red')")
        do(replica, "SAVEPOINT s", "UPDATE item SET note = 'blue'", "ROLLBACK TO s")
        with pytest.raises(ZeroDivisionError):
            replica.run(_raises(replica))
        assert indexed(replica) == [("a", "red")]
        assert found(replica, "green") == []


def _raises(replica: Replica) -> Any:
    @replica._definition.action
    def raises(ctx: Context) -> None:
        ctx.execute("UPDATE item SET note = 'green'")
        raise ZeroDivisionError

    return raises


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_local_tables_follow_undo_and_replay(
    application: Callable[..., App], do: Do, user: str
) -> None:
    app = application(local=SEARCH)
    now = [1_700_000_000_000]

    def clock() -> int:
        now[0] += 10
        return now[0]

    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}}, clock=clock)
    a, b = (
        app.open(":memory:", transport=server.connect(u), clock=clock) for u in ("alice", "bob")
    )
    do(a, "INSERT INTO item (id, n, note) VALUES ('a', 1, 'red'), ('b', 2, 'red')")
    a.sync()
    b.sync()
    assert indexed(b) == noted(b) == [("a", "red"), ("b", "red")]
    do(b, "UPDATE item SET note = note || ' early' WHERE n < 3")
    do(b, "DELETE FROM item WHERE id = 'b'")
    do(a, "UPDATE item SET note = note || ' late', n = n + 1")
    do(a, "UPDATE item SET id = 'c' WHERE id = 'b'")
    a.sync()
    b.sync()
    report = a.sync()
    assert report.replayed
    b.sync()
    watched = a if user == "alice" else b
    assert noted(watched) == [("a", "red early late")]
    assert indexed(watched) == noted(watched)
    assert found(watched, "early") == ["a"]
    watched._engine.store.writer.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_local_tables_follow_a_snapshot(application: Callable[..., App], do: Do) -> None:
    app = application(local=SEARCH)
    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}})
    a = app.open(":memory:", transport=server.connect("alice"))
    do(a, "INSERT INTO item (id, note) VALUES ('a', 'red')")
    a.sync()
    do(a, "UPDATE item SET note = 'blue'")
    a.sync()
    server.prune(keep=0)
    b = app.open(":memory:", transport=server.connect("bob"))
    b.sync()
    assert indexed(b) == [("a", "blue")]


def test_an_audience_that_is_left_leaves_the_local_tables(
    application: Callable[..., App], do: Do
) -> None:
    app = application(local=SEARCH)
    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}})
    a, b = (app.open(":memory:", transport=server.connect(u)) for u in ("alice", "bob"))
    do(a, "INSERT INTO item (id, note) VALUES ('a', 'red')")
    a.sync()
    b.sync()
    assert indexed(b) == [("a", "red")]
    server.audiences["bob"].discard("all")
    b.sync()
    assert noted(b) == indexed(b) == []


# ---- rebuilding ----------------------------------------------------------------------


def test_local_tables_are_filled_from_rows_that_are_there(
    tmp_path: Path, application: Callable[..., App], do: Do, patches: Callable[..., Any]
) -> None:
    file = tmp_path / "replica.db"
    with application().open(file, user="alice") as replica:
        do(
            replica,
            "INSERT INTO item (id, note, parent) VALUES ('a', 'red', NULL), ('b', 'red', 'a')",
            "INSERT INTO pair (a, b, v) VALUES ('x', 1, 7)",
        )
    with application(local=SEARCH + TOTAL).open(file) as replica:
        assert found(replica, "red") == ["a", "b"]
        assert replica.query("SELECT sum FROM total") == [{"sum": 7}]
        assert [p[0] for p in patches(replica).values()] == ["insert"] * 3, "history is as it was"
        do(replica, "DELETE FROM item WHERE id = 'a'")
        assert found(replica, "red") == []
    with application(local=SEARCH + TOTAL).open(file) as replica:
        assert replica.query("SELECT sum FROM total") == [{"sum": 7}], "not filled twice"
        do(replica, "INSERT INTO item (id, note) VALUES ('c', 'red')")
        assert found(replica, "red") == ["c"], "the triggers are there again"


def test_local_tables_that_are_not_wanted_any_more_are_dropped(
    tmp_path: Path, application: Callable[..., App], do: Do
) -> None:
    file = tmp_path / "replica.db"
    with application(local=SEARCH + TOTAL).open(file, user="alice") as replica:
        do(replica, "INSERT INTO item (id, note) VALUES ('a', 'red')")
    with application(local=SEARCH.replace("note, id UNINDEXED", "id UNINDEXED, note")).open(
        file
    ) as replica:
        assert found(replica, "red") == ["a"]
    with application().open(file) as replica:
        names = {row["name"] for row in replica.query("SELECT name FROM sqlite_master")}
        assert not {name for name in names if name.startswith(("words", "total", "history"))}
        assert noted(replica) == [("a", "red")]
        do(replica, "DELETE FROM item")


def test_a_local_script_that_fails_on_the_rows_changes_nothing(
    tmp_path: Path, application: Callable[..., App], do: Do
) -> None:
    file = tmp_path / "replica.db"
    with application().open(file, user="alice") as replica:
        do(replica, "INSERT INTO item (id, n) VALUES ('a', 1), ('b', 1)")
    fussy = """
        CREATE TABLE once (n INTEGER PRIMARY KEY);
        CREATE TRIGGER t AFTER INSERT ON item BEGIN INSERT INTO once VALUES (new.n); END;
    """
    with pytest.raises(MachineError, match=r"UNIQUE constraint failed: once\.n"):
        application(local=fussy).open(file)
    with application().open(file) as replica:
        assert [row["id"] for row in replica.query("SELECT id FROM item")] == ["a", "b"]


# ---- errors --------------------------------------------------------------------------

FAILING = {
    "a unique value": "INSERT INTO tally (id) VALUES (1)",
    "a check": "INSERT INTO tally (n) VALUES (-1)",
    "a missing value": "INSERT INTO tally (m) VALUES (NULL)",
    "an expression": "INSERT INTO tally (n) VALUES (abs(-9223372036854775808))",
    "malformed JSON": "INSERT INTO tally (n) VALUES (json_extract('nonsense', '$'))",
    "a type": "INSERT INTO tally (id) VALUES ('x')",
    "RAISE": "SELECT RAISE(ABORT, 'no')",
    "RAISE(FAIL)": "SELECT RAISE(FAIL, 'no')",
    "RAISE(ROLLBACK)": "SELECT RAISE(ROLLBACK, 'no')",
    "FTS5": "INSERT INTO words (rowid, note) VALUES (1, 'x')",
}
TALLY = """
    CREATE TABLE tally (
        id INTEGER PRIMARY KEY, n INTEGER CONSTRAINT id CHECK (n >= 0), m INTEGER NOT NULL DEFAULT 0
    );
    CREATE VIRTUAL TABLE words USING fts5 (note);
    CREATE TRIGGER fails AFTER {event} ON item WHEN {when} BEGIN
        INSERT INTO tally (n) VALUES (1);
        INSERT OR REPLACE INTO words (rowid, note) VALUES (1, 'x');
        {statement};
        SELECT 1;
    END;
"""


def failing(why: str, event: str = "INSERT", when: str = "new.n = 13") -> str:
    return TALLY.format(statement=FAILING[why], event=event, when=when)


@pytest.mark.spec("A7")
@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("why", FAILING)
def test_an_error_in_a_local_trigger_is_the_machines(
    application: Callable[..., App], do: Do, why: str, swallow: bool
) -> None:
    with application(local=failing(why)).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        with pytest.raises(MachineError):
            do(replica, "INSERT INTO item (id, n) VALUES ('b', 13)", swallow=swallow)
        assert noted(replica) == [("a", None)]
        assert replica.query("SELECT * FROM tally") == []
        error = do(replica, "INSERT INTO item (id) VALUES ('a')", swallow=True)
        assert type(error).__name__ == "ConstraintError", "the action's own error is its own"
        assert len(replica.log()) == 2


@pytest.mark.spec("A7", "S1")
@pytest.mark.parametrize("why", ["a unique value", "a check", "malformed JSON", "RAISE"])
@pytest.mark.parametrize("event", ["INSERT", "DELETE"])
def test_an_error_in_a_local_trigger_aborts_what_is_being_taken_in(
    application: Callable[..., App], do: Do, why: str, event: str
) -> None:
    """Not a rejection, nor a patch that could not be applied: the next sync tries it again."""
    app = application()
    strict = application(
        local=failing(why, event, f"{'new' if event == 'INSERT' else 'old'}.n = 13")
    )
    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}})
    a = app.open(":memory:", transport=server.connect("alice"))
    b = strict.open(":memory:", transport=server.connect("bob"))
    a.sync()
    b.sync()
    do(a, "INSERT INTO item (id) VALUES ('first')")
    a.sync()
    b.sync()
    if event == "DELETE":
        do(a, "INSERT INTO item (id, n) VALUES ('b', 13)")
        a.sync()
        b.sync()
        do(a, "DELETE FROM item WHERE n = 13")
    else:
        do(a, "INSERT INTO item (id, n) VALUES ('b', 13)")
    a.sync()
    before = b.query("SELECT id, n FROM item ORDER BY id"), b._engine.state()
    for _ in range(2):
        with pytest.raises(MachineError):
            b.sync()
        after = b._engine.state()
        assert (b.query("SELECT id, n FROM item ORDER BY id"), after.cursor) == (
            before[0],
            before[1].cursor,
        )
    b._engine.store.writer.execute("DROP TRIGGER fails")
    b.sync()
    assert b.query("SELECT id, n FROM item ORDER BY id") == a.query(
        "SELECT id, n FROM item ORDER BY id"
    )


@pytest.mark.spec("A7", "S10")
def test_an_error_in_a_local_trigger_is_not_taken_for_a_patch_that_does_not_fit(
    application: Callable[..., App], do: Do
) -> None:
    app, strict = application(), application(local=failing("a unique value"))

    @app.action(audience="all")
    def unknown_to_bob(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id, n) VALUES ('b', 13)")

    server = MemoryServer(app, audiences={"alice": {"all"}, "bob": {"all"}})
    a = app.open(":memory:", transport=server.connect("alice"))
    b = strict.open(":memory:", transport=server.connect("bob"))
    b.sync()
    a.run(unknown_to_bob)
    a.sync()
    for _ in range(2):
        with pytest.raises(MachineError, match="a local trigger failed"):
            b.sync()
    assert noted(b) == []
    b._engine.store.writer.execute("DROP TRIGGER fails")
    b.sync()
    assert noted(b) == [("b", None)]


def test_local_triggers_may_use_clock_and_joins_also_while_undoing(
    application: Callable[..., App], do: Do
) -> None:
    local = """
        CREATE TABLE touched (id TEXT PRIMARY KEY, at TEXT);
        CREATE TRIGGER touch AFTER INSERT ON item BEGIN
            REPLACE INTO touched SELECT new.id, datetime('now') FROM item WHERE id = new.id;
        END;
    """
    with application(local=local).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        assert replica.query("SELECT id FROM touched") == [{"id": "a"}]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("UPDATE item SET n = 1 WHERE id = new.id", "item, which is not a local table"),
        ("DELETE FROM pair", "pair, which is not a local table"),
        ("SELECT RAISE(IGNORE)", "keep a synced row from changing"),
        ("SELECT CASE WHEN new.n > 1 THEN raise ( ignore ) END", "keep a synced row"),
        ("INSERT INTO seen VALUES (random())", r"uses random\(\)"),
        ("INSERT INTO seen SELECT hex(randomblob(4))", r"uses randomblob\(\)"),
    ],
)
def test_a_trigger_that_would_touch_what_is_shared_is_refused_at_definition(
    application: Callable[..., App], body: str, complaint: str
) -> None:
    local = f"""
        CREATE TABLE seen (x);
        CREATE TRIGGER t BEFORE INSERT ON item BEGIN {body}; END;
    """
    with pytest.raises(SchemaError, match=complaint):
        application(local=local)


@pytest.mark.spec("A7", "A8")
@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE seen (x TEXT REFERENCES item (id) ON DELETE CASCADE)",
        "CREATE TABLE first (x TEXT PRIMARY KEY); CREATE TABLE seen (x TEXT REFERENCES first (x))",
    ],
)
def test_a_local_foreign_key_is_refused_at_definition(
    application: Callable[..., App], tables: str
) -> None:
    """What breaks it would look like the action's own failure, and count for everyone."""
    with pytest.raises(SchemaError, match=r"table seen has a foreign key to .* let a trigger"):
        application(local=tables)


@pytest.mark.spec("A3")
@pytest.mark.parametrize("unique", ["", "UNIQUE"])
def test_a_local_index_on_a_synced_table_is_refused_at_definition(
    application: Callable[..., App], unique: str
) -> None:
    with pytest.raises(SchemaError, match="index noted is on the synced table item"):
        application(local=f"CREATE {unique} INDEX noted ON item (note)")


@pytest.mark.spec("A7", "A8")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO seen (x) SELECT id FROM item",
        "INSERT INTO seen (x) SELECT max(id) FROM item",
        "INSERT INTO seen (x) VALUES (last_insert_rowid())",
        "INSERT INTO seen (x) VALUES (changes())",
        "INSERT INTO seen (x) SELECT count(*) FROM sqlite_master",
        "INSERT INTO seen (y) VALUES (1)",
    ],
)
def test_a_local_trigger_may_use_what_an_action_may_not(
    application: Callable[..., App], do: Do, statement: str
) -> None:
    local = f"""
        CREATE TABLE seen (x DEFAULT (total_changes()), y);
        CREATE TRIGGER t AFTER INSERT ON item BEGIN {statement}; END;
    """
    with application(local=local).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        assert len(replica.query("SELECT * FROM seen")) == 1
        error = do(replica, "INSERT INTO item (id, n) VALUES ('b', changes())", swallow=True)
        assert type(error).__name__ == "StatementRefused", "an action still may not"
