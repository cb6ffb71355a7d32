"""Rows: reading and writing images, and applying patches, with foreign keys off.

An *image* is a row's stored columns, without the generated ones. Undo and the applying of
known patches write images: all rows concerned are deleted first, then inserted, so that
what held a UNIQUE value before does not stand in the way of who holds it next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import apsw

from synchrotron.app.schema import Schema, Table
from synchrotron.core.ids import Audience
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.errors import MachineError
from synchrotron.store.database import Database
from synchrotron.store.local import Triggers

Image = tuple[Any, ...]
Images = Mapping[RowKey, Image | None]


class _Sql:
    """The statements for one table."""

    def __init__(self, table: Table) -> None:
        where = " AND ".join(f"{column} = ?" for column in table.key)
        names = ", ".join(column.name for column in table.columns)
        marks = ", ".join("?" for _ in table.columns)
        self.select = f"SELECT * FROM {table.name} WHERE {where}"
        self.delete = f"DELETE FROM {table.name} WHERE {where}"
        self.insert = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
        self.scan = f"SELECT * FROM {table.name} WHERE audience_key = ?"


class Rows:
    """The rows of the synced tables."""

    def __init__(self, database: Database, schema: Schema, triggers: Triggers) -> None:
        self._database = database
        self._triggers = triggers
        self._connection = database.writer
        self._tables = schema.tables
        self._sql = {name: _Sql(table) for name, table in schema.tables.items()}

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Write without foreign keys: what they point to may be hidden from this user."""
        self._database.enforce_foreign_keys(False)
        try:
            yield
        finally:
            self._database.enforce_foreign_keys(True)

    def read(self, row: RowKey) -> tuple[Image, Audience] | None:
        """A row's image and audience."""
        table = self._tables[row.table]
        found = self._connection.execute(
            self._sql[row.table].select, table.stored_key(row.key)
        ).fetchone()
        if found is None:
            return None
        return table.image(found), found[table.audience_position]

    def write(self, images: Images) -> None:
        """Make rows what their images say; None for no row. Raises apsw.ConstraintError."""
        for name, rows in _by_table(images).items():
            table, sql = self._tables[name], self._sql[name]
            keys = [table.stored_key(key) for key in rows]
            self._connection.executemany(sql.delete, keys)
        for name, rows in _by_table(images).items():
            new = [image for image in rows.values() if image is not None]
            self._connection.executemany(self._sql[name].insert, new)

    def insert(self, table: str, images: Iterable[Image]) -> None:
        """Insert many rows that are not there."""
        self._connection.executemany(self._sql[table].insert, images)

    def in_audience(self, audience: Audience) -> Iterator[RowKey]:
        """The keys of every row in an audience."""
        for name, table in self._tables.items():
            for row in self._connection.execute(self._sql[name].scan, (audience,)):
                yield RowKey(name, table.key_of(row))

    # ---- patches ------------------------------------------------------------------

    def apply(self, patches: Mapping[Target, Patch]) -> dict[Target, Image | None]:
        """Apply patches to rows as one change; give what was there before.

        One that cannot be applied (a constraint, a row that is not there or is in another
        audience) is left out, and missing from the result.
        """
        before: dict[Target, Image | None] = {}
        after: dict[Target, Image | None] = {}
        for target, patch in patches.items():
            found = self.read(target.row)
            if found is not None and found[1] != target.audience:
                continue
            old = found[0] if found else None
            if old is None and patch.op != "insert":
                continue
            before[target] = old
            after[target] = self._patched(target, old, patch)
        if self._try(after):
            return before
        return self._apply_singly(before, after, patches)

    def _patched(self, target: Target, old: Image | None, patch: Patch) -> Image | None:
        table = self._tables[target.table]
        if patch.op == "delete":
            return None
        if patch.op == "insert" or old is None:
            return table.to_image(patch.values)
        return table.to_image({**table.values(old), **patch.values})

    def _try(self, images: Mapping[Target, Image | None]) -> bool:
        execute = self._connection.execute
        self._triggers.forget()
        execute("SAVEPOINT synchrotron_apply")
        try:
            self.write({target.row: image for target, image in images.items()})
        except apsw.ConstraintError as error:
            if self._triggers.failed():
                raise MachineError(f"a local trigger failed: {error}") from error
            execute("ROLLBACK TO synchrotron_apply")
            return False
        finally:
            execute("RELEASE synchrotron_apply")
        return True

    def _apply_singly(
        self,
        before: dict[Target, Image | None],
        after: dict[Target, Image | None],
        patches: Mapping[Target, Patch],
    ) -> dict[Target, Image | None]:
        """Deletes first, then the rest by key, repeated while another one fits."""
        left = sorted(after, key=lambda t: (patches[t].op != "delete", t.table, repr(t.key)))
        fitted = True
        while left and fitted:
            fitted = False
            for target in list(left):
                if self._try({target: after[target]}):
                    left.remove(target)
                    fitted = True
        return {target: image for target, image in before.items() if target not in left}


def _by_table(images: Images) -> dict[str, dict[tuple[Any, ...], Image | None]]:
    tables: dict[str, dict[tuple[Any, ...], Image | None]] = {}
    for row, image in images.items():
        tables.setdefault(row.table, {})[row.key] = image
    return tables
