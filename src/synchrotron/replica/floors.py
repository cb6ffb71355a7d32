"""Floors: pruning, and starting anew from a snapshot (SPEC section 7).

Below its floor a replica keeps rows but no history. Pruning raises the floor and changes
no row (F5). A snapshot replaces rows and floor at once; pending actions are kept, stamped
anew in their order, and run again on it (F4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from synchrotron.core.canonical import canonical
from synchrotron.core.clock import FIRST, Timestamp, order_key, tick, timestamp_of
from synchrotron.core.ids import Audience, Seq, action_id
from synchrotron.core.messages import (
    FloorRow,
    Resume,
    SnapshotChanges,
    SnapshotEnd,
    SnapshotHead,
    SnapshotRows,
)
from synchrotron.core.patches import Target
from synchrotron.errors import ProtocolError
from synchrotron.replica.outcomes import Outcome, SetAside, outcome_of
from synchrotron.replica.revision import Revised, Revision
from synchrotron.replica.runner import Runner
from synchrotron.store.log import Entry
from synchrotron.store.state import State
from synchrotron.store.store import Store

PRUNE_BATCH = 500


def prune(store: Store, state: State, keep: int) -> int:
    """Forget the history of all but the newest `keep` actions; give how many were pruned.

    The floor rises up to the first pending, unsent or parked action (F3).
    """
    set_aside = SetAside(store.writer)
    parked = min((record.order_key for record, _ in set_aside.parked()), default=None)
    surplus = len(store.log) - keep
    pruned: list[Entry] = []
    for entry in store.log.oldest(max(surplus, 0)):
        if entry.pending or entry.unsent or (parked is not None and entry.key >= parked):
            break
        pruned.append(entry)
    for entry in pruned:
        if entry.own:
            set_aside.put(entry.record, outcome_of(entry, state.server_floor))
        state.floor = entry.key
        state.floor_seq = max(state.floor_seq, entry.newest or state.floor_seq)
        state.n = max(state.n, entry.position)
        state.knows(entry.key)
    store.log.remove(entry.position for entry in pruned)
    return len(pruned)


def restamp(revision: Revision, entries: Iterable[Entry], now_ms: int, latest: Timestamp) -> None:
    """Fresh order keys for pending actions, in their order, above `latest`."""
    for entry in entries:
        latest = tick(now_ms, latest)
        revision.move(entry, order_key(latest, entry.record.client_id))
        entry.sent_in = None


class Staging:
    """A snapshot on its way: kept in temporary tables until it is complete.

    When it breaks off, what came stays, and the next request asks to resume it. Rows that
    changed meanwhile are told first then, and count instead of the ones that came before.
    """

    def __init__(self, store: Store) -> None:
        self._writer = store.writer
        self._keys = {table.name: table.key for table in store.schema.tables.values()}
        self.head: SnapshotHead | None = None
        self.resume: Resume | None = None
        """Where to go on after this snapshot broke off, if any row of it came."""
        self._rows = 0
        self._begin()

    def _begin(self) -> None:
        self.close()
        self._writer.execute("CREATE TEMP TABLE synchrotron_staged (chunk BLOB)")
        self._writer.execute(
            "CREATE TEMP TABLE synchrotron_changed (target TEXT PRIMARY KEY, row BLOB)"
        )

    def take(self, chunk: SnapshotHead | SnapshotChanges | SnapshotRows | SnapshotEnd) -> bool:
        """Keep a chunk; True once the snapshot is complete. Raises `ProtocolError`."""
        match chunk:
            case SnapshotHead():
                self._take_head(chunk)
            case SnapshotChanges():
                self._writer.executemany(
                    "INSERT OR REPLACE INTO temp.synchrotron_changed VALUES (?, ?)",
                    ((_place(row.target), msgspec.json.encode(row)) for row in chunk.rows),
                )
            case SnapshotRows():
                self._take_rows(chunk)
            case SnapshotEnd():
                if self.head is None or chunk.rows != self._rows:
                    raise ProtocolError(
                        f"the snapshot is incomplete: {self._rows} of {chunk.rows} rows came"
                    )
                return True
        return False

    def _take_head(self, head: SnapshotHead) -> None:
        if head.resumed and self.resume is None:
            raise ProtocolError("the server resumes a snapshot of which nothing came")
        if not head.resumed:
            self.resume = None
            self._begin()
        self.head, self._rows = head, 0

    def _take_rows(self, chunk: SnapshotRows) -> None:
        head = self.head
        if head is None:
            raise ProtocolError("a snapshot begins with its head")
        self._rows += len(chunk.rows)
        self._writer.execute(
            "INSERT INTO temp.synchrotron_staged VALUES (?)", (msgspec.json.encode(chunk),)
        )
        if chunk.rows and chunk.table in self._keys:
            # All changes have come by now: what is here is as of this head.
            key = [chunk.rows[-1][name] for name in self._keys[chunk.table]]
            self.resume = Resume(
                head.horizon, head.token, head.audiences, chunk.table, chunk.audience, key
            )

    def rows(self) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
        """The rows of the tables that this replica has, some at a time."""
        changed = {place for (place,) in self._select("target FROM temp.synchrotron_changed")}
        decode = msgspec.json.Decoder(SnapshotRows).decode
        for (blob,) in self._select("chunk FROM temp.synchrotron_staged"):
            chunk = decode(blob)
            if chunk.table in self._keys:
                yield chunk.table, self._unchanged(chunk, changed) if changed else chunk.rows
        for (blob,) in self._select("row FROM temp.synchrotron_changed"):
            row = msgspec.json.decode(blob, type=FloorRow)
            if row.table in self._keys and row.values is not None:
                yield row.table, (row.values,)

    def _select(self, what: str) -> Iterator[tuple[Any, ...]]:
        return self._writer.execute(f"SELECT {what}")

    def _unchanged(self, chunk: SnapshotRows, changed: set[str]) -> Iterator[dict[str, Any]]:
        for row in chunk.rows:
            key = tuple(row[name] for name in self._keys[chunk.table])
            if _place(Target(chunk.table, key, chunk.audience)) not in changed:
                yield row

    def close(self) -> None:
        self._writer.execute("DROP TABLE IF EXISTS temp.synchrotron_staged")
        self._writer.execute("DROP TABLE IF EXISTS temp.synchrotron_changed")


def _place(target: Target) -> str:
    return canonical([target.table, target.audience, list(target.key)])


def rebase(
    store: Store, runner: Runner, state: State, staging: Staging, now_ms: int, *, new_epoch: bool
) -> Revised:
    """Replace rows and history by a staged snapshot; keep the pending actions (F4).

    In a `new_epoch` own records that the server no longer has become pending again (H11).
    """
    head = staging.head
    assert head is not None
    accepted = set(head.accepted)
    set_aside = SetAside(store.writer)
    kept = []
    for entry in store.log.all():
        state.n = max(state.n, entry.position)
        if not entry.own:
            continue
        if entry.record.id in accepted and entry.pending:
            set_aside.put(entry.record, _accepted(entry, head))
        elif entry.pending or (new_epoch and entry.record.id not in accepted):
            kept.append(entry)
        else:
            set_aside.put(entry.record, outcome_of(entry, head.server_floor))
    known = state.audiences
    replaced = _replace_rows(store, staging)
    store.log.clear()
    store.log.pending_from(min((entry.position for entry in kept), default=1))
    state.floor, state.floor_seq = head.floor, Seq(0)
    state.server_floor = head.server_floor
    state.cursor, state.cursor_token = head.horizon, head.token
    state.audiences = frozenset(head.audiences)
    state.bootstrapped = True
    if head.floor is not None:
        state.knows(head.floor)
    left = known - state.audiences
    revised = _bring_back(Revision(store, runner, state), kept, left, now_ms)
    return revised._replace(tables=revised.tables | replaced)


def _bring_back(
    revision: Revision, kept: list[Entry], left: frozenset[Audience], now_ms: int
) -> Revised:
    """Stamp pending actions anew and run them on the snapshot."""
    state = revision.state
    latest = timestamp_of(max(state.clock, state.floor or FIRST))
    for entry in kept:
        if not left.isdisjoint(audiences_of(entry)):
            revision.set_parked(entry.record, "left", "its audience was left")
            continue
        record = entry.record
        position: int | None = entry.position
        if record.client_id != state.client_id:
            # Accepted under an id that this file gave up since (O6); the server lost it.
            position = None
            record = record.renewed(action_id(state.client_id, revision.next_n()))
            revision.set_aside.rename(entry.record.id, record.id)
        latest = tick(now_ms, latest)
        moved = record.moved(order_key(latest, record.client_id))
        revision.add(moved, None, own=True, position=position)
    return revision.carry_out()


def audiences_of(entry: Entry) -> set[Audience]:
    """The audiences that an action declares and those of its effects."""
    return {*(entry.record.audiences or ()), *(target.audience for target in entry.effects)}


def _accepted(entry: Entry, head: SnapshotHead) -> Outcome:
    final = head.server_floor is not None and entry.key <= head.server_floor
    return Outcome(id=entry.record.id, state="accepted", seq=head.horizon, final=final)


def _replace_rows(store: Store, staging: Staging) -> set[str]:
    """Put a snapshot's rows in place of all there are; give the tables that had or have any."""
    tables, concerned = store.schema.tables, set()
    with store.rows.unchecked():
        for name in reversed(tables):
            store.writer.execute(f"DELETE FROM {name} WHERE true")
            if store.writer.changes():
                concerned.add(name)
        for name, rows in staging.rows():
            store.rows.insert(name, map(tables[name].to_image, rows))
            concerned.add(name)
    return concerned
