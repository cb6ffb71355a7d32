"""The oracle: what running all accepted actions once, in order, gives (S7).

It shares the running of actions with replicas, and nothing else: no log, no patches, no
fold, no undo. `SerialOracle` is asked again and again about one growing history. It
keeps a savepoint before each action, and lets SQLite itself go back to where a history
parts from the last one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import takewhile
from typing import Any

import apsw

from synchrotron.app.definition import Definition
from synchrotron.app.schema import Schema
from synchrotron.core.records import ActionRecord
from synchrotron.replica.runner import Runner
from synchrotron.store.database import is_machine_error
from synchrotron.store.store import Store

Row = tuple[Any, ...]
Tables = dict[str, list[dict[str, Any]]]
RawTables = dict[str, list[Row]]
"""By table its rows in key order: the columns in the order of the schema, as stored."""


class SerialOracle:
    """What a history gives, for histories that mostly begin like the one before."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._store = Store(definition, ":memory:", entropy=os.urandom, user="oracle")
        self._runner = Runner(self._store)
        self._ran: list[ActionRecord] = []
        self.raised: dict[str, str] = {}
        """Of the last history: the actions that raised, and what, by id."""
        self.idle: set[str] = set()
        """Of the last history: the actions that changed nothing, by id."""
        self._execute = self._store.writer.execute
        self._execute("BEGIN")

    def tables(self, records: Iterable[ActionRecord]) -> RawTables:
        """The tables after running `records` once each, in order, on an empty database."""
        ordered = sorted(records, key=lambda record: record.order_key)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self._ran, ordered, strict=False))
        self._go_back(sum(1 for _ in same))
        for record in ordered[len(self._ran) :]:
            self._run(record)
        return read_tables(self._store.writer, self._store.schema)

    def _go_back(self, count: int) -> None:
        """Undo all but the first `count` actions."""
        if count == len(self._ran):
            return
        self._execute(f"ROLLBACK TO before_{count}")
        self._execute(f"RELEASE before_{count}")
        for record in self._ran[count:]:
            self.raised.pop(record.id, None)
            self.idle.discard(record.id)
        del self._ran[count:]

    def _run(self, record: ActionRecord) -> None:
        savepoint = f"before_{len(self._ran)}"
        action = self._definition.action_of(record)
        assert action is not None, f"{record.name} is not in {self._definition.name}"
        arguments = action.arguments(record.args)
        self._execute(f"SAVEPOINT {savepoint}")
        try:
            _, changes = self._runner.run(action, record, arguments)
        except Exception as error:
            if is_machine_error(error):
                raise  # no part of history (A7): it must not pass for a rejection
            self._execute(f"ROLLBACK TO {savepoint}")
            self.raised[record.id] = f"{type(error).__name__}: {error}"
            changes = []
        if not changes:
            self.idle.add(record.id)
        self._ran.append(record)

    def close(self) -> None:
        self._store.close()


def serial_tables(definition: Definition, records: Iterable[ActionRecord]) -> Tables:
    """The tables after running `records` once each, in order, on an empty database."""
    with closing(SerialOracle(definition)) as oracle:
        oracle.tables(records)
        return tables_of(oracle._store)


def tables_of(store: Store) -> Tables:
    """All synced rows of a database, in key order, as SQLite holds them."""
    raw = read_tables(store.writer, store.schema)
    return {
        name: [dict(zip(columns_of(store.schema, name), row, strict=True)) for row in rows]
        for name, rows in raw.items()
    }


def read_tables(connection: apsw.Connection, schema: Schema) -> RawTables:
    """All synced rows that a connection sees."""
    return {
        name: connection.execute(
            f"SELECT {', '.join(columns_of(schema, name))} FROM {name} "
            f"ORDER BY {', '.join(table.key)}"
        ).fetchall()
        for name, table in schema.tables.items()
    }


def columns_of(schema: Schema, table: str) -> Sequence[str]:
    return [column.name for column in schema.tables[table].all_columns]
