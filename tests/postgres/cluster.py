"""PostgreSQL for tests: one cluster for all of them, a database for each.

SYNCHROTRON_TEST_DATABASE names a cluster by a superuser's URL; unset, one is started for this
session, in a folder of its own.
"""

import atexit
import itertools
import os
from functools import cache

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from synchrotron.server.embedded import EmbeddedPostgres
from synchrotron.server.install import Application, install

_numbers = itertools.count(1)


@cache
def cluster() -> str:
    """The URL of a superuser's database."""
    if url := os.environ.get("SYNCHROTRON_TEST_DATABASE"):
        return url
    return _started()


def _started() -> str:
    server = EmbeddedPostgres(durable=False)
    server.start()
    atexit.register(server.stop)
    return server.url


def execute(url: str, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """Run a statement as the superuser."""
    if statement.split()[0].upper() in ("CREATE", "ALTER", "DROP"):
        _changed.add(url)
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), parameters or None)
        return done.fetchall() if done.description else []


def in_database(name: str) -> str:
    return make_conninfo(cluster(), dbname=name)


# Cloning a template takes a second, emptying a database some milliseconds: so a database that
# a test is done with serves the next one with the same application, unless it was altered.

_templates: dict[int, str] = {}
_made_for: dict[str, int] = {}
_free: dict[int, list[str]] = {}
_changed: set[str] = set()
_EMPTY = """
    DO $$
    DECLARE it regclass;
    BEGIN
        PERFORM set_config('session_replication_role', 'replica', true);
        FOR it IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relname <> 'application'
            AND relnamespace IN ('public'::regnamespace, 'synchrotron'::regnamespace)
        LOOP
            EXECUTE format('DELETE FROM %s', it);
        END LOOP;
        INSERT INTO synchrotron.counter DEFAULT VALUES;
    END $$
"""


def new_database(app: Application | None = None) -> str:
    """The URL of an empty database, with an application installed where one is given."""
    if app is None:
        return _create("template1")
    key = hash((app.name, tuple(app.sources), app.audiences, app.policies))
    if free := _free.get(key):
        url = free.pop()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_EMPTY.encode())
        return url
    if key not in _templates:
        template = _create("template1")
        with psycopg.connect(template, autocommit=True) as connection:
            # For memberships that tests give, as no application's table.
            connection.execute(
                "CREATE TABLE given_members (user_id text, audience_key text);"
                " GRANT SELECT ON given_members TO PUBLIC"
            )
        install(app, template)
        _templates[key] = str(conninfo_to_dict(template)["dbname"])
    url = _create(_templates[key])
    _made_for[url] = key
    return url


def drop_database(url: str) -> None:
    """Be done with a database."""
    if url in _made_for and url not in _changed:
        _free.setdefault(_made_for[url], []).append(url)
        return
    with psycopg.connect(cluster(), autocommit=True) as connection:
        name = str(conninfo_to_dict(url)["dbname"])
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


def _create(template: str) -> str:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(cluster(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return in_database(name)
