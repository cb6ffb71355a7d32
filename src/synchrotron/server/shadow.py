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
from synchrotron.server.database import Connection, Query, fetch_all
from synchrotron.server.installed import Installed
from synchrotron.server.parameters import batched
from synchrotron.server.tables import rows_json

PARTS = 8


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

    async def faults(self, user: str, writes: Iterable[Write]) -> dict[int, str]:
        """What is wrong with which of the writes; all at once where nothing is.

        Rows that a policy hides are found in one go. An error ends its statement and names no
        row: its writes are divided until it is alone.
        """
        tried, found = await self._found(user, writes)
        if found is not None:
            return found
        return {
            at + i: fault
            for at, some in _divided(tried)
            for i, fault in (await self.faults(user, some)).items()
        }

    async def first_fault(self, user: str, writes: Iterable[Write]) -> tuple[int, str] | None:
        """The first of the writes with which something is wrong, and what.

        PostgreSQL tries those that there are while the next are still to be made.
        """
        tried, found = await self._found(user, writes)
        if found is not None:
            return min(found.items(), default=None)
        for at, some in _divided(tried):
            if first := await self.first_fault(user, some):
                return at + first[0], first[1]
        return None

    async def _found(
        self, user: str, writes: Iterable[Write]
    ) -> tuple[list[Write], dict[int, str] | None]:
        """All the writes, and the faults among them; None where one of several is an error."""
        batches = batched(writes)
        tried = next(batches, [])
        if not tried:
            return [], {}
        try:
            return tried, await self._try(tried, batches)
        except errors.InsufficientPrivilege:
            fault = f"a policy forbids {user} to {tried[0].patch.op} this row"
        except (errors.DataError, errors.IntegrityError, errors.ProgrammingError) as error:
            fault = f"PostgreSQL cannot judge this row: {_message(error)}"
        tried += chain.from_iterable(batches)
        await self._connection.execute(b"ROLLBACK TO SAVEPOINT shadow")
        return tried, {0: fault} if len(tried) == 1 else None

    async def _try(self, tried: list[Write], more: Iterable[list[Write]]) -> dict[int, str]:
        """Try these writes and those that are still to come, which are added to them."""

        def queries() -> Iterator[Query]:
            yield ("SAVEPOINT shadow",)
            yield from self._queries(tried, self._first_place)
            for some in more:
                at = self._first_place + len(tried)
                tried.extend(some)
                yield from self._queries(some, at)
            yield ("ROLLBACK TO SAVEPOINT shadow",)

        written = dict(chain.from_iterable(await fetch_all(self._connection, queries())))
        faults: dict[int, str] = {}
        for i, write in enumerate(tried):
            place = self._first_place + i
            if place not in written:
                faults[i] = f"a policy forbids the user to {write.patch.op} this row"
            elif write.after is not None and written[place] != write.target.audience:
                faults[i] = (
                    f"its audience_key is {written[place]}, not {write.target.audience} (S9)"
                )
        return faults

    def _queries(self, writes: Iterable[Write], first_place: int) -> Iterator[Query]:
        for statement, rows in self._statements(dict(enumerate(writes, first_place))):
            yield statement, rows_json(rows)

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


def _divided(writes: Sequence[Write]) -> Iterator[tuple[int, Sequence[Write]]]:
    """Writes in a few parts, each with its place.

    So there are few tries for one fault, and hardly more than one for each where all are faulty.
    """
    size = -(-len(writes) // PARTS)
    for at in range(0, len(writes), size):
        yield at, writes[at : at + size]


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
