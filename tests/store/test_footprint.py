"""Footprints: which tables decide what a statement does, beside the row that it writes."""

import pytest

from synchrotron import App
from synchrotron.store.footprint import footprint_text, read_footprint

SCHEMA = """
    CREATE TABLE parent (
        id TEXT PRIMARY KEY, n INTEGER, audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE child (
        id TEXT PRIMARY KEY, n INTEGER,
        parent_id TEXT REFERENCES parent (id) ON DELETE CASCADE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE named (
        id TEXT PRIMARY KEY, name TEXT UNIQUE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE node (
        id TEXT PRIMARY KEY, up TEXT REFERENCES node (id),
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE pair (
        a TEXT, b TEXT, n INTEGER,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED, PRIMARY KEY (a, b));
    CREATE TABLE alone (
        id TEXT PRIMARY KEY, n INTEGER, audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
"""
BY_KEY = [
    ("UPDATE alone SET n = 1 WHERE id = ?", set()),
    ("UPDATE alone SET n = 1 WHERE id = ? AND n > 3", set()),
    ("DELETE FROM alone WHERE id = 'x'", set()),
    ("UPDATE pair SET n = 1 WHERE a = ? AND b = ?", set()),
    ("UPDATE child SET n = 1 WHERE id = ?", set()),
    ("UPDATE child SET parent_id = ? WHERE id = ?", {"parent"}),
    ("UPDATE parent SET n = 1 WHERE id = ?", set()),
    ("UPDATE named SET name = ? WHERE id = ?", {"named"}),
]
BY_TABLE = [
    ("INSERT INTO alone (id) VALUES (?)", set()),
    ("INSERT INTO child (id, parent_id) VALUES (?, ?)", {"parent"}),
    ("INSERT INTO parent (id) VALUES (?)", {"child"}),
    ("INSERT INTO named (id) VALUES (?)", {"named"}),
    ("INSERT INTO node (id, up) VALUES (?, ?)", {"node"}),
    ("INSERT INTO alone (id, n) SELECT a, n FROM pair", {"pair"}),
    ("INSERT OR IGNORE INTO alone (id) VALUES (?)", {"alone"}),
    ("REPLACE INTO alone (id) VALUES (?)", {"alone"}),
    ("INSERT INTO alone (id) VALUES (?) ON CONFLICT DO NOTHING", {"alone"}),
    ("INSERT INTO alone (id) VALUES (?) RETURNING n", {"alone"}),
    ("SELECT count(*) FROM alone", {"alone"}),
    ("SELECT 1 WHERE EXISTS (SELECT 1 FROM alone)", {"alone"}),
    ("UPDATE alone SET n = 1", {"alone"}),
    ("UPDATE alone SET n = 1 WHERE id IN (?, ?)", {"alone"}),
    ("UPDATE alone SET n = 1 WHERE id = ? OR id = ?", {"alone"}),
    ("UPDATE alone SET n = 1 WHERE id > ?", {"alone"}),
    ("UPDATE alone SET n = (SELECT max(n) FROM pair) WHERE id = ?", {"alone", "pair"}),
    ("UPDATE alone SET n = 1 FROM pair WHERE id = a", {"alone", "pair"}),
    ("UPDATE OR IGNORE alone SET n = 1 WHERE id = ?", {"alone"}),
    ("UPDATE pair SET n = 1 WHERE a = ?", {"pair"}),
    ("UPDATE node SET up = ? WHERE id = ?", {"node"}),
    ("DELETE FROM alone", {"alone"}),
    ("DELETE FROM parent WHERE id = ?", {"parent", "child"}),
]


@pytest.fixture
def statements():
    with App("footprints", schema=SCHEMA).open(":memory:", user="ann") as replica:
        yield replica._engine.store.statements


@pytest.mark.spec("S12")
@pytest.mark.parametrize(("sql", "tables"), BY_KEY)
def test_a_statement_by_a_whole_key_looks_at_its_row_alone(statements, sql, tables) -> None:
    found = statements.inspect(sql, ("x",) * sql.count("?"))
    assert (found.rests_on, found.by_key) == (tables, True)


@pytest.mark.spec("S12")
@pytest.mark.parametrize(("sql", "tables"), BY_TABLE)
def test_any_other_statement_looks_at_tables(statements, sql, tables) -> None:
    found = statements.inspect(sql, ("x",) * sql.count("?"))
    assert (found.rests_on, found.by_key) == (tables, False)


@pytest.mark.spec("S12")
def test_by_a_key_that_is_not_there_a_statement_looks_at_its_table(statements) -> None:
    statements.execute("UPDATE alone SET n = 1 WHERE id = ?", ("x",))
    assert statements.rested_on == {"alone"}


@pytest.mark.spec("S12")
def test_many_changes_by_key_look_at_their_table(statements) -> None:
    """Only the number of all of them is told."""
    statements.executemany("UPDATE alone SET n = 1 WHERE id = ?", [("x",), ("y",)])
    assert statements.rested_on == {"alone"}


@pytest.mark.parametrize("tables", [set(), {"a"}, {"b", "a"}])
def test_a_footprint_reads_back(tables) -> None:
    text = footprint_text("act", 2, frozenset(tables))
    assert read_footprint(text) == ("act", 2, tables)
