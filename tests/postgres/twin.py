"""Two servers in step: whatever `MemoryServer` is asked, PostgreSQL is asked as well.

Their answers have to be the same, message by message; only the words of a refusal differ, and
the order of rows in a snapshot, which each server chooses for itself.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql
from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, in_database, new_database

from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Entropy
from synchrotron.core.messages import (
    Denied,
    Invalid,
    Ok,
    SnapshotChanges,
    SnapshotChunk,
    SnapshotRequest,
    SnapshotRows,
    SyncAnswer,
    SyncRequest,
    encode,
)
from synchrotron.errors import ProtocolError
from synchrotron.server.exchange import Bounds
from synchrotron.testing.memory_server import Application, Backup, MemoryServer
from synchrotron.testing.rights import Policy

GIVEN = "SELECT user_id, audience_key FROM public.given_members"


class Different(AssertionError):
    """The two servers answered differently."""


class Described(NamedTuple):
    """An application as the installation needs it."""

    name: str
    sources: tuple[str, ...]
    audiences: str | None
    policies: str | None


def described(app: Application, *, given: bool, policies: str | None = None) -> Described:
    sources = getattr(app, "sources", (app.schema.source,))
    audiences = GIVEN if given else app.audiences
    return Described(getattr(app, "name", "app"), sources, audiences, policies)


class Twin(MemoryServer):
    """A `MemoryServer` whose every answer is compared with PostgreSQL's.

    `policies` are SQL policies that say what `policy` says. A policy that is set later has no
    twin: from then on the memory server is on its own.
    """

    def __init__(
        self,
        app: Application,
        audiences: Mapping[str, Set[str]] | None = None,
        clock: Callable[[], int] | None = None,
        *,
        entropy: Entropy | None = None,
        policies: str | None = None,
        **options: Any,
    ) -> None:
        self._real_clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._real_entropy = entropy or secrets.token_bytes
        self._now_ms, self._drawn = 0, b""
        super().__init__(app, audiences, self._tick, entropy=self._draw, **options)
        self._step = threading.RLock()
        self.alone = False
        self.requests = 0
        self._described = described(app, given=audiences is not None, policies=policies)
        bounds = Bounds(**options)
        self._options: dict[str, Any] = {
            "bounds": bounds,
            "clock": lambda: self._now_ms,
            "entropy": lambda n: self._drawn[:n],
        }
        self.database = new_database(self._described)
        self._given: dict[str, set[str]] | None = None
        self.served = Served(self.database, **self._options)

    def _tick(self) -> int:
        self._now_ms = self._real_clock()
        return self._now_ms

    def _draw(self, n: int) -> bytes:
        self._drawn = self._real_entropy(n)
        return self._drawn

    def close(self) -> None:
        self.served.close()
        drop_database(self.database)

    # ---- the requests -----------------------------------------------------------------

    def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        return self._both(  # type: ignore[no-any-return]
            lambda: super(Twin, self).sync(user, request),
            lambda: self.served.sync(user, request),
            f"{user}: {encode(request).decode()}",
        )

    def snapshot(self, user: str, request: SnapshotRequest) -> list[SnapshotChunk]:
        return self._both(  # type: ignore[no-any-return]
            lambda: super(Twin, self).snapshot(user, request),
            lambda: self.served.snapshot(user, request),
            f"{user}: {encode(request).decode()}",
        )

    def prune(self, keep: int = 100) -> int:
        return self._both(  # type: ignore[no-any-return]
            lambda: super(Twin, self).prune(keep),
            lambda: self.served.prune(keep),
            f"prune {keep}",
        )

    def _both(self, one: Callable[[], Any], other: Callable[[], Any], what: str) -> Any:
        with self._step:
            return self._one_after_the_other(one, other, what)

    def _one_after_the_other(
        self, one: Callable[[], Any], other: Callable[[], Any], what: str
    ) -> Any:
        try:
            answer, error = one(), None
        except ProtocolError as refused:
            answer, error = None, refused
        if not self.alone:
            self.requests += 1
            self._give_members()
            self._compare(answer, error, other, what)
        if error is not None:
            raise error
        return answer

    def _compare(
        self, answer: Any, error: ProtocolError | None, other: Callable[[], Any], what: str
    ) -> None:
        try:
            have: Any = comparable(other())
        except ProtocolError:
            have = "ProtocolError"
        want = "ProtocolError" if error else comparable(answer)
        if have != want:
            raise Different(f"{what[:4000]}\n  MemoryServer {want}\n  PostgreSQL   {have}")

    # ---- what tests look at and change ------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows = super().rows(table)
        if not self.alone:
            there = _rows(self.database, table)
            if there != sorted(text_of(_plain(row)) for row in rows):
                raise Different(f"{table}\n  MemoryServer {rows}\n  PostgreSQL   {there}")
        return rows

    @property
    def policy(self) -> Policy | None:
        return super().policy

    @policy.setter
    def policy(self, policy: Policy | None) -> None:
        self._policy = policy
        self.alone = self.alone or (policy is not None and self._described.policies is None)

    def backup(self) -> Backup:
        copy = super().backup()
        _copies[id(copy)] = copy, self._clone(self.database)
        return copy

    def restore(self, backup: Backup) -> None:
        super().restore(backup)
        old, self.database = self.database, self._clone(_copies[id(backup)][1])
        self.served.close()
        drop_database(old)
        self._given = None
        self.served = Served(self.database, **self._options)

    def _clone(self, database: str) -> str:
        """A copy of a database, of which PostgreSQL wants that nobody is connected to it."""
        self.served.close()
        name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        clone = f"{name}_{secrets.token_hex(4)}"
        with psycopg.connect(in_database("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(clone), sql.Identifier(str(name))
                )
            )
        self.served = Served(self.database, **self._options)
        return in_database(clone)

    def _give_members(self) -> None:
        """Given memberships stand in a table here, which is not the application's."""
        if self._sets is None or self._sets == self._given:
            return
        self._given = {user: set(sets) for user, sets in self._sets.items()}
        pairs = [(user, a) for user, sets in self._given.items() for a in sets]
        with psycopg.connect(self.database) as connection:
            connection.execute("DELETE FROM given_members")
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO given_members VALUES (%s, %s)", pairs)
            connection.execute("SELECT synchrotron.note_members()")


_copies: dict[int, tuple[Backup, str]] = {}


def comparable(answer: Any) -> Any:
    """An answer without what two servers may say differently."""
    if isinstance(answer, list):
        return _comparable_chunks(answer)
    if isinstance(answer, Denied | Invalid):
        answer = msgspec.structs.replace(answer, reason="")
    if isinstance(answer, Ok):
        answer = msgspec.structs.replace(
            answer,
            corrected=sorted(answer.corrected, key=lambda c: text_of(msgspec.to_builtins(c))),
        )
    return msgspec.to_builtins(answer)


def _comparable_chunks(chunks: list[SnapshotChunk]) -> list[Any]:
    rows = sorted(
        text_of([chunk.table, chunk.audience, row])
        for chunk in chunks
        if isinstance(chunk, SnapshotRows)
        for row in chunk.rows
    )
    changes = sorted(
        text_of(msgspec.to_builtins(row))
        for chunk in chunks
        if isinstance(chunk, SnapshotChanges)
        for row in chunk.rows
    )
    others = [c for c in chunks if not isinstance(c, SnapshotRows | SnapshotChanges)]
    return [*(msgspec.to_builtins(chunk) for chunk in others), rows, changes]


def _rows(database: str, table: str) -> list[str]:
    with psycopg.connect(database) as connection:
        cursor = connection.execute(f'SELECT * FROM public."{table}"'.encode())
        names = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall()
    return sorted(text_of(_plain(dict(zip(names, row, strict=True)))) for row in rows)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: msgspec.to_builtins(_aware(value)) for name, value in row.items()}


def _aware(value: Any) -> Any:
    """A TIMESTAMP has no time zone in PostgreSQL, and means UTC."""
    naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=UTC) if naive else value
