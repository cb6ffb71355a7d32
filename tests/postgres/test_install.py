"""An installation does all or nothing, may be repeated, and says what is in its way."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.todo import AUDIENCES, OWNERS_EDIT, SCHEMA

from synchrotron import App
from synchrotron.errors import InstallationError
from synchrotron.server.install import install
from synchrotron.server.postgres import PostgresAuthority

PRIORITY = "ALTER TABLE todo ADD COLUMN priority INTEGER NOT NULL DEFAULT 3"
TAGS = """
    CREATE TABLE tag (
        id UUID PRIMARY KEY,
        todo_id TEXT NOT NULL REFERENCES todo (id) ON DELETE CASCADE ON UPDATE SET NULL,
        audience_key TEXT GENERATED ALWAYS AS ('tag:' || id) STORED
    )
"""


def app(
    *migrations: str, policies: str | None = None, name: str = "todo", schema: str = SCHEMA
) -> App:
    return App(name, schema=schema, audiences=AUDIENCES, policies=policies, migrations=migrations)


@pytest.fixture
def database() -> Iterator[str]:
    url = new_database()
    yield url
    drop_database(url)


def test_an_installation_can_be_repeated(database: str) -> None:
    assert install(app(), database).tables == ["project", "project_member", "todo"]
    before = catalogue(database)
    assert install(app(), database).migrations == 0
    assert catalogue(database) == before


def test_a_server_works_with_what_its_own_version_installed(database: str) -> None:
    """Functions of another version would refuse whatever comes, and replicas believe it."""
    install(app(), database)
    asyncio.run(opened(database))
    execute(database, "UPDATE synchrotron.application SET fingerprint = 'of another version'")
    with pytest.raises(InstallationError, match="another version of Synchrotron"):
        asyncio.run(opened(database))
    install(app(), database)
    asyncio.run(opened(database))


def test_a_database_from_before_fingerprints_can_be_installed_anew(database: str) -> None:
    install(app(), database)
    execute(database, "ALTER TABLE synchrotron.application DROP fingerprint")
    with pytest.raises(InstallationError, match="synchrotron install"):
        asyncio.run(opened(database))
    install(app(), database)
    asyncio.run(opened(database))


def test_functions_of_another_version_that_gave_something_else_are_replaced(database: str) -> None:
    install(app(), database)
    execute(database, "DROP FUNCTION synchrotron.decided(text)")
    other = "CREATE FUNCTION synchrotron.{}(client text) RETURNS integer LANGUAGE sql RETURN 1"
    for name in ("decided", "of_another_version"):
        execute(database, other.format(name))
        execute(database, f"ALTER FUNCTION synchrotron.{name} OWNER TO synchrotron_owner")
    before = catalogue(database)
    install(app(), database)
    asyncio.run(opened(database))
    assert catalogue(database) == before
    functions = "SELECT proname FROM pg_proc WHERE proname = 'of_another_version'"
    assert execute(database, functions) == []


async def opened(database: str) -> None:
    async with PostgresAuthority(database):
        pass


def catalogue(database: str) -> list[tuple[object, ...]]:
    return execute(
        database,
        "SELECT schemaname, tablename, policyname, cmd, qual, with_check FROM pg_policies"
        " ORDER BY 1, 2, 3",
    )


@pytest.mark.spec("S11")
def test_migrations_are_run_once_in_order(database: str) -> None:
    install(app(), database)
    assert install(app(PRIORITY), database).migrations == 1
    assert install(app(PRIORITY, TAGS), database).migrations == 1
    assert install(app(PRIORITY, TAGS), database).migrations == 0
    [(default,)] = execute(
        database,
        "SELECT column_default FROM information_schema.columns WHERE column_name = 'priority'"
        " AND table_schema = 'public'",
    )
    assert default == "3"


@pytest.mark.spec("A8")
def test_foreign_keys_are_deferred_and_cascade_nothing_in_the_server(database: str) -> None:
    install(app(TAGS), database)
    assert set(
        execute(
            database,
            "SELECT confdeltype::text, confupdtype::text, condeferrable, condeferred"
            " FROM pg_constraint WHERE contype = 'f'",
        )
    ) == {("a", "a", True, True)}


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        ("CREATE POLICY p ON todo USING (true)", "FOR ALL"),
        ("CREATE POLICY p ON todo FOR SELECT USING (true)", "audience alone"),
        ("CREATE POLICY p ON todo FOR UPDATE TO synchrotron_owner USING (true)", "leave TO out"),
        ("CREATE POLICY p ON nothing FOR UPDATE USING (true)", "nothing"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER t BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger",
        ),
        ("CREATE RULE r AS ON INSERT TO todo DO NOTHING", "rule"),
        ("ALTER TABLE todo DISABLE ROW LEVEL SECURITY", "no row level security"),
        ("ALTER TABLE todo ALTER COLUMN text TYPE char(5)", "text"),
        ("ALTER TABLE todo ADD COLUMN extra money", "extra"),
    ],
)
def test_what_could_not_be_kept_is_refused_and_nothing_is_changed(
    database: str, policies: str, reason: str
) -> None:
    with pytest.raises(InstallationError, match=reason):
        install(app(policies=policies), database)
    assert execute(database, "SELECT 1 FROM pg_namespace WHERE nspname = 'synchrotron'") == []


def test_policies_are_made_anew_and_an_operators_own_stay(database: str) -> None:
    install(app(policies=OWNERS_EDIT), database)
    execute(database, "CREATE POLICY own ON todo AS RESTRICTIVE FOR DELETE USING (true)")
    install(app(policies=OWNERS_EDIT), database)
    assert names(database) >= {"owners_edit", "own"}
    install(app(), database)
    assert "owners_edit" not in names(database)
    assert "own" in names(database)


def names(database: str) -> set[object]:
    rows = execute(
        database, "SELECT policyname FROM pg_policies WHERE schemaname = 'synchrotron_shadow'"
    )
    return {name for (name,) in rows}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (app(name="other"), "belongs to the application 'todo'"),
        (app(schema=SCHEMA.replace("owner TEXT", "owner TEXT, more TEXT")), "one more migration"),
        (app(TAGS), "one more migration"),
    ],
)
def test_another_schema_than_the_installed_one_is_refused(
    database: str, other: App, reason: str
) -> None:
    install(app(PRIORITY), database)
    with pytest.raises(InstallationError, match=reason):
        install(other, database)


def test_a_table_that_was_there_before_is_refused(database: str) -> None:
    execute(database, "CREATE TABLE todo (id text)")
    with pytest.raises(InstallationError, match="table todo exists already"):
        install(app(), database)


def test_a_database_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(InstallationError, match="cannot be reached"):
        install(app(), "postgresql://nobody@localhost:1/nothing")


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(InstallationError, match=r"mysql://x.* no address .* postgresql://user"):
        install(app(), "mysql://x")


def test_policies_that_postgresql_refuses_are_told_as_such(database: str) -> None:
    policies = "CREATE POLICY p ON nowhere FOR UPDATE USING (true)"
    with pytest.raises(InstallationError, match=r"policies: .*nowhere") as raised:
        install(app(policies=policies), database)
    assert "SQLite" not in str(raised.value)
