"""Running one action on the database: at first, and again on every replay.

The caller owns the transaction, and rolls back what an action did before it raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import apsw

from synchrotron.app.action import Action, Arguments
from synchrotron.app.context import Context, Parameters, Work
from synchrotron.app.extension import sqlalchemy_extension
from synchrotron.app.row import Row
from synchrotron.app.schema import ForeignKey, Table
from synchrotron.core.patches import RowKey
from synchrotron.core.records import ActionRecord
from synchrotron.errors import (
    AudienceRefused,
    ConstraintError,
    ForeignKeyError,
    KeyRefused,
    MachineError,
    QueryError,
    StatementRefused,
)
from synchrotron.store.capture import Change, Full
from synchrotron.store.database import is_machine_error
from synchrotron.store.footprint import NOTHING, Tables
from synchrotron.store.store import Store


class MissingParent(NamedTuple):
    """A foreign key that points to no row."""

    child: RowKey
    parent: str
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    """In stored form."""
    made_here: bool
    """The action itself took the parent away from a child that is here."""

    def __str__(self) -> str:
        named = ", ".join(f"{c} = {v!r}" for c, v in zip(self.columns, self.values, strict=True))
        return f"{self.child} points to {self.parent} with {named}, which is not there"


class PointsNowhere(ForeignKeyError):
    """A foreign key error, with what is missing (A9)."""

    def __init__(self, missing: list[MissingParent]) -> None:
        super().__init__(
            "; ".join(map(str, missing))
            or "a row that was replaced points to one that this user cannot see: "
            "write INSERT … ON CONFLICT (…) DO UPDATE instead of REPLACE"
        )
        self.missing = missing


class Runner:
    """Runs actions. It is what their contexts execute SQL on."""

    def __init__(self, store: Store, *, replay_all: bool = False) -> None:
        self._store = store
        self.replay_all = replay_all
        """Whether replays leave nothing in place (S2)."""
        self._statements = store.statements
        self.tables = store.schema.tables
        self._failure: BaseException | None = None
        self._is_blurred = False
        self.rested_on: Tables | None = None
        """What decided how the last run came out, beside its record and the rows that it
        changed; None where that is not known (S2)."""

    def run(
        self, action: Action[Any, Any], record: ActionRecord, arguments: Arguments
    ) -> tuple[Any, list[Change]]:
        """Run an action; give its result and what it changed.

        Raises what the action raises, `RefusedInAction` for what it may not do, and
        `MachineError`, also where the action swallowed it (A7).
        """
        store = self._store
        context = Context(record, self)
        self._failure, self._is_blurred, self.rested_on = None, False, None
        self._statements.rested_on = NOTHING
        store.functions.context = context  # from here on SQL's clock and dice are its own
        store.capture.start()
        try:
            result = action.function(context, **arguments.values)
            if context._work is not None:
                context._work.finish()
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            self._note_footprint(store.capture.touched())
            raise
        finally:
            store.capture.stop()
            store.functions.context = None
            context._end()
        if self._failure is not None:
            raise self._failure
        changes = store.capture.changes()
        # A row that came out as it was is no change, but was looked at.
        more = store.capture.left_as_it_was(changes)
        self._note_footprint(store.capture.touched() if more else NOTHING)
        self._check_foreign_keys(changes)
        for change in changes:
            self._check(record, change)
        return result, changes

    def _note_footprint(self, touched: Tables) -> None:
        if not self._is_blurred:
            self.rested_on = self._statements.rested_on | touched

    def _check(self, record: ActionRecord, change: Change) -> None:
        """Judge a change: values in form (A5), audiences kept (A10, A11)."""
        table, old, new = self.tables[change.table], change.old, change.new
        if new is not None:
            table.check_image(new)
        at = table.audience_position
        audience = (new or old)[at]  # type: ignore[index]
        if old is not None and old[at] != audience:
            raise AudienceRefused(
                f"{_row_key(table, old)} would move from audience {old[at]} to {audience}: "
                "delete it and insert it under a new key"
            )
        if record.audiences is not None and audience not in record.audiences:
            raise AudienceRefused(
                f"{_row_key(table, old or new)} lies in audience {audience}, but action "
                f"{record.name} declares {', '.join(record.audiences) or 'none'}: declare it "
                "too, or leave that row alone"
            )

    # ---- what a context executes --------------------------------------------------

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]:
        if self._failure is not None:
            raise self._failure  # the action swallowed it, and SQLite may have rolled back
        try:
            return self._statements.execute(sql, params)
        except BaseException as error:
            self._explain(error)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            self._statements.executemany(sql, rows)
        except BaseException as error:
            self._explain(error)

    def begin_work(self) -> Work:
        work: Work = self._bridge.begin(self)
        return work

    @cached_property
    def _bridge(self) -> Any:
        return sqlalchemy_extension().Bridge(self)

    def columns(self, sql: str) -> Sequence[str]:
        return self._statements.columns(sql)

    def changed_rows(self) -> int:
        return self._statements.changed_rows()

    def _explain(self, error: BaseException) -> NoReturn:
        self._store.capture.doubt()  # a failed statement's changes were rolled back
        self._is_blurred = True  # and which rows were in its way is not known
        local = self._store.triggers.failed()
        if local or is_machine_error(error) or not self._store.writer.in_transaction:
            self._fail(error)
        if isinstance(error, QueryError):
            raise StatementRefused(str(error)) from error
        if not isinstance(error, apsw.Error):
            raise error
        if not isinstance(error, apsw.ConstraintError):
            raise StatementRefused(f"SQLite refuses the statement: {error}") from error
        text = str(error)
        if text.startswith("NOT NULL") and self._names_key(text):
            raise KeyRefused(
                f"{text}: give every column of a primary key a value; a key of one TEXT or UUID "
                "column may be left out of the INSERT, and then gets ctx.new_id of its table"
            ) from error
        raise ConstraintError(text + self._remedy(text)) from error

    def _remedy(self, text: str) -> str:
        """What to do about a constraint, where that can be told."""
        key = self._taken_key(text)
        return (
            f": this key is taken. Leave {key} out of the INSERT or ask ctx.new_id, and no other "
            "action makes the same; to write the row anew, say ON CONFLICT"
            if key
            else ""
        )

    def _taken_key(self, text: str) -> str | None:
        """The primary key that a violated UNIQUE is about, if it is about one of one column."""
        table, _, column = text.removeprefix("UNIQUE constraint failed: ").partition(".")
        found = self._store.schema.tables.get(table)
        return column if found is not None and found.key == (column,) else None

    def _fail(self, error: BaseException) -> NoReturn:
        """Abort the action, also if it swallows this (A7)."""
        self._failure = error
        if isinstance(error, Exception) and not isinstance(error, MachineError):
            self._failure = MachineError(f"{type(error).__name__}: {error}")
            self._failure.__cause__ = error
        raise self._failure

    def _names_key(self, text: str) -> bool:
        table, _, column = text.rpartition(": ")[2].partition(".")
        found = self._store.schema.tables.get(table)
        return found is not None and column in found.key

    # ---- foreign keys at the end of the action (A9) --------------------------------

    def _check_foreign_keys(self, changes: list[Change]) -> None:
        open_ones = self._store.database.unresolved_foreign_keys()
        # SQLite only counts them: a row whose parent is hidden here, and which goes, takes
        # one off the count that a new one has put on.
        if open_ones or self._had_orphan(changes):
            missing = self._missing_parents(changes)
            if open_ones or missing:
                raise PointsNowhere(missing)

    def _had_orphan(self, changes: list[Change]) -> bool:
        for change in changes:
            if change.old is not None and self._was_orphan(change, change.old):
                return True
        return False

    def _was_orphan(self, change: Change, old: Full) -> bool:
        table, new = self.tables[change.table], change.new
        for key in table.foreign_keys:
            if _points_elsewhere(table, new, old, key) and self._orphan(table, old, key):
                return True
        return False

    def _missing_parents(self, changes: list[Change]) -> list[MissingParent]:
        found = []
        for change in changes:
            table, old, new = self.tables[change.table], change.old, change.new
            if new is not None:
                for key in table.foreign_keys:
                    if _points_elsewhere(table, old, new, key):
                        found += self._orphan(table, new, key)
            if old is not None:
                found += self._orphaned_by(table, old)
        return found

    def _orphan(self, child: Table, row: Full, key: ForeignKey) -> list[MissingParent]:
        values = tuple(row[child.position(column)] for column in key.columns)
        if None in values or self._exists(key.parent, key.parent_columns, values):
            return []
        return [
            MissingParent(
                RowKey(child.name, child.key_of(row)), key.parent, key.parent_columns, values, False
            )
        ]

    def _orphaned_by(self, parent: Table, old: Full) -> list[MissingParent]:
        found = []
        for child in self._store.schema.tables.values():
            for key in child.foreign_keys:
                if key.parent != parent.name:
                    continue
                values = tuple(old[parent.position(column)] for column in key.parent_columns)
                if self._exists(parent.name, key.parent_columns, values):
                    continue
                where = " AND ".join(f"{column} = ?" for column in key.columns)
                sql = f"SELECT * FROM {child.name} WHERE {where} LIMIT 1"
                for row in self._store.writer.execute(sql, values):
                    orphan = RowKey(child.name, child.key_of(row))
                    missing = (parent.name, key.parent_columns, values, True)
                    found.append(MissingParent(orphan, *missing))
        return found

    def _exists(self, table: str, columns: tuple[str, ...], values: tuple[Any, ...]) -> bool:
        where = " AND ".join(f"{column} = ?" for column in columns)
        sql = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {where})"
        return bool(self._store.writer.execute(sql, values).get)


def _points_elsewhere(table: Table, a: Full | None, b: Full, key: ForeignKey) -> bool:
    """Whether two images of a row differ in a foreign key."""
    if a is None:
        return True
    for column in key.columns:
        at = table.position(column)
        if a[at] != b[at]:
            return True
    return False


def _row_key(table: Table, row: Full | None) -> RowKey:
    return RowKey(table.name, table.key_of(row or ()))
