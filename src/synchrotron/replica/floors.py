"""Floors: pruning, and starting anew from a snapshot (SPEC section 7).

Below its floor a replica keeps rows but no history. Pruning raises the floor and changes
no row (F5). A snapshot replaces rows and floor at once; pending actions are kept, stamped
anew in their order, and run again on it (F4).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from synchrotron.core.clock import FIRST, Timestamp, order_key, tick, timestamp_of
from synchrotron.core.ids import Audience, Seq, action_id, split_action_id
from synchrotron.core.messages import SnapshotHead
from synchrotron.core.records import ActionRecord
from synchrotron.replica.outcomes import RESTORED, Outcome, SetAside, outcome_of
from synchrotron.replica.revision import Revised, Revision
from synchrotron.replica.runner import Runner
from synchrotron.replica.staging import Staging
from synchrotron.store.log import Entry
from synchrotron.store.state import State
from synchrotron.store.store import Store

PRUNE_BATCH = 500


def prune(store: Store, state: State, keep: int) -> int:
    """Forget the history of all but the newest `keep` actions; give how many were pruned.

    The floor rises up to the first pending, unsent or parked action (F3), and the first that a
    restored file waits to get back (O6): below the floor it would come as rows.
    """
    set_aside = SetAside(store.writer)
    waiting = [r.order_key for r, outcome in set_aside.open() if outcome.state != "discarded"]
    held = min(waiting, default=None)
    surplus = len(store.log) - keep
    pruned: list[Entry] = []
    for entry in store.log.oldest(max(surplus, 0)):
        if entry.pending or entry.unsent or (held is not None and entry.key >= held):
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


def rebase(
    store: Store, runner: Runner, state: State, staging: Staging, now_ms: int, *, new_epoch: bool
) -> Revised:
    """Replace rows and history by a staged snapshot; keep the pending actions (F4).

    In a `new_epoch` own records that the server no longer has become pending again (H11), also
    those that have left the log.
    """
    head = staging.head
    assert head is not None
    accepted, pruned = set(head.accepted), set(head.pruned or ())
    is_there = accepted | pruned
    set_aside = SetAside(store.writer)
    kept: list[Entry] = []
    known_now: list[Outcome] = []
    if new_epoch:
        for record in set_aside.remembered():
            if record.id not in is_there:
                set_aside.take(record.id)
                kept.append(Entry(split_action_id(record.id)[1], record, None, {}))
    for entry in store.log.all():
        state.n = max(state.n, entry.position)
        if not entry.own:
            continue
        if entry.record.id in accepted and entry.pending:
            known_now.append(_accept(set_aside, entry.record, head))
        elif entry.pending or (new_epoch and entry.record.id not in is_there):
            kept.append(entry)
        else:
            set_aside.put(entry.record, outcome_of(entry, head.server_floor))
    for record, outcome in list(set_aside.open()):
        if record.id in accepted or outcome.state == "accepted":
            known_now.append(_accept(set_aside, record, head))
        elif not pruned.isdisjoint((record.id, *set_aside.former_ids(record.id))):
            unsure = structs.replace(outcome, reason="restored", detail=RESTORED)
            set_aside.put(record, unsure)
    kept.sort(key=lambda entry: entry.key)
    known = state.audiences
    replaced = _replace_rows(store, staging)
    store.log.clear()
    store.log.pending_from(min((entry.position for entry in kept), default=1))
    state.floor, state.floor_seq = head.floor, Seq(0)
    state.server_floor = head.server_floor
    state.cursor, state.cursor_token = head.horizon, head.token
    state.seen, state.seen_token = head.horizon, head.token
    state.audiences = frozenset(head.audiences)
    state.bootstrapped, state.left_out = True, staging.left_out
    if head.floor is not None:
        state.knows(head.floor)
    left = known - state.audiences
    revised = _bring_back(Revision(store, runner, state), kept, left, now_ms)
    return revised._replace(
        tables=revised.tables | replaced, outcomes=[*known_now, *revised.outcomes]
    )


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


def _accept(set_aside: SetAside, record: ActionRecord, head: SnapshotHead) -> Outcome:
    """The server has an action; where, a snapshot does not tell: at the latest at its horizon."""
    final = head.server_floor is not None and record.order_key <= head.server_floor
    outcome = Outcome(id=record.id, state="accepted", seq=head.horizon, final=final)
    set_aside.put(record, outcome)
    return outcome


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
