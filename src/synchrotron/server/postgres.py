"""`PostgresAuthority`: history is kept, judged and read in PostgreSQL.

It keeps no state outside (H10): any number of processes may run one on the same database.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Self, TypeVar

import psycopg

from synchrotron.core.ids import Entropy, Seq
from synchrotron.core.messages import (
    Answer,
    Ok,
    Rebase,
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.errors import InstallationError, Offline, ProtocolError
from synchrotron.server.database import (
    ATTEMPTS_MAX,
    Connection,
    Database,
    fetch,
    fetch_all,
    fetch_one,
)
from synchrotron.server.download import Downloads
from synchrotron.server.exchange import (
    ALONE_AFTER_ATTEMPTS,
    Asked,
    Bounds,
    ExchangeTransaction,
    NewlyInstalled,
    NothingKept,
    at_a_glance,
    nothing_new,
    standing_of,
    viewer_of,
)
from synchrotron.server.form import require_protocol
from synchrotron.server.installed import Installed, read_installed
from synchrotron.server.notify import Commits, acting_as
from synchrotron.server.retention import keep_pruned, prune
from synchrotron.server.snapshot import Snapshot

T = TypeVar("T")
DEFAULTS = Bounds()


class PostgresAuthority:
    """Answers the requests of users whose tokens were checked already. See `Authority`.

    `database` is the URL of a database in which an application is installed. `clock` gives
    milliseconds since the epoch, in place of PostgreSQL's own; `entropy(n)` n random bytes.
    Open it before the first request, by `open` or as a context manager.
    """

    def __init__(
        self,
        database: str,
        *,
        bounds: Bounds = DEFAULTS,
        connections_max: int = 8,
        clock: Callable[[], int] | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._database = Database(database, connections_max=connections_max)
        self._bounds = bounds
        self._clock = clock
        self._entropy = entropy
        self._commits = Commits(self._database)
        self._installed: Installed

    async def open(self) -> Self:
        """Raises `ServerError` where the server cannot work on this database."""
        try:
            await self._database.open()
            async with self._database.reading() as connection:
                self._installed = await read_installed(connection)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        await self._commits.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- the port ---------------------------------------------------------------------

    async def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        async def judge(exchange: ExchangeTransaction) -> tuple[SyncAnswer | Asked, int]:
            return await exchange.sync(request), exchange.now_ms

        if (answered := await self._at_a_glance(user, request)) is not None:
            return answered
        try:
            answer, now_ms = await self._in_transaction(user, judge)
        except NothingKept as nothing:
            return nothing.answer
        if isinstance(answer, Asked):
            return await self._page(answer, user, request, now_ms)
        return answer

    async def snapshot(self, user: str, request: SnapshotRequest) -> AsyncIterator[SnapshotChunk]:
        require_protocol(request.protocol)

        async def recognise(exchange: ExchangeTransaction) -> tuple[Any, int]:
            known = await exchange.recognise_snapshot(
                request.exchange, request.offers, request.schema
            )
            return known, exchange.now_ms

        try:
            known, now_ms = await self._in_transaction(user, recognise)
        except NothingKept as nothing:
            known, now_ms = nothing.answer, 0
        if isinstance(known, Answer):
            yield known  # type: ignore[misc]
            return
        async with self._database.reading() as connection:
            await fetch(connection, *acting_as(user))
            snapshot = Snapshot(connection, self._installed, user, now_ms, *known)
            async with aclosing(snapshot.chunks(request.resume)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk

    def commits(self, user: str) -> AsyncIterator[Seq]:
        return self._commits.of(user)

    async def check(self) -> None:
        """Raises `Offline`."""
        async with self._database.reading() as connection:
            await fetch_one(connection, "SELECT seq FROM synchrotron.counter")

    async def prune(self, *, keep: int | None = None, older_than_ms: int | None = None) -> int:
        """Fold old actions into the floor (F3, F5). How many they were."""
        return await prune(self._database, keep=keep, older_than_ms=older_than_ms)

    async def keep_pruned(
        self,
        *,
        keep: int | None = None,
        age_ms_max: int | None = None,
        every_s: float = 3600.0,
    ) -> None:
        """Prune what is beyond a count or an age, at once and then every so often, for ever."""
        clock = self._clock or (lambda: time.time_ns() // 1_000_000)
        await keep_pruned(self._database, clock, keep=keep, age_ms_max=age_ms_max, every_s=every_s)

    async def _at_a_glance(self, user: str, request: SyncRequest) -> Ok | None:
        require_protocol(request.protocol)
        installed = self._installed
        query = at_a_glance(user, installed.version, request)
        if query is None or request.schema > installed.migrations:
            return None
        try:
            row = await self._database.at_once(*query)
        except psycopg.DataError:  # a number that no counter reaches
            return None
        if row is None:
            return None
        now_ms, *rest = row
        return nothing_new(self._clock() if self._clock else now_ms, *rest)

    # ---- transactions -----------------------------------------------------------------

    async def _in_transaction(
        self, user: str, work: Callable[[ExchangeTransaction], Awaitable[T]]
    ) -> T:
        async def attempt(connection: Connection, number: int) -> T:
            exchange = ExchangeTransaction(
                connection,
                self._installed,
                self._bounds,
                self._entropy,
                user,
                self._clock() if self._clock else None,
                alone=number >= ALONE_AFTER_ATTEMPTS,
            )
            return await work(exchange)

        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._database.run(attempt)
            except NewlyInstalled:
                async with self._database.reading() as connection:
                    self._installed = await read_installed(connection)
            except psycopg.errors.RaiseException as error:  # of ours: see sql/shadow.sql
                raise InstallationError(str(error)) from error
            except psycopg.DataError as error:
                raise ProtocolError(f"the message holds what cannot be stored: {error}") from error
        raise Offline("the application is being installed again and again")

    async def _page(self, asked: Asked, user: str, request: SyncRequest, now_ms: int) -> SyncAnswer:
        question = request.question
        async with self._database.reading() as connection:
            _, [[seq, pruned, floor]], [[audiences, joined_floor]] = await fetch_all(
                connection,
                [
                    acting_as(user),
                    ("SELECT seq, pruned, floor FROM synchrotron.counter",),
                    standing_of(user, question),
                ],
            )
            viewer, needs_rebase = viewer_of(user, question, audiences, joined_floor)
            if question.cursor < pruned or needs_rebase:
                return Rebase(now_ms=now_ms, floor=floor)
            downloads = Downloads(connection, self._installed, viewer)
            events_max = min(request.events_max, self._bounds.page_events or request.events_max)
            page = await downloads.page(question, events_max, self._bounds.page_bytes, seq)
            return asked.kind(now_ms=now_ms, floor=floor, download=page)
