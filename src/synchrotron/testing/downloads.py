"""What a replica is told: events above its floor, rows at it, and snapshots (F1, F2, F6).

An event is *new* where the action or a visible patch of it has a seq beyond the
replica's cursor; it is given whole, with its present patches. The server never filters
by client: a replica's own events repair a lost reply or a restored file.

What an answer costs depends on what happened since the question's cursor, not on
history: only later seqs are looked at, and a row at a floor is a fold of its own
patches. A joined audience costs what is in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any, NamedTuple

from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.core.ids import ActionId, Audience, Seq
from synchrotron.core.messages import (
    Download,
    Event,
    FloorRow,
    Question,
    Resume,
    SnapshotChanges,
    SnapshotRows,
    known_patch,
)
from synchrotron.core.patches import Known, Target, Values
from synchrotron.core.records import ActionRecord
from synchrotron.testing.membership import Viewer
from synchrotron.testing.server_state import State

ROWS_PER_CHUNK = 1000
Complete = Callable[[str, Values], Values]
"""Gives a row of a table the columns that its author's schema did not have yet."""


class _Seen(NamedTuple):
    """An action as one viewer is told of it."""

    record: ActionRecord
    seq: Seq
    patches: dict[Target, Known]

    def seqs(self) -> Iterator[Seq]:
        yield self.seq
        yield from (known.seq for known in self.patches.values())

    def event(self) -> Event:
        patches = sorted(self.patches.items(), key=lambda item: _in_order(item[0]))
        return Event(self.record, self.seq, [known_patch(*item) for item in patches])


class Downloads:
    """Answers questions from what is stored."""

    def __init__(
        self, state: State, tables: Iterable[str], complete: Complete, page_events: int | None
    ) -> None:
        self._state = state
        self._complete = complete
        self._places = {name: place for place, name in enumerate(tables)}
        self._page_events = page_events

    def needs_rebase(self, viewer: Viewer, question: Question) -> bool:
        """Whether a joined audience lost history that the replica's floor needs (F6).

        That is where something *of this audience* was pruned above the replica's floor: a
        project that someone has just created is no reason to rebase.
        """
        floors = (self._state.scope(a).floor for a in _joined(viewer, question))
        return any(floor > (question.floor or FIRST) for floor in floors if floor is not None)

    def page(self, viewer: Viewer, question: Question, events_max: int) -> Download:
        """What is new, up to the end of a page."""
        end = self._page_end(
            viewer, question.cursor, min(events_max, self._page_events or events_max)
        )
        return self._download(viewer, question, upto=end, horizon=end, newest=self._state.seq)

    def beside_upload(self, viewer: Viewer, question: Question, before: Seq) -> Download:
        """What is new, without the upload itself: it stored everything above `before`."""
        horizon = self._state.seq
        return self._download(viewer, question, upto=before, horizon=horizon, newest=before)

    def _download(
        self, viewer: Viewer, question: Question, *, upto: Seq, horizon: Seq, newest: Seq
    ) -> Download:
        """Events that happened by `upto`, with patches up to `newest` (F2a)."""
        floor = question.floor or FIRST
        joined = _joined(viewer, question)
        events = sorted(self._events(viewer, question.cursor, joined, upto, newest), key=_place)
        below = [seen for seen in events if seen.record.order_key <= floor]
        return Download(
            horizon=horizon,
            token=self._state.token_of(horizon) or "",
            audiences=sorted(viewer.audiences),
            events=[seen.event() for seen in events[len(below) :]],
            rows=list(self._floor_rows(floor, joined, {t for s in below for t in s.patches})),
            below=max((seq for seen in below for seq in seen.seqs()), default=Seq(0)),
            more=horizon < self._state.seq,
            newest=self._state.seq,
            newest_token=self._state.token_of(self._state.seq) or "",
        )

    def _events(
        self, viewer: Viewer, cursor: Seq, joined: set[Audience], upto: Seq, newest: Seq
    ) -> Iterator[_Seen]:
        """What is new after `cursor`; in a joined audience everything is."""
        after = dict.fromkeys((id for _, id in self._state.since(cursor)), cursor)
        after |= {id: Seq(0) for a in joined for id in self._state.scope(a).actions}
        for id, since in after.items():
            seen = self._seen(viewer, id, newest)
            if seen and any(since < seq <= upto for seq in seen.seqs()):
                yield seen

    def _seen(self, viewer: Viewer, id: ActionId, newest: Seq) -> _Seen | None:
        action = self._state.actions[id]
        if not viewer.sees(action):
            return None
        known = {target: stored.known for target, stored in viewer.patches_of(action).items()}
        patches = {target: k for target, k in known.items() if k.seq <= newest}
        return _Seen(action.record, action.seq, patches)

    def _floor_rows(
        self, floor: OrderKey, joined: set[Audience], touched: set[Target]
    ) -> Iterator[FloorRow]:
        """Rows as they stand at the replica's floor: those of joined audiences, and `touched`.

        A touched row that is not there is told as such; the replica may have it.
        """
        targets = touched.union(*(self._state.scope(audience).targets for audience in joined))
        for target in sorted(targets, key=_in_order):
            row = self._state.row_through(target, floor)
            if row is not None or target in touched:
                yield self._floor_row(target, row)

    def _floor_row(self, target: Target, row: Values | None) -> FloorRow:
        values = None if row is None else dict(self._complete(target.table, row))
        return FloorRow(target.table, list(target.key), target.audience, values)

    def _page_end(self, viewer: Viewer, cursor: Seq, events_max: int) -> Seq:
        """The last seq before one event too many."""
        found: set[ActionId] = set()
        for seq, id in self._state.since(cursor):
            if id in found or not self._shows(viewer, id, seq):
                continue
            if len(found) == events_max:
                return Seq(seq - 1)
            found.add(id)
        return self._state.seq

    def _shows(self, viewer: Viewer, id: ActionId, seq: Seq) -> bool:
        seen = self._seen(viewer, id, self._state.seq)
        return seen is not None and seq in seen.seqs()

    # ---- snapshots ----------------------------------------------------------------

    def can_resume(self, viewer: Viewer, resume: Resume) -> bool:
        """Whether a snapshot that broke off can go on: all that changed since is known."""
        return (
            resume.horizon >= self._state.pruned
            and self._state.token_of(resume.horizon) == resume.token
            and viewer.audiences == frozenset(resume.audiences)
            and resume.table in self._places
        )

    def snapshot_changes(self, viewer: Viewer, resume: Resume) -> Iterator[SnapshotChanges]:
        """What happened since to the rows that a replica has, as they are now."""
        last = self._in_snapshot_order(resume.target)
        targets = {
            target
            for _, id in self._state.since(resume.horizon)
            for target, stored in viewer.patches_of(self._state.actions[id]).items()
            if stored.known.seq > resume.horizon and self._in_snapshot_order(target) <= last
        }
        rows = [
            self._floor_row(target, self._state.rows.get(target))
            for target in sorted(targets, key=self._in_snapshot_order)
        ]
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            yield SnapshotChanges(rows[start : start + ROWS_PER_CHUNK])

    def snapshot_rows(self, viewer: Viewer, after: Target | None) -> Iterator[SnapshotRows]:
        """All rows of the user's audiences as they are now, in order; those `after` a row."""
        targets = [
            target
            for audience in viewer.audiences
            for target in self._state.scope(audience).targets
            if target in self._state.rows
        ]
        targets.sort(key=self._in_snapshot_order)
        if after is not None:
            last = self._in_snapshot_order(after)
            del targets[: bisect_right(targets, last, key=self._in_snapshot_order)]
        for _, group in groupby(targets, key=_table_and_audience):
            while batch := list(islice(group, ROWS_PER_CHUNK)):
                yield self._chunk(batch)

    def _in_snapshot_order(self, target: Target) -> tuple[int, Audience, tuple[Any, ...]]:
        return self._places[target.table], target.audience, target.key

    def _chunk(self, targets: list[Target]) -> SnapshotRows:
        table, _, audience = targets[0]
        rows = [dict(self._complete(table, self._state.rows[target])) for target in targets]
        return SnapshotRows(table, audience, rows)


def _joined(viewer: Viewer, question: Question) -> set[Audience]:
    return set(viewer.audiences.difference(question.audiences))


def _table_and_audience(target: Target) -> tuple[str, Audience]:
    return target.table, target.audience


def _place(seen: _Seen) -> OrderKey:
    return seen.record.order_key


def _in_order(target: Target) -> tuple[Any, ...]:
    return target.table, target.audience, target.key
