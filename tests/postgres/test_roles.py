"""Who may install: no superuser is needed, and a missing right is named with its remedy.

Roles belong to a cluster. So this has one of its own, but for SYNCHROTRON_TEST_DATABASE where
nobody works beside it: there the roles are put aside meanwhile.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.postgres.bridge import Served
from tests.postgres.todo import make_app

from synchrotron.errors import InstallationError
from synchrotron.server.embedded import EmbeddedPostgres
from synchrotron.server.install import install

GIVEN = os.environ.get("SYNCHROTRON_TEST_DATABASE")
IS_ALONE = "PYTEST_XDIST_WORKER" not in os.environ
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
OURS = ("synchrotron_owner", "synchrotron_server")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    if GIVEN and IS_ALONE:
        yield GIVEN
        return
    with EmbeddedPostgres(durable=False) as server:
        yield server.url


@pytest.fixture
def admin(cluster: str) -> Iterator[str]:
    """A superuser, in a cluster in which nothing was installed; with the login `someone`."""
    there = [name for (name,) in run(cluster, "SELECT rolname FROM pg_roles") if name in OURS]
    for name in there:
        run(cluster, f"ALTER ROLE {name} RENAME TO put_aside_{name}")
    run(cluster, "CREATE ROLE someone LOGIN PASSWORD 'someone'")
    run(cluster, "CREATE DATABASE theirs")
    yield cluster
    run(cluster, "DROP DATABASE theirs WITH (FORCE)")
    for name in ("someone", "serving", *OURS):
        if run(cluster, "SELECT 1 FROM pg_roles WHERE rolname = %s", name):
            run(cluster, f"DROP OWNED BY {name}")
            run(cluster, f"DROP ROLE {name}")
    for name in there:
        run(cluster, f"ALTER ROLE put_aside_{name} RENAME TO {name}")


def run(url: str, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), parameters or None)
        return done.fetchall() if done.description else []


def as_someone(admin: str, role: str = "someone") -> str:
    return make_conninfo(admin, user=role, password=role, dbname="theirs")


@pytest.mark.spec("H8")
def test_the_databases_owner_who_may_make_roles_installs_repeatedly_and_adopts(
    admin: str,
) -> None:
    run(admin, "ALTER ROLE someone CREATEROLE")
    run(admin, "ALTER DATABASE theirs OWNER TO someone")
    owner = as_someone(admin)
    run(owner, "CREATE TABLE project (id text PRIMARY KEY, name text NOT NULL)")
    run(owner, "INSERT INTO project VALUES ('p1', 'Garden')")
    app = make_app()
    assert install(app, owner, adopt=True).adopted.rows == {"project": 1}
    assert install(app, owner).migrations == 0
    run(owner, "CREATE ROLE serving LOGIN PASSWORD 'serving'")
    run(owner, "GRANT synchrotron_server TO serving")
    server = Served(as_someone(admin, "serving"))
    with app.open(":memory:", transport=server.connect("alice")) as alice:
        outcome = alice.run(app.actions["create_project", 1], id="p2")
        alice.sync()
        assert outcome.outcome.state == "accepted"
    server.close()


def test_installations_into_two_databases_at_once_both_find_the_roles(admin: str) -> None:
    theirs = make_conninfo(admin, dbname="theirs")
    with psycopg.connect(admin) as other, ThreadPoolExecutor() as pool:
        other.execute("CREATE ROLE synchrotron_owner NOLOGIN")
        installing = pool.submit(install, make_app(), theirs)
        while run(theirs, WAITING) != [(1,)]:
            assert not installing.done()
            time.sleep(0.01)
        other.commit()
        assert installing.result().tables == ["project", "project_member", "todo"]


@pytest.mark.parametrize("has_roles", [False, True])
def test_each_missing_right_is_named_with_the_statement_that_gives_it(
    admin: str, has_roles: bool
) -> None:
    """An administrator who does what the errors say gets there."""
    if has_roles:  # from another database of the cluster
        for name in OURS:
            run(admin, f"CREATE ROLE {name} NOLOGIN")
    theirs = make_conninfo(admin, dbname="theirs")
    given: list[str] = []
    while statement := missing_right(as_someone(admin)):
        given.append(statement)
        run(theirs, statement)
    assert given == [
        'GRANT synchrotron_owner TO "someone"' if has_roles else 'ALTER ROLE "someone" CREATEROLE',
        'GRANT CREATE ON DATABASE "theirs" TO "someone" WITH GRANT OPTION',
        'GRANT USAGE, CREATE ON SCHEMA public TO "someone" WITH GRANT OPTION',
    ]


def missing_right(database: str) -> str | None:
    """What an installation asks for, None once it is done."""
    try:
        install(make_app(), database)
    except InstallationError as error:
        return str(error).partition("right by ")[2]
    return None


def test_a_table_of_another_owner_is_not_adopted_and_its_owner_is_told(admin: str) -> None:
    run(admin, "ALTER ROLE someone CREATEROLE")
    run(admin, "ALTER DATABASE theirs OWNER TO someone")
    theirs = make_conninfo(admin, dbname="theirs")
    run(theirs, "CREATE TABLE project (id text PRIMARY KEY, name text NOT NULL)")
    with pytest.raises(InstallationError, match='ALTER TABLE project OWNER TO "someone"'):
        install(make_app(), as_someone(admin), adopt=True)
    run(theirs, "ALTER TABLE project OWNER TO someone")
    assert install(make_app(), as_someone(admin), adopt=True).adopted.rows == {"project": 0}
