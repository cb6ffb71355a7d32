"""What policies say of a write at its place in history (H6).

Each write is executed as the acting user, in the shadow of its table: there the row is put
as it stood at that place, and the user inserts, updates or deletes it under row level
security. A policy that hides a row lets the statement pass it over without an error, so what
was written is counted. The generated `audience_key` of the row that came out says in which
audience it is, whatever the message says (S9).

Nothing of this stays: the shadow is rolled back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from synchrotron.core.patches import Patch, Target, Values
from synchrotron.server.database import Connection, fetch_all
from synchrotron.server.installed import Installed
from synchrotron.server.tables import rows_json


class Write(NamedTuple):
    """A patch that has an effect at its place, and the row before and after it."""

    target: Target
    patch: Patch
    before: Values | None
    after: Values | None


class Shadow:
    """Tries writes as the acting user. `first_place` tells this transaction's rows apart."""

    def __init__(self, connection: Connection, installed: Installed, first_place: int) -> None:
        self._connection = connection
        self._installed = installed
        self._first_place = first_place

    async def faults(self, user: str, writes: Sequence[Write]) -> dict[int, str]:
        """What is wrong with which of the writes; all at once where nothing is."""
        if not writes or await self._fault(user, writes) is None:
            return {}
        found = {i: await self._fault(user, [write]) for i, write in enumerate(writes)}
        return {i: fault for i, fault in found.items() if fault is not None}

    async def _fault(self, user: str, writes: Sequence[Write]) -> str | None:
        try:
            return await self._try(writes)
        except errors.InsufficientPrivilege:
            return f"a policy forbids {user} to {writes[0].patch.op} this row"
        except (errors.DataError, errors.IntegrityError, errors.ProgrammingError) as error:
            return f"PostgreSQL cannot judge this row: {_message(error)}"
        finally:
            await self._connection.execute(b"ROLLBACK TO SAVEPOINT shadow")

    async def _try(self, writes: Sequence[Write]) -> str | None:
        statements = self._statements(dict(enumerate(writes, self._first_place)))
        results = await fetch_all(
            self._connection,
            ("SAVEPOINT shadow",),
            *((statement, rows_json(rows)) for statement, rows in statements),
        )
        written = dict(chain.from_iterable(results))
        for place, write in enumerate(writes, self._first_place):
            if place not in written:
                return f"a policy forbids the user to {write.patch.op} this row"
            if write.after is not None and written[place] != write.target.audience:
                return f"its audience_key is {written[place]}, not {write.target.audience} (S9)"
        return None

    def _statements(
        self, writes: dict[int, Write]
    ) -> Iterator[tuple[str, list[tuple[int, Values]]]]:
        """The statements that try these writes, each with its rows."""
        by_table: dict[str, dict[int, Write]] = defaultdict(dict)
        for place, write in writes.items():
            by_table[write.target.table][place] = write
        for name, here in by_table.items():
            table, complete = self._installed.tables[name], self._installed.defaults.complete
            there = [
                (place, complete(name, w.before))
                for place, w in here.items()
                if w.patch.op != "insert" and w.before is not None
            ]
            if there:
                yield f"SELECT NULL, NULL FROM synchrotron.place_{name}(%s::json)", there
            inserted = [
                (place, complete(name, w.after))
                for place, w in here.items()
                if w.patch.op == "insert" and w.after is not None
            ]
            if inserted:
                yield table.try_insert, inserted
            for columns, updated in _by_columns(here.items()):
                yield table.try_update(columns), updated
            deleted: list[tuple[int, Values]] = [
                (place, {}) for place, w in here.items() if w.patch.op == "delete"
            ]
            if deleted:
                yield table.try_delete, deleted


def _by_columns(
    writes: Iterable[tuple[int, Write]],
) -> Iterable[tuple[tuple[str, ...], list[tuple[int, Values]]]]:
    """The updates, by the columns that they write."""
    groups: dict[tuple[str, ...], list[tuple[int, Values]]] = defaultdict(list)
    for place, write in writes:
        if write.patch.op == "update":
            values: dict[str, Any] = write.patch.values
            groups[tuple(sorted(values))].append((place, values))
    return groups.items()


def _message(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
