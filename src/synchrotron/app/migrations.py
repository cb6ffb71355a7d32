"""Migrations: how a schema grows under data, history and older replicas.

A migration only adds: tables, columns that rows from before can have, indexes that cannot
fail on the rows of some machine. So everything that was ever true stays so. An old action
runs on the new schema, an old patch of a whole row means the defaults of newer columns, and
a replica that has not been migrated yet leaves out what it does not know (S11).
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from synchrotron.app import ddl
from synchrotron.app.schema import Schema, read_schema
from synchrotron.errors import SchemaError

_ONLY_ADDS = {
    "DROP": "leave it and use it no more: older replicas and history still name it",
    "UPDATE": "data changes in actions; write one and run it, so that it is recorded and synced",
    "INSERT": "data changes in actions; write one and run it, so that it is recorded and synced",
    "DELETE": "data changes in actions; write one and run it, so that it is recorded and synced",
    "RENAME": "history names it as it is: add a new one beside it, and fill it by an action",
    "ALTER": "add a new column beside it, and fill it by an action",
}


def read_sources(schema: str, migrations: Sequence[str]) -> Schema:
    """The schema after all migrations, which only add to it. Raises `SchemaError`."""
    for number, migration in enumerate(migrations, 1):
        try:
            _check(migration)
        except SchemaError as error:
            raise SchemaError(f"migration {number}: {error}") from error
    try:
        return read_schema(joined(schema, migrations))
    except SchemaError as error:
        raise _located(error, schema, migrations) from error


def joined(schema: str, migrations: Sequence[str]) -> str:
    return "\n;\n".join((schema, *migrations))


def _located(error: SchemaError, schema: str, migrations: Sequence[str]) -> SchemaError:
    """The error, with the migration that brought it."""
    for number in range(len(migrations)):
        try:
            read_schema(joined(schema, migrations[:number]))
        except SchemaError:
            return error if number == 0 else SchemaError(f"migration {number}: {error}")
    return SchemaError(f"migration {len(migrations)}: {error}") if migrations else error


def _check(migration: str) -> None:
    """Refuse what does more than add, by its words."""
    statements = list(ddl.split(migration))
    if not statements:
        raise SchemaError("it has no statement; leave it out")
    created: set[str] = set()
    for statement in statements:
        _check_adds(statement)
        match ddl.read(statement):
            case ddl.CreateTable() as table:
                created.add(table.name)
            case ddl.CreateIndex() as index:
                _check_index(statement, index.name, created)
            case ddl.AddColumn() as column:
                _check_column(column, created)


def _check_adds(statement: ddl.Statement) -> None:
    words = [token.word for token in statement.tokens]
    # ALTER TABLE t does what follows.
    kind = words[3] if words[:2] == ["ALTER", "TABLE"] and len(words) > 3 else words[0]
    if remedy := _ONLY_ADDS.get(kind):
        raise SchemaError(f"a migration only adds. {remedy}\n{statement.text}")


def _check_index(statement: ddl.Statement, name: str, created: set[str]) -> None:
    words = [token.word for token in statement.tokens]
    table = statement.tokens[words.index("ON") + 1].text if "ON" in words[:-1] else ""
    if words[1] == "UNIQUE" and table not in created:
        raise SchemaError(
            f"UNIQUE INDEX {name}: rows that are there already may hold a value twice, and so may "
            f"older replicas' actions; leave UNIQUE out, and let actions look, or make a new "
            f"table instead of {table}"
        )


def _check_column(column: ddl.AddColumn, created: set[str]) -> None:
    definition = column.definition
    where = f"table {column.name}, column {definition.column}"
    for constraint in ("UNIQUE", "PRIMARY"):
        if definition.has(constraint):
            raise SchemaError(
                f"{where}: {constraint} cannot be added later, since all rows that are there "
                "would hold the same value; make a new table"
            )
    if column.name not in created and definition.has("CHECK"):
        _check_condition(where, column)


def _check_condition(where: str, column: ddl.AddColumn) -> None:
    """A CHECK must hold for the default, whatever else a row holds."""
    text = column.statement.text[column.definition.tokens[0].start : column.definition.end]
    trial = apsw.Connection(":memory:")
    try:
        trial.execute(f"CREATE TABLE probe ({text})")
        trial.execute("INSERT INTO probe DEFAULT VALUES")
    except apsw.ConstraintError as error:
        raise SchemaError(
            f"{where}: rows that are there already break its CHECK; give it another DEFAULT"
        ) from error
    except apsw.SQLError as error:
        raise SchemaError(
            f"{where}: SQLite refuses its CHECK: {error}. One that is added later speaks of its "
            "own column alone, since rows that are there already may break any other"
        ) from error
    finally:
        trial.close()
