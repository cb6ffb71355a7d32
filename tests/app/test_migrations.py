"""What a migration may add, and what is refused when the application is defined."""

import pytest

from synchrotron import App
from synchrotron.errors import SchemaError

ITEM = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    )
"""
MORE = "CREATE TABLE more (id TEXT PRIMARY KEY, name TEXT, audience_key TEXT NOT NULL)"


@pytest.mark.spec("G1")
@pytest.mark.parametrize(
    "migrations",
    [
        ["ALTER TABLE item ADD COLUMN a TEXT", "ALTER TABLE item ADD b BOOLEAN DEFAULT TRUE"],
        ["ALTER TABLE item ADD COLUMN a NUMERIC(10, 2) NOT NULL DEFAULT 1.5"],
        ["ALTER TABLE item ADD COLUMN a INTEGER NOT NULL DEFAULT 0 CHECK (a >= 0)"],
        ["ALTER TABLE item ADD COLUMN a INTEGER CHECK (a > 0)"],
        ["ALTER TABLE item ADD COLUMN parent TEXT REFERENCES item (id) ON DELETE SET NULL"],
        [MORE, "CREATE INDEX more_name ON more (name)"],
        ["CREATE INDEX item_n ON item (n) WHERE n > 0", "CREATE INDEX item_low ON item (n % 10)"],
        [f"{MORE}; CREATE UNIQUE INDEX more_name ON more (name);"],
        [f"{MORE}; ALTER TABLE more ADD COLUMN n INTEGER CHECK (n > length(name))"],
    ],
    ids=str,
)
def test_a_migration_adds_tables_columns_and_indexes(migrations):
    assert App("grown", schema=ITEM, migrations=migrations).migrations == tuple(migrations)


@pytest.mark.spec("G1")
@pytest.mark.parametrize(
    ("migration", "remedy"),
    [
        ("ALTER TABLE item DROP COLUMN n", "only adds.*leave it and use it no more"),
        ("ALTER TABLE item RENAME COLUMN n TO m", "only adds.*add a new one beside it"),
        ("ALTER TABLE item RENAME TO thing", "only adds.*add a new one beside it"),
        ("ALTER TABLE item ALTER COLUMN n TYPE BIGINT", "only adds.*add a new column beside it"),
        ("DROP TABLE item", "only adds.*leave it and use it no more"),
        ("DROP INDEX item_n", "only adds"),
        ("UPDATE item SET n = 1", "only adds.*data changes in actions"),
        ("INSERT INTO item (id, n) VALUES ('a', 1)", "only adds.*data changes in actions"),
        ("DELETE FROM item", "only adds.*data changes in actions"),
        ("CREATE UNIQUE INDEX item_n ON item (n)", "may hold a value twice.*leave UNIQUE out"),
        ("ALTER TABLE item ADD COLUMN a TEXT UNIQUE", "UNIQUE cannot be added later"),
        ("ALTER TABLE item ADD COLUMN a TEXT PRIMARY KEY", "PRIMARY cannot be added later"),
        ("ALTER TABLE item ADD COLUMN a TEXT NOT NULL", "write a DEFAULT, or leave NOT NULL out"),
        (
            "ALTER TABLE item ADD COLUMN a INTEGER NOT NULL DEFAULT 0 CHECK (a > 0)",
            "break its CHECK; give it another DEFAULT",
        ),
        (
            "ALTER TABLE item ADD COLUMN a INTEGER CHECK (a > n)",
            "speaks of its own column alone",
        ),
        (
            "ALTER TABLE item ADD COLUMN a TEXT GENERATED ALWAYS AS ('x') STORED",
            "generated column cannot be added later",
        ),
        (
            "ALTER TABLE item ADD COLUMN a TEXT DEFAULT 'x' REFERENCES item (id)",
            "starts as NULL; leave the DEFAULT out",
        ),
        ("ALTER TABLE item ADD COLUMN n INTEGER", "duplicate column name: n"),
        ("ALTER TABLE thing ADD COLUMN n INTEGER", "no such table: thing"),
        ("CREATE TABLE item (id TEXT PRIMARY KEY)", "table item already exists"),
        ("CREATE TABLE more (id TEXT PRIMARY KEY)", "no audience_key"),
        ("CREATE TRIGGER t AFTER INSERT ON item BEGIN SELECT 1; END", r"App\(local=…\)"),
        ("  -- nothing yet\n", "no statement; leave it out"),
    ],
)
def test_whatever_does_more_than_add_is_refused_with_its_number_and_the_remedy(migration, remedy):
    good = "CREATE INDEX good ON item (n)"
    with pytest.raises(SchemaError, match=rf"(?s)^migration 2: .*{remedy}"):
        App("grown", schema=ITEM, migrations=[good, migration])


def test_a_wrong_schema_is_not_called_a_wrong_migration():
    with pytest.raises(SchemaError, match=r"^table item: it has no audience_key"):
        App("grown", schema="CREATE TABLE item (id TEXT PRIMARY KEY)", migrations=[MORE])


def test_migrations_are_a_list():
    with pytest.raises(SchemaError, match=r"write \[script\] for a single one"):
        App("grown", schema=ITEM, migrations=MORE)
