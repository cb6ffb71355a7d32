"""The oracle: what running all accepted actions once, in order, gives (S7)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from synchrotron.app.definition import Definition
from synchrotron.core.records import ActionRecord
from synchrotron.replica.runner import Runner
from synchrotron.store.database import is_machine_error
from synchrotron.store.store import Store

Tables = dict[str, list[dict[str, Any]]]


def serial_tables(definition: Definition, records: Iterable[ActionRecord]) -> Tables:
    """The tables after running `records` once each, in order, on an empty database.

    It shares the running of actions with replicas, and nothing else: no log, no patches,
    no fold, no undo.
    """
    store = Store(definition, ":memory:", entropy=os.urandom, user="oracle")
    runner = Runner(store)
    try:
        for record in sorted(records, key=lambda record: record.order_key):
            action = definition.action_of(record)
            assert action is not None, f"{record.name} is not an action of {definition.name}"
            arguments = action.arguments(record.args)
            store.writer.execute("BEGIN")
            try:
                runner.run(action, record, arguments)
            except Exception as error:
                if is_machine_error(error):
                    raise  # no part of history (A7): it must not pass for a rejection
                store.writer.execute("ROLLBACK")
            else:
                store.writer.execute("COMMIT")
        return tables_of(store)
    finally:
        store.close()


def tables_of(store: Store) -> Tables:
    """All synced rows of a database, in key order, as SQLite holds them."""
    found = {}
    for name, table in store.schema.tables.items():
        names = [column.name for column in table.all_columns]
        rows = store.writer.execute(f"SELECT * FROM {name} ORDER BY {', '.join(table.key)}")
        found[name] = [dict(zip(names, row, strict=True)) for row in rows]
    return found
