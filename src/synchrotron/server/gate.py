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

from synchrotron.core.ids import Audience, ClientId
from synchrotron.server.database import Connection, fetch
from synchrotron.server.download import Viewer
from synchrotron.server.store import Addition, Lease

BOUNCES_MAX = 3
LEASE_MS = 30_000


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


def disturbed_until(
    before: Sequence[Lease] | None, after: Sequence[Lease] | None, addition: Addition
) -> int | None:
    """When the last lease ends whose user would see something of what is to be stored.

    `before` and `after` are the leases of others before the upload and after it. Those that
    were granted meanwhile say themselves what their user saw.
    """
    seen = {user: frozenset(sees) for user, _, _, sees in before or ()}
    shown = frozenset(addition.audiences) if after else frozenset()
    disturbed = [
        until_ms
        for user, granted, until_ms, sees in after or ()
        if _disturbs(seen.get(user, frozenset(granted)), frozenset(sees), shown)
        or (user == addition.user and addition.actions)
    ]
    return max(disturbed, default=None)


def _disturbs(
    before: frozenset[Audience],
    after: frozenset[Audience],
    shown: frozenset[Audience],
) -> bool:
    """Whether the user would join an audience, or see something new in one."""
    return not after <= before or not shown.isdisjoint(before | after)
