"""Installing local tables, and filling them from rows that are already there.

An error in a local trigger is this machine's: it may not become part of history (A7). It
reaches us as the error of the statement that fired the trigger, so each trigger says when it
begins and when it has ended: an error in between is its own.
"""

from __future__ import annotations

from typing import Any

import apsw

from synchrotron.app import ddl
from synchrotron.app.local import Local
from synchrotron.app.schema import Schema


class Triggers:
    """The local triggers of the writing connection, and whether one is running."""

    def __init__(self, connection: apsw.Connection, local: Local) -> None:
        self._connection = connection
        self._triggers = local.triggers
        self._depth = 0
        connection.create_scalar_function("synchrotron_local_begins", self._begins, 0)
        connection.create_scalar_function("synchrotron_local_ends", self._ends, 0)

    def install(self) -> None:
        """TEMP triggers live with the connection: made anew each time one is opened."""
        for trigger in self._triggers:
            self._connection.execute(_reporting(trigger))

    def failed(self) -> bool:
        """Whether the statement that just failed did so within a trigger."""
        inside, self._depth = self._depth > 0, 0
        return inside

    def forget(self) -> None:
        """Whatever failed before was another statement."""
        self._depth = 0

    def _begins(self, *_: Any) -> None:
        self._depth += 1

    def _ends(self, *_: Any) -> None:
        self._depth -= 1


def _reporting(trigger: str) -> str:
    tokens = list(ddl.tokens_of(trigger))
    begin = next(token.end for token in tokens if token.word == "BEGIN")
    end = next(token.start for token in reversed(tokens) if token.word == "END")
    return (
        f"{trigger[:begin]} SELECT synchrotron_local_begins(); {trigger[begin:end]} "
        f"SELECT synchrotron_local_ends(); {trigger[end:]}"
    )


def rebuild(
    connection: apsw.Connection, schema: Schema, local: Local, triggers: Triggers, old: list[str]
) -> None:
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
    triggers.install()
    for table, columns in names.items():
        connection.execute(f"INSERT INTO {table} ({columns}) SELECT * FROM taken_{table}")
        connection.execute(f"DROP TABLE taken_{table}")
