"""Devices: a replica with its process and its file, and what can befall them.

A process that is killed leaves the file as its last commit left it. A power cut leaves
it at any commit since the last one that was flushed: the write-ahead log is cut off
after that commit, as a disk does that has not written the rest. What is flushed is
learnt from SQLite at each commit, not from the code that is on trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from synchrotron.application import App
from synchrotron.core.ids import Entropy
from synchrotron.core.records import ActionRecord
from synchrotron.replica.engine import Engine
from synchrotron.replica.outcomes import SetAside
from synchrotron.replica.replica import Replica
from synchrotron.store.database import MEMORY
from synchrotron.testing.memory_server import Connection

WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


class Copy(NamedTuple):
    """A file as it was: the database and its write-ahead log."""

    database: bytes
    wal: bytes
    runs: dict[str, str]
    app: App


@dataclass
class Device:
    """A replica of a user."""

    name: str
    user: str
    app: App
    path: str
    connection: Connection
    clock: Callable[[], int]
    entropy: Entropy
    replay_all: bool = False
    skew_ms: int = 0
    life: int = 0
    """How often its process was started."""
    runs: dict[str, str] = field(default_factory=dict)
    """The runs that this file is to know: their ids when they ran, and their seeds."""
    answered: int = 0
    """The number of the latest request whose answer this process has."""
    audiences: frozenset[str] = frozenset()
    """Those that it saw last."""
    copies: list[Copy] = field(default_factory=list)
    replica: Replica = field(init=False)
    engine: Engine = field(init=False)
    _commits: list[int] = field(default_factory=list)
    """Of each commit since the last flushed one, that one included: the frames in the WAL."""

    def start(self) -> None:
        self.life += 1
        self.answered = 0
        self.replica = self.app.open(
            self.path,
            transport=self.connection,
            clock=self._now_ms,
            entropy=self.entropy,
            replay_all=self.replay_all,
        )
        self.engine = self.replica._engine
        if self.on_file:
            self._commits = [self._frames()]
            # In place of automatic checkpoints: histories are short.
            self.writer.set_wal_hook(self._committed)

    def _now_ms(self) -> int:
        return self.clock() + self.skew_ms

    @property
    def on_file(self) -> bool:
        return self.path != MEMORY

    @property
    def writer(self) -> apsw.Connection:
        return self.engine.store.writer

    def query(self, sql: str, params: Any = ()) -> list[Any]:
        """As `Replica.query`, on the connection that is open already."""
        return self.engine.store.queries(self.writer).execute(sql, params)

    def content(self) -> list[Any]:
        """Everything in the file."""
        names = self.writer.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return [self.writer.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names]

    def leaves(self) -> bool:
        """Whether its user is not any more in an audience that it saw before."""
        before, self.audiences = self.audiences, self.engine.state().audiences
        return not before <= self.audiences

    def in_log(self) -> set[str]:
        """The seeds of its own runs that are in its log."""
        return {entry.record.seed for entry in self.engine.store.log.own()}

    def remembered(self) -> set[str]:
        """And of those that left it after the server had them."""
        return self.in_log() | {record.seed for record in SetAside(self.writer).remembered()}

    def parked(self) -> list[ActionRecord]:
        return [record for record, _ in SetAside(self.writer).parked()]

    def likeness(self, record: ActionRecord) -> int:
        """How many arguments it has in common with a later action that is on its way."""
        mine = {repr(value) for value in record.args.values()}
        on_their_way = (
            entry.record.args.values()
            for entry in self.engine.store.log.pending()
            if entry.sent_in is not None and entry.key > record.order_key
        )
        return max((len(mine & set(map(repr, values))) for values in on_their_way), default=0)

    def holds(self) -> bytes:
        """The synced rows, the log with all that undo and corrections rest on, and the outcomes."""
        rows = [
            (name, self.writer.execute(f"SELECT * FROM {name}").fetchall())
            for name in self.app.schema.tables
        ]
        log = [
            (entry.record, entry.seq, entry.sent_in, entry.error, sorted(entry.effects.items()))
            for entry in self.engine.store.log.all()
        ]
        return msgspec.msgpack.encode((rows, log, self.engine.outcomes()))

    # ---- what befalls a file ------------------------------------------------------

    def kill(self) -> None:
        """End the process at this moment; nothing is tidied up."""
        self.life += 1
        if self.on_file:
            self.writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.replica.close()

    def cut_power(self, choose: Callable[[list[int]], int]) -> int:
        """End the process and go back to one of the commits that need not have been written.

        Gives how many commits are gone.
        """
        self.kill()
        chosen = choose(self._commits)
        gone = len(self._commits) - 1 - self._commits.index(chosen)
        wal = Path(f"{self.path}-wal")
        if gone:
            size = WAL_HEADER_BYTES + chosen * (FRAME_HEADER_BYTES + self._page_bytes())
            wal.write_bytes(wal.read_bytes()[:size])
        return gone

    def copy(self) -> Copy:
        wal = Path(f"{self.path}-wal")
        return Copy(
            Path(self.path).read_bytes(),
            wal.read_bytes() if wal.exists() else b"",
            dict(self.runs),
            self.app,
        )

    def put_back(self, copy: Copy) -> None:
        """Make the file what it was. The process must have ended."""
        for path, content in ((self.path, copy.database), (f"{self.path}-wal", copy.wal)):
            Path(path).write_bytes(content)
        Path(f"{self.path}-shm").unlink(missing_ok=True)
        self.runs = dict(copy.runs)
        self.app = copy.app

    def _committed(self, connection: apsw.Connection, _: str, frames: int) -> int:
        flushed = connection.execute("PRAGMA synchronous").get >= 2
        if flushed:
            self._commits.clear()
        self._commits.append(frames)
        return apsw.SQLITE_OK

    def _page_bytes(self) -> int:
        return int.from_bytes(Path(f"{self.path}-wal").read_bytes()[8:12], "big")

    def _frames(self) -> int:
        """How many frames the WAL holds; all of them count, after a start."""
        wal = Path(f"{self.path}-wal")
        content = wal.read_bytes() if wal.exists() else b""
        if len(content) < WAL_HEADER_BYTES:
            return 0
        page_bytes = int.from_bytes(content[8:12], "big")
        return (len(content) - WAL_HEADER_BYTES) // (FRAME_HEADER_BYTES + page_bytes)
