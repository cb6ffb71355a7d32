"""The application's tables, with the end state of whatever was written last (H5).

Whatever an upload folds is written as one change: all touched rows are deleted, then those
that are left are inserted, so that only the end state has to satisfy the constraints.
Foreign keys are deferred, and checked when all is written.

An upload that only inserts new rows has no end state to be found out: they are inserted by the
acting user, and so judged by the policies at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import errors

from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Audience
from synchrotron.core.patches import Patch, RowKey, Target, Values
from synchrotron.server.database import Asking, Connection, Query, Told, fetch
from synchrotron.server.installed import Installed
from synchrotron.server.parameters import batched
from synchrotron.server.tables import WANTED, placed, rows_json

Home: TypeAlias = tuple[Audience, Values]
"""Where a row is, and what it holds."""
Homes: TypeAlias = Mapping[Audience, Values]


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


class Change:
    """Rows that are replaced by what they are now.

    `homes` gives the audiences in which a row is now: one, none, or (a violation) more.
    """

    def __init__(
        self, live: Live, rows: Iterable[RowKey], homes: Callable[[RowKey], Homes]
    ) -> None:
        self._live = live
        self._all = rows
        self._homes = homes
        self._chunks: list[Sequence[tuple[RowKey, Home]]] = []
        self._rows: dict[RowKey, Homes] = {}
        self.queries = Asking(self._queries())

    def _queries(self) -> Iterator[Query]:
        by_table: dict[str, list[RowKey]] = defaultdict(list)
        for row in self._all:
            by_table[row.table].append(row)
        # Every deletion comes before any insertion of the same table; tables do not meet
        # in anything but foreign keys, which are deferred.
        for table, rows in by_table.items():
            gone = [row for row in rows if self._live.has_written(row) and self._is_changed(row)]
            present = batched(self._present(rows))
            first = next(present, [])
            for chunk in chain([first] if gone or first else [], present):
                if not self._chunks:
                    yield ("SAVEPOINT change",)
                self._chunks.append(chunk)
                yield self._live.writing(table, gone if chunk is first else (), chunk)
        if self._chunks:
            yield ("SELECT synchrotron.check_constraints()",)

    def _present(self, rows: Iterable[RowKey]) -> Iterator[tuple[RowKey, Home]]:
        for row in rows:
            if self._is_changed(row):
                for home in self._rows[row].items():
                    yield row, home

    def _is_changed(self, row: RowKey) -> bool:
        if row not in self._rows:
            homes = self._homes(row)
            if self._live.is_there(row, homes):
                return False
            self._rows[row] = homes
        return True

    def all_rows(self) -> dict[RowKey, Homes]:
        """Those that are not so already, also such as were not reached because another failed."""
        return {row: self._rows[row] for row in self._all if self._is_changed(row)}

    def moved(self, told: Sequence[Sequence[Sequence[Any]]]) -> RowKey | None:
        """The first row that came out in another audience, by what the statements gave."""
        for chunk, places in zip(self._chunks, told[1:], strict=False):
            if places:
                i: int = places[0][0]
                return chunk[i][0]
        return None


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

    def change(self, rows: Iterable[RowKey], homes: Callable[[RowKey], Homes]) -> Change:
        """Replace rows, but for those that are so already."""
        return Change(self, rows, homes)

    def has_written(self, row: RowKey) -> bool:
        return self._written.get(row) is not None

    def is_there(self, row: RowKey, homes: Homes) -> bool:
        """Whether a row is as it was written already. Python's `==` takes 1, 1.0, True for one."""
        home = self._written.get(row)
        if home is None or len(homes) != 1:
            return home is None and not homes
        [(audience, values)] = homes.items()
        same = values is home[1] or text_of(values) == text_of(home[1])
        return audience == home[0] and same

    async def violation(self, change: Change, told: Told) -> Violation | None:
        """Why the end state is invalid, if it is; then nothing of the change is left.

        By what came of it and of what was asked behind it, which is undone as well.
        """
        rows = change.all_rows()
        if len(told.rows) < change.queries.count:
            if not isinstance(told.error, UNFIT):
                assert told.error is not None
                raise told.error
            violated = _Violated(None, _message(told.error))
        elif row := next((row for row, homes in rows.items() if len(homes) > 1), None):
            violated = _Violated(row, _several(rows[row]))
        elif row := change.moved(told.rows):
            violated = _Violated(row, _MOVED)
        elif told.error is not None:  # of what is asked after it
            raise told.error
        else:
            for row, homes in rows.items():
                self._written[row] = next(iter(homes.items()), None)
            return None
        await self._connection.execute(b"ROLLBACK TO SAVEPOINT change")
        return await self._named(rows, violated)

    def inserting(self, rows: Iterable[tuple[Target, Values, Patch]]) -> Iterator[Query]:
        """Insert new rows as the acting user; gives the places of those in another audience."""
        complete = self._installed.defaults.complete
        texts: dict[str, list[str]] = defaultdict(list)
        for i, ((table, _, audience), values, patch) in enumerate(rows):
            whole = complete(table, values)
            text = patch.columns if whole is values else text_of(whole)
            texts[table].append(placed(i, audience, text))
        for table, some in texts.items():
            yield f"SELECT synchrotron.insert_{table}(%s::json)", f"[{','.join(some)}]"

    def writing(
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

    async def _named(self, rows: Mapping[RowKey, Homes], violated: _Violated) -> Violation:
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

    async def _one_by_one(self, rows: Mapping[RowKey, Homes]) -> None:
        for row in rows:
            if self._written.get(row) is not None:
                await fetch(self._connection, *self.writing(row.table, [row], []))
        for row, homes in rows.items():
            if len(homes) > 1:
                raise _Violated(row, _several(homes))
            for home in homes.items():
                try:
                    async with self._connection.transaction():
                        query = self.writing(row.table, [], [(row, home)])
                        if await fetch(self._connection, *query):
                            raise _Violated(row, _MOVED)
                except UNFIT as error:
                    reason = error.reason if isinstance(error, _Violated) else _message(error)
                    raise _Violated(row, reason) from error

    async def _dangling(self, rows: Mapping[RowKey, Homes]) -> RowKey | None:
        """The first written row whose foreign key points nowhere, or that others still point to.

        These are not named: they may be of an audience that this user does not see.
        """
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
            for function in self._referring(row.table):
                if await fetch(
                    self._connection,
                    f"SELECT synchrotron.{function}(%s::json)",
                    rows_json([(0, home[1])]),
                ):
                    return row
        return None

    def _referring(self, parent: str) -> Iterator[str]:
        for child in self._installed.schema.tables.values():
            for i, foreign_key in enumerate(child.foreign_keys):
                if foreign_key.parent == parent:
                    yield f"orphans_{i}_{child.name}"


def _several(homes: Homes) -> str:
    return f"it would be in several audiences (S9): {', '.join(sorted(homes))}"


def _message(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return f"{error.diag.message_primary}. {detail}" if detail else error.diag.message_primary
    return str(error)
