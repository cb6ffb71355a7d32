"""The gate: who may upload now (H3).

Patches are computed from what a replica knows. So an upload is stored only where its
replica knows all that its user can see, but for what it stored itself; else it is
*behind*, takes in what it lacks, and comes again. Others may be faster each time.
Whoever was behind three times in a row is therefore given a lease: for a while nobody
else may store what would put them behind once more.

Leases are rows in PostgreSQL, so that they hold for every server process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from synchrotron.core.ids import Audience, ClientId, Seq
from synchrotron.server.database import Connection, Query, fetch
from synchrotron.server.download import Viewer
from synchrotron.server.store import Addition

BOUNCES_MAX = 3
LEASE_MS = 30_000


def is_behind(
    user: str, audiences: Sequence[Audience] | None, client: ClientId, cursor: Seq
) -> Query:
    """Whether events by other clients, which the user can see, lie beyond the cursor.

    `audiences` are what they see; None: what they see now.
    """
    return (
        "SELECT synchrotron.is_behind(%s, coalesce(%s::text[], synchrotron.audiences_of(%s)), "
        "%s, %s::bigint)",
        user,
        audiences,
        user,
        client,
        cursor,
    )


class Held(NamedTuple):
    """Another client's lease, and what its user saw before the upload in question."""

    user: str
    until_ms: int
    before: frozenset[Audience]


class Gate:
    """Decides when uploads may pass."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def bounced(self, viewer: Viewer, client: ClientId, now_ms: int) -> None:
        """Count an upload that was behind, and grant a lease where it is due."""
        await fetch(
            self._connection,
            "SELECT synchrotron.bounce(%s, %s, %s::text[], %s::bigint, %s, %s::bigint)",
            client,
            viewer.user,
            list(viewer.audiences),
            now_ms,
            BOUNCES_MAX,
            LEASE_MS,
        )

    async def decided(self, client: ClientId) -> None:
        """End a lease: its upload was decided, which `behind` and `busy` do not do."""
        await fetch(self._connection, "SELECT synchrotron.decided(%s)", client)

    async def held_by_others(self, client: ClientId, now_ms: int) -> list[Held]:
        rows = await self._leases(client, now_ms)
        return [Held(user, until_ms, frozenset(seen)) for user, _, until_ms, seen in rows]

    async def disturbed_until(
        self,
        held: Sequence[Held],
        client: ClientId,
        now_ms: int,
        addition: Addition,
    ) -> int | None:
        """When the last lease ends whose user would see something of what is to be stored.

        `held` is from before the upload. Leases that were granted meanwhile say themselves
        what their user saw.
        """
        before = {lease.user: lease.before for lease in held}
        shown = frozenset(addition.audiences())
        disturbed = [
            until_ms
            for user, granted, until_ms, after in await self._leases(client, now_ms)
            if _disturbs(before.get(user, frozenset(granted)), frozenset(after), shown)
            or (user == addition.user and addition.actions)
        ]
        return max(disturbed, default=None)

    async def _leases(
        self, client: ClientId, now_ms: int
    ) -> list[tuple[str, list[Audience], int, list[Audience]]]:
        return await fetch(
            self._connection,
            "SELECT * FROM synchrotron.leases_of_others(%s, %s::bigint)",
            client,
            now_ms,
        )


def _disturbs(
    before: frozenset[Audience],
    after: frozenset[Audience],
    shown: frozenset[Audience],
) -> bool:
    """Whether the user would join an audience, or see something new in one."""
    return not after <= before or not shown.isdisjoint(before | after)
