"""Capture: what one action changed, netted per row (A8).

SQLite's preupdate hook tells of every change, by cascades and REPLACE too, before it is
made. The first old image of each row is kept, and the last new one. Where a statement
failed or a savepoint was used, what the hook saw may not have stayed: then each touched
row is read once more at the end. So a savepoint rolled back inside the action, or a row
inserted and deleted again, leaves nothing. Rows are keyed by primary key, since tables
WITHOUT ROWID give the hook no other.
"""

from __future__ import annotations

from collections.abc import Container, Sized
from typing import Any

import apsw
import msgspec

from synchrotron.app.schema import Schema
from synchrotron.errors import MachineError, ValueRefused

Full = tuple[Any, ...]
"""A row in stored form, with its generated columns, in SQLite's column order."""


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The net change of one row; None for no row."""

    table: str
    old: Full | None
    new: Full | None


class Capture:
    """Watches the writing connection while an action runs."""

    def __init__(self, connection: apsw.Connection, schema: Schema) -> None:
        self._connection = connection
        self._tables = schema.tables
        self._active = False
        self._first: dict[tuple[str, Full], Full | None] = {}
        self._last: dict[tuple[str, Full], Full | None] = {}
        self._exact = True
        self.failure: BaseException | None = None
        """Why a change was not seen. The action has failed, whatever it makes of it."""
        self._select = {
            table.name: f"SELECT * FROM {table.name} WHERE "
            + " AND ".join(f"{column} = ?" for column in table.key)
            for table in schema.tables.values()
        }
        # Installed also while no action runs: a DELETE without WHERE that was prepared
        # without a hook would later empty its table unseen.
        connection.preupdate_hook(self._seen)

    def start(self) -> None:
        """Capture from here to `stop()`; then `changes()` gives the net result."""
        self._first, self._last, self.failure = {}, {}, None
        self._exact = True
        self._active = True

    def stop(self) -> None:
        self._active = False

    def doubt(self) -> None:
        """Something may have been rolled back: what the hook saw last is not trusted."""
        self._exact = False

    def _seen(self, update: apsw.PreUpdate) -> None:
        if not self._active:
            return
        try:
            table = self._tables.get(update.table_name)
            if table is None or update.database_name != "main":
                return
            old, new = update.old, update.new
            if old is not None:
                row = (table.name, tuple([old[p] for p in table.key_positions]))
                self._first.setdefault(row, old)
                self._last[row] = None
            if new is not None:
                row = (table.name, tuple([new[p] for p in table.key_positions]))
                self._first.setdefault(row, None)
                self._last[row] = new
        except BaseException as error:
            # The statement fails with it; an action that swallows that fails all the same.
            self.failure = _explained(error, update.table_name)
            raise self.failure from error

    def changes(self) -> list[Change]:
        """Every row that is now other than before, in the order of first touch."""
        if self.failure is not None:
            raise self.failure
        found = []
        for row, old in self._first.items():
            table = row[0]
            new = self._last[row] if self._exact else self._read(*row)
            if new is not None and (reals := self._tables[table].real_positions):
                new = _realified(new, reals)
            if (old is None and new is not None) or not same_row(old, new):
                found.append(Change(table, old, new))
        return found

    def touched(self) -> frozenset[str]:
        """The tables of every row that was written, also of those that came out as they were."""
        return frozenset([table for table, _ in self._first])

    def left_as_it_was(self, changes: Sized) -> bool:
        """Whether a row was written that is not among these changes: it came out as before."""
        return len(self._first) > len(changes)

    def _read(self, table: str, key: Full) -> Full | None:
        return self._connection.execute(self._select[table], key).fetchone()


def _realified(row: Full, reals: Container[int]) -> Full:
    """A row with whole numbers in REAL columns as the floats they are.

    SQLite stores those as integers, and the hook of older versions (3.50) gives them so.
    """
    return tuple(
        float(value) if at in reals and type(value) is int else value
        for at, value in enumerate(row)
    )


def _explained(error: BaseException, table: str) -> BaseException:
    if isinstance(error, UnicodeDecodeError):
        return ValueRefused(
            f"table {table}: a text that is not UTF-8 was to be stored ({error}): "
            "leave the CAST of a blob out, or use BYTEA"
        )
    if isinstance(error, Exception):
        return MachineError(f"table {table}: a change could not be captured: {error!r}")
    return error


def same_row(a: Full | None, b: Full | None) -> bool:
    """Whether two images are the same, types included: Python's == calls 1 and 1.0 equal."""
    return a == b and (a is None or b is None or list(map(type, a)) == list(map(type, b)))
