"""Where a replica stands, in numbers: what `synchrotron status` tells."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec

from synchrotron.core.clock import OrderKey, timestamp_of, to_datetime
from synchrotron.inspection.file import ReplicaFile
from synchrotron.store.database import FORMAT


class Status(msgspec.Struct, kw_only=True):
    """What a file holds, and how far it is in step."""

    path: str
    format: int
    bytes: int
    log_bytes: int
    """Of SQLite's write-ahead log, which is part of the database while a process has it open."""
    encrypted: bool
    app: str
    user: str | None
    """None until the first token."""
    client_id: str
    migrations: int
    rows: dict[str, int]
    """By synced table."""
    audiences: list[str]
    synced: bool
    """Whether it ever took anything from a server."""
    syncing: bool
    """Whether a process is syncing it now."""
    cursor: int
    """The seq up to which it has taken everything in."""
    history: int
    """Actions in the log, others' included."""
    history_after: datetime | None
    """Older actions are rows only; None: the log goes back to the beginning."""
    newest: datetime | None
    """The moment in the newest order key."""
    pending: int
    oldest_pending: datetime | None
    unsent: int
    """Accepted actions with corrections that are not sent yet."""
    outcomes: dict[str, int]
    """Own actions by state."""


def read_status(file: ReplicaFile) -> Status:
    state, log = file.state, file.log
    pending = log.pending()
    newest = max(log.last_key(), state.clock)
    return Status(
        path=str(file.path),
        format=FORMAT,
        bytes=file.path.stat().st_size,
        log_bytes=size_of(Path(f"{file.path}-wal")),
        encrypted=file.encrypted,
        app=state.app,
        user=state.user or None,
        client_id=state.client_id,
        migrations=state.migrations,
        rows={name: count(file, name) for name in file.schema.tables},
        audiences=sorted(state.audiences),
        synced=state.bootstrapped,
        syncing=file.is_synced_by_a_process(),
        cursor=state.cursor,
        history=len(log),
        history_after=moment_of(state.floor),
        newest=moment_of(newest),
        pending=len(pending),
        oldest_pending=min((entry.record.now for entry in pending), default=None),
        unsent=len(log.unsent()),
        outcomes=dict(sorted(Counter(outcome.state for _, outcome in file.outcomes()).items())),
    )


def count(file: ReplicaFile, table: str) -> int:
    rows: int = file.connection.execute(f"SELECT count(*) FROM {table}").get
    return rows


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def moment_of(key: OrderKey | None) -> datetime | None:
    """The moment in an order key, if there is one."""
    return to_datetime(timestamp_of(key).ms) if key else None
