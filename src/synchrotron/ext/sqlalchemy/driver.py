"""A database driver (PEP 249) over what executes an action's statements, or a query's.

It has no connection of its own, and no transaction: those are the replica's. What
SQLAlchemy calls committing and rolling back at the outermost level is refused, since
an action is committed by its replica, with its record, or not at all (A1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import apsw

from synchrotron.app.context import Parameters
from synchrotron.app.row import Row
from synchrotron.errors import ConstraintError, StatementRefused

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(map(int, sqlite_version.split(".")))
Binary = bytes

# What SQLAlchemy makes errors of its own of; every other error passes as it is.
Error = DatabaseError = IntegrityError = ConstraintError


class Executor(Protocol):
    """What runs statements: an action's database, or a connection for queries."""

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]: ...

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None: ...

    def columns(self, sql: str) -> Sequence[str]:
        """The names of the columns that a statement which was run gives."""
        ...

    def changed_rows(self) -> int:
        """How many rows the last writing statement changed."""
        ...


class Cursor:
    """The rows of one statement, all read when it ran."""

    arraysize = 1
    lastrowid = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self._next = 0
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1

    def execute(self, sql: str, params: Parameters = ()) -> Cursor:
        if self._connection.ended:
            return self  # closing: what is still open goes with the action
        executor = self._connection.executor
        self._connection.texts.add(sql)
        rows = executor.execute(sql, params)
        names = executor.columns(sql)
        self._rows, self._next = [row.as_tuple() for row in rows], 0
        self.description = [(name, *[None] * 6) for name in names] or None
        self.rowcount = executor.changed_rows()
        return self

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Cursor:
        self._connection.executor.executemany(sql, rows)
        self.description, self.rowcount = None, -1
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        found = self.fetchmany(1)
        return found[0] if found else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        start, self._next = self._next, self._next + (size or self.arraysize)
        return self._rows[start : self._next]

    def fetchall(self) -> list[tuple[Any, ...]]:
        start, self._next = self._next, len(self._rows)
        return self._rows[start:]

    def close(self) -> None:
        self._rows = []


class Connection:
    """`ended` holds between actions, and where an action is left: what comes is closing alone."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.ended = True
        self.texts: set[str] = set()
        """The statements of the present use."""

    def cursor(self) -> Cursor:
        return Cursor(self)

    def commit(self) -> None:
        self._refuse("commit")

    def rollback(self) -> None:
        self._refuse("roll back")

    def close(self) -> None:
        self.ended = True

    def _refuse(self, what: str) -> None:
        if not self.ended:
            raise StatementRefused(
                f"an action cannot {what} its transaction: it is committed when the action "
                "returns, and rolled back when it raises. For a part of it use "
                "ctx.session.begin_nested()"
            )
