"""The way to PostgreSQL: a pool of connections, and transactions that are tried again.

Every connection acts as `synchrotron_server`, whatever role it logged in as: row level
security judges by that role, and it owns nothing (H8). A transaction that PostgreSQL broke
off, since it stood in another's way, is run again from its beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, IsolationLevel, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from synchrotron.errors import InstallationError, Offline

T = TypeVar("T")
Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

ATTEMPTS_MAX = 12
STATEMENT_TIMEOUT_S = 120
POOL_TIMEOUT_S = 30.0


class Again(Exception):
    """What a transaction was judged by has changed meanwhile: run it again."""


_PASSING = (
    Again,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
)


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, connections_max: int = 8) -> None:
        self.url = url
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=connections_max,
            timeout=POOL_TIMEOUT_S,
            # Not autocommit: a transaction begins with its first statement, in the same round
            # trip where that is one of several.
            # Nothing is prepared: what is worth it is a function, whose plans PostgreSQL keeps.
            # Psycopg forgets all that it prepared at every ROLLBACK, also of a savepoint.
            kwargs={"prepare_threshold": None},
            configure=_prepare_pooled,
            open=False,
            name="synchrotron",
        )

    async def open(self) -> None:
        """Raises `InstallationError` where the server cannot work on this database."""
        connection = await self.connect()
        await connection.close()
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def connect(self) -> Connection:
        """A connection outside the pool. Raises `Offline`."""
        try:
            connection: Connection = await AsyncConnection.connect(self.url, autocommit=True)
        except psycopg.OperationalError as error:
            raise Offline(f"the database cannot be reached: {error}") from error
        try:
            await prepare(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def run(self, work: Callable[[Connection, int], Awaitable[T]]) -> T:
        """Run a transaction that writes; `work` is told which attempt this is, from 0.

        READ COMMITTED: each statement sees what was committed before it, as it must to see,
        behind a lock, what it waited for.
        """
        for attempt in range(ATTEMPTS_MAX):
            try:
                async with self._connection() as connection:  # which commits, or rolls back
                    return await work(connection, attempt)
            except _PASSING as error:
                if attempt == ATTEMPTS_MAX - 1:
                    raise Offline(
                        f"{ATTEMPTS_MAX} attempts stood in each other's way: {error}"
                    ) from error
                await asyncio.sleep(random.random() * 0.01 * attempt)
            except Offline:
                # With other connections, perhaps. Where a commit was cut off, its request is
                # known now, and a duplicate.
                if attempt > 0:
                    raise
        raise AssertionError("unreachable")

    async def at_once(self, statement: str, *parameters: Any) -> Any:
        """The one row of a statement that is a transaction of its own; None where it has none.

        None also where it stood in another's way: there is a longer way for whatever it does.
        """
        try:
            async with self._connection() as connection:
                await connection.set_autocommit(True)  # which asks nothing of PostgreSQL
                try:
                    done = await connection.execute(statement.encode(), parameters)
                    return await done.fetchone()
                finally:
                    if not connection.closed:
                        await connection.set_autocommit(False)
        except (*_PASSING, Offline):
            return None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """One consistent state: REPEATABLE READ, and nothing is written."""
        async with self._connection() as connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            try:
                yield connection
            finally:
                if not connection.closed:
                    await connection.rollback()  # there is nothing to commit
                    await connection.set_isolation_level(None)
                    await connection.set_read_only(None)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (PoolTimeout, psycopg.OperationalError) as error:
            if isinstance(error, _PASSING):
                raise
            # PostgreSQL started anew, perhaps: connections from before are of no use.
            with contextlib.suppress(psycopg.Error, PoolTimeout):
                await self._pool.check()
            raise Offline(f"the database cannot be used now: {error}") from error


async def _prepare_pooled(connection: Connection) -> None:
    await prepare(connection)
    await connection.commit()


async def prepare(connection: Connection) -> None:
    """Make a connection act as the server's role. Raises `InstallationError`."""
    try:
        await connection.execute("SET ROLE synchrotron_server")
    except errors.Error as error:
        raise InstallationError(
            f"{error}. If this database is installed, GRANT synchrotron_server TO the role that "
            "the server logs in as; if not: synchrotron install module:app --database URL"
        ) from error
    await connection.execute(
        f"SET TimeZone = 'UTC'; SET search_path = ''; SET synchronous_commit = on; "
        f"SET client_min_messages = error; SET jit = off; "
        f"SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT_S}s'"
    )


Query: TypeAlias = tuple[Any, ...]
"""A statement and its parameters."""


class Asking:
    """Statements that are made one after another, as they are asked."""

    def __init__(self, queries: Iterable[Query]) -> None:
        self._queries = queries
        self.count = 0
        """How many were asked."""

    def __iter__(self) -> Iterator[Query]:
        for query in self._queries:
            self.count += 1
            yield query


class Told(NamedTuple):
    """What statements gave, up to the first that failed, and its error."""

    rows: list[list[Any]]
    error: psycopg.Error | None

    def after(self, count: int) -> Told:
        """Without what the first so many gave."""
        return Told(self.rows[count:], self.error)


async def fetch_until(connection: Connection, queries: Iterable[Query]) -> Told:
    """What several statements give, in one round trip; [] for one that gives no rows.

    PostgreSQL begins with the first while the next is still to be made: let `queries` make
    them one after another where that takes its time. None follows one that fails.
    """
    cursors: list[Any] = []
    error: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                for statement, *parameters in queries:
                    cursors.append(await connection.execute(statement.encode(), parameters or None))
            except psycopg.Error as raised:
                error = raised
    except psycopg.Error as raised:  # where one failed before, only that it was broken off
        error = error or raised
    if error:
        cursors = list(takewhile(lambda cursor: cursor.pgresult is not None, cursors))
    rows = [await cursor.fetchall() if cursor.description else [] for cursor in cursors]
    return Told(rows, error)


async def fetch_all(connection: Connection, queries: Iterable[Query]) -> list[list[Any]]:
    """The same of statements that do not fail. Raises the error of one that does."""
    rows, error = await fetch_until(connection, queries)
    if error:
        raise error
    return rows


async def fetch(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    done = await connection.execute(statement.encode(), parameters or None)
    return await done.fetchall()


async def fetch_one(connection: Connection, statement: str, *parameters: Any) -> Any:
    [row] = await fetch(connection, statement, *parameters)
    return row
