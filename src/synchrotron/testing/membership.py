"""Who may read and write in which audience (H7, H7a).

A *viewer* is a user together with the audiences that are theirs now: what a message
says, and what it may not say, depends on nothing else.

An audience belongs to whoever first wrote in it until it ever had a member; from then
on to its members. So a user can create a project and make herself its member in one
action, and nobody can move into an audience that others left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import apsw

from synchrotron.core.ids import Audience
from synchrotron.core.patches import Target
from synchrotron.testing.server_state import State, StoredAction, StoredPatch
from synchrotron.testing.server_tables import ServerTables


class Viewer(NamedTuple):
    """A user and the audiences in which they may read."""

    user: str
    audiences: frozenset[Audience]

    def patches_of(self, action: StoredAction) -> dict[Target, StoredPatch]:
        """The patches of an action that this user receives."""
        return {t: p for t, p in action.patches.items() if t.audience in self.audiences}

    def sees(self, action: StoredAction) -> bool:
        """Whether the record is theirs to read: their own, declared for them, or in view."""
        declared = action.record.audiences or ()
        return (
            action.record.user == self.user
            or not self.audiences.isdisjoint(declared)
            or any(target.audience in self.audiences for target in action.patches)
        )


class Members(Protocol):
    """Where memberships come from."""

    created_audiences: bool
    """Whether a user can be the first in an audience by writing in it."""

    def of(self, user: str) -> frozenset[Audience]: ...

    def peopled(self) -> Iterable[Audience]:
        """The audiences that have a member now; those known from the last call may be left out."""


class OwnAudience:
    """Without `audiences`, `user:<user>` always has its one member, and there are no others."""

    created_audiences = False

    def of(self, user: str) -> frozenset[Audience]:
        return frozenset({Audience(f"user:{user}")})

    def peopled(self) -> Iterable[Audience]:
        return ()


class GivenSets:
    """Memberships as a test gives them, and changes them: they are the whole membership."""

    created_audiences = True

    def __init__(self, sets: Mapping[str, set[str]]) -> None:
        self.sets = sets

    def of(self, user: str) -> frozenset[Audience]:
        return frozenset(map(Audience, self.sets.get(user, ())))

    def peopled(self) -> Iterable[Audience]:
        return (Audience(a) for audiences in self.sets.values() for a in audiences)


class QueriedMembers:
    """The application's query over the server's own rows.

    It is run again only after a table that it reads was written; then it costs what the
    query costs.
    """

    created_audiences = True

    def __init__(self, tables: ServerTables, query: str) -> None:
        given = query.strip().rstrip(";")
        self._query = (
            f"WITH members (user_id, audience) AS ({given}\n) "
            "SELECT DISTINCT audience FROM members WHERE audience IS NOT NULL"
        )
        self._tables = tables
        self._reads = _tables_read(tables.connection, self._query)
        self._known: dict[str, frozenset[Audience]] = {}
        self._known_version: object = None
        self._peopled_version: object = None

    def of(self, user: str) -> frozenset[Audience]:
        if (version := self._version()) != self._known_version:
            self._known, self._known_version = {}, version
        if user not in self._known:
            self._known[user] = frozenset(self._audiences(" AND user_id = ?", user))
        return self._known[user]

    def peopled(self) -> Iterable[Audience]:
        if (version := self._version()) == self._peopled_version:
            return ()
        self._peopled_version = version
        return self._audiences()

    def _audiences(self, condition: str = "", *bindings: str) -> list[Audience]:
        rows = self._tables.connection.execute(self._query + condition, bindings)
        return [Audience(str(audience)) for (audience,) in rows.fetchall()]

    def _version(self) -> object:
        """Changes whenever a table that the query reads may have."""
        return tuple(self._tables.writes[table] for table in self._reads)


class Membership:
    """Members, and creators where there never was a member."""

    def __init__(self, state: State, members: Members) -> None:
        self._state = state
        self._members = members

    def viewer(self, user: str) -> Viewer:
        members = self._members.of(user)
        created = self._state.memberless.get(user)
        if created and self._members.created_audiences:
            members = members.union(created)
        return Viewer(user, members)

    def may_write(self, user: str, audience: Audience) -> bool:
        """Whether the user may write in an audience, by all that is stored now."""
        if audience in self._members.of(user):
            return True
        if not self._members.created_audiences or audience in self._state.peopled:
            return False
        return self._state.creators.get(audience, user) == user

    def note_members(self) -> None:
        """Remember which audiences have members (H7a). After every change, and in between."""
        for audience in self._members.peopled():
            self._state.note_member(audience)


def _tables_read(connection: apsw.Connection, sql: str) -> tuple[str, ...]:
    """The tables that a query reads."""
    read: set[str] = set()

    def authorize(operation: int, table: str | None, *_: object) -> int:
        if operation == apsw.SQLITE_READ and table:
            read.add(table)
        return apsw.SQLITE_OK

    connection.authorizer = authorize
    try:
        connection.execute(f"EXPLAIN {sql}").fetchall()
    finally:
        connection.authorizer = None
    return tuple(sorted(read))
