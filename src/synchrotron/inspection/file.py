"""A replica's file as of one moment, opened to be read and never written.

Everything is read in one transaction, which keeps no other process waiting. The schema comes
from the file itself: its tables are those that the application's author wrote, completed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import apsw

from synchrotron.app.ddl import as_written
from synchrotron.app.schema import Schema, read_schema
from synchrotron.core.records import ActionRecord
from synchrotron.errors import DamagedFile, NotAReplica, WrongKey
from synchrotron.replica.outcomes import Outcome, SetAside, outcome_of
from synchrotron.store.closing import Closing
from synchrotron.store.database import BUSY_TIMEOUT_MS, identify, machine_errors
from synchrotron.store.encryption import Key, unlock
from synchrotron.store.guard import guarded_tables
from synchrotron.store.log import Log
from synchrotron.store.state import State, read_state


class ReplicaFile(Closing):
    """One file. Close it when done: what is open keeps the write-ahead log from shrinking."""

    def __init__(self, path: str | os.PathLike[str], key: Key | None = None) -> None:
        """Raises `FileError`, with whose file it is, if it is no replica's, or `MachineError`."""
        self.path = Path(path)
        if not self.path.is_file():
            raise NotAReplica(f"{path}: there is no such file")
        self.connection = _connect(self.path)
        try:
            with machine_errors(f"opening {path}"):
                self._begin(key)
        except BaseException:
            self.connection.close()
            raise
        self.encrypted = key is not None

    def _begin(self, key: Key | None) -> None:
        connection = self.connection
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        if key is not None:
            unlock(connection, key)
        try:
            connection.execute("BEGIN")
            is_new = identify(connection, str(self.path))
        except apsw.NotADBError as error:
            if key is not None:
                raise WrongKey(
                    f"{self.path} cannot be read with this key: give the one it was made with"
                ) from error
            raise DamagedFile(
                f"{self.path} is no SQLite database, or an encrypted one: give its key by --key "
                "or SYNCHROTRON_KEY"
            ) from error
        if is_new:
            raise NotAReplica(f"{self.path} is empty: no replica has been opened on it yet")

    @cached_property
    def state(self) -> State:
        return read_state(self.connection)

    @cached_property
    def schema(self) -> Schema:
        """The synced tables. Raises `SchemaError` where another program has altered them."""
        synced = guarded_tables(self.connection)
        written = self.connection.execute(
            "SELECT tbl_name, sql FROM sqlite_master "
            "WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY rowid"
        )
        return read_schema(
            "\n;\n".join(as_written(sql) for table, sql in written if table in synced)
        )

    @cached_property
    def log(self) -> Log:
        return Log(self.connection, self.schema.tables)

    def outcomes(self) -> Iterator[tuple[ActionRecord, Outcome]]:
        """All own actions with what became of them; those that left the log come first."""
        floor = self.state.server_floor
        yield from SetAside(self.connection).all(floor)
        for entry in self.log.own():
            yield entry.record, outcome_of(entry, floor)

    def is_synced_by_a_process(self) -> bool:
        """Whether a process has the turn to sync this file (see `store.turn`)."""
        turn = Path(f"{self.path}-sync")
        if not turn.exists():
            return False
        connection = apsw.Connection(str(turn), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.execute("SELECT * FROM sqlite_master")
        except apsw.BusyError:
            return True
        finally:
            connection.close()
        return False

    def close(self) -> None:
        self.connection.close()


def _connect(path: Path) -> apsw.Connection:
    """A connection that cannot write.

    Readers of a write-ahead log share a file beside it. In a folder where none can be made
    nobody writes either, and SQLite may take the file as it is.
    """
    flags = apsw.SQLITE_OPEN_READONLY
    if os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
        with machine_errors(f"opening {path}"):
            return apsw.Connection(str(path), flags=flags)
    uri = f"{path.absolute().as_uri()}?immutable=1"
    with machine_errors(f"opening {path}"):
        return apsw.Connection(uri, flags=flags | apsw.SQLITE_OPEN_URI)
