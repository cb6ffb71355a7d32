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
from psycopg.conninfo import make_conninfo

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
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), parameters or None)
        return done.fetchall() if done.description else []


def in_database(name: str) -> str:
    return make_conninfo(cluster(), dbname=name)


_templates: dict[int, str] = {}


def new_database(app: Application | None = None) -> str:
    """The URL of a new database, with an application installed: a clone of a template."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    if app is None:
        _create(name, "template1")
    else:
        key = hash((app.name, tuple(app.sources), app.audiences, app.policies))
        if key not in _templates:
            template = f"template_{os.getpid()}_{next(_numbers)}"
            _create(template, "template1")
            # For memberships that tests give, as no application's table.
            execute(
                in_database(template),
                "CREATE TABLE given_members (user_id text, audience_key text);"
                " GRANT SELECT ON given_members TO PUBLIC",
            )
            install(app, in_database(template))
            _templates[key] = template
        _create(name, _templates[key])
    return in_database(name)


def drop_database(url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(cluster(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(str(name)))
        )


def _create(name: str, template: str) -> None:
    with psycopg.connect(cluster(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
