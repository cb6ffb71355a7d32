"""Installing local tables, and filling them from rows that are already there."""

from __future__ import annotations

import apsw

from synchrotron.app.local import Local
from synchrotron.app.schema import Schema


def install_triggers(connection: apsw.Connection, local: Local) -> None:
    """TEMP triggers live with the connection: made anew each time one is opened."""
    for trigger in local.triggers:
        connection.execute(trigger)


def rebuild(connection: apsw.Connection, schema: Schema, local: Local, old: list[str]) -> None:
    """Drop the `old` local tables, make the new ones, and let the triggers fill them.

    Every synced row is taken out and put back, so that the INSERT triggers see each once,
    as they would have seen it arrive. Run with foreign keys off, in a transaction.
    """
    for name in old:
        connection.execute(f'DROP TABLE IF EXISTS "{name}"')  # FTS5 drops its shadows itself
    for statement in local.tables:
        connection.execute(statement)
    if not local.triggers:
        return
    names = {
        table.name: ", ".join(column.name for column in table.columns)
        for table in schema.tables.values()
    }
    for table, columns in names.items():
        connection.execute(f"CREATE TEMP TABLE taken_{table} AS SELECT {columns} FROM {table}")
        connection.execute(f"DELETE FROM {table} WHERE true")
    install_triggers(connection, local)
    for table, columns in names.items():
        connection.execute(f"INSERT INTO {table} ({columns}) SELECT * FROM taken_{table}")
        connection.execute(f"DROP TABLE taken_{table}")
