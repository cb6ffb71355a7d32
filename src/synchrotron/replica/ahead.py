"""What lies ahead: later actions that are left in place while earlier ones are replayed (S2).

Most of what comes after a change to history has nothing to do with it. So history is not
undone first: at each place, an action stays as it is unless it has to run again. It has to
if it, or what is known of it, is new; if a row of a table that it rests on has become
another before its place; or if what it wrote was taken back.

In the meantime the rows hold what will be, as far as it stands. What an action that runs
again comes to is right if it looked at none of that. This is found out afterwards, as in
optimistic concurrency control (Kung and Robinson, 1981; for an order that is given in
advance: Gelashvili et al., "Block-STM", 2022): a run whose footprint meets a row that lies
ahead is taken back, those rows are, too, and it runs once more.

To take a row back is to write the image before the *earliest* action ahead that changed it:
that undoes all of them on this row, and so every one of them has to run again. An image
before, once stored, therefore stays right: an action that stays has had none of its rows
taken back, and none of them was another at its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set

from synchrotron.app.schema import Image
from synchrotron.core.patches import RowKey
from synchrotron.store.footprint import Tables, read_footprint
from synchrotron.store.log import Place
from synchrotron.store.rows import Images

GLANCES_MAX = 8
"""So often what has to run again is sought among all that lies ahead; then all of it does."""


class Ahead:
    """The rows as they are in the end, seen from a place in history that moves towards it."""

    def __init__(
        self, places: Sequence[Place], write: Callable[[Images], None], unique: Tables
    ) -> None:
        """`unique` are the tables whose rows may stand in each other's way."""
        self._places = places
        self._write = write
        self._unique = unique
        self._next = 0
        self._rows: dict[RowKey, list[Place]] = {}
        """Of each row that lies ahead: who changed it, the earliest last."""
        self._tables: Counter[str] = Counter()
        self._taken_back: set[RowKey] = set()
        """Rows that are as they were at this place in history."""
        self._changed: set[str] = set()
        """Tables of which a row is other than it was at this place."""
        self._glances = 0
        for place in reversed(places):
            for row in place.before:
                self._rows.setdefault(row, []).append(place)
                self._tables[row.table] += 1

    def stays(self, place: Place) -> bool:
        """Whether an action need not run again, when its turn has come."""
        if place.footprint is None:
            return False
        return self._changed.isdisjoint(
            read_footprint(place.footprint).tables
        ) and self._taken_back.isdisjoint(place.before)

    def passed(self, place: Place) -> None:
        """Its turn is over: what it did no longer lies ahead, but is history."""
        self._next += 1
        for row in place.before:
            if row not in self._taken_back:
                self._rows[row].pop()
                self._leave(row, 1)

    def _leave(self, row: RowKey, count: int) -> None:
        if not self._rows[row]:
            del self._rows[row]
        self._tables[row.table] -= count
        if not self._tables[row.table]:
            del self._tables[row.table]

    def changed(self, rows: Iterable[RowKey]) -> None:
        """From here on these rows are other than they were."""
        for row in rows:
            self._taken_back.add(row)
            self._changed.add(row.table)

    def __bool__(self) -> bool:
        """Whether anything lies ahead."""
        return bool(self._rows)

    # ---- taking back ----------------------------------------------------------------

    def met_by(self, rows: Iterable[RowKey], tables: Tables | None) -> bool:
        """Whether anything of what lies ahead is among these rows, or of these tables.

        None for tables that are not known: then everything is.
        """
        if tables is None or not tables.isdisjoint(self._tables):
            return True
        return any(row in self._rows for row in rows)

    def take_back(self, rows: Iterable[RowKey], tables: Tables | None) -> None:
        """Take back what lies ahead of these rows and of these tables; None for all."""
        if tables is None:
            self._take_back(set(self._rows))
            return
        found = {row for row in rows if row in self._rows}
        found |= self._of_tables(tables)
        if found:
            found |= self._with_these(found)
            # A UNIQUE value that one of them had may be another row's by now.
            found |= self._of_tables(self._unique & {row.table for row in found})
            self._take_back(found)

    def _of_tables(self, tables: Tables) -> set[RowKey]:
        if tables.isdisjoint(self._tables):
            return set()
        return {row for row in self._rows if row.table in tables}

    def _with_these(self, rows: set[RowKey]) -> Set[RowKey]:
        """What must run again because of them goes too: modes are switched once, not often."""
        self._glances += 1
        if self._glances > GLANCES_MAX:
            return self._rows.keys()
        follow: set[RowKey] = set()
        for place in self._places[self._next :]:
            if not (rows.isdisjoint(place.before) and self.stays(place)):
                follow.update(row for row in place.before if row in self._rows)
        return follow

    def _take_back(self, rows: Set[RowKey]) -> None:
        images: dict[RowKey, Image | None] = {}
        for row in rows:
            places = self._rows.pop(row)
            images[row] = places[-1].before[row]
            self._rows[row] = []
            self._leave(row, len(places))
        self._taken_back.update(images)
        if images:
            self._write(images)
