"""Waking readers when something that they can see was committed (H10).

Every upload notifies, as part of its commit, of its seq and the audiences in which it
changes something. One connection of each server process listens, and wakes those of its
readers who see one of them. Where that does not tell, as when memberships change, the
reader looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import psycopg

from synchrotron.core.canonical import decode
from synchrotron.core.ids import Audience, Seq
from synchrotron.errors import Offline, ServerError
from synchrotron.server.database import Database, Query, fetch, fetch_one

CHANNEL = "synchrotron"
RECONNECT_AFTER_S = 1.0
_LOOK = """
    SELECT synchrotron.audiences_of(%s), k.seq, EXISTS (
        SELECT FROM synchrotron.scopes
        WHERE audience = ANY (synchrotron.audiences_of(%s)) AND seq > %s
    ) OR EXISTS (SELECT FROM synchrotron.actions WHERE user_id = %s AND seq > %s)
    FROM synchrotron.counter AS k
"""
log = logging.getLogger("synchrotron.server")


class _Reader:
    """Someone who waits, and what they have to be told."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.audiences: frozenset[Audience] = frozenset()
        self.woken = asyncio.Event()
        self.horizon = Seq(0)
        self.told = Seq(-1)
        self.looks = False
        """Whether it is not known yet if there is anything for them."""
        self.is_looking = False

    def notice(self, seq: Seq, user: str | None, audiences: list[Audience] | None) -> None:
        if audiences is None or self.is_looking:  # what they look at may be from before this
            self.looks = True
        elif user != self.user and self.audiences.isdisjoint(audiences):
            return
        else:
            self.horizon = max(self.horizon, seq)
        self.woken.set()


class Commits:
    """The commits of one database, for the readers of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._readers: set[_Reader] = set()
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def of(self, user: str) -> AsyncIterator[Seq]:
        """The horizon now, and each time something that this user can see was committed."""
        self._listen()
        reader = _Reader(user)
        self._readers.add(reader)
        try:
            await self._ready.wait()
            reader.notice(Seq(0), None, None)
            while True:
                await reader.woken.wait()
                reader.woken.clear()
                if reader.looks:
                    reader.looks, reader.is_looking = False, True
                    await self._look(reader)
                    reader.is_looking = False
                if reader.horizon > reader.told:
                    reader.told = reader.horizon
                    yield reader.horizon
        finally:
            self._readers.discard(reader)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening

    async def _look(self, reader: _Reader) -> None:
        async with self._database.reading() as connection:
            await fetch(connection, *acting_as(reader.user))
            user, told = reader.user, reader.told
            audiences, seq, news = await fetch_one(connection, _LOOK, user, user, told, user, told)
        seen = frozenset(audiences)
        if reader.told < 0 or news or seen != reader.audiences:
            reader.horizon = Seq(seq)
        reader.audiences = seen

    # ---- listening --------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._keep_listening())

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, ServerError, Offline) as error:
                log.warning("listening for commits broke off: %s", error)
            self._ready.clear()
            await asyncio.sleep(RECONNECT_AFTER_S)

    async def _listen_once(self) -> None:
        connection = await self._database.connect()
        try:
            await connection.execute(b"LISTEN synchrotron")
            self._ready.set()
            for reader in self._readers:  # what was committed before may have been missed
                reader.notice(Seq(0), None, None)
            async for notice in connection.notifies():
                self._tell(decode(notice.payload))
        finally:
            await connection.close()

    def _tell(self, notice: dict[str, Any]) -> None:
        for reader in self._readers:
            reader.notice(notice["seq"], notice["user"], notice["audiences"])


def acting_as(user: str) -> Query:
    """Who acts in this transaction, for the policies."""
    return (
        "SELECT set_config('synchrotron.user_id', %s, true),"
        " set_config('request.jwt.claim.sub', %s, true)",
        user,
        user,
    )
