"""Retention: what is old is folded into the rows at the server's floor (F3, F5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import groupby

import psycopg

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.clock import OrderKey
from synchrotron.core.fold import fold
from synchrotron.core.patches import Patch
from synchrotron.errors import SynchrotronError
from synchrotron.server.database import Connection, Database, fetch, fetch_one

log = logging.getLogger("synchrotron.server")
BATCH_MAX = 5000
"""Actions in one transaction: so long may others have to wait."""


async def prune(
    database: Database,
    *,
    keep: int | None = None,
    older_than_ms: int | None = None,
    batch_max: int = BATCH_MAX,
) -> int:
    """Fold all but the newest `keep` actions, or all from before a moment; how many they were.

    `older_than_ms` is in milliseconds since the epoch. Replicas whose cursor lies before what
    was pruned take a snapshot.
    """
    older_than = None if older_than_ms is None else f"{max(older_than_ms, 0):012x}"

    async def batch(connection: Connection, attempt: int) -> int:
        return await _prune_batch(connection, keep, older_than, batch_max)

    total = 0
    while pruned := await database.run(batch):
        total += pruned
    return total


async def keep_pruned(
    database: Database,
    clock: Callable[[], int],
    *,
    keep: int | None = None,
    age_ms_max: int | None = None,
    every_s: float = 3600.0,
) -> None:
    """Prune now and then, for ever: a task for a server to run. Several servers may."""
    while True:
        older_than_ms = None if age_ms_max is None else clock() - age_ms_max
        try:
            if pruned := await prune(database, keep=keep, older_than_ms=older_than_ms):
                log.info("pruned=%d", pruned, extra={"fields": {"pruned": pruned}})
        except (SynchrotronError, psycopg.Error) as error:  # next time, perhaps
            log.warning("history cannot be pruned now: %s", error)
        await asyncio.sleep(every_s)


async def _prune_batch(
    connection: Connection, keep: int | None, older_than: str | None, batch_max: int
) -> int:
    [floor] = await fetch_one(
        connection,
        "SELECT synchrotron.begin_prune(%s::bigint, %s, %s)",
        keep,
        older_than,
        batch_max,
    )
    if floor is None:
        return 0
    bases = await _bases(connection, floor)
    [count] = await fetch_one(
        connection, "SELECT synchrotron.prune(%s, %s::json)", floor, text_of(bases)
    )
    return int(count)


async def _bases(connection: Connection, floor: OrderKey) -> list[dict[str, str | None]]:
    """Rows that go on above the floor, as they stand at it."""
    rows = await fetch(connection, "SELECT * FROM synchrotron.rows_across(%s)", floor)
    bases = []
    for (table, key, audience, base), patches in groupby(rows, key=lambda row: row[:4]):
        row = fold(
            None if base is None else decode(base),
            (None if op is None else Patch(op, columns) for *_, op, columns in patches),
        )
        bases.append(
            {
                "table_name": table,
                "key": key,
                "audience": audience,
                "base": None if row is None else text_of(row),
            }
        )
    return bases
