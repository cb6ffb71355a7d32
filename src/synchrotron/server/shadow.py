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
from synchrotron.server.database import Asking, Connection, Query, Told, fetch_until
from synchrotron.server.installed import Installed
from synchrotron.server.parameters import batched
from synchrotron.server.tables import WANTED, rows_json

PARTS = 8
ABOUT_ROWS = (errors.DataError, errors.IntegrityError, errors.ProgrammingError)


class Write(NamedTuple):
    """A patch that has an effect at its place, and the row before and after it."""

    target: Target
    patch: Patch
    before: Values | None
    after: Values | None


class Tries:
    """Writes that are tried while the next are still to be made."""

    def __init__(self, installed: Installed, writes: Iterable[Write], first_place: int) -> None:
        self._installed = installed
        self._batches = batched(writes)
        self._first_place = first_place
        self._made: list[Write] = []
        self.queries = Asking(self._queries())

    def all_writes(self) -> list[Write]:
        """Also those that were not made yet because another one failed: they are made now."""
        self._made += chain.from_iterable(self._batches)
        return self._made

    def _queries(self) -> Iterator[Query]:
        for some in self._batches:
            place = self._first_place + len(self._made)
            self._made += some
            if place == self._first_place:
                yield ("SAVEPOINT shadow",)
            for statement, rows in self._statements(dict(enumerate(some, place))):
                yield statement, rows_json(rows)
        if self._made:
            yield ("ROLLBACK TO SAVEPOINT shadow",)

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
                yield f"SELECT FROM synchrotron.place_{name}(%s::json)", there  # gives nothing
            inserted: list[tuple[int, Values]] = [
                (place, {**complete(name, w.after), WANTED: w.target.audience})
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

    def broke_off(self, told: Told) -> bool:
        """Whether one of the statements failed, by what came of them and of those behind them."""
        return len(told.rows) < self.queries.count

    def faults(self, told: Told) -> dict[int, str]:
        """What is wrong with which of the writes, where none of the statements failed."""
        faults: dict[int, str] = {}
        for place, is_hidden, audience in chain.from_iterable(told.rows[: self.queries.count]):
            i = place - self._first_place
            write = self._made[i]
            faults[i] = (
                f"a policy forbids the user to {write.patch.op} this row"
                if is_hidden
                else f"its audience_key is {audience}, not {write.target.audience} (S9)"
            )
        return faults


class Shadow:
    """Tries writes as the acting user. `first_place` tells this transaction's rows apart."""

    def __init__(self, connection: Connection, installed: Installed, first_place: int) -> None:
        self._connection = connection
        self._installed = installed
        self._first_place = first_place

    def tries(self, writes: Iterable[Write]) -> Tries:
        return Tries(self._installed, writes, self._first_place)

    async def faults(self, user: str, writes: Sequence[Write]) -> dict[int, str]:
        """What is wrong with which of the writes; all at once where nothing is.

        Rows that a policy hides are found in one go. An error ends its statement and names no
        row: its writes are divided until it is alone.
        """
        if not writes:
            return {}
        tries = self.tries(writes)
        told = await fetch_until(self._connection, tries.queries)
        found = await self._found(user, tries, told)
        if found is not None:
            return found
        return {
            at + i: fault
            for at, some in _divided(writes)
            for i, fault in (await self.faults(user, some)).items()
        }

    async def first_fault(self, user: str, tries: Tries, told: Told) -> tuple[int, str] | None:
        """The first of the writes with which something is wrong, by what came of trying them.

        None also where they are an error together and none of them is one alone: a policy may
        have been asked of a row that another statement wrote.
        """
        found = await self._found(user, tries, told)
        if found is not None:
            return min(found.items(), default=None)
        for at, some in _divided(tries.all_writes()):
            part = self.tries(some)
            told_of_it = await fetch_until(self._connection, part.queries)
            if first := await self.first_fault(user, part, told_of_it):
                return at + first[0], first[1]
        return None

    async def _found(self, user: str, tries: Tries, told: Told) -> dict[int, str] | None:
        """The faults among the writes; None where one of several is an error."""
        if not tries.broke_off(told):
            return tries.faults(told)
        writes, error = tries.all_writes(), told.error
        if isinstance(error, errors.InsufficientPrivilege):
            fault = f"a policy forbids {user} to {writes[0].patch.op} this row"
        elif isinstance(error, ABOUT_ROWS):
            fault = f"PostgreSQL cannot judge this row: {_message(error)}"
        else:
            assert error is not None
            raise error
        await self._connection.execute(b"ROLLBACK TO SAVEPOINT shadow")
        return {0: fault} if len(writes) == 1 else None


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
            row = {**values, WANTED: write.target.audience}
            groups[tuple(sorted(values))].append((place, row))
    return groups.items()


def _message(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
