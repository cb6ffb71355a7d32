"""Snapshots: all rows of a user's audiences, as they are now (F1).

Rows stream from a cursor in the server, in the order of tables in the schema, audiences and
keys, so that a snapshot that broke off can go on after any row: in another transaction, with
a new head, and first the rows that changed since among those that the replica has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import groupby, islice
from typing import Any

from msgspec import UNSET

from synchrotron.core.canonical import decode
from synchrotron.core.ids import ActionId, Audience, Seq
from synchrotron.core.messages import (
    FloorRow,
    Resume,
    SnapshotChanges,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotHead,
    SnapshotRows,
)
from synchrotron.server.database import Connection, fetch, fetch_one
from synchrotron.server.download import key_text
from synchrotron.server.installed import Installed

ROWS_PER_CHUNK = 1000
_ROWS = """
    SELECT audience, present FROM synchrotron.targets
    WHERE table_name = %s AND audience = ANY (%s) AND present IS NOT NULL
      AND (audience, key) > (%s, %s)
    ORDER BY audience, key
"""
_CHANGES = """
    WITH fresh AS (
        SELECT DISTINCT p.table_name, p.key, p.audience
        FROM synchrotron.scopes AS s
        JOIN synchrotron.patches AS p USING (order_key, audience)
        WHERE s.audience = ANY (%s) AND s.seq > %s AND p.seq > %s
    )
    SELECT table_name, audience, key, present FROM synchrotron.targets
    JOIN fresh USING (table_name, key, audience)
"""


class Snapshot:
    """One snapshot, read from one consistent state."""

    def __init__(
        self,
        connection: Connection,
        installed: Installed,
        user: str,
        now_ms: int,
        accepted: list[ActionId],
        pruned: list[ActionId],
    ) -> None:
        self._connection = connection
        self._installed = installed
        self._user = user
        self._now_ms = now_ms
        self._accepted, self._pruned = accepted, pruned
        self._places = {name: place for place, name in enumerate(installed.schema.tables)}

    async def chunks(self, resume: Resume | None) -> AsyncIterator[SnapshotChunk]:
        seq, pruned, floor, newest, token, audiences = await fetch_one(
            self._connection,
            "SELECT k.seq, k.pruned, k.floor, coalesce(synchrotron.newest(), k.floor),"
            " synchrotron.token_of(k.seq), synchrotron.audiences_of(%s)"
            " FROM synchrotron.counter AS k",
            self._user,
        )
        if resume and not await self._can_resume(resume, pruned, audiences):
            resume = None
        yield SnapshotHead(
            now_ms=self._now_ms,
            floor=newest,
            server_floor=floor,
            horizon=seq,
            token=token or "",
            audiences=audiences,
            accepted=self._accepted,
            resumed=resume is not None,
            pruned=self._pruned or UNSET,
        )
        if resume:
            for changes in await self._changes(resume, audiences):
                yield changes
        count = 0
        async for rows in self._rows(audiences, resume):
            count += len(rows.rows)
            yield rows
        yield SnapshotEnd(count)

    async def _can_resume(self, resume: Resume, pruned: Seq, audiences: list[Audience]) -> bool:
        """Whether a snapshot that broke off can go on: all that changed since is known."""
        table = self._installed.schema.tables.get(resume.table)
        if table is None or self._installed.form.key_fault(table, resume.key) is not None:
            return False
        [token] = await fetch_one(
            self._connection, "SELECT synchrotron.token_of(%s::bigint)", resume.horizon
        )
        is_known = resume.horizon >= pruned and token == resume.token
        return is_known and set(audiences) == set(resume.audiences)

    async def _changes(self, resume: Resume, audiences: list[Audience]) -> list[SnapshotChanges]:
        """What happened since to the rows that a replica has, as they are now."""
        last = (self._places[resume.table], resume.audience, key_text(resume.key))
        rows = await fetch(self._connection, _CHANGES, audiences, resume.horizon, resume.horizon)
        in_order = sorted((self._places[table], *rest) for table, *rest in rows)
        names = list(self._places)
        changes = iter(
            FloorRow(names[place], decode(key), audience, self._row(names[place], present))
            for place, audience, key, present in in_order
            if (place, audience, key) <= last
        )
        chunks = []
        while rows_of_chunk := list(islice(changes, ROWS_PER_CHUNK)):
            chunks.append(SnapshotChanges(rows_of_chunk))
        return chunks

    async def _rows(
        self, audiences: list[Audience], resume: Resume | None
    ) -> AsyncIterator[SnapshotRows]:
        begin = self._places[resume.table] if resume else 0
        for table in list(self._places)[begin:]:
            after = ("", "")
            if resume and table == resume.table:
                after = (resume.audience, key_text(resume.key))
            async with self._connection.cursor(name="synchrotron_snapshot") as cursor:
                await cursor.execute(_ROWS.encode(), (table, audiences, *after))
                while rows := await cursor.fetchmany(ROWS_PER_CHUNK):
                    for audience, group in groupby(rows, key=lambda row: row[0]):
                        yield SnapshotRows(
                            table, audience, [self._row(table, text) or {} for _, text in group]
                        )

    def _row(self, table: str, text: str | None) -> dict[str, Any] | None:
        if text is None:
            return None
        return dict(self._installed.defaults.complete(table, decode(text)))
