"""A server in the test's own process: the reference for what a server answers.

`MemoryServer` keeps the rules of SPEC sections 6 and 7 for the replicas of an
application, in Python's dictionaries and an SQLite database in memory. How an exchange
is judged is told in `exchanges`; what is stored, in `server_state`.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NewType, Protocol, TypeVar

import msgspec

from synchrotron.app.schema import Schema
from synchrotron.core.ids import Entropy, Seq
from synchrotron.core.messages import (
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
    decode_answer,
    decode_chunks,
    decode_request,
    decode_snapshot_request,
    encode,
)
from synchrotron.core.patches import Known, Target
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ProtocolError, UsageError
from synchrotron.testing.exchanges import Exchanges, Settings
from synchrotron.testing.membership import (
    GivenSets,
    Members,
    Membership,
    OwnAudience,
    QueriedMembers,
)
from synchrotron.testing.proposals import Proposals
from synchrotron.testing.rights import Policy, Rights
from synchrotron.testing.server_state import State
from synchrotron.testing.server_tables import ServerTables

Backup = NewType("Backup", State)
T = TypeVar("T")


class Application(Protocol):
    """What a server needs of an `App`."""

    @property
    def schema(self) -> Schema: ...

    @property
    def audiences(self) -> str | None: ...

    @property
    def migrations(self) -> tuple[str, ...]: ...


class Connection:
    """A transport to a server in the same process. It carries the user (H9).

    Messages are encoded and decoded on their way, as on any other transport.
    """

    def __init__(self, server: MemoryServer, user: str) -> None:
        self._server = server
        self.user = user

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        """Raises `ProtocolError` for a message that the protocol does not allow."""
        sent = _received(decode_request, encode(request))
        return decode_answer(encode(self._server.sync(self.user, sent)))

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        """Raises `ProtocolError` for a message that the protocol does not allow."""
        sent = _received(decode_snapshot_request, encode(request))
        return decode_chunks(iter([encode(c) for c in self._server.snapshot(self.user, sent)]))

    def wait(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def listen(
        self, news: Callable[[Seq], None], connected: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Hear of commits that this user can see, in the thread of whoever made them."""
        server, seen = self._server, self._server.horizon

        def tell() -> None:
            nonlocal seen
            before, seen = seen, server.horizon
            if server.has_news(self.user, before):
                news(seen)

        stop = server.watch(tell)
        connected(True)
        return stop


class MemoryServer:
    """A server for replicas of `app` in this process.

    Memberships come from `app.audiences` over the server's own rows. Given `audiences`
    are the whole membership instead; change them by `server.audiences`. `clock` gives
    milliseconds since the epoch, `entropy(n)` n random bytes. `page_events` is how
    many events an answer carries at most, where the replica asks for no fewer. May be used
    from any thread.
    """

    def __init__(
        self,
        app: Application,
        audiences: Mapping[str, Set[str]] | None = None,
        clock: Callable[[], int] | None = None,
        *,
        max_clock_drift_ms: int = 60_000,
        max_backdate_ms: int | None = None,
        page_events: int | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        if page_events is not None and page_events < 1:
            raise UsageError("a page has room for at least one event: page_events is from 1")
        self._settings = Settings(
            schema=0,
            max_clock_drift_ms=max_clock_drift_ms,
            max_backdate_ms=max_backdate_ms,
            page_events=page_events,
            clock=clock or (lambda: time.time_ns() // 1_000_000),
            entropy=entropy or os.urandom,
        )
        self._sets: dict[str, set[str]] | None = None
        if audiences is not None:
            self._sets = defaultdict(set, {user: set(sets) for user, sets in audiences.items()})
        self._lock = threading.RLock()
        self._watchers: list[Callable[[], object]] = []
        self._policy: Policy | None = None
        self._state = State()
        self.install(app)

    def install(self, app: Application) -> None:
        """Serve a newer version of the application: its migrations, its audiences (S11)."""
        with self._lock:
            self._app = app
            self._settings = self._settings._replace(schema=len(app.migrations))
            self._open(self._state)

    def _open(self, state: State) -> None:
        self._state = state
        self._tables = ServerTables(self._app.schema)
        self._tables.load({target.row: state.living(target.row) for target in state.rows})
        self._membership = Membership(state, self._members())
        if self._sets is not None:
            self._membership.note_members()
        proposals = Proposals(self._app.schema)
        rights = Rights(state, proposals, self._membership, lambda: self._policy)
        self._exchanges = Exchanges(
            self._settings, state, self._tables, proposals, self._membership, rights
        )

    def _members(self) -> Members:
        if self._sets is not None:
            return GivenSets(self._sets)
        if self._app.audiences is not None:
            return QueriedMembers(self._tables, self._app.audiences)
        return OwnAudience()

    # ---- what replicas do ---------------------------------------------------------

    def connect(self, user: str) -> Connection:
        """A transport for a replica of this user."""
        return Connection(self, user)

    def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        """Answer an upload and a question. Raises `ProtocolError`."""
        with self._lock:
            before = self._state.seq
            answer = self._exchanges.sync(user, request)
            committed = self._state.seq > before
        if committed:
            for watcher in tuple(self._watchers):
                watcher()
        return answer

    def snapshot(self, user: str, request: SnapshotRequest) -> list[SnapshotChunk]:
        """All chunks of a snapshot. Raises `ProtocolError`."""
        with self._lock:
            return self._exchanges.snapshot(user, request)

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call back after every commit; gives the function that ends that."""
        self._watchers.append(watcher)

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return stop

    @property
    def horizon(self) -> Seq:
        """The seq of the last commit."""
        return self._state.seq

    def has_news(self, user: str, cursor: Seq) -> bool:
        """Whether anything that this user can see was committed after `cursor`."""
        with self._lock:
            return self._exchanges.has_news(user, cursor)

    # ---- what tests look at -------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table as Python values, `audience_key` included, sorted by key."""
        with self._lock:
            return self._tables.read(table)

    @property
    def history(self) -> list[ActionRecord]:
        """Every record ever accepted, pruned ones too, in the order of acceptance."""
        return list(self._state.history)

    def log(self) -> list[tuple[ActionRecord, Seq, dict[Target, Known]]]:
        """The actions above the server's floor, in order, each with its present patches."""
        with self._lock:
            return [
                (a.record, a.seq, {target: p.known for target, p in a.patches.items()})
                for a in self._state.in_order()
            ]

    # ---- what tests change --------------------------------------------------------

    @property
    def audiences(self) -> dict[str, set[str]]:
        """The given memberships, to be changed in place: user to audiences."""
        if self._sets is None:
            raise UsageError(
                "this server reads memberships from its own rows: give MemoryServer audiences=… "
                "to set them from outside"
            )
        with self._lock:  # who was put in a set was a member, also if no exchange saw it
            self._membership.note_members()
            return self._sets

    @property
    def policy(self) -> Policy | None:
        """Stands for the policies of PostgreSQL, which do not act here. None: members may write.

        `policy(user, op, table, row)` says whether this user may insert, update or delete
        this row: Python values and `audience_key`, as the row stood at its place in history;
        the old row for a delete, the new one for an insert, first one then the other for an
        update.
        """
        return self._policy

    @policy.setter
    def policy(self, policy: Policy | None) -> None:
        self._policy = policy

    def prune(self, keep: int = 100) -> int:
        """Fold all but the newest `keep` actions into the floor (F3, F5). How many they were."""
        with self._lock:
            return self._state.prune(keep)

    def backup(self) -> Backup:
        """The database as it is now."""
        with self._lock:
            return Backup(copy.deepcopy(self._state))

    def restore(self, backup: Backup) -> None:
        """Put the database back to a backup (H11). Given audiences and policy stay."""
        with self._lock:
            self._open(copy.deepcopy(backup))


def _received(decode: Callable[[bytes], T], message: bytes) -> T:
    try:
        return decode(message)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the server cannot read this message: {error}") from error
