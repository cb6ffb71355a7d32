"""SQLAlchemy at work: in one action, or in one query.

An engine stays with each database, since it keeps compiled statements. An action's `Work`
is the connection and the session that it uses; they end with it. The session joins the
action's transaction by savepoints of its own: its `commit()` flushes, and its
`rollback()` takes back what it did since the last.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import closing
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Connection as SqlConnection
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from synchrotron.app.context import ActionDatabase, Parameters
from synchrotron.app.row import Row
from synchrotron.ext.sqlalchemy import dialect as dialect  # registers itself
from synchrotron.ext.sqlalchemy.driver import Connection, Executor


class Bridge:
    """SQLAlchemy's way to one database."""

    def __init__(self, executor: Executor) -> None:
        self._driver = Connection(executor)
        self._engine = create_engine(
            "synchrotron://", creator=lambda: self._driver, pool_reset_on_return=None
        )

    def begin(self, database: ActionDatabase) -> Work:
        """For one action. What it runs as SQL goes to `database`."""
        return Work(database, self._driver, self._connect())

    def read(self, construct: Executable, params: Any = ()) -> list[Row]:
        """For one query."""
        with closing(self._connect()) as connection:
            try:
                return _rows(connection.execute(construct, params or None))
            finally:
                self._driver.ended = True

    def texts(self, construct: Executable, params: Any = ()) -> frozenset[str]:
        """The SQL of a query, which is run for it."""
        self.read(construct, params)
        return frozenset(self._driver.texts)

    def _connect(self) -> SqlConnection:
        self._driver.texts.clear()
        connection = self._engine.connect()
        connection.begin()  # the transaction that is there: a session joins it by savepoints
        self._driver.ended = False
        return connection


class Work:
    """What one action does through SQLAlchemy; it stands before the action's database."""

    def __init__(
        self, database: ActionDatabase, driver: Connection, connection: SqlConnection
    ) -> None:
        self._database = database
        self._driver = driver
        self._connection = connection
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(
                self._connection,
                join_transaction_mode="create_savepoint",
                expire_on_commit=False,  # so that what an action returns can be read
            )
        return self._session

    @property
    def tables(self) -> Container[str]:
        return self._database.tables

    def execute(self, sql: Any, params: Any = ()) -> list[Row]:
        """SQL or a construct, on what the session has written before."""
        self._flush()
        if isinstance(sql, str):
            return self._database.execute(sql, params)
        return _rows(self._connection.execute(sql, params or None))

    def executemany(self, sql: Any, rows: Iterable[Parameters]) -> None:
        self._flush()
        if isinstance(sql, str):
            self._database.executemany(sql, rows)
        elif given := [dict(row) for row in rows]:
            self._connection.execute(sql, given)

    def begin_work(self) -> Work:
        return self

    def _flush(self) -> None:
        if self._session is not None:
            self._session.flush()

    def finish(self) -> None:
        """The action returned: write what the session still holds."""
        if self._session is not None:
            self._session.commit()

    def close(self) -> None:
        """The action ended, however: what is still open goes with it."""
        self._driver.ended = True
        if self._session is not None:
            self._session.close()
        self._connection.close()


def _rows(result: CursorResult[Any]) -> list[Row]:
    if not result.returns_rows:
        return []
    positions = {name: at for at, name in enumerate(result.keys())}
    return [Row(positions, tuple(row)) for row in result]
