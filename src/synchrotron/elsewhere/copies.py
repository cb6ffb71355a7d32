"""Rows in a database of their own, to run actions on and forget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeAlias

from synchrotron.app.definition import Definition
from synchrotron.replica.replica import Replica
from synchrotron.store.rows import Image
from synchrotron.store.store import Store

Rows: TypeAlias = dict[str, list[Image]]
"""The rows of each table, as images."""


def rows_of(replica: Replica) -> Rows:
    """The synced rows of a replica, as of its last commit."""
    store = replica._engine.store
    with replica._engine.lock:
        return {
            name: [table.image(row) for row in store.writer.execute(f"SELECT * FROM {name}")]
            for name, table in store.schema.tables.items()
        }


@contextmanager
def copied(definition: Definition, rows: Rows) -> Iterator[Store]:
    """A database in memory with these rows. Some may point to ones that are not there."""
    with closing(Store(definition, ":memory:", entropy=os.urandom, user="a copy")) as copy:
        with copy.rows.unchecked():
            for name, images in rows.items():
                copy.rows.insert(name, images)
        yield copy


@contextmanager
def undone(store: Store) -> Iterator[Callable[[str], object]]:
    """A transaction that is rolled back at its end."""
    store.writer.execute("BEGIN")
    try:
        yield store.writer.execute
    finally:
        store.writer.execute("ROLLBACK")
