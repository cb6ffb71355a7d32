"""A world of replicas: one server, one virtual time, and wires on which messages get lost."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.replica import shop
from tests.servers import new_server

from synchrotron import App, Replica
from synchrotron.core.messages import SnapshotChunk, SnapshotRequest, SyncAnswer, SyncRequest
from synchrotron.errors import Offline
from synchrotron.testing.memory_server import Connection, MemoryServer

START_MS = 1_700_000_000_000
EVERYONE = {user: {"all"} for user in ("alice", "bob", "carol")}


class Clock:
    """Virtual time in milliseconds; each look at it takes one."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def skewed(self, by_ms: int) -> Callable[[], int]:
        """The clock of a machine that is wrong by so much."""
        return lambda: self() + by_ms


class Wire:
    """A transport on which a test loses messages. What is sent on it is kept."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self.user = connection.user
        self.connection = connection
        self.sent: list[SyncRequest] = []
        self.snapshots: list[SnapshotRequest] = []
        self.waited_ms: list[int] = []
        self._clock = clock
        self._losses: list[str] = []

    def lose(self, *what: str) -> None:
        """What is lost of the next exchanges, one after another: "request" or "answer"."""
        self._losses += what

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        self.sent.append(request)
        lost = self._losses.pop(0) if self._losses else ""
        if lost == "request":
            raise Offline("the request was lost")
        answer = self.connection.exchange(request)
        if lost == "answer":
            raise Offline("the answer was lost")
        return answer

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        self.snapshots.append(request)
        return self.connection.snapshot(request)

    def wait(self, ms: int) -> None:
        self.waited_ms.append(ms)
        self._clock.now_ms += ms


class World:
    """A server and its replicas. Given `audiences` are the whole membership."""

    def __init__(self, folder: Path, audiences: dict[str, set[str]] | None, **options: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.entropy = random.Random(0).randbytes
        self.server = new_server(shop.app, audiences, self.clock, entropy=self.entropy, **options)
        self.wires: dict[Replica, Wire] = {}

    def replica(
        self,
        user: str = "alice",
        path: str | Path = ":memory:",
        *,
        app: App = shop.app,
        skew_ms: int = 0,
        **options: Any,
    ) -> Replica:
        """Open a replica; a plain name is a file in the test's folder."""
        wire = Wire(self.server.connect(user), self.clock)
        clock = options.pop("clock", None) or self.clock.skewed(skew_ms)
        where = path if path == ":memory:" else self.folder / path
        replica = app.open(
            where, transport=wire, clock=clock, **{"entropy": self.entropy, **options}
        )
        self.wires[replica] = wire
        return replica

    def synced(self, user: str = "alice", path: str | Path = ":memory:", **options: Any) -> Replica:
        """A replica that took its first snapshot."""
        replica = self.replica(user, path, **options)
        replica.sync()
        return replica

    def settle(self, *replicas: Replica) -> None:
        """Sync until nobody has anything to tell, which must come to pass (S4)."""
        for _ in range(10):
            reports = [replica.sync() for replica in replicas]
            if not any(r.uploaded or r.received or r.corrected or r.parked for r in reports):
                return
        raise AssertionError("no rest after ten rounds")

    def copy_file(self, old: str, new: str) -> None:
        """Copy a closed replica's file."""
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.folder / (old + suffix)):
                shutil.copy(self.folder / (old + suffix), self.folder / (new + suffix))
            elif os.path.exists(self.folder / (new + suffix)):
                os.remove(self.folder / (new + suffix))

    def close(self) -> None:
        for replica in self.wires:
            replica.close()


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds with memberships and server options of one's own."""
    made: list[World] = []

    def make(audiences: dict[str, set[str]] | None = EVERYONE, **options: Any) -> World:
        made.append(World(tmp_path, audiences, **options))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Alice, Bob and Carol, who all see and write `all`."""
    return make_world()


@pytest.fixture
def project_world(make_world: Callable[..., World]) -> World:
    """Members of projects are those in `project_member`, by the server's own rows."""
    return make_world(None)


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """All rows of a replica's table, as `MemoryServer.rows` gives those of the server."""

    def read(replica: Replica, table: str) -> list[dict[str, Any]]:
        return [dict(row) for row in replica.query(f"SELECT * FROM {table} ORDER BY id")]

    return read


@pytest.fixture
def counts() -> Callable[..., dict[str, int]]:
    """The counters of a replica or server by id."""

    def read(of: Replica | MemoryServer) -> dict[str, int]:
        if isinstance(of, MemoryServer):
            return {row["id"]: row["n"] for row in of.rows("counter")}
        return {row["id"]: row["n"] for row in of.query("SELECT id, n FROM counter ORDER BY id")}

    return read
