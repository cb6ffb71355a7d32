"""Tables that were there before become the application's, and their rows the floor (F7)."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.todo import AUDIENCES, SCHEMA, make_app
from typer.testing import CliRunner

from synchrotron import App, Replica
from synchrotron.cli import main
from synchrotron.errors import InstallationError
from synchrotron.server.install import install

BEFORE = """
    CREATE TABLE project (id text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE project_member (
        id text PRIMARY KEY,
        project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
        user_id text NOT NULL
    );
    CREATE TABLE todo (
        id text PRIMARY KEY,
        project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
        text text NOT NULL,
        done boolean NOT NULL DEFAULT false
    );
    CREATE INDEX todo_by_project ON todo (project_id);
    INSERT INTO project VALUES ('p1', 'Garden'), ('p2', 'House'), ('lost', 'Nobody''s');
    INSERT INTO project_member
        VALUES ('m1', 'p1', 'alice'), ('m2', 'p1', 'bob'), ('m3', 'p2', 'bob');
    INSERT INTO todo VALUES ('t1', 'p1', 'dig', false), ('t2', 'p2', 'paint', true);
"""


@pytest.fixture
def database() -> Iterator[str]:
    url = new_database()
    yield url
    drop_database(url)


@pytest.fixture
def filled(database: str) -> str:
    script(database, BEFORE)
    return database


@pytest.fixture
def serve() -> Iterator[Callable[[str], Served]]:
    servers: list[Served] = []

    def start(url: str) -> Served:
        servers.append(Served(url))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def script(url: str, statements: str) -> None:
    for statement in statements.split(";"):
        if statement.strip():
            execute(url, statement)


def open_for(server: Served, user: str, app: App | None = None) -> Replica:
    replica = (app or make_app()).open(":memory:", transport=server.connect(user))
    replica.sync()
    return replica


def ids(replica: Replica, table: str = "todo") -> list[str]:
    return [row["id"] for row in replica.query(f"SELECT id FROM {table} ORDER BY id")]


def catalogue(url: str) -> list[tuple[object, ...]]:
    """All that an installation could have changed."""
    return execute(
        url,
        "SELECT c.relname::text, pg_get_userbyid(c.relowner), c.relrowsecurity, a.attname::text,"
        " a.attnotnull FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0"
        " UNION ALL SELECT conname::text, pg_get_constraintdef(oid), NULL, NULL, NULL"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        " UNION ALL SELECT nspname::text, NULL, NULL, NULL, NULL FROM pg_namespace"
        " WHERE nspname LIKE 'synchrotron%%' ORDER BY 1, 2, 4",
    )


def test_without_adopt_a_table_that_exists_is_an_error_that_names_it(filled: str) -> None:
    before = catalogue(filled)
    with pytest.raises(InstallationError, match=r"table project exists already .* --adopt"):
        install(make_app(), filled)
    assert catalogue(filled) == before


@pytest.mark.spec("F1", "F7", "S8")
def test_replicas_start_with_the_adopted_rows_of_their_audiences(
    filled: str, serve: Callable[[str], Served]
) -> None:
    done = install(make_app(), filled, adopt=True)
    assert done.adopted.rows == {"project": 3, "project_member": 3, "todo": 2}
    assert done.adopted.memberless == ["project:lost"]
    server = serve(filled)
    alice, bob, carol = (open_for(server, user) for user in ("alice", "bob", "carol"))
    assert (ids(alice), ids(bob), ids(carol)) == (["t1"], ["t1", "t2"], [])
    assert [tuple(row.values()) for row in bob.query("SELECT * FROM todo WHERE id = 't2'")] == [
        ("t2", "p2", "paint", None, True, "project:p2")
    ]


@pytest.mark.spec("S7", "H5", "F5", "F7")
def test_adopted_rows_are_edited_replayed_and_pruned_like_any(
    filled: str, serve: Callable[[str], Served]
) -> None:
    app = make_app()
    install(app, filled, adopt=True)
    server = serve(filled)
    alice, bob = open_for(server, "alice", app), open_for(server, "bob", app)
    alice.run(app.actions["edit", 1], project="p1", id="t1", text="dig deep")
    bob.run(app.actions["give", 1], project="p1", id="t1", to="bob")
    bob.run(app.actions["remove", 1], project="p2", id="t2")
    for replica in (bob, alice, bob):
        replica.sync()
    assert {run.state for run in (*alice.outcomes(), *bob.outcomes())} == {"accepted"}
    want = [("t1", "p1", "dig deep", "bob", False)]
    columns = "SELECT id, project_id, text, owner, done FROM"
    assert execute(filled, f"{columns} todo") == want
    assert [tuple(row.values()) for row in alice.query(f"{columns} todo")] == want
    server.prune(keep=0)
    assert execute(filled, f"{columns} todo") == want
    assert ids(open_for(server, "bob")) == ["t1"]


@pytest.mark.spec("H7a", "F7")
def test_nobody_can_move_into_an_adopted_audience_without_members(
    filled: str, serve: Callable[[str], Served]
) -> None:
    install(make_app(), filled, adopt=True)
    server = serve(filled)
    # A client of one's own making need not know of foreign keys.
    app = make_app(schema=SCHEMA.replace("REFERENCES project (id) ON DELETE CASCADE", ""))
    carol = open_for(server, "carol", app)
    carol.run(app.actions["invite", 1], project="lost", user="carol")
    carol.sync()
    assert [outcome.reason for outcome in carol.parked()] == ["denied"]
    assert ids(open_for(server, "carol"), "project") == []


def test_an_adoption_can_be_repeated_and_takes_nothing_twice(filled: str) -> None:
    install(make_app(), filled, adopt=True)
    before = catalogue(filled)
    [count] = execute(filled, "SELECT count(*) FROM synchrotron.targets")
    assert install(make_app(), filled, adopt=True).adopted.rows == {}
    assert install(make_app(), filled).adopted.rows == {}
    assert catalogue(filled) == before
    assert execute(filled, "SELECT count(*) FROM synchrotron.targets") == [count]


def test_the_tables_get_what_the_schema_has_besides(filled: str) -> None:
    """Columns, keys, deferred foreign keys; the index that was there stays."""
    schema = SCHEMA.replace("owner TEXT", "owner TEXT UNIQUE CHECK (owner <> '')")
    schema += "; CREATE INDEX todo_by_project ON todo (project_id);"
    install(App("todo", schema=schema, audiences=AUDIENCES), filled, adopt=True)
    assert execute(
        filled,
        "SELECT DISTINCT confdeltype::text, condeferred FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace",
    ) == [("a", True)]
    for constraint, value in (("todo_owner_key", "x"), ("todo_owner_check", "")):
        with pytest.raises(psycopg.IntegrityError, match=constraint):
            execute(filled, "UPDATE todo SET owner = %s", value)


@pytest.mark.spec("S11", "F3", "F7")
def test_a_table_is_adopted_by_a_later_migration_and_replicas_start_anew(
    database: str, serve: Callable[[str], Served], tmp_path: Path
) -> None:
    app = make_app()
    install(app, database)
    server = serve(database)
    path = tmp_path / "alice.db"
    with app.open(path, transport=server.connect("alice")) as alice:
        alice.run(app.actions["create_project", 1], id="p1")
        alice.sync()
    tag = """
        CREATE TABLE tag (
            id TEXT PRIMARY KEY,
            project_id TEXT NOT NULL REFERENCES project (id),
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
        )
    """
    newer = App("todo", schema=SCHEMA, audiences=AUDIENCES, migrations=(tag,))
    execute(database, "CREATE TABLE tag (id text PRIMARY KEY, project_id text NOT NULL)")
    execute(database, "INSERT INTO tag VALUES ('red', 'p1')")
    assert install(newer, database, adopt=True).adopted.rows == {"tag": 1}
    with newer.open(path, transport=server.connect("alice")) as alice:
        alice.sync()
        assert ids(alice, "tag") == ["red"]
        assert ids(alice, "project") == ["p1"]


VALUES = App(
    "values",
    schema="""
        CREATE TABLE thing (
            id UUID PRIMARY KEY,
            n BIGINT, x DOUBLE PRECISION, price NUMERIC(10,2), ok BOOLEAN, name VARCHAR(20),
            at TIMESTAMP, atz TIMESTAMPTZ, day DATE, doc JSON, docb JSONB, data BYTEA,
            audience_key TEXT NOT NULL
        )
    """,
)
ID = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def things(database: str) -> str:
    execute(
        database,
        "CREATE TABLE thing (id uuid PRIMARY KEY, n bigint, x double precision,"
        " price numeric(10,2), ok boolean, name varchar(20), at timestamp, atz timestamptz,"
        " day date, doc json, docb jsonb, data bytea, audience_key text NOT NULL)",
    )
    return database


@pytest.mark.spec("A5", "F7")
def test_values_of_every_type_are_taken_in_their_form(
    things: str, serve: Callable[[str], Served]
) -> None:
    execute(
        things,
        f"INSERT INTO thing VALUES ('{ID}', -9223372036854775808, 0.1, 1.5, true, 'ö',"
        " '2026-01-02 03:04:05.000006', '2026-01-02 03:04:05+02', '0001-01-01',"
        ' \'{"b": 1, "a": [1.0, null]}\', \'{"b": 1e2, "a": "x"}\', \'\\xff00\', \'user:alice\')',
    )
    install(VALUES, things, adopt=True)
    alice = open_for(serve(things), "alice", VALUES)
    [row] = alice.query("SELECT * FROM thing")
    assert tuple(row.values()) == (
        UUID(ID),
        -(2**63),
        0.1,
        Decimal("1.50"),
        True,
        "ö",
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC),
        date(1, 1, 1),
        {"a": [1.0, None], "b": 1},
        {"a": "x", "b": 100},
        b"\xff\x00",
        "user:alice",
    )


@pytest.mark.spec("A5", "F7")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("x", "'NaN'"),
        ("x", "'-Infinity'"),
        ("price", "'NaN'"),
        ("at", "'infinity'"),
        ("at", "'0044-03-15 12:00 BC'"),
        ("atz", "'-infinity'"),
        ("atz", "'10000-01-01'"),
        ("day", "'infinity'"),
        ("day", "'10000-01-01'"),
        ("day", "'0044-03-15 BC'"),
        ("doc", "'1'"),
        ("doc", "'null'"),
        ("docb", "'\"text\"'"),
        ("docb", "'[123456789012345678901234567890]'"),
        ("doc", "'[\"\\u0000\"]'"),
        ("doc", "'[\"\\ud800\"]'"),
    ],
)
def test_a_value_without_a_form_is_refused_by_table_row_column_and_value(
    things: str, column: str, value: str
) -> None:
    execute(
        things,
        f"INSERT INTO thing (id, {column}, audience_key) VALUES ('{ID}', {value}, 'user:alice')",
    )
    before = catalogue(things)
    with pytest.raises(
        InstallationError, match=f"table thing, row {ID}, column {column}: .*UPDATE it before"
    ):
        install(VALUES, things, adopt=True)
    assert catalogue(things) == before


def test_a_row_without_an_audience_is_refused(database: str) -> None:
    schema = """
        CREATE TABLE note (
            id TEXT PRIMARY KEY, owner TEXT,
            audience_key TEXT GENERATED ALWAYS AS ('user:' || owner) STORED
        )
    """
    execute(database, "CREATE TABLE note (id text PRIMARY KEY, owner text)")
    execute(database, "INSERT INTO note VALUES ('n1', NULL)")
    with pytest.raises(InstallationError, match=r"table note, row n1, column audience_key: .*NULL"):
        install(App("notes", schema=schema), database, adopt=True)


@pytest.mark.spec("H5")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE todo ALTER id TYPE varchar(40)", None),
        ("ALTER TABLE todo ALTER id TYPE char(40)", "id: it is character.*TYPE text"),
        ('ALTER TABLE todo ALTER text TYPE text COLLATE "C"', "COLLATE C.* TYPE text COLLATE"),
        ("ALTER TABLE todo ADD price money", "column price: the schema has no such column"),
        ("ALTER TABLE todo ADD owner text NOT NULL DEFAULT ''", "owner: it is NOT NULL.*DROP NOT"),
        (
            "ALTER TABLE todo ADD audience_key text GENERATED ALWAYS AS ('x' || id) STORED",
            "audience_key: it is generated as",
        ),
        ("ALTER TABLE todo ALTER text DROP NOT NULL;UPDATE todo SET text = NULL", "text: its rows"),
        ("ALTER TABLE todo DROP CONSTRAINT todo_pkey", None),
        (
            "ALTER TABLE todo DROP CONSTRAINT todo_pkey;UPDATE todo SET id = 't'",
            "todo, id: its rows do not satisfy",
        ),
        ("CREATE UNIQUE INDEX one ON todo (text) WHERE done", "WHERE done.*unique by .*one"),
        ("ALTER TABLE todo ADD CHECK (text <> '')", "todo_text_check.*not in the schema"),
        (
            "CREATE TABLE users (id text PRIMARY KEY);"
            "ALTER TABLE todo ADD owner text REFERENCES users",
            "todo_owner_fkey.*not in the schema",
        ),
        (
            "CREATE TABLE picture (todo_id text REFERENCES todo ON DELETE CASCADE)",
            "table picture: its foreign key picture_todo_id_fkey refers to todo",
        ),
        (
            "CREATE TABLE picture (todo_id text REFERENCES todo DEFERRABLE INITIALLY DEFERRED)",
            None,
        ),
        ("CREATE TABLE more () INHERITS (todo)", "todo is a view, or a table in parts"),
        ("ALTER TABLE todo RENAME TO t;CREATE VIEW todo AS SELECT * FROM t", "todo is a view"),
        ("ALTER TABLE todo FORCE ROW LEVEL SECURITY", None),
        ("CREATE POLICY p ON todo USING (true)", "FOR ALL"),
        (
            "ALTER TABLE todo DROP CONSTRAINT todo_project_id_fkey;"
            "INSERT INTO todo VALUES ('t9', 'gone', 'x')",
            "its rows do not satisfy the schema.*gone",
        ),
    ],
)
def test_a_table_of_another_shape_is_mended_without_loss_or_refused_with_the_remedy(
    filled: str, change: str, reason: str | None
) -> None:
    script(filled, change)
    if reason is None:
        assert install(make_app(), filled, adopt=True).adopted.rows["todo"] == 2
        return
    before = catalogue(filled)
    with pytest.raises(InstallationError, match=reason):
        install(make_app(), filled, adopt=True)
    assert catalogue(filled) == before


def test_an_identity_makes_way_for_the_keys_of_actions(database: str) -> None:
    schema = "CREATE TABLE n (id BIGINT PRIMARY KEY, audience_key TEXT NOT NULL)"
    execute(
        database,
        "CREATE TABLE n (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, audience_key text"
        " NOT NULL)",
    )
    execute(database, "INSERT INTO n (audience_key) VALUES ('user:alice')")
    assert install(App("n", schema=schema), database, adopt=True).adopted.rows == {"n": 1}
    execute(database, "INSERT INTO n VALUES (7, 'user:alice')")


def test_the_command_adopts_and_tells_what(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adopted_app.py").write_text(
        "from tests.postgres.todo import make_app\napp = make_app()\n"
    )
    command = ["install", "adopted_app:app", "--database", filled]
    ran = CliRunner().invoke(main, command)
    assert (ran.exit_code, "--adopt" in ran.output) == (1, True)
    ran = CliRunner().invoke(main, [*command, "--adopt"])
    assert ran.exit_code == 0, ran.output
    assert "todo was adopted, with 2 rows" in ran.output
    assert "project:lost" in ran.output
