"""The log: every action above the floor, with what is known of it and what was applied.

Each entry has its record and its effects. A run that was not looked at since has the
changes as they were captured instead (see `effects`): it is read as if it had effects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, TypeAlias

import apsw
import msgspec

from synchrotron.app.schema import Image, Table
from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.core.correction import Before
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq
from synchrotron.core.messages import RowPatch, row_patch
from synchrotron.core.patches import RowKey, Target
from synchrotron.core.records import ActionRecord
from synchrotron.store.capture import Change
from synchrotron.store.effects import Effect, effects_of, grow, patches_of
from synchrotron.store.footprint import Tables, footprint_text, read_footprint

_COLUMNS = "position, order_key, record, seq, unsent, sent_in, error, footprint, changes, effects"


_encode_effects = msgspec.msgpack.Encoder().encode
_decode_effects = msgspec.msgpack.Decoder(list[Effect]).decode


class _Undoing(msgspec.Struct, array_like=True, gc=False):
    """Of an effect, what undo needs: the rest is skipped."""

    table: str
    key: tuple[Any, ...]
    audience: str
    applied: Any = None
    before: Image | None = None


_decode_undoing = msgspec.msgpack.Decoder(list[_Undoing]).decode
_encode_changes = msgspec.msgpack.Encoder().encode
_decode_changes = msgspec.msgpack.Decoder(list[Change]).decode


class Entry(msgspec.Struct, gc=False):
    """An action in the log. Own actions have positive positions."""

    position: int
    record: ActionRecord
    seq: Seq | None
    effects: dict[Target, Effect]
    sent_in: int | None = None
    error: str | None = None
    rests_on: Tables | None = None
    """The tables that decided how its last run came out; None where that is not known."""

    @property
    def key(self) -> OrderKey:
        return self.record.order_key

    @property
    def own(self) -> bool:
        return self.position > 0

    @property
    def pending(self) -> bool:
        return self.seq is None

    @property
    def unsent(self) -> bool:
        return any(effect.unsent for effect in self.effects.values())

    @property
    def newest(self) -> Seq | None:
        """The newest seq of the action and its known patches."""
        if self.seq is None:
            return None
        known = [e.known.seq for e in self.effects.values() if e.known is not None]
        return max([self.seq, *known])

    @property
    def footprint(self) -> str | None:
        """What must be as it was for the entry to stay as it is; None if that is not enough.

        A replay that raised, or with which the server does not agree, is judged anew.
        """
        if self.rests_on is None or self.error is not None:
            return None
        for effect in self.effects.values():
            if (effect.known is None) != self.pending or not effect.is_undisputed:
                return None
        return footprint_text(self.record.name, self.record.version, self.rests_on)

    def effect(self, target: Target) -> Effect:
        """The effect on a row, made if there is none."""
        found = self.effects.get(target)
        if found is None:
            found = self.effects[target] = Effect(target.table, target.key, target.audience)
        return found


AcceptedRun: TypeAlias = tuple[int, Seq, ActionRecord]
"""An own run that the server has: its position, its seq there, and its record."""


class Place:
    """An entry at its place in history, of which no more is read than what is asked for."""

    __slots__ = ("_log", "_row", "before", "footprint", "key", "newest", "position", "unsettled")

    def __init__(self, log: Log, row: tuple[Any, ...]) -> None:
        self._log = log
        self._row = row
        position, key, _, seq, unsent, _, _, footprint, changes, effects, newest = row
        self.before = log._images_before(changes, effects)
        """Each row that it changed, with the image before it."""
        self.position: int = position
        self.key: OrderKey = key
        self.footprint: str | None = footprint
        self.newest: Seq | None = newest
        self.unsettled = bool(unsent) or seq is None

    def entry(self) -> Entry:
        return self._log._entry(self._row[:-1])


class _Stored(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """A record without what the log's columns say. Every run writes one: it is kept short."""

    id: ActionId
    seed: bytes
    name: str
    version: int
    args: dict[str, Any]
    now: datetime
    user: str
    audiences: tuple[Audience, ...] | None = None


_encode_stored = msgspec.msgpack.Encoder(order="sorted").encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode


def _pack(record: ActionRecord) -> bytes:
    seed = bytes.fromhex(record.seed)
    name, version, args, now = record.name, record.version, record.args, record.now
    return _encode_stored(
        _Stored(record.id, seed, name, version, args, now, record.user, record.audiences)
    )


def _unpack(blob: bytes, key: OrderKey) -> ActionRecord:
    stored = _decode_stored(blob)
    return ActionRecord(
        id=stored.id,
        seed=stored.seed.hex(),
        name=stored.name,
        version=stored.version,
        args=stored.args,
        now=stored.now,
        order_key=key,
        client_id=ClientId(stored.id[:24]),
        user=stored.user,
        audiences=stored.audiences,
    )


class Log:
    """The table `synchrotron_action`."""

    def __init__(self, connection: apsw.Connection, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._execute = connection.execute
        self._insert = connection.cursor().execute  # kept: every run uses it once
        self._executemany = connection.executemany

    # ---- reading ------------------------------------------------------------------

    def last_key(self) -> OrderKey:
        pending = self._execute(
            f"SELECT max(order_key) FROM synchrotron_action WHERE {_PENDING}"
        ).get
        return max(self.last_accepted_key(), OrderKey(pending or FIRST))

    def last_accepted_key(self) -> OrderKey:
        key = self._execute(
            f"SELECT order_key FROM synchrotron_action WHERE {_ACCEPTED} "
            "ORDER BY order_key DESC LIMIT 1"
        ).get
        return OrderKey(key) if key else FIRST

    def accepted_at(self, key: OrderKey) -> Entry | None:
        return next(self._some(f"{_ACCEPTED} AND order_key = ?", key), None)

    def accepted_among(self, keys: Sequence[OrderKey]) -> dict[OrderKey, Entry]:
        """The accepted actions at some of these order keys."""
        found = self._some(
            f"{_ACCEPTED} AND order_key IN (SELECT value FROM json_each(?))",
            msgspec.json.encode(keys).decode(),
        )
        return {entry.key: entry for entry in found}

    def since(self, start: OrderKey) -> list[Entry]:
        """The entries from an order key on, in order."""
        accepted = self._some(f"{_ACCEPTED} AND order_key >= ? ORDER BY order_key", start)
        pending = self._some(f"{_PENDING} AND order_key >= ? ORDER BY order_key", start)
        return list(merge(accepted, pending, key=_key))

    def places(self, start: OrderKey) -> list[Place]:
        """The same, to be looked at before they are read."""
        found = [
            Place(self, row)
            for which in (_ACCEPTED, _PENDING)
            for row in self._execute(
                f"SELECT {_COLUMNS}, newest FROM synchrotron_action "
                f"WHERE {which} AND order_key >= ?",
                (start,),
            )
        ]
        found.sort(key=_place_key)
        return found

    def all(self) -> list[Entry]:
        return self.since(FIRST)

    def oldest(self, limit: int) -> list[Entry]:
        """The oldest entries, in order."""
        accepted = self._some(f"{_ACCEPTED} ORDER BY order_key LIMIT ?", limit)
        return list(islice(merge(accepted, self.pending(), key=_key), limit))

    def pending(self) -> list[Entry]:
        """Own actions not yet accepted, in order."""
        return list(self._some(f"{_PENDING} ORDER BY order_key"))

    def to_send(self) -> list[tuple[ActionRecord, list[RowPatch]]]:
        """The same as they are sent."""
        rows = self._execute(
            "SELECT order_key, record, changes, effects FROM synchrotron_action "
            f"WHERE {_PENDING} ORDER BY order_key"
        )
        return [
            (_unpack(record, key), self._row_patches(changes, effects))
            for key, record, changes, effects in rows
        ]

    def has_pending(self, count: int) -> bool:
        """Whether so many are pending, or more."""
        return bool(
            self._execute(
                f"SELECT EXISTS (SELECT 1 FROM synchrotron_action WHERE {_PENDING} "
                "LIMIT 1 OFFSET ?)",
                (count - 1,),
            ).get
        )

    def first_pending_position(self) -> int | None:
        position: int | None = self._execute(
            f"SELECT min(position) FROM synchrotron_action WHERE {_PENDING}"
        ).get
        return position

    def unsent(self) -> list[Entry]:
        """Accepted actions with corrections to send, in order."""
        return list(self._some(f"unsent AND {_ACCEPTED} ORDER BY order_key"))

    def has_something_to_send(self) -> bool:
        """Whether an action is pending, or a correction unsent."""
        return bool(
            self._execute(
                f"SELECT EXISTS (SELECT 1 FROM synchrotron_action WHERE {_PENDING}) "
                "OR EXISTS (SELECT 1 FROM synchrotron_action WHERE unsent)"
            ).get
        )

    def own_action(self, id: ActionId) -> Entry | None:
        """An own action by its id: mostly its position is its n."""
        n = int(id.rpartition("-")[2]) if id[-1:].isdigit() else 0
        entry = next(self._some("position = ?", n), None) if n > 0 else None
        if entry is not None and entry.record.id == id:
            return entry
        return next((e for e in self.own() if e.record.id == id), None)

    def with_id(self, id: ActionId) -> Entry | None:
        """Any action by its id: another's is sought."""
        found = self._some("instr(record, CAST(? AS BLOB))", id)
        return self.own_action(id) or next((e for e in found if e.record.id == id), None)

    def positions(self) -> list[int]:
        """The positions of all entries, in order."""
        found = self._execute("SELECT position FROM synchrotron_action ORDER BY order_key")
        return [position for (position,) in found]

    def at(self, position: int) -> Entry:
        """The entry at a position. Raises `IndexError`."""
        entry = next(self._some("position = ?", position), None)
        if entry is None:
            raise IndexError(f"the log has no position {position}")
        return entry

    def flags_at(self, position: int) -> tuple[bool, Seq | None]:
        """What the columns say of an entry: `unsent` and `newest`."""
        [(unsent, newest)] = self._execute(
            "SELECT unsent, newest FROM synchrotron_action WHERE position = ?", (position,)
        )
        return bool(unsent), newest

    def latest_key(self) -> OrderKey:
        """The order key at the highest position: of the last own action."""
        key = self._execute(
            "SELECT order_key FROM synchrotron_action ORDER BY position DESC LIMIT 1"
        ).get
        return OrderKey(key or FIRST)

    def newest(self, limit: int) -> list[Entry]:
        """The newest entries, in order."""
        accepted = self._some(f"{_ACCEPTED} ORDER BY order_key DESC LIMIT ?", limit)
        pending = self._some(f"{_PENDING} ORDER BY order_key DESC LIMIT ?", limit)
        both = merge(accepted, pending, key=_key, reverse=True)
        return list(islice(both, limit))[::-1]

    def own(self) -> Iterator[Entry]:
        return self._some("position > 0 ORDER BY position")

    def mentioning(self, text: str, end: OrderKey) -> Iterator[Entry]:
        """Entries before an order key whose effects hold a text."""
        return self._some(
            "order_key < ? AND instr(coalesce(effects, changes), CAST(? AS BLOB))", end, text
        )

    def before(self, start: OrderKey, floor_seq: int) -> Before:
        """What is known of history before an order key (standing)."""
        newest = self._execute(
            "SELECT newest FROM synchrotron_action WHERE newest IS NOT NULL AND order_key < ? "
            "ORDER BY newest DESC LIMIT 1",
            (start,),
        ).get
        unsettled = self._execute(
            f"SELECT EXISTS (SELECT 1 FROM synchrotron_action WHERE {_PENDING} AND order_key < ?) "
            "OR EXISTS (SELECT 1 FROM synchrotron_action WHERE unsent AND order_key < ?)",
            (start, start),
        ).get
        return Before(max(newest or 0, floor_seq), bool(unsettled))

    def next_positions(self) -> tuple[int, int]:
        """The next position for an own action and for another's."""
        [(low, high)] = self._execute(
            "SELECT (SELECT min(position) FROM synchrotron_action), "
            "(SELECT max(position) FROM synchrotron_action)"
        )
        return max(high or 0, 0) + 1, min(low or 0, 0) - 1

    def __len__(self) -> int:
        count: int = self._execute("SELECT count(*) FROM synchrotron_action").get
        return count

    # ---- writing ------------------------------------------------------------------

    def add_run(
        self,
        position: int,
        record: ActionRecord,
        changes: list[Change],
        rests_on: Tables | None = None,
    ) -> None:
        """Add an own action that ran just now, with what it changed and what decided that."""
        footprint = None
        if rests_on is not None:
            footprint = footprint_text(record.name, record.version, rests_on)
        row = (position, record.order_key, _pack(record), footprint, _encode_changes(changes))
        self._insert(_INSERT_RUN, row)

    def accept_runs(self, accepted: Sequence[AcceptedRun]) -> list[AcceptedRun]:
        """The server has these runs, with just what they did; give those that it is true of.

        A run that was looked at since is left alone: what it did may be something else by now.
        """
        if not accepted:
            return []
        positions = [position for position, _, _ in accepted]
        keys = dict(
            self._execute(
                "SELECT position, order_key FROM synchrotron_action "
                f"WHERE position BETWEEN ? AND ? AND {_RUN_AS_IT_WAS}",
                (min(positions), max(positions)),
            )
        )
        fitting = [run for run in accepted if keys.get(run[0]) == run[2].order_key]
        for first, last, seq in _stretches(fitting):
            self._execute(_ACCEPT_RUNS, (seq - first, seq - first, first, last))
        return fitting

    def save(self, entries: Iterable[Entry]) -> None:
        """Store entries, new or changed."""
        self._executemany(_SAVE, [_row(entry) for entry in entries])

    def grow(self, before: Mapping[str, Table]) -> None:
        """Bring all entries from the tables as they were `before` to those of now.

        Undo writes whole images, and patches are compared: both are of one schema.
        """
        self._tables, tables = before, self._tables
        entries = self.all()  # with effects made by the schema that their changes are from
        self._tables = tables
        for entry in entries:
            entry.rests_on = None  # there may be foreign keys and UNIQUE values that were not
            for effect in entry.effects.values():
                if effect.table in before:
                    grow(effect, before[effect.table], tables[effect.table])
        self.save(entries)

    def remove(self, positions: Iterable[int]) -> None:
        self._executemany(
            "DELETE FROM synchrotron_action WHERE position = ?", [(p,) for p in positions]
        )

    def clear(self) -> None:
        self._execute("DELETE FROM synchrotron_action WHERE true")

    def mark_sent(self, exchange: int) -> None:
        """An exchange takes all pending ones along; what an earlier one took keeps its number."""
        self._execute(
            f"UPDATE synchrotron_action SET sent_in = ? WHERE {_PENDING} AND sent_in IS NULL",
            (exchange,),
        )

    def decided(self, exchange: int, *, earlier: bool) -> None:
        """An exchange was answered and stored nothing; `earlier`: nor did any before it."""
        self._execute(
            f"UPDATE synchrotron_action SET sent_in = NULL WHERE {_PENDING} "
            f"AND sent_in {'<=' if earlier else '='} ?",
            (exchange,),
        )

    def pending_from(self, position: int) -> None:
        """No pending action will have a position below this one."""
        self._execute("UPDATE synchrotron_replica SET pending_from = ?", (position,))

    def _some(self, where: str, *values: Any) -> Iterator[Entry]:
        sql = f"SELECT {_COLUMNS} FROM synchrotron_action WHERE {where}"
        return map(self._entry, self._execute(sql, values))

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        position, key, record, seq, _, sent_in, error, footprint, changes, effects = row
        if changes is None:
            found = {effect.target: effect for effect in _decode_effects(effects)}
        else:
            found = effects_of(self._tables, _decode_changes(changes), seq)
        rests_on = read_footprint(footprint).tables if footprint else None
        return Entry(position, _unpack(record, key), seq, found, sent_in, error, rests_on)

    def _row_patches(self, changes: bytes | None, effects: bytes) -> list[RowPatch]:
        if changes is not None:
            return patches_of(self._tables, _decode_changes(changes))
        return [row_patch(e.target, e.applied) for e in _decode_effects(effects) if e.applied]

    def _images_before(self, changes: bytes | None, effects: bytes) -> dict[RowKey, Image | None]:
        before: dict[RowKey, Image | None] = {}
        if changes is None:
            for effect in _decode_undoing(effects):
                if effect.applied is not None:
                    before.setdefault(RowKey(effect.table, effect.key), effect.before)
            return before
        for change in _decode_changes(changes):
            table, old = self._tables[change.table], change.old
            key = table.key_of(old if old is not None else change.new or ())
            before[RowKey(table.name, key)] = None if old is None else table.image(old)
        return before


_ACCEPTED = "seq IS NOT NULL"
_PENDING = "position >= (SELECT pending_from FROM synchrotron_replica) AND seq IS NULL"
_INSERT_RUN = (
    "INSERT INTO synchrotron_action (position, order_key, record, footprint, changes) "
    "VALUES (?, ?, ?, ?, ?)"
)
_RUN_AS_IT_WAS = "seq IS NULL AND changes IS NOT NULL"
_ACCEPT_RUNS = (
    "UPDATE synchrotron_action SET seq = position + ?, newest = position + ?, sent_in = NULL "
    f"WHERE position BETWEEN ? AND ? AND {_RUN_AS_IT_WAS}"
)
_INSERT = (
    f"INSERT INTO synchrotron_action ({_COLUMNS}, newest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SAVE = f"{_INSERT} ON CONFLICT (position) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in (*_COLUMNS.split(", ")[1:], "newest")
)


def _key(entry: Entry) -> OrderKey:
    return entry.key


def _place_key(place: Place) -> OrderKey:
    return place.key


def _row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.position,
        entry.record.order_key,
        _pack(entry.record),
        entry.seq,
        entry.unsent,
        entry.sent_in,
        entry.error,
        entry.footprint,
        None,
        _encode_effects([e for e in entry.effects.values() if e.matters]),
        entry.newest,
    )


def _stretches(runs: Iterable[AcceptedRun]) -> Iterator[tuple[int, int, Seq]]:
    """Runs by stretches without a gap, in position and seq: first and last position, first seq."""
    begin: tuple[int, Seq] | None = None
    last, newest = 0, Seq(0)
    for position, seq, _ in runs:
        if begin is None or (position, seq) != (last + 1, newest + 1):
            if begin is not None:
                yield begin[0], last, begin[1]
            begin = position, seq
        last, newest = position, seq
    if begin is not None:
        yield begin[0], last, begin[1]
