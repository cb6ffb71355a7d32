"""Outcomes: what became of an own action (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import apsw
import msgspec

from synchrotron.core.clock import OrderKey
from synchrotron.core.ids import ActionId, Seq
from synchrotron.core.records import ActionRecord, decode_record, encode_record
from synchrotron.store.log import Entry

OutcomeState = Literal["discarded", "parked", "rejected", "changed", "accepted", "pending"]
Reason = Literal["denied", "invalid", "left", "restored"]
REMEMBERED_MAX = 2_000
"""So many own actions that left the log come back at most where a server lost them (H11)."""
RESTORED = "the server has had an action under this id, and cannot tell whether it was this one"


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of an action, as far as this replica knows.

    `state` is the first that holds of discarded, parked, rejected (a replay raised, with
    the error as `detail`), changed (other effects than when it was accepted; `detail` names
    the rows), accepted, pending. `reason` says why it is parked. `seq` is set once the server
    has it. `final`: it lies below the server's floor and can change no more.
    """

    id: ActionId
    state: OutcomeState
    reason: Reason | None = None
    detail: str | None = None
    seq: Seq | None = None
    final: bool = False


def outcome_of(entry: Entry, server_floor: OrderKey | None) -> Outcome:
    """The outcome of an action in the log."""
    state, detail = _state(entry)
    return Outcome(
        id=entry.record.id,
        state=state,
        detail=detail,
        seq=entry.seq,
        final=_final(entry.record, entry.seq, server_floor),
    )


def _state(entry: Entry) -> tuple[OutcomeState, str | None]:
    if entry.error is not None:
        return "rejected", entry.error
    if entry.pending:
        return "pending", None
    differing = [str(effect.target.row) for effect in entry.effects.values() if effect.differs]
    if differing:
        return "changed", "other effects on " + "; ".join(sorted(differing))
    return "accepted", None


def _final(record: ActionRecord, seq: Seq | None, server_floor: OrderKey | None) -> bool:
    return seq is not None and server_floor is not None and record.order_key <= server_floor


class SetAside:
    """The table `synchrotron_outcome`: own actions that left the log."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.execute

    def among(self, ids: Sequence[ActionId]) -> set[ActionId]:
        """Which of these it holds."""
        found = self._execute(
            "SELECT id FROM synchrotron_outcome WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(ids).decode(),),
        )
        return {ActionId(id) for (id,) in found}

    def has_renamed(self) -> bool:
        """Whether any action was given another id."""
        return bool(self._execute("SELECT EXISTS (SELECT 1 FROM synchrotron_renamed)").get)

    def put(self, record: ActionRecord, outcome: Outcome) -> None:
        self._execute(
            "INSERT OR REPLACE INTO synchrotron_outcome (id, record, state, reason, detail, seq) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                outcome.id,
                encode_record(record).decode(),
                outcome.state,
                outcome.reason,
                outcome.detail,
                outcome.seq,
            ),
        )

    def take(self, id: ActionId) -> None:
        """It is back in the log."""
        self._execute("DELETE FROM synchrotron_outcome WHERE id = ?", (id,))

    def get(
        self, id: ActionId, server_floor: OrderKey | None
    ) -> tuple[ActionRecord, Outcome] | None:
        return next(self._some(server_floor, "id = ?", id), None)

    def all(self, server_floor: OrderKey | None) -> Iterator[tuple[ActionRecord, Outcome]]:
        return self._some(server_floor, "true")

    def parked(self) -> Iterator[tuple[ActionRecord, Outcome]]:
        return self._some(None, "state = 'parked'")

    def open(self) -> Iterator[tuple[ActionRecord, Outcome]]:
        """Those of which the server may know more.

        It may have parked and discarded ones all the same (R4). Where it has an accepted one
        may not be known before that comes back (O6).
        """
        return self._some(None, "state IN ('parked', 'discarded') OR seq IS NULL")

    def remembered(self) -> list[ActionRecord]:
        """The newest of those that the server had when they left the log, in order."""
        were_there = "state IN ('accepted', 'changed', 'rejected')"
        found = self._some(None, f"{were_there} ORDER BY seq DESC LIMIT {REMEMBERED_MAX}")
        return sorted((record for record, _ in found), key=lambda record: record.order_key)

    def _some(
        self, server_floor: OrderKey | None, where: str, *values: str
    ) -> Iterator[tuple[ActionRecord, Outcome]]:
        sql = (
            f"SELECT record, id, state, reason, detail, seq FROM synchrotron_outcome WHERE {where}"
        )
        for text, id, state, reason, detail, seq in self._execute(sql, values):
            record = decode_record(text)
            yield (
                record,
                Outcome(
                    id=id,
                    state=state,
                    reason=reason,
                    detail=detail,
                    seq=seq,
                    final=_final(record, seq, server_floor),
                ),
            )

    # ---- ids that a restored or copied file gave up (O6) ---------------------------

    def rename(self, old: ActionId, new: ActionId) -> None:
        self._execute("INSERT OR REPLACE INTO synchrotron_renamed VALUES (?, ?)", (old, new))

    def former_ids(self, id: ActionId) -> list[ActionId]:
        """The ids that an action had before, the latest first."""
        found: list[ActionId] = []
        while old := self._execute(
            "SELECT old_id FROM synchrotron_renamed WHERE new_id = ?", (id,)
        ).get:
            id = ActionId(old)
            found.append(id)
        return found

    def present_id(self, id: ActionId) -> ActionId:
        """The id under which an action is known by now."""
        while found := self._execute(
            "SELECT new_id FROM synchrotron_renamed WHERE old_id = ?", (id,)
        ).get:
            id = ActionId(found)
        return id
