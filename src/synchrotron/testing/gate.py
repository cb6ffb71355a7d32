"""The gate: who may upload now (H3).

Patches are computed from what a replica knows. So an upload is stored only where its
replica knows all that its user can see, but for what it stored itself; else it is
*behind*, takes in what it lacks, and comes again. Others may be faster each time.
Whoever was behind three times in a row is therefore given a lease: for a while nobody
else may store what would put them behind once more.
"""

from __future__ import annotations

from typing import NamedTuple

from synchrotron.core.ids import ActionId, ClientId, Seq
from synchrotron.testing.membership import Membership, Viewer
from synchrotron.testing.server_state import Lease, Stage, State

BOUNCES_MAX = 3
LEASE_MS = 30_000
LEASE_AFTER_PART_MS = 2_000


class Held(NamedTuple):
    """Another client's lease, and what its user saw before the upload in question."""

    lease: Lease
    before: Viewer


class Gate:
    """Decides when uploads may pass."""

    def __init__(self, state: State, membership: Membership) -> None:
        self._state = state
        self._membership = membership

    # ---- behind -------------------------------------------------------------------

    def is_behind(self, viewer: Viewer, client: ClientId, cursor: Seq) -> bool:
        """Whether events by other clients, which the user can see, lie beyond the cursor."""
        ids = dict.fromkeys(id for _, id in self._state.since(cursor))
        return any(self._is_news(viewer, client, cursor, id) for id in ids)

    def _is_news(self, viewer: Viewer, client: ClientId, cursor: Seq, id: ActionId) -> bool:
        action = self._state.actions[id]
        return viewer.sees(action) and (
            (action.seq > cursor and action.record.client_id != client)
            or any(
                stored.known.seq > cursor and stored.client != client
                for stored in viewer.patches_of(action).values()
            )
        )

    # ---- leases -------------------------------------------------------------------

    def bounced(self, viewer: Viewer, client: ClientId, now_ms: int) -> None:
        """Count an upload that was behind, and grant a lease where it is due."""
        present = [lease for lease in self._state.leases.values() if lease.until_ms > now_ms]
        if any(lease.client == client for lease in present):
            return  # a lease ends after its time; being behind does not prolong it
        row = self._state.clients[client]
        bounces = row.bounces + 1
        if bounces >= BOUNCES_MAX and not any(_meets(lease, viewer) for lease in present):
            end_ms = now_ms + LEASE_MS
            lease = Lease(client, viewer.user, viewer.audiences, end_ms, end_ms)
            self._state.undo.put(self._state.leases, client, lease)
            bounces = 0
        self._state.undo.put(self._state.clients, client, row._replace(bounces=bounces))

    def came(self, client: ClientId, now_ms: int) -> None:
        """A part of an upload came: its client's lease ends soon after, unless another comes."""
        lease = self._state.leases.get(client)
        if lease is not None and lease.until_ms > now_ms:
            until_ms = min(lease.ends_ms, now_ms + LEASE_AFTER_PART_MS)
            self._state.undo.put(self._state.leases, client, lease._replace(until_ms=until_ms))

    def decided(self, client: ClientId) -> None:
        """End a lease: its upload was decided, which `behind` and `busy` do not do."""
        row = self._state.clients[client]
        self._state.undo.put(self._state.clients, client, row._replace(bounces=0))
        self._state.undo.drop(self._state.leases, client)

    def held_by_others(self, client: ClientId, now_ms: int) -> list[Held]:
        return [
            Held(lease, self._membership.viewer(lease.user))
            for lease in self._state.leases.values()
            if lease.client != client and lease.until_ms > now_ms
        ]

    def disturbs(self, held: Held) -> bool:
        """Whether what is staged would make an event visible to the lease's user."""
        after = self._membership.viewer(held.lease.user).audiences
        viewer = Viewer(held.lease.user, held.before.audiences | after)
        joins = not after <= held.before.audiences
        return joins or any(self._shows(viewer, stage) for stage in self._state.staged)

    def _shows(self, viewer: Viewer, stage: Stage) -> bool:
        if stage.target is None:
            return viewer.sees(self._state.actions[stage.action_id])
        return stage.target.audience in viewer.audiences


def _meets(lease: Lease, viewer: Viewer) -> bool:
    """One lease at a time on any audience or user; the next waits for its end."""
    return lease.user == viewer.user or not lease.audiences.isdisjoint(viewer.audiences)
