"""The log: every action above the floor, with what is known of it and what was applied.

For each row that an action concerns, an *effect* says what the server knows, what this
replica applied, and the image before it, which is all that undo needs. Undo never uses
another replica's patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apsw
import msgspec

from synchrotron.core.clock import FIRST, OrderKey, to_datetime, to_ms
from synchrotron.core.correction import Before
from synchrotron.core.ids import ActionId, Audience, Seq, split_action_id
from synchrotron.core.patches import Known, Patch, Target
from synchrotron.core.records import ActionRecord

_COLUMNS = "position, order_key, record, seq, unsent, sent_in, error, effects"


class Effect(msgspec.Struct, array_like=True, omit_defaults=True):
    """What one action does to one row in one audience."""

    table: str
    key: tuple[Any, ...]
    audience: Audience
    applied: Patch | None = None
    """What this replica's rows hold."""
    before: tuple[Any, ...] | None = None
    """The image before `applied`, None where there was no row."""
    known: Known | None = None
    """What the server knows; None where it knows nothing of this row."""
    unsent: bool = False
    """`applied` is a correction that the server has not accepted yet."""
    denied: bool = False
    """The server refused a correction here: `known` stands until it changes (S5)."""
    accepted: bytes | None = None
    """For an own action, the fingerprint of what it did when it was accepted."""
    overruled: bool = False
    """What is known won over what the replay did."""
    foreign: bool = False
    """`known` names a table or column that this schema does not have (S11)."""

    @property
    def target(self) -> Target:
        return Target(self.table, self.key, self.audience)

    @property
    def differs(self) -> bool:
        """Whether an own action has other effects here than when it was accepted."""
        if self.accepted is None:
            return False
        return self.overruled or self.accepted != fingerprint(self.applied)

    @property
    def matters(self) -> bool:
        return bool(self.applied or self.known or self.unsent or self.denied or self.accepted)


def fingerprint(patch: Patch | None) -> bytes:
    """Eight bytes that tell a patch from another; none for no patch."""
    if patch is None:
        return b""
    return hashlib.blake2b((patch.op + patch.columns).encode(), digest_size=8).digest()


_encode_effects = msgspec.msgpack.Encoder().encode
_decode_effects = msgspec.msgpack.Decoder(list[Effect]).decode


class Entry(msgspec.Struct):
    """An action in the log. Own actions have positive positions."""

    position: int
    record: ActionRecord
    seq: Seq | None
    effects: dict[Target, Effect]
    sent_in: int | None = None
    error: str | None = None

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
        known = (e.known.seq for e in self.effects.values() if e.known is not None)
        return max(self.seq, *known, self.seq)

    def effect(self, target: Target) -> Effect:
        """The effect on a row, made if there is none."""
        found = self.effects.get(target)
        if found is None:
            found = self.effects[target] = Effect(target.table, target.key, target.audience)
        return found

    def tables(self) -> set[str]:
        """The tables that it changed here."""
        return {e.table for e in self.effects.values() if e.applied is not None}


class _Stored(msgspec.Struct, array_like=True, omit_defaults=True):
    """A record without what the log's columns say. Every run writes one: it is kept short."""

    id: ActionId
    seed: bytes
    name: str
    version: int
    args: dict[str, Any]
    now_ms: int
    user: str
    audiences: tuple[Audience, ...] | None = None


_encode_stored = msgspec.msgpack.Encoder(order="sorted").encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode


def _pack(record: ActionRecord) -> bytes:
    seed, now_ms = bytes.fromhex(record.seed), to_ms(record.now)
    name, version, args = record.name, record.version, record.args
    return _encode_stored(
        _Stored(record.id, seed, name, version, args, now_ms, record.user, record.audiences)
    )


def _unpack(blob: bytes, key: OrderKey) -> ActionRecord:
    stored = _decode_stored(blob)
    return ActionRecord(
        id=stored.id,
        seed=stored.seed.hex(),
        name=stored.name,
        version=stored.version,
        args=stored.args,
        now=to_datetime(stored.now_ms),
        order_key=key,
        client_id=split_action_id(stored.id)[0],
        user=stored.user,
        audiences=stored.audiences,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    position, key, record, seq, _, sent_in, error, effects = row
    found = _decode_effects(effects)
    return Entry(position, _unpack(record, key), seq, {e.target: e for e in found}, sent_in, error)


class Log:
    """The table `synchrotron_action`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany

    # ---- reading ------------------------------------------------------------------

    def last_key(self) -> OrderKey:
        key = self._execute("SELECT max(order_key) FROM synchrotron_action").get
        return OrderKey(key) if key else FIRST

    def last_accepted_key(self) -> OrderKey:
        key = self._execute(
            "SELECT order_key FROM synchrotron_action WHERE seq IS NOT NULL "
            "ORDER BY order_key DESC LIMIT 1"
        ).get
        return OrderKey(key) if key else FIRST

    def at(self, key: OrderKey) -> Entry | None:
        return self._one("order_key = ?", key)

    def at_position(self, position: int) -> Entry | None:
        return self._one("position = ?", position)

    def since(self, start: OrderKey) -> list[Entry]:
        """The entries from an order key on, in order."""
        return list(self._some("order_key >= ? ORDER BY order_key", start))

    def upto(self, end: OrderKey, limit: int) -> Iterator[Entry]:
        """The oldest entries, not beyond an order key."""
        return self._some("order_key <= ? ORDER BY order_key LIMIT ?", end, limit)

    def pending(self, lowest: int) -> list[Entry]:
        """Own actions not yet accepted, in order; none has a position below `lowest`."""
        return list(self._some("position >= ? AND seq IS NULL ORDER BY order_key", lowest))

    def unsent(self) -> list[Entry]:
        """Accepted actions with corrections to send, in order."""
        return list(self._some("unsent AND seq IS NOT NULL ORDER BY order_key"))

    def own_action(self, id: ActionId) -> Entry | None:
        """An own action by its id: mostly the position is its n."""
        n = int(id.rpartition("-")[2]) if id[-1:].isdigit() else 0
        entry = self.at_position(n) if n > 0 else None
        if entry is not None and entry.record.id == id:
            return entry
        return next((e for e in self.own() if e.record.id == id), None)

    def own(self) -> Iterator[Entry]:
        return self._some("position > 0 ORDER BY position")

    def mentioning(self, text: str, end: OrderKey) -> Iterator[Entry]:
        """Entries before an order key whose effects hold a text, the newest first."""
        return self._some(
            "order_key < ? AND instr(effects, CAST(? AS BLOB)) ORDER BY order_key DESC", end, text
        )

    def before(self, start: OrderKey, floor_seq: int, pending_from: int) -> Before:
        """What is known of history before an order key (standing)."""
        newest = self._execute(
            "SELECT newest FROM synchrotron_action WHERE newest IS NOT NULL AND order_key < ? "
            "ORDER BY newest DESC LIMIT 1",
            (start,),
        ).get
        unsettled = self._execute(
            "SELECT EXISTS (SELECT 1 FROM synchrotron_action WHERE position >= ? AND seq IS NULL "
            "AND order_key < ?) OR EXISTS (SELECT 1 FROM synchrotron_action WHERE unsent "
            "AND order_key < ?)",
            (pending_from, start, start),
        ).get
        return Before(max(newest or 0, floor_seq), bool(unsettled))

    def next_positions(self) -> tuple[int, int]:
        """The next position for an own action and for another's."""
        sql = "SELECT min(position), max(position) FROM synchrotron_action"
        [(low, high)] = self._execute(sql)
        return max(high or 0, 0) + 1, min(low or 0, 0) - 1

    def __len__(self) -> int:
        count: int = self._execute("SELECT count(*) FROM synchrotron_action").get
        return count

    # ---- writing ------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        self._execute(_INSERT, _row(entry))

    def save(self, entries: Iterable[Entry]) -> None:
        """Store entries, new or changed."""
        self._executemany(_SAVE, [_row(entry) for entry in entries])

    def remove(self, positions: Iterable[int]) -> None:
        self._executemany(
            "DELETE FROM synchrotron_action WHERE position = ?", [(p,) for p in positions]
        )

    def clear(self) -> None:
        self._execute("DELETE FROM synchrotron_action WHERE true")

    def mark_sent(self, positions: Iterable[int], exchange: int) -> None:
        """An exchange takes these along; what an earlier one took keeps that one's number."""
        self._executemany(
            "UPDATE synchrotron_action SET sent_in = ? WHERE position = ? AND sent_in IS NULL",
            [(exchange, position) for position in positions],
        )

    def decided(self, exchange: int, lowest: int, *, earlier: bool) -> None:
        """An exchange was answered and stored nothing; `earlier`: nor did any before it."""
        self._execute(
            "UPDATE synchrotron_action SET sent_in = NULL WHERE position >= ? AND seq IS NULL "
            f"AND sent_in {'<=' if earlier else '='} ?",
            (lowest, exchange),
        )

    # ---- one place for each shape of question -------------------------------------

    def _one(self, where: str, *values: Any) -> Entry | None:
        return next(self._some(where, *values), None)

    def _some(self, where: str, *values: Any) -> Iterator[Entry]:
        sql = f"SELECT {_COLUMNS} FROM synchrotron_action WHERE {where}"
        return map(_entry, self._execute(sql, values))


_INSERT = f"INSERT INTO synchrotron_action ({_COLUMNS}, newest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SAVE = f"{_INSERT} ON CONFLICT (position) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in (*_COLUMNS.split(", ")[1:], "newest")
)


def _row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.position,
        entry.record.order_key,
        _pack(entry.record),
        entry.seq,
        entry.unsent,
        entry.sent_in,
        entry.error,
        _encode_effects([e for e in entry.effects.values() if e.matters]),
        entry.newest,
    )
