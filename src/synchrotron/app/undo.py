"""Undo: an action of ours, by which a replica reverses what another action did.

It is recorded, sent and replayed like every action, and decides anew wherever it is
replayed. What it needs travels in its arguments: each row that the other action changed,
as that was before and after. At its own place in history a row that still holds what the
other action left there gets back what it held before; any other was changed since, and is
left alone. A patch of some columns is compared and reversed by those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from synchrotron.app.action import Action
from synchrotron.app.context import Context
from synchrotron.app.schema import ForeignKey, Schema, Table
from synchrotron.core.patches import RowKey
from synchrotron.errors import ConstraintError

RESERVED = "synchrotron:"
"""Names of actions that begin so are ours."""
UNDO = f"{RESERVED}undo"


class Reversal(msgspec.Struct, frozen=True):
    """A row that an action changed. Columns are in wire form; None stands for no row."""

    table: str
    key: list[Any]
    old: dict[str, Any] | None
    """What it held before: every column, or those that were changed."""
    new: dict[str, Any] | None
    """What the action left there, in the same columns."""

    @property
    def row(self) -> RowKey:
        return RowKey(self.table, tuple(self.key))

    @property
    def columns(self) -> Mapping[str, Any]:
        return {**(self.old or {}), **(self.new or {})}


class Undone(NamedTuple):
    """What undoing an action did at first."""

    reversed: tuple[RowKey, ...]
    """The rows that are as they were before the action."""
    left_alone: Mapping[RowKey, str]
    """The rows that are not, each with the reason."""


def undo_action(schema: Schema) -> Action[..., Undone]:
    """The action that reverses others on the tables of this schema."""

    def undo(ctx: Context, *, of: str, audience: str, rows: list[Reversal]) -> Undone:
        return _Undoing(ctx, schema, rows).run()

    return Action[..., Undone](undo, name=UNDO, audience="{audience}")


def is_foreign(schema: Schema, args: Mapping[str, Any]) -> bool:
    """Whether an undo is of tables or columns that this schema does not have (S11)."""
    try:
        rows = msgspec.convert(args.get("rows"), list[Reversal])
    except msgspec.ValidationError:
        return False  # then it is not of its form, and running it says so
    return not all(
        row.table in schema.tables and schema.tables[row.table].has_columns(row.columns)
        for row in rows
    )


class _Undoing:
    """One run of the action: what is still to be reversed, and what became of the rest."""

    def __init__(self, ctx: Context, schema: Schema, rows: Iterable[Reversal]) -> None:
        self._ctx = ctx
        self._tables = schema.tables
        self._open = {row.row: row for row in rows}
        self._done: list[RowKey] = []
        self._left: dict[RowKey, str] = {}

    def run(self) -> Undone:
        for name, row in self._open.items():
            if why := self._changed_since(row):
                self._left[name] = why
        self._open = {name: row for name, row in self._open.items() if name not in self._left}
        # One row may wait for another: for its value in a UNIQUE column, or for a row that
        # points to it ON DELETE RESTRICT. So all are tried again as long as another one fits.
        while self._write() or self._delete():
            pass
        return Undone(tuple(sorted(self._done, key=repr)), self._left)

    # ---- is it as the action left it? ----------------------------------------------

    def _changed_since(self, row: Reversal) -> str | None:
        if row.new is None:
            return "there is such a row again" if self._is_there(row, {}) else None
        if self._is_there(row, row.new):
            return None
        return "it was changed since" if self._is_there(row, {}) else "it was deleted since"

    def _is_there(self, row: Reversal, values: Mapping[str, Any]) -> bool:
        """Whether the row is there and holds these values."""
        table = self._tables[row.table]
        stored = table.stored(values)
        # What the undone action's schema did not have is unchanged if it is the default.
        later = table.columns if row.old is None and values else ()
        where = [f"{name} IS ?" for name in (*table.key, *stored)]
        where += [f"{c.name} IS {c.default or 'NULL'}" for c in later if c.name not in stored]
        sql = f"SELECT 1 AS here FROM {table.name} WHERE {' AND '.join(where)}"
        return bool(self._ctx.execute(sql, (*table.stored_key(row.key), *stored.values())))

    # ---- reversing -----------------------------------------------------------------

    def _write(self) -> bool:
        """Reverse updates and deletes; whether any was."""
        rows = [row for row in self._open.values() if row.old is not None]
        return self._try_all(rows, self._writing)

    def _writing(self, row: Reversal) -> tuple[str, tuple[Any, ...]]:
        table = self._tables[row.table]
        stored = table.stored(row.old or {})
        if row.new is None:
            names, marks = ", ".join(stored), ", ".join("?" for _ in stored)
            return f"INSERT INTO {table.name} ({names}) VALUES ({marks})", tuple(stored.values())
        changed = {name: value for name, value in stored.items() if name not in table.key}
        settings = ", ".join(f"{name} = ?" for name in changed)
        sql = f"UPDATE {table.name} SET {settings} WHERE {_equal(table.key)}"
        return sql, (*changed.values(), *table.stored_key(row.key))

    def _delete(self) -> bool:
        """Reverse inserts of rows to which none points that stays; whether any was."""
        going = {name: row for name, row in self._open.items() if row.old is None}
        while kept := [row for row in going.values() if not self._pointing(row) <= going.keys()]:
            for row in kept:
                self._left[row.row] = "other rows point to it"
                del going[row.row]
        return self._try_all(going.values(), self._deleting)

    def _deleting(self, row: Reversal) -> tuple[str, tuple[Any, ...]]:
        table = self._tables[row.table]
        return f"DELETE FROM {table.name} WHERE {_equal(table.key)}", table.stored_key(row.key)

    def _try_all(
        self, rows: Iterable[Reversal], write: Callable[[Reversal], tuple[str, tuple[Any, ...]]]
    ) -> bool:
        before = len(self._done)
        for row in rows:
            self._try(row, *write(row))
        return len(self._done) > before

    def _try(self, row: Reversal, sql: str, values: tuple[Any, ...]) -> None:
        self._ctx.execute("SAVEPOINT undo_row")
        try:
            self._ctx.execute(sql, values)
        except ConstraintError as error:
            self._ctx.execute("ROLLBACK TO undo_row")
            self._left[row.row] = str(error)
        else:
            self._done.append(row.row)
            self._left.pop(row.row, None)
            del self._open[row.row]
        finally:
            self._ctx.execute("RELEASE undo_row")

    # ---- foreign keys --------------------------------------------------------------

    def _pointing(self, row: Reversal) -> set[RowKey]:
        """The rows that point to this one: they would go with it, or lose it."""
        values = self._tables[row.table].stored(row.new or {})
        return {
            found
            for child in self._tables.values()
            for key in child.foreign_keys
            if key.parent == row.table
            for found in self._children(child, key, [values.get(c) for c in key.parent_columns])
        }

    def _children(self, child: Table, key: ForeignKey, values: list[Any]) -> Iterable[RowKey]:
        # `+` makes an expression of a column: it comes as it is stored.
        names = ", ".join(f"+{name} AS {name}" for name in child.key)
        sql = f"SELECT {names} FROM {child.name} WHERE {_equal(key.columns)}"
        types = [child.column(name).type for name in child.key]
        for found in self._ctx.execute(sql, values):
            parts = zip(types, found.values(), strict=True)
            yield RowKey(child.name, tuple(type.to_wire(value) for type, value in parts))


def _equal(names: Iterable[str]) -> str:
    return " AND ".join(f"{name} = ?" for name in names)
