"""Databases that are full already: rows made by SQL, and taken over by the installation.

To fill a server by replicas takes minutes for a million rows, and it is `adoption` that those
who have so many begin with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.application import app
from synchrotron.cli.backstage import database_of_its_own
from synchrotron.cli.embedded import embedded_postgres
from synchrotron.server.install import install

MEMBERS = """
    INSERT INTO project_member (id, project_id, user_id)
    SELECT 'm' || n || '-' || u, 'p' || n, u
    FROM generate_series(1, {projects}) AS n, unnest(%s::text[]) AS u
"""
TODOS = """
    INSERT INTO todo (id, project_id, text)
    SELECT gen_random_uuid()::text, 'p1', 'Buy milk' FROM generate_series(1, {todos})
"""


@contextmanager
def cluster() -> Iterator[str]:
    """A PostgreSQL of its own, by a superuser's URL."""
    with TemporaryDirectory() as folder, embedded_postgres(Path(folder) / "postgres") as url:
        yield url


@contextmanager
def filled(cluster: str, *, users: list[str], projects: int = 1, todos: int = 0) -> Iterator[str]:
    """A database in which these users are in all of so many projects, p1 of which has todos."""
    with database_of_its_own(cluster) as database:
        with psycopg.connect(database) as connection:
            for statement in app.sources[0].split(";"):
                if statement.strip():
                    connection.execute(statement.encode())
            names = f"SELECT 'p' || n, 'a project' FROM generate_series(1, {projects}) AS n"
            connection.execute(f"INSERT INTO project (id, name) {names}".encode())
            connection.execute(MEMBERS.format(projects=projects).encode(), (users,))
            connection.execute(TODOS.format(todos=todos).encode())
        install(app, database, adopt=True)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ANALYZE")
        yield database
