"""Models as the schema: a `MetaData` as the SQL that `App(schema=…)` takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, FetchedValue, MetaData, Table, types
from sqlalchemy.exc import CompileError, UnsupportedCompilationError
from sqlalchemy.schema import CreateIndex, CreateTable

from synchrotron.app import ddl
from synchrotron.app.schema import Schema, read_schema
from synchrotron.app.types import column_type
from synchrotron.errors import SchemaError
from synchrotron.ext.sqlalchemy.dialect import Dialect

_DIALECT = Dialect()
_REFUSED = {
    types.Interval: "INTERVAL",
    types.PickleType: "a pickle, which differs between versions of Python: JSON",
}
# Functions that are often a column's default, and that no replay can call again.
_IMPURE = re.compile(r"uuid\d|now|utcnow|today|time|time_ns|random|randint|urandom|token_\w+")


def adopt(metadata: MetaData, migrations: Sequence[str]) -> str:
    """The SQL of models, as it was before the migrations, which add what they name.

    From here on SQLAlchemy knows that keys which it leaves out are made by the system.
    Raises `SchemaError`.
    """
    added = _Added(migrations)
    tables = list(metadata.sorted_tables)
    for table in tables:
        for column in table.columns:
            _check(table, column)
        _leave_key_to_us(table)
    first = [table for table in tables if table.name not in added.tables]
    sql = _sql(first, added)
    if migrations:
        grown = read_schema("\n;\n".join((sql, *migrations)))
        _compare(read_schema(_sql(tables, _Added(()))), grown)
    return sql


class _Added:
    """What migrations add."""

    def __init__(self, migrations: Iterable[str]) -> None:
        self.tables: set[str] = set()
        self.columns: set[tuple[str, str]] = set()
        self.indexes: set[str] = set()
        for statement in ddl.split("\n;\n".join(migrations)):
            match part := ddl.read(statement):
                case ddl.CreateTable():
                    self.tables.add(part.name)
                case ddl.AddColumn():
                    self.columns.add((part.name, str(part.definition.column)))
                case ddl.CreateIndex():
                    self.indexes.add(part.name)


def _sql(tables: list[Table], added: _Added) -> str:
    statements = [_create_table(table, added) for table in tables]
    for table in tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [
            _compile(table, CreateIndex(index))
            for index in indexes
            if index.name not in added.indexes
        ]
    return ";\n".join(statements)


def _create_table(table: Table, added: _Added) -> str:
    later = {name for of, name in added.columns if of == table.name}
    foreign_keys = [
        key
        for key in sorted(table.foreign_key_constraints, key=lambda key: list(key.column_keys))
        if not later & {column.name for column in key.columns}
    ]
    create = CreateTable(table, include_foreign_key_constraints=foreign_keys)
    create.columns = [c for c in create.columns if c.element.name not in later]
    return _compile(table, create)


def _compile(table: Table, create: Any) -> str:
    try:
        return str(create.compile(dialect=_DIALECT)).strip()
    except (CompileError, UnsupportedCompilationError) as error:
        raise SchemaError(f"table {table.name}: SQLAlchemy cannot write it: {error}") from error


def _check(table: Table, column: Column[Any]) -> None:
    where = f"table {table.name}, column {column.name}"
    for kind, declared in _REFUSED.items():
        if isinstance(column.type, kind):
            try:
                column_type(declared)
            except SchemaError as error:
                raise SchemaError(f"{where}: {error}") from error
    for default in (column.default, column.onupdate):
        function = getattr(default, "arg", None)
        name = getattr(function, "__name__", "")
        if callable(function) and _IMPURE.fullmatch(name):
            raise SchemaError(
                f"{where}: a replay of the action would get another value of {name}(): leave this "
                "default out. A single TEXT or UUID key that is left out is made by the system; "
                "for other columns write ctx.now, ctx.random or ctx.new_id(…) in the action"
            )


def _leave_key_to_us(table: Table) -> None:
    """Let SQLAlchemy leave a key out of an INSERT and read back what the system made (A3)."""
    (first, *more) = table.primary_key.columns or (None,)
    if first is None or more or not isinstance(first.type, types.String | types.Uuid):
        return
    if first.default is None and first.server_default is None:
        first.server_default = FetchedValue()


def _compare(models: Schema, grown: Schema) -> None:
    """The models must be what the first schema and the migrations come to."""
    for name in models.tables | grown.tables:
        if name not in models.tables or name not in grown.tables:
            raise SchemaError(f"table {name}: migrations add it, and the models do not have it")
        ours, theirs = (
            {
                c.name: (c.type.declared, c.not_null, c.generated)
                for c in schema.tables[name].columns
            }
            for schema in (models, grown)
        )
        for column in ours | theirs:
            if ours.get(column) != theirs.get(column):
                raise SchemaError(
                    f"table {name}, column {column}: the model has {_shown(ours.get(column))}, "
                    f"and the migrations come to {_shown(theirs.get(column))}: write both alike"
                )


def _shown(column: tuple[str, bool, bool] | None) -> str:
    if column is None:
        return "none"
    declared, not_null, _ = column
    return f"{declared} NOT NULL" if not_null else declared
