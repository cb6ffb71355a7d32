"""Checks of what a file says of history: the log, the rows that it explains, what waits.

Each rule here is one that the replica keeps by itself. A file that breaks one was changed by
another program, was damaged, or has met a defect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from synchrotron.app.definition import Definition
from synchrotron.app.schema import Image, Table
from synchrotron.core.clock import span, timestamp_of, to_datetime
from synchrotron.core.ids import Audience, split_action_id
from synchrotron.core.patches import RowKey
from synchrotron.errors import FileError
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.health import FINDINGS_MAX, NEW_FILE, Finding, fault, notice
from synchrotron.replica.exchange import SKEW_MS_MAX
from synchrotron.store.effects import Effect
from synchrotron.store.log import Entry
from synchrotron.store.store import check_fits

AHEAD_MS_MAX = 60_000
"""As far as a server lets order keys run ahead (O4)."""
UNREADABLE = (msgspec.MsgspecError, ValueError, KeyError, TypeError, IndexError)


# ---- the log -----------------------------------------------------------------------------


def check_log(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Every entry by itself and among the others: ids, numbers, order keys, seqs."""
    for problem in _limited(_problems_of_log(file)):
        yield fault(problem, NEW_FILE)


def _problems_of_log(file: ReplicaFile) -> Iterator[str]:
    state = file.state
    ids: Counter[str] = Counter()
    seqs: Counter[int] = Counter()
    last = max(file.log.latest_key(), state.clock)
    n_max = max(state.n, file.log.next_positions()[0] - 1)
    for position in file.log.positions():
        try:
            entry, flags = file.log.at(position), file.log.flags_at(position)
        except UNREADABLE as error:
            yield f"the log's entry at position {position} cannot be read: {error}"
            continue
        record = entry.record
        ids[record.id] += 1
        if entry.seq is not None:
            seqs[entry.seq] += 1
        name = f"action {record.name} {record.id}"
        client, n = split_action_id(record.id)
        if flags != (entry.unsent, entry.newest):
            yield f"{name}: what the log says of its patches is not what they say"
        if entry.pending and not state.pending_from <= position:
            yield f"{name} is pending where nobody looks for it (position {position}): it is stuck"
        if state.floor is not None and entry.key <= state.floor:
            yield f"{name} is in the log, though it lies at or below the floor"
        if timestamp_of(entry.key) > timestamp_of(last):
            yield f"{name} has an order key above all that are known: new ones could sort before it"
        if entry.own and client == state.client_id and n > n_max:
            yield f"{name} has a number above the last one: it could be given again"
    yield from (f"action {id} is there {times} times" for id, times in ids.items() if times > 1)
    yield from (f"seq {seq} belongs to {times} actions" for seq, times in seqs.items() if times > 1)


def _limited(problems: Iterable[str]) -> Iterator[str]:
    """The first few, and how many more there are."""
    more = 0
    for place, problem in enumerate(problems):
        if place < FINDINGS_MAX:
            yield problem
        else:
            more += 1
    if more:
        yield f"and {more} more of this kind"


# ---- rows --------------------------------------------------------------------------------


def check_rows(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Whether the rows are what the log did to them: undo goes by its images."""
    for problem in _limited(_problems_of_rows(file)):
        yield fault(problem, NEW_FILE)


def _problems_of_rows(file: ReplicaFile) -> Iterator[str]:
    tables = file.schema.tables
    done: dict[RowKey, tuple[Image | None, str]] = {}
    for position in file.log.positions():
        entry = file.log.at(position)
        for row, effects in _by_row(entry):
            if row.table in tables:
                done[row] = _after(tables[row.table], effects), entry.record.id
    for row, (image, by) in done.items():
        if _row(file, row) != image:
            yield f"row {row} is not what action {by}, the last one on it, made of it"


def _by_row(entry: Entry) -> Iterator[tuple[RowKey, list[Effect]]]:
    """What an entry did to each row; in two audiences, the removal in one comes first (S9)."""
    applied = [effect for effect in entry.effects.values() if effect.applied is not None]
    applied.sort(
        key=lambda e: (str(e.target.row), e.applied is not None and e.applied.op != "delete")
    )
    for row, effects in groupby(applied, key=lambda effect: effect.target.row):
        yield row, list(effects)


def _after(table: Table, effects: list[Effect]) -> Image | None:
    image: Image | None = None
    for effect in effects:
        assert effect.applied is not None
        if effect.applied.op == "delete":
            image = None
        else:
            before = {} if effect.before is None else table.values(effect.before)
            image = table.to_image({**before, **effect.applied.values})
    return image


def _row(file: ReplicaFile, row: RowKey) -> Image | None:
    table = file.schema.tables[row.table]
    where = " AND ".join(f"{column} = ?" for column in table.key)
    found: Any = file.connection.execute(
        f"SELECT * FROM {table.name} WHERE {where}", table.stored_key(row.key)
    ).fetchone()
    return None if found is None else table.image(found)


def check_audiences(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Whether all rows are of the user's audiences, or of own actions that wait (S6)."""
    state = file.state
    if not state.bootstrapped:
        return
    allowed = state.audiences | set(_audiences_that_wait(file))
    for table in file.schema.tables:
        for (audience,) in file.connection.execute(f"SELECT DISTINCT audience_key FROM {table}"):
            if audience not in allowed:
                yield fault(
                    f"{table} has rows of audience {audience!r}, which this user does not share",
                    NEW_FILE,
                )


def _audiences_that_wait(file: ReplicaFile) -> Iterator[Audience]:
    """Those of own actions of which no answer has told yet who shares them."""
    cursor = file.state.cursor
    for entry in file.log.own():
        if entry.seq is None or entry.seq > cursor or entry.unsent:
            yield from (effect.audience for effect in entry.effects.values())


# ---- what waits --------------------------------------------------------------------------


def check_waiting(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Actions that were not sent yet, and those that somebody has to decide on."""
    pending = file.log.pending()
    if pending:
        since = min(entry.record.now for entry in pending)
        yield notice(
            f"{_count(len(pending), 'action waits', 'actions wait')} to be sent, the oldest of "
            f"{since:%Y-%m-%d %H:%M} UTC",
            "this is as it should be while there is no network; otherwise see what replica.sync() "
            "raises, or replica.state says",
        )
    for _, outcome in file.outcomes():
        if outcome.state == "parked":
            yield notice(
                f"action {outcome.id} is parked ({outcome.reason}: {outcome.detail})",
                "the application has to decide: replica.retry(id) or replica.discard(id)",
            )


def check_state(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Whether it can keep in step."""
    state = file.state
    if not state.bootstrapped:
        yield notice("it has never synced", "app.open(…, server=…, token=…) and replica.sync()")
    if state.left_out:
        yield notice(
            "something came that this schema has no place for (others have a newer version)",
            "upgrade the application: its migrations fetch what is missing",
        )


# ---- the clock ---------------------------------------------------------------------------


def check_clock(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Whether this machine's clock agrees with history and with the server (O4)."""
    state = file.state
    offset_ms = state.clock_offset_ms
    if abs(offset_ms) > SKEW_MS_MAX:
        yield notice(
            f"the server said that this machine's clock is {_off(-offset_ms)}; the replica allows "
            "for it",
            "set the clock (NTP), and sync",
        )
    newest_ms = timestamp_of(max(file.log.last_key(), state.clock)).ms
    ahead_ms = newest_ms - (now_ms + offset_ms)
    if ahead_ms > AHEAD_MS_MAX:
        yield notice(
            f"the newest action is of {to_datetime(newest_ms):%Y-%m-%d %H:%M} UTC, "
            f"{span(ahead_ms)} after what this machine's clock says",
            "set the clock (NTP): here if it is slow, or where that action ran; until the time "
            "has come, actions of this replica are sorted right behind it, and may wait",
        )


def _off(ms: int) -> str:
    return f"{span(abs(ms))} {'fast' if ms > 0 else 'slow'}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


# ---- the application ---------------------------------------------------------------------


def check_application(definition: Definition) -> Callable[[ReplicaFile, int], Iterator[Finding]]:
    """Whether this code can open the file, and replay its history."""

    def find(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
        try:
            check_fits(str(file.path), definition, file.state)
        except FileError as error:
            yield fault(str(error), "use the code that the file was made with, or newer")
            return
        unknown = Counter(
            f"{record.name} version {record.version}"
            for record in (file.log.at(position).record for position in file.log.positions())
            if definition.action_of(record) is None
        )
        for action, times in unknown.items():
            yield notice(
                f"{_count(times, 'action', 'actions')} in the log ran {action}, which this code "
                "does not have",
                "keep old versions beside new ones until no history holds them; until then their "
                "effects are taken as they are known",
            )

    return find
