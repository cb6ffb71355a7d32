"""The audit of the server: every answer is looked at, as the messages have it.

What is checked here needs no replica: that what the server holds is serial after each
commit (S7), that an upload is stored as a whole or not at all (H1), that nothing is
accepted twice (O6), and that no message holds what its reader may not see (H7). Who may
see what is reckoned here anew, from the memberships themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from synchrotron.app.definition import Definition
from synchrotron.app.schema import Schema
from synchrotron.core.ids import ActionId
from synchrotron.core.messages import (
    Behind,
    Download,
    Event,
    Ok,
    SnapshotChunk,
    SnapshotHead,
    SnapshotRows,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.core.records import ActionRecord
from synchrotron.testing.memory_server import Backup, MemoryServer
from synchrotron.testing.oracle import RawTables, SerialOracle, read_tables
from synchrotron.testing.server_state import StoredAction
from synchrotron.testing.simulation.violation import Violation, differences


class Kept(NamedTuple):
    """A backup of the server, with what the audit remembers."""

    backup: Backup
    creators: dict[str, str]
    peopled: set[str]


class Audit:
    """Looks over the server's shoulder."""

    def __init__(
        self,
        app: Definition,
        server: MemoryServer,
        users: Sequence[str],
        sets: Mapping[str, set[str]] | None,
        invariants: Sequence[str],
    ) -> None:
        self._app = app
        self._server = server
        self._users = users
        self._sets = sets
        self._invariants = invariants
        self.serial = SerialOracle(app)
        self.is_serial = server.policy is None
        """Whether everyone has seen, and could write, everything so far (S7)."""
        self.all_declared = all(a._declare is not None for a in app.actions.values())
        """Whether every action declares its audiences, so that all know of it (A10)."""
        self.at_every_commit = self.all_declared
        """Whether the server must be serial at each commit, not only in the end."""
        self.all_have_code = True
        """Whether every replica always had the code of every action (S10)."""
        self.commits = 0
        self._creators: dict[str, str] = {}
        self._peopled: set[str] = set()
        self._tables = self.tables()
        self._accepted = 0

    @property
    def schema(self) -> Schema:
        return self._app.schema

    @property
    def history(self) -> list[ActionRecord]:
        return self._server.history

    def stored(self, id: str) -> StoredAction | None:
        return self._server._state.actions.get(ActionId(id))

    def tables(self) -> RawTables:
        return read_tables(self._server._tables.connection, self._app.schema)

    # ---- answers ------------------------------------------------------------------

    def exchanged(self, user: str, request: SyncRequest, answer: SyncAnswer) -> None:
        self._note_members()
        if isinstance(answer, Ok):
            self._committed(request, answer)
        elif self.tables() != self._tables or len(self._server.history) != self._accepted:
            raise Violation("H1", f"an upload was answered {type(answer).__name__}, and yet stored")
        if isinstance(answer, Ok | Behind):
            self._check_download(user, answer.download)

    def _committed(self, request: SyncRequest, answer: Ok) -> None:
        history = self._server.history
        stored = {record.id for record in history}
        for sent in request.actions:
            if sent.record.id not in stored:
                raise Violation("H1", f"{sent.record.id} was accepted, and is not stored")
            for patch in sent.patches:
                self._creators.setdefault(patch.audience, sent.record.user)
        if len({record.seed for record in history}) != len(history):
            raise Violation("O6", "an action was accepted twice")
        by_id = {record.id: record.user for record in history}
        for correction in request.corrections:
            user = by_id.get(correction.action_id, "")
            self._creators.setdefault(correction.patch.audience, user)
        self._note_members()
        if not request.actions and not request.corrections:
            return
        self.commits += 1
        self._accepted = len(history)
        self._tables = self.tables()
        if self.is_serial and any(self._creators.keys() - self.audiences(u) for u in self._users):
            self.is_serial = False
        if self.is_serial and self.at_every_commit:
            self.check_serial("at this commit")
        self._check_invariants()

    def check_serial(self, when: str) -> None:
        wanted = self.serial.tables(self._server.history)
        if wanted != self._tables:
            text = differences(self._app.schema, self._tables, wanted, "in order")
            raise Violation(
                "S7",
                f"{when} the server's rows are not what running all accepted actions once, in "
                f"order, gives:\n{text}",
            )

    def _check_invariants(self) -> None:
        for sql in self._invariants:
            rows = self._server._tables.connection.execute(sql).fetchall()
            if rows:
                raise Violation("invariant", f"on the server, {sql!r} gives {rows[:3]}")

    # ---- who may see what (H7, H7a) -----------------------------------------------

    def audiences(self, user: str) -> set[str]:
        """The audiences of a user, those that are theirs as the creator included."""
        if self._sets is None and self._app.audiences is None:
            return {f"user:{user}"}
        created = {a for a, u in self._creators.items() if u == user and a not in self._peopled}
        return created | {a for u, a in self._members() if u == user}

    def told(self, user: str, told: Set[str]) -> Set[str]:
        """The audiences that a replica was told, if they can be its user's.

        Whether an audience ever had a member may depend on the middle of an upload, which
        is not seen here: as its creator, the user may have it or not.
        """
        members = {a for u, a in self._members() if u == user}
        if self._sets is None and self._app.audiences is None:
            members = {f"user:{user}"}
        if not members <= told <= self.audiences(user) | members:
            raise Violation(
                "H7a", f"{user} was told {sorted(told)}, and is a member of {sorted(members)}"
            )
        return told

    def _members(self) -> Iterable[tuple[str, str]]:
        if self._sets is not None:
            return [(user, a) for user, audiences in self._sets.items() for a in audiences]
        if self._app.audiences is None:
            return ()
        query = self._app.audiences.strip().rstrip(";")
        sql = f"SELECT user_id, audience_key FROM ({query}\n) WHERE audience_key IS NOT NULL"
        rows = self._server._tables.connection.execute(sql).fetchall()
        return [(str(user), str(audience)) for user, audience in rows]

    def _note_members(self) -> None:
        self._peopled.update(audience for _, audience in self._members())

    def _check_download(self, user: str, download: Download) -> None:
        allowed = self.audiences(user)
        if self._sets is not None and set(download.audiences) != allowed:
            raise Violation(
                "H7", f"{user} is told audiences {download.audiences}, not {sorted(allowed)}"
            )
        self._require(user, allowed, download.audiences, "the audiences of an answer")
        self._require(user, allowed, (row.audience for row in download.rows), "a row")
        for event in download.events:
            self._require(user, allowed, (p.audience for p in event.patches), "a patch")
            if not self._may_see(user, allowed, event):
                raise Violation(
                    "H7", f"{user} receives {event.record.id}, of which they may see nothing"
                )

    def _may_see(self, user: str, allowed: set[str], event: Event) -> bool:
        record = event.record
        stored = self._server._state.actions[record.id].patches
        seen = {*(record.audiences or ()), *(target.audience for target in stored)}
        return record.user == user or not allowed.isdisjoint(seen)

    def snapshot(self, user: str, chunks: Sequence[SnapshotChunk]) -> None:
        self._note_members()
        allowed = self.audiences(user)
        for chunk in chunks:
            if isinstance(chunk, SnapshotHead):
                self._require(user, allowed, chunk.audiences, "the audiences of a snapshot")
            if isinstance(chunk, SnapshotRows):
                self._require(user, allowed, [chunk.audience], "a snapshot's rows")

    def _require(self, user: str, allowed: set[str], found: Iterable[str], what: str) -> None:
        if hidden := set(found) - allowed:
            raise Violation(
                "H7", f"{user} receives {what} of {sorted(hidden)}, and sees {sorted(allowed)}"
            )

    # ---- what befalls the server --------------------------------------------------

    def back_up(self) -> Kept:
        return Kept(self._server.backup(), dict(self._creators), set(self._peopled))

    def restore(self, kept: Kept) -> None:
        self._server.restore(kept.backup)
        self._creators, self._peopled = dict(kept.creators), set(kept.peopled)
        self._tables, self._accepted = self.tables(), len(self._server.history)

    def close(self) -> None:
        self.serial.close()
