"""The application's tables, as the server keeps them: ordinary SQLite tables.

Rows are given as the fold left them. Whatever one upload changes is written as one
change (H5): all touched rows are deleted, then those that are left are inserted, so
that only the end state has to satisfy the constraints. Foreign keys are checked after
that, and only around the touched rows. SQLite's own enforcement is off, since cascades
are patches already (A8) and must not happen twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from synchrotron.app.ddl import NEW_ID
from synchrotron.app.schema import AUDIENCE, Column, ForeignKey, Schema, Table
from synchrotron.core.ids import Audience
from synchrotron.core.patches import RowKey, Values

UNFIT = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError, apsw.TooBigError)
"""What SQLite raises over a row: a constraint, or an expression that fails."""


class Violation(NamedTuple):
    """Why the end state is invalid, and the row on which it showed."""

    row: RowKey
    reason: str


class _Violated(Exception):
    def __init__(self, row: RowKey, reason: str) -> None:
        self.violation = Violation(row, reason)


class ServerTables:
    """The tables, with the end state of whatever was written last."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.writes: Counter[str] = Counter()
        """By table, how often it was written or rolled back: a version for caches."""
        self._written: set[str] = set()
        self._columns = {t.name: {c.name: c for c in t.columns} for t in schema.tables.values()}
        self._referring: dict[str, list[tuple[Table, ForeignKey]]] = {}
        self.connection = new_database(schema)
        for table in schema.tables.values():
            for i, foreign_key in enumerate(table.foreign_keys):
                self._referring.setdefault(foreign_key.parent, []).append((table, foreign_key))
                # A parent that goes is looked up among its children.
                name = quoted(f"synchrotron_{table.name}_{i}")
                self.connection.execute(
                    f"CREATE INDEX {name} ON {quoted(table.name)} ({listed(foreign_key.columns)})"
                )
        self._defaults = {t.name: self._default_values(t) for t in schema.tables.values()}

    # ---- transactions -------------------------------------------------------------

    def begin(self) -> None:
        self.connection.execute("SAVEPOINT exchange")

    def back_to_begin(self) -> None:
        self.connection.execute("ROLLBACK TO exchange")
        self.writes.update(self._written)  # what was read of them meanwhile does not hold
        self._written.clear()

    def commit(self) -> None:
        self.connection.execute("RELEASE exchange")
        self._written.clear()

    def load(self, rows: Mapping[RowKey, Mapping[Audience, Values]]) -> None:
        """Fill empty tables with rows that were valid before."""
        self.begin()
        violation = self.write(rows)
        self.commit()
        assert violation is None, violation

    # ---- writing ------------------------------------------------------------------

    def write(self, rows: Mapping[RowKey, Mapping[Audience, Values]]) -> Violation | None:
        """Replace rows by what they are now: in one audience, in none, or (a violation) in more.

        Nothing is written where the end state violates a constraint.
        """
        if not rows:
            return None
        tables = {row.table for row in rows}
        self.writes.update(tables)
        self._written |= tables
        self.connection.execute("SAVEPOINT change")
        try:
            self._replace(rows)
        except _Violated as error:
            self.connection.execute("ROLLBACK TO change")
            return error.violation
        finally:
            self.connection.execute("RELEASE change")
        return None

    def _replace(self, rows: Mapping[RowKey, Mapping[Audience, Values]]) -> None:
        removed = [(row, self._delete(row)) for row in rows]
        written = [
            (row, self._insert(row, audience, values))
            for row, homes in rows.items()
            for audience, values in _only_home(row, homes).items()
        ]
        for row, new in written:
            self._require_parents(row, new)
        for row, old in removed:
            if old is not None:
                self._require_no_orphans(row, old)

    def _delete(self, row: RowKey) -> tuple[Any, ...] | None:
        table = self.schema.tables[row.table]
        where = equal(table.key)
        found = self.connection.execute(
            f"DELETE FROM {quoted(table.name)} WHERE {where} RETURNING *",
            table.stored_key(row.key),
        ).fetchall()
        return found[0] if found else None

    def _insert(self, row: RowKey, audience: Audience, values: Values) -> tuple[Any, ...]:
        table = self.schema.tables[row.table]
        try:
            [new] = self.connection.execute(*insertion(table, values, "RETURNING *")).fetchall()
        except UNFIT as error:
            raise _Violated(row, str(error)) from error
        if new[table.audience_position] != audience:
            reason = f"its {AUDIENCE} would be {new[table.audience_position]!r}, not {audience!r}"
            raise _Violated(row, f"a row does not move to another audience: {reason}")
        return new

    def _require_parents(self, row: RowKey, new: tuple[Any, ...]) -> None:
        table = self.schema.tables[row.table]
        for foreign_key in table.foreign_keys:
            values = _pick(table, foreign_key.columns, new)
            if None in values or self._has(foreign_key.parent, foreign_key.parent_columns, values):
                continue
            raise _Violated(row, _dangling(foreign_key, values))

    def _require_no_orphans(self, row: RowKey, old: tuple[Any, ...]) -> None:
        parent = self.schema.tables[row.table]
        for child, foreign_key in self._referring.get(row.table, ()):
            values = _pick(parent, foreign_key.parent_columns, old)
            if None in values or self._has(row.table, foreign_key.parent_columns, values):
                continue
            if self._has(child.name, foreign_key.columns, values):
                # Which row refers to it is not told: this user may not see that.
                raise _Violated(row, _dangling(foreign_key, values))

    def _has(self, table: str, columns: Sequence[str], values: tuple[Any, ...]) -> bool:
        return self._find(table, columns, values) is not None

    def _find(
        self, table: str, columns: Sequence[str], values: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        where = equal(columns)
        sql = f"SELECT * FROM {quoted(table)} WHERE {where} LIMIT 1"
        return self.connection.execute(sql, values).fetchone()

    # ---- reading ------------------------------------------------------------------

    def read(self, name: str) -> list[dict[str, Any]]:
        """All rows of a table as Python values, generated columns included, by key."""
        table = self.schema.tables[name]
        sql = f"SELECT * FROM {quoted(name)} ORDER BY {listed(table.key)}"
        return [
            {c.name: to_python(c, value) for c, value in zip(table.all_columns, row, strict=True)}
            for row in self.connection.execute(sql)
        ]

    def complete(self, name: str, values: Values) -> Values:
        """A row with the defaults of columns that its author's schema did not have yet (S11)."""
        columns = self._columns[name]
        return values if len(values) == len(columns) else {**self._defaults[name], **values}

    def _default_values(self, table: Table) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for column in table.columns:
            if column.name not in table.key:
                stored = self.connection.execute(f"SELECT {column.default or 'NULL'}").get
                values[column.name] = None if stored is None else column.type.to_wire(stored)
        return values


# ---- small helpers ----------------------------------------------------------------


def new_database(schema: Schema) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
    # Only a DEFAULT names it, and every insert here brings its key.
    connection.create_scalar_function(NEW_ID, lambda *_: None, 1)
    for statement in schema.statements:
        connection.execute(statement)
    return connection


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def equal(names: Iterable[str]) -> str:
    return " AND ".join(f"{quoted(name)} = ?" for name in names)


def insertion(table: Table, values: Values, ending: str = "") -> tuple[str, tuple[Any, ...]]:
    """An INSERT of a row in wire form; columns that it does not know get their default."""
    stored = table.stored(values)
    marks = ", ".join("?" * len(stored))
    sql = f"INSERT INTO {quoted(table.name)} ({listed(stored)}) VALUES ({marks}) {ending}"
    return sql, tuple(stored.values())


def to_python(column: Column, stored: Any) -> Any:
    return None if stored is None else column.type.to_python(stored)


def _only_home(row: RowKey, homes: Mapping[Audience, Values]) -> Mapping[Audience, Values]:
    if len(homes) > 1:
        raise _Violated(row, f"it would be in several audiences (S9): {', '.join(sorted(homes))}")
    return homes


def _pick(table: Table, names: Sequence[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
    values = {c.name: value for c, value in zip(table.all_columns, row, strict=True)}
    return tuple(values[name] for name in names)


def _dangling(foreign_key: ForeignKey, values: tuple[Any, ...]) -> str:
    child = ", ".join(f"{c} = {v!r}" for c, v in zip(foreign_key.columns, values, strict=True))
    return f"FOREIGN KEY constraint failed: {child} is in no row of {foreign_key.parent}"
