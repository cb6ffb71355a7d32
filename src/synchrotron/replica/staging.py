"""A snapshot on its way: kept beside the database until it is complete.

When it breaks off, what came stays, and the next request asks to resume it. Rows that
changed meanwhile are told first then, and count instead of the ones that came before.

It is kept in a temporary file, so that memory does not grow with it; only where the
database is encrypted, or is in memory itself, it is in memory as well.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

import msgspec

from synchrotron.core.canonical import canonical
from synchrotron.core.messages import (
    FloorRow,
    Resume,
    SnapshotChanges,
    SnapshotEnd,
    SnapshotHead,
    SnapshotRows,
)
from synchrotron.core.patches import Target
from synchrotron.errors import MachineError, ProtocolError
from synchrotron.store.store import Store

Rows = Iterable[dict[str, Any]]


class Staging:
    """The chunks of a snapshot as they come, a line of JSON each."""

    def __init__(self, store: Store) -> None:
        self._tables = store.schema.tables
        self._keys = {table.name: table.key for table in store.schema.tables.values()}
        self.left_out = False
        """Whether something came that this schema has no place for (S11)."""
        self._on_disk = store.database.is_plain_file
        self._file: IO[bytes] = io.BytesIO()
        self._changed: dict[str, bytes] = {}
        """By place, the rows that changed after they came."""
        self._rows = 0
        self.head: SnapshotHead | None = None
        self.resume: Resume | None = None
        """Where to go on after this snapshot broke off, if any row of it came."""

    def take(self, chunk: SnapshotHead | SnapshotChanges | SnapshotRows | SnapshotEnd) -> bool:
        """Keep a chunk; True once the snapshot is complete.

        Raises `ProtocolError`, and `MachineError` where the disk is full.
        """
        match chunk:
            case SnapshotHead():
                self._take_head(chunk)
            case SnapshotChanges():
                for row in chunk.rows:
                    self._note(row.table, (row.values or {},))
                    self._changed[_place(row.target)] = msgspec.json.encode(row)
            case SnapshotRows():
                self._take_rows(chunk)
            case SnapshotEnd():
                if self.head is None or chunk.rows != self._rows:
                    raise ProtocolError(
                        f"the snapshot is incomplete: {self._rows} of {chunk.rows} rows came"
                    )
                return True
        return False

    def _take_head(self, head: SnapshotHead) -> None:
        if head.resumed and self.resume is None:
            raise ProtocolError("the server resumes a snapshot of which nothing came")
        if not head.resumed:
            self.close()
            self._file = _new_file() if self._on_disk else io.BytesIO()
        self.head, self._rows = head, 0

    def _take_rows(self, chunk: SnapshotRows) -> None:
        head = self.head
        if head is None:
            raise ProtocolError("a snapshot begins with its head")
        self._write(msgspec.json.encode(chunk) + b"\n")
        self._rows += len(chunk.rows)
        self._note(chunk.table, chunk.rows)
        if chunk.rows and chunk.table in self._keys:
            # All changes have come by now: what is here is as of this head.
            key = [chunk.rows[-1][name] for name in self._keys[chunk.table]]
            self.resume = Resume(
                head.horizon, head.token, head.audiences, chunk.table, chunk.audience, key
            )

    def _note(self, name: str, rows: Rows) -> None:
        table = self._tables.get(name)
        self.left_out |= any(table is None or not table.has_columns(row) for row in rows)

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self.close()  # a torn line is of no use, nor what would follow it
            self.head = None
            raise MachineError(f"a snapshot cannot be kept on its way: {error}") from error

    def rows(self) -> Iterator[tuple[str, Rows]]:
        """The rows of the tables that this replica has, some at a time."""
        decode = msgspec.json.Decoder(SnapshotRows).decode
        self._file.seek(0)
        for line in self._file:
            chunk = decode(line)
            if chunk.table in self._keys:
                yield chunk.table, self._unchanged(chunk) if self._changed else chunk.rows
        for encoded in self._changed.values():
            row = msgspec.json.decode(encoded, type=FloorRow)
            if row.table in self._keys and row.values is not None:
                yield row.table, (row.values,)

    def _unchanged(self, chunk: SnapshotRows) -> Iterator[dict[str, Any]]:
        for row in chunk.rows:
            key = tuple(row[name] for name in self._keys[chunk.table])
            if _place(Target(chunk.table, key, chunk.audience)) not in self._changed:
                yield row

    def close(self) -> None:
        """Forget everything."""
        with suppress(OSError):  # of a full disk, which was told already
            self._file.close()
        self._changed.clear()
        self.left_out = False
        self.resume = None


def _new_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="synchrotron-")
    except OSError as error:
        raise MachineError(f"a snapshot cannot be kept on its way: {error}") from error


def _place(target: Target) -> str:
    return canonical([target.table, target.audience, list(target.key)])
