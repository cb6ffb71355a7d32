"""The schema check: what is refused and why, and the tables that are read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import pytest

from synchrotron.app.ddl import NEW_ID
from synchrotron.app.schema import Schema, Table, read_schema
from synchrotron.errors import SchemaError, ValueRefused

TODO = """
    CREATE TABLE project (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || id) STORED
    );
    CREATE TABLE todo (
        id UUID PRIMARY KEY,
        project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
        text TEXT NOT NULL,
        done BOOLEAN NOT NULL DEFAULT FALSE,
        due TIMESTAMP,
        price NUMERIC(10, 2),
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED,
        weight DOUBLE PRECISION
    );
    CREATE INDEX todo_due ON todo (due) WHERE NOT done;
"""
PUBLIC = "audience_key TEXT NOT NULL"
ID = "0192f1a2-b3c4-8001-8aaa-0123456789ab"
FULL = (ID, "p1", "Milk", 0, None, 10.5, "project:p1", 1.0)
IMAGE = (ID, "p1", "Milk", 0, None, 10.5, 1.0)
VALUES = {
    "done": False,
    "due": None,
    "id": ID,
    "price": "10.50",
    "project_id": "p1",
    "text": "Milk",
    "weight": 1.0,
}


def one(columns: str, *more: str) -> Table:
    """The table `t` with these columns and a plain audience."""
    return read_schema(f"CREATE TABLE t ({PUBLIC}, {columns}); {'; '.join(more)}").tables["t"]


@pytest.fixture
def todo() -> Table:
    return read_schema(TODO).tables["todo"]


def database(schema: Schema, new_id: Callable[..., str] = lambda table: f"{table}-1") -> Any:
    db = apsw.Connection(":memory:")
    db.execute("PRAGMA foreign_keys = ON")
    db.create_scalar_function(NEW_ID, new_id, 1, deterministic=False)
    for statement in schema.statements:
        db.execute(statement)
    return db


# --- What is read back ---------------------------------------------------------------------


def test_a_table_says_what_it_holds(todo: Table) -> None:
    assert [c.name for c in todo.all_columns] == [
        "id", "project_id", "text", "done", "due", "price", "audience_key", "weight",
    ]  # fmt: skip
    assert [c.name for c in todo.columns] == [
        "id", "project_id", "text", "done", "due", "price", "weight",
    ]  # fmt: skip
    assert [c.name for c in todo.generated] == ["audience_key"]
    assert todo.key == ("id",) and todo.key_positions == (0,)
    assert todo.image_positions == (0, 1, 2, 3, 4, 5, 7)
    assert todo.audience_position == 6
    assert todo.audience_expression == "'project:' || project_id"
    assert todo.new_id_key
    done = todo.column("done")
    assert todo.position("done") == 3
    assert (done.type.declared, done.not_null, done.default) == ("BOOLEAN", True, "FALSE")
    assert todo.all_columns[0].not_null and todo.all_columns[0].default is None
    (foreign_key,) = todo.foreign_keys
    assert foreign_key.columns == ("project_id",)
    assert (foreign_key.parent, foreign_key.parent_columns) == ("project", ("id",))


def test_the_columns_are_those_of_select_star() -> None:
    db = database(read_schema(TODO))
    db.execute("INSERT INTO project (id, name) VALUES ('p', 'x')")
    names = [row[0] for row in db.execute("SELECT * FROM project").description]
    project = read_schema(TODO).tables["project"]
    assert names == [column.name for column in project.all_columns]


def test_a_plain_audience_has_no_expression() -> None:
    assert one("id TEXT PRIMARY KEY").audience_expression is None


def test_a_composite_key_is_in_the_keys_order() -> None:
    table = one("a TEXT, b BOOLEAN, c TEXT, PRIMARY KEY (b, a)")
    assert table.key == ("b", "a") and table.key_positions == (2, 1)
    assert not table.new_id_key
    assert table.key_of(("all", "x", 1, None)) == (True, "x")
    assert table.stored_key((True, "x")) == (1, "x")


@pytest.mark.parametrize(
    ("key", "made"),
    [
        ("id TEXT PRIMARY KEY", True),
        ("id UUID PRIMARY KEY", True),
        ("id VARCHAR(36) PRIMARY KEY", True),
        ("id TEXT, PRIMARY KEY (id)", True),
        ("id VARCHAR(35) PRIMARY KEY", False),
        ("id BIGINT PRIMARY KEY", False),
        ("a TEXT, b TEXT, PRIMARY KEY (a, b)", False),
    ],
)
def test_a_key_that_an_insert_omits_is_made_where_it_can_be(key: str, made: bool) -> None:
    """A3."""
    schema = read_schema(f"CREATE TABLE t ({PUBLIC}, {key})")
    assert schema.tables["t"].new_id_key == made
    db = database(schema)
    insert = "INSERT INTO t (audience_key) VALUES ('all')"
    if made:
        db.execute(insert)
        assert db.execute("SELECT * FROM t").get == ("all", "t-1")
    else:
        with pytest.raises(apsw.ConstraintError):
            db.execute(insert)


def test_the_statements_make_tables_without_rowid() -> None:
    """A3: a scan's order depends on the content alone."""
    db = database(read_schema(TODO))
    assert db.execute("SELECT min(wr) FROM pragma_table_list WHERE schema='main' AND name IN "
                      "('project', 'todo')").get == 1  # fmt: skip


def test_foreign_keys_are_checked_at_the_end() -> None:
    """A9."""
    db = database(read_schema(TODO))
    db.execute("BEGIN")
    db.execute("INSERT INTO todo (id, project_id, text) VALUES ('t', 'p', 'x')")
    db.execute("INSERT INTO project (id, name) VALUES ('p', 'later')")
    db.execute("COMMIT")


def test_parents_come_before_children_also_where_the_source_has_them_after() -> None:
    schema = read_schema(f"""
        CREATE TABLE leaf (id TEXT PRIMARY KEY, up TEXT REFERENCES branch, {PUBLIC});
        CREATE TABLE branch (id TEXT PRIMARY KEY, up TEXT REFERENCES root, {PUBLIC});
        CREATE TABLE root (id TEXT PRIMARY KEY, self TEXT REFERENCES root, {PUBLIC});
    """)
    assert list(schema.tables) == ["root", "branch", "leaf"]
    assert schema.tables["leaf"].foreign_keys[0].parent_columns == ("id",)


def test_tables_that_refer_to_each_other_are_taken() -> None:
    schema = read_schema(f"""
        CREATE TABLE a (id TEXT PRIMARY KEY, b_id TEXT REFERENCES b (id), {PUBLIC});
        CREATE TABLE b (id TEXT PRIMARY KEY, a_id TEXT REFERENCES a (id), {PUBLIC});
    """)
    assert set(schema.tables) == {"a", "b"}


def test_an_added_column_comes_last_as_in_sqlite() -> None:
    schema = read_schema(TODO + "ALTER TABLE todo ADD COLUMN note TEXT NOT NULL DEFAULT '';")
    note = schema.tables["todo"].all_columns[-1]
    assert (note.name, note.default) == ("note", "''")
    assert schema.statements[:3] == read_schema(TODO).statements
    database(schema)


def test_the_source_is_kept() -> None:
    assert read_schema(TODO).source == TODO


# --- Rows ----------------------------------------------------------------------------------


def test_a_row_goes_from_shape_to_shape_and_back(todo: Table) -> None:
    assert todo.image(FULL) == IMAGE
    assert todo.key_of(FULL) == (ID,)
    values = todo.values(IMAGE)
    assert values == VALUES and list(values) == sorted(values)
    assert values["done"] is False
    assert todo.to_image(values) == IMAGE
    assert list(map(type, todo.to_image(values))) == list(map(type, IMAGE))


def test_an_unknown_column_is_left_out_and_a_missing_one_is_null(todo: Table) -> None:
    """S11."""
    values = {k: v for k, v in VALUES.items() if k != "price"} | {"colour": "red"}
    assert todo.to_image(values) == (ID, "p1", "Milk", 0, None, None, 1.0)
    assert todo.stored({"done": True, "price": None, "colour": 1}) == {"done": 1, "price": None}


def test_a_table_tells_whether_it_can_take_a_patch(todo: Table) -> None:
    """S11."""
    assert todo.has_columns(VALUES) and todo.has_columns({})
    assert not todo.has_columns({"colour": "red"})
    assert not todo.has_columns({"audience_key": "project:p1"})


def test_a_row_is_found_by_what_a_foreign_key_says_of_it() -> None:
    """A9: by its key alone, or by UNIQUE columns where its image is known."""
    table = one("a BOOLEAN, b TEXT, c TEXT UNIQUE, PRIMARY KEY (a, b)")
    image = ("all", 1, "x", "unique")
    assert table.denotes((True, "x"), None, ("b", "a"), ("x", 1))
    assert not table.denotes((True, "x"), image, ("b", "a"), ("x", 0))
    assert table.denotes((True, "x"), image, ("c",), ("unique",))
    assert not table.denotes((True, "x"), image, ("c",), ("other",))
    assert not table.denotes((True, "x"), None, ("c",), ("unique",))


def test_an_image_of_a_single_column_is_a_tuple() -> None:
    table = read_schema(
        "CREATE TABLE t (id TEXT PRIMARY KEY, "
        "audience_key TEXT GENERATED ALWAYS AS ('t:' || id) STORED)"
    ).tables["t"]
    assert table.image(("a", "t:a")) == ("a",)
    assert table.values(("a",)) == {"id": "a"} and table.to_image({"id": "a"}) == ("a",)


def test_values_from_a_message_are_judged_by_column(todo: Table) -> None:
    todo.check_values(VALUES | {"colour": object()})
    with pytest.raises(ValueError, match="table todo, column text: 1 is not text"):
        todo.check_values(VALUES | {"text": 1})


def test_readers_are_only_for_columns_that_python_sees_differently(todo: Table) -> None:
    reader = todo.reader("done")
    assert reader is not None and reader(1) is True
    assert todo.reader("text") is None and todo.reader("weight") is None
    assert todo.reader("absent") is None and todo.reader(None) is None


def test_a_row_in_its_form_passes(todo: Table) -> None:
    todo.check_image(FULL)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (5, 0.1 + 0.2, "column price: 0.30000000000000004 has more than 2 decimals: use round"),
        (4, "tomorrow", "column due: 'tomorrow' is not a moment: pass an aware datetime"),
        (6, None, "column audience_key: is NULL"),
    ],
)
def test_a_value_out_of_form_is_refused_with_its_place(
    todo: Table, position: int, value: Any, message: str
) -> None:
    row = (*FULL[:position], value, *FULL[position + 1 :])
    with pytest.raises(ValueRefused) as refusal:
        todo.check_image(row)
    assert str(refusal.value).startswith(f"table todo, row {ID}, {message}")


# --- What is refused ------------------------------------------------------------------------

REFUSED = [
    # A key and an audience
    ("CREATE TABLE t (a TEXT, audience_key TEXT NOT NULL)", "t", "id TEXT PRIMARY KEY"),
    ("CREATE TABLE t (id TEXT PRIMARY KEY)", "t", "audience_key TEXT GENERATED"),
    ("CREATE TABLE t (id TEXT PRIMARY KEY, audience_key TEXT)", "t, column aud", "NOT NULL"),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, audience_key UUID NOT NULL)",
        "t, column audience_key",
        "write TEXT",
    ),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, audience_key TEXT GENERATED ALWAYS AS ('a'))",
        "t, column audience_key",
        "STORED",
    ),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, audience_key TEXT AS ('a') STORED)",
        "t, column audience_key",
        "GENERATED ALWAYS AS",
    ),
    (f"CREATE TABLE t (id INTEGER PRIMARY KEY, {PUBLIC})", "t, column id", "BIGINT"),
    (f"CREATE TABLE t (id INTEGER, {PUBLIC}, PRIMARY KEY (id))", "t, column id", "BIGINT"),
    (f"CREATE TABLE t (id TEXT PRIMARY KEY DEFAULT 'x', {PUBLIC})", "t, column id", "leave it out"),
    (f"CREATE TABLE t (id JSON PRIMARY KEY, {PUBLIC})", "t, column id", "write TEXT"),
    (
        f"CREATE TABLE t (a TEXT, b DOUBLE PRECISION, {PUBLIC}, PRIMARY KEY (a, b))",
        "t, column b",
        "write TEXT",
    ),
    # Columns
    (f"CREATE TABLE t (id TEXT PRIMARY KEY, x REAL, {PUBLIC})", "t, column x", "DOUBLE PRECISION"),
    (f"CREATE TABLE t (id TEXT PRIMARY KEY, x TEXT[], {PUBLIC})", "t, column x", "JSON"),
    (f"CREATE TABLE t (id TEXT PRIMARY KEY, x, {PUBLIC})", "t, column x", "no type"),
    (f"CREATE TABLE t (id TEXT PRIMARY KEY, X TEXT, {PUBLIC})", "t, column X", "lower case"),
    (f'CREATE TABLE t (id TEXT PRIMARY KEY, "to" TEXT, {PUBLIC})', "t, column", "without quotes"),
    (f"CREATE TABLE t (id TEXT PRIMARY KEY, user TEXT, {PUBLIC})", "t, column user", "PostgreSQL"),
    # Generated columns
    (
        f"CREATE TABLE t (id TEXT PRIMARY KEY, x TEXT GENERATED ALWAYS AS (id) VIRTUAL, {PUBLIC})",
        "t, column x",
        "STORED",
    ),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, n NUMERIC(4,2), "
        "audience_key TEXT GENERATED ALWAYS AS ('n:' || n) STORED)",
        "t, column audience_key",
        "different text of n",
    ),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, b BOOLEAN, "
        "audience_key TEXT GENERATED ALWAYS AS (CAST(b AS TEXT)) STORED)",
        "t, column audience_key",
        "different text of b",
    ),
    (
        "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT GENERATED ALWAYS AS (id) STORED, "
        "audience_key TEXT GENERATED ALWAYS AS (a) STORED)",
        "t, column audience_key",
        "repeat its expression",
    ),
    # Foreign keys
    (
        f"CREATE TABLE t (id TEXT PRIMARY KEY, x TEXT REFERENCES absent (id), {PUBLIC})",
        "t, foreign key x",
        "no table absent",
    ),
    (
        f"CREATE TABLE t (id TEXT PRIMARY KEY, x TEXT REFERENCES t (audience_key), {PUBLIC})",
        "t, foreign key x",
        "refer to t (id)",
    ),
    (
        f"CREATE TABLE t (id TEXT PRIMARY KEY, x BIGINT REFERENCES t (id), {PUBLIC})",
        "t, foreign key x",
        "declare both alike",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "place", "remedy"), REFUSED)
def test_what_could_not_be_kept_in_sync_is_refused_with_its_place(
    sql: str, place: str, remedy: str
) -> None:
    with pytest.raises(SchemaError) as refusal:
        read_schema(sql)
    assert str(refusal.value).startswith(f"table {place}")
    assert remedy in str(refusal.value)


@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        ("TEXT DEFAULT (lower('A'))", "not a literal"),
        ("TEXT DEFAULT abc", "not a literal"),
        ("TEXT DEFAULT 5", "text in quotes"),
        ("TEXT DEFAULT TRUE", "text in quotes"),
        ("BOOLEAN DEFAULT 0", "TRUE or FALSE"),
        ("INTEGER DEFAULT '5'", "a number"),
        ("INTEGER DEFAULT 1.5", "not an integer"),
        ("SMALLINT DEFAULT 40000", "range"),
        ("NUMERIC(4,2) DEFAULT 1.005", "round(x, 2)"),
        ("TIMESTAMP DEFAULT '2026-01-02'", "not a moment"),
        ("UUID DEFAULT 'x'", "not a UUID"),
        ("""JSON DEFAULT '{"a": 1}'""", "canonical"),
        ("BYTEA DEFAULT '\\x00'", "no literal for bytes"),
        ("BYTEA DEFAULT x'00'", "not a literal"),
        ("VARCHAR(2) DEFAULT 'abc'", "longer than 2"),
    ],
)
def test_a_default_is_a_literal_in_its_columns_form(column: str, remedy: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        one(f"id TEXT PRIMARY KEY, x {column}")
    assert str(refusal.value).startswith("table t, column x: ")
    assert remedy in str(refusal.value)


@pytest.mark.parametrize(
    "column",
    [
        "TEXT DEFAULT ''",
        "TEXT DEFAULT NULL",
        "TEXT NOT NULL DEFAULT ('it''s')",
        "BOOLEAN DEFAULT TRUE",
        "INTEGER DEFAULT -1",
        "BIGINT DEFAULT (1)",
        "DOUBLE PRECISION DEFAULT 1",
        "DOUBLE PRECISION DEFAULT 1e-3",
        "NUMERIC(4,2) DEFAULT 10.50",
        "DATE DEFAULT '2026-01-02'",
        "JSON DEFAULT '{}'",
        "BYTEA DEFAULT NULL",
    ],
)
def test_a_literal_default_is_taken(column: str) -> None:
    one(f"id TEXT PRIMARY KEY, x {column}")


def test_a_foreign_key_may_name_unique_columns() -> None:
    one("id TEXT PRIMARY KEY, a TEXT UNIQUE, x TEXT REFERENCES t (a)")
    one("id TEXT PRIMARY KEY, a TEXT, x TEXT REFERENCES t (a)", "CREATE UNIQUE INDEX i ON t (a)")
    one("a TEXT, b TEXT, x TEXT, y TEXT, PRIMARY KEY (a, b), FOREIGN KEY (x, y) REFERENCES t")
    one("id VARCHAR(40) PRIMARY KEY, x TEXT REFERENCES T (ID)")
    with pytest.raises(SchemaError, match="neither the primary key nor UNIQUE"):
        one(
            "id TEXT PRIMARY KEY, a TEXT, x TEXT REFERENCES t (a)",
            "CREATE UNIQUE INDEX i ON t (a) WHERE a > ''",
        )


def test_other_stored_columns_and_any_index_are_taken() -> None:
    table = one(
        "id TEXT PRIMARY KEY, a TEXT, b TEXT GENERATED ALWAYS AS (lower(a)) STORED, "
        "c BOOLEAN, "
        "d TEXT GENERATED ALWAYS AS (CASE WHEN c THEN 'x' ELSE CAST(a AS TEXT) END) STORED",
        "CREATE INDEX i ON t (lower(a))",
        "CREATE UNIQUE INDEX j ON t (a) WHERE b > ''",
    )
    assert [column.name for column in table.generated] == ["b", "d"]


@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        ("x TEXT NOT NULL", "DEFAULT"),
        ("x TEXT NOT NULL DEFAULT NULL", "DEFAULT"),
        ("x TEXT GENERATED ALWAYS AS (id) STORED", "plain one"),
        ("x TEXT DEFAULT 'a' REFERENCES t (id)", "leave the DEFAULT out"),
        ("x TEXT NOT NULL REFERENCES t (id) ON DELETE SET DEFAULT", "DEFAULT"),
    ],
)
def test_an_added_column_must_suit_rows_that_are_there(column: str, remedy: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        one("id TEXT PRIMARY KEY", f"ALTER TABLE t ADD COLUMN {column}")
    assert remedy in str(refusal.value)


def test_a_schema_without_tables_is_refused() -> None:
    with pytest.raises(SchemaError, match="no table"):
        read_schema(" -- nothing yet")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (f"CREATE TABLE t (id TEXT PRIMARY KEY, {PUBLIC},)", "syntax error"),
        (f"CREATE TABLE t (id TEXT PRIMARY KEY, {PUBLIC}", "incomplete input"),
        (
            f"CREATE TABLE t (id TEXT PRIMARY KEY, {PUBLIC});"
            f"CREATE TABLE t (id TEXT PRIMARY KEY, {PUBLIC})",
            "table t already exists",
        ),
        ("CREATE INDEX i ON absent (x)", "no such table"),
        (f'CREATE TABLE t (id TEXT PRIMARY KEY CHECK (id <> "x"), {PUBLIC})', "no such column"),
        ("ALTER TABLE absent ADD x TEXT", "no such table"),
    ],
)
def test_what_sqlite_refuses_is_shown_with_its_message(sql: str, message: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        read_schema(sql)
    assert message in str(refusal.value)
    assert sql.split(";")[-1] in str(refusal.value)
