"""The application's tables, with the end state of whatever was written last (H5).

Whatever an upload folds is written as one change: all touched rows are deleted, then those
that are left are inserted, so that only the end state has to satisfy the constraints.
Foreign keys are deferred, and checked when all is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import errors

from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Audience
from synchrotron.core.patches import RowKey, Values
from synchrotron.server.database import Connection, Failed, Query, fetch, fetch_all, fetch_each
from synchrotron.server.installed import Installed
from synchrotron.server.parameters import batched
from synchrotron.server.tables import WANTED, rows_json

Home: TypeAlias = tuple[Audience, Values]
"""Where a row is, and what it holds."""


class Violation(NamedTuple):
    """Why the end state is invalid, and the row on which it showed."""

    row: RowKey
    reason: str


class _Violated(Exception):
    def __init__(self, row: RowKey | None, reason: str) -> None:
        self.row, self.reason = row, reason


UNFIT = (
    errors.IntegrityError,
    errors.DataError,
    errors.ProgrammingError,
    errors.ProgramLimitExceeded,  # a value that is too long for an index of the application's
    _Violated,
)


_MOVED = "a row does not move to another audience (A11)"


class Live:
    """Writes rows. `written` says where each touched row is at the beginning."""

    def __init__(
        self, connection: Connection, installed: Installed, written: Mapping[RowKey, Home]
    ) -> None:
        self._connection = connection
        self._installed = installed
        self._at_first = dict(written)
        self._written: dict[RowKey, Home | None] = dict(written)

    def restart(self) -> None:
        """What was written was rolled back."""
        self._written = dict(self._at_first)

    async def write(
        self,
        rows: Mapping[RowKey, Mapping[Audience, Values]],
        then: Callable[[], Iterable[Query]] = tuple,
    ) -> Violation | list[list[Any]]:
        """Replace rows by what they are now: in one audience, in none, or (a violation) in more.

        Nothing is written where the end state violates a constraint. Otherwise: what the
        statements of `then` give, which are made while PostgreSQL writes and asked after it.
        """
        changed = {
            row: homes
            for row, homes in rows.items()
            if not _is_there(homes, self._written.get(row))
        }
        if not changed:
            return await fetch_all(self._connection, then())
        try:
            told = await self._replace(changed, then)
        except _Violated as violated:
            await self._connection.execute(b"ROLLBACK TO SAVEPOINT change")
            return await self._named(changed, violated)
        for row, homes in changed.items():
            self._written[row] = next(iter(homes.items()), None)
        return told

    async def _replace(
        self,
        rows: Mapping[RowKey, Mapping[Audience, Values]],
        then: Callable[[], Iterable[Query]],
    ) -> list[list[Any]]:
        gone: dict[str, list[RowKey]] = defaultdict(list)
        present: dict[str, list[tuple[RowKey, Home]]] = defaultdict(list)
        for row, homes in rows.items():
            if self._written.get(row) is not None:
                gone[row.table].append(row)
            present[row.table] += [(row, home) for home in homes.items()]
        # Every deletion comes before any insertion of the same table; tables do not meet
        # in anything but foreign keys, which are deferred.
        written: list[Sequence[tuple[RowKey, Home]]] = []

        def queries() -> Iterator[Query]:
            yield ("SAVEPOINT change",)
            for table, those in present.items():
                chunks = list(batched(those)) or [[]]
                written.extend(chunks)
                yield self._writing(table, gone[table], chunks[0])
                yield from (self._writing(table, (), chunk) for chunk in chunks[1:])
            yield ("SELECT synchrotron.check_constraints()",)
            yield from then()

        try:
            _, *told = await fetch_each(self._connection, queries())
        except Failed as failed:
            is_of_rows = failed.place <= len(written) + 1  # not of what is asked then
            if is_of_rows and isinstance(failed.error, UNFIT):
                raise _Violated(None, _message(failed.error)) from failed.error
            raise failed.error from None
        for row, homes in rows.items():
            if len(homes) > 1:
                raise _Violated(row, _several(homes))
        for chunk, places in zip(written, told, strict=False):
            if places:
                raise _Violated(chunk[places[0][0]][0], _MOVED)
        return told[len(written) + 1 :]

    def _writing(
        self, table: str, gone: Sequence[RowKey], present: Sequence[tuple[RowKey, Home]]
    ) -> Query:
        complete = self._installed.defaults.complete
        return (
            f"SELECT synchrotron.write_{table}(%s::json, %s::json)",
            rows_json((i, self._key_values(row)) for i, row in enumerate(gone)),
            rows_json(
                (i, {**complete(table, values), WANTED: audience})
                for i, (_, (audience, values)) in enumerate(present)
            ),
        )

    def _key_values(self, row: RowKey) -> Values:
        return dict(zip(self._installed.schema.tables[row.table].key, row.key, strict=True))

    # ---- naming the row ---------------------------------------------------------------

    async def _named(
        self, rows: Mapping[RowKey, Mapping[Audience, Values]], violated: _Violated
    ) -> Violation:
        """The row that violates: written one by one, to see which it is."""
        row, reason = violated.row, violated.reason
        try:
            async with self._connection.transaction() as undo:
                await self._one_by_one(rows)
                row = await self._dangling(rows) or row
                raise psycopg.Rollback(undo)
        except _Violated as found:
            row, reason = found.row, found.reason
        return Violation(row or next(iter(rows)), reason)

    async def _one_by_one(self, rows: Mapping[RowKey, Mapping[Audience, Values]]) -> None:
        for row in rows:
            if self._written.get(row) is not None:
                await fetch(self._connection, *self._writing(row.table, [row], []))
        for row, homes in rows.items():
            if len(homes) > 1:
                raise _Violated(row, _several(homes))
            for home in homes.items():
                try:
                    async with self._connection.transaction():
                        query = self._writing(row.table, [], [(row, home)])
                        if await fetch(self._connection, *query):
                            raise _Violated(row, _MOVED)
                except UNFIT as error:
                    reason = error.reason if isinstance(error, _Violated) else _message(error)
                    raise _Violated(row, reason) from error

    async def _dangling(self, rows: Mapping[RowKey, Mapping[Audience, Values]]) -> RowKey | None:
        """The first row whose foreign key points nowhere: a written one, or one left behind."""
        written = [row for row, homes in rows.items() if homes]
        for row in written:
            if self._installed.schema.tables[row.table].foreign_keys and await fetch(
                self._connection,
                f"SELECT synchrotron.parentless_{row.table}(%s::json)",
                rows_json([(0, self._key_values(row))]),
            ):
                return row
        for row in rows:
            if (home := self._written.get(row)) is None:
                continue
            for function, child in self._referring(row.table):
                orphans = await fetch(
                    self._connection,
                    f"SELECT key FROM synchrotron.{function}(%s::json)",
                    rows_json([(0, home[1])]),
                )
                if orphans:
                    return RowKey(child, tuple(orphans[0][0]))
        return None

    def _referring(self, parent: str) -> Iterator[tuple[str, str]]:
        for child in self._installed.schema.tables.values():
            for i, foreign_key in enumerate(child.foreign_keys):
                if foreign_key.parent == parent:
                    yield f"orphans_{i}_{child.name}", child.name


def _is_there(homes: Mapping[Audience, Values], home: Home | None) -> bool:
    """Whether a row is as it was written already. Python's `==` takes 1, 1.0 and True for one."""
    if home is None or len(homes) != 1:
        return home is None and not homes
    [(audience, values)] = homes.items()
    same = values is home[1] or text_of(values) == text_of(home[1])
    return audience == home[0] and same


def _several(homes: Mapping[Audience, Values]) -> str:
    return f"it would be in several audiences (S9): {', '.join(sorted(homes))}"


def _message(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return f"{error.diag.message_primary}. {detail}" if detail else error.diag.message_primary
    return str(error)
