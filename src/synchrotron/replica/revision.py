"""Revising history: undo to where it parts, and replay everyone's actions in order.

A revision is staged first, as changes to entries of the log, and then carried out within
the caller's transaction (S1):

1. The earliest order key that changes is where histories part.
2. Everything from there on is undone, by the images that this replica kept itself, but for
   what rests on nothing that changes (`ahead`).
3. In order, each action runs again. For an action that the server has, what the run
   produced is compared row by row with what is known, and `decide` chooses.

The cost is that of the actions from the earliest change on (S2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

import apsw

from synchrotron.app.action import Action
from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.core.correction import Before, Decision, decide
from synchrotron.core.ids import ActionId, Audience, Seq
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.core.plan import FastForward, InStep, Rewind, make_plan
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ForeignKeyError, MachineError
from synchrotron.replica.ahead import Ahead
from synchrotron.replica.outcomes import Outcome, Reason, SetAside, outcome_of
from synchrotron.replica.runner import MissingParent, PointsNowhere, Runner
from synchrotron.store.database import is_machine_error
from synchrotron.store.effects import Effect, effects_of
from synchrotron.store.footprint import NOTHING, read_footprint
from synchrotron.store.log import AcceptedRun, Entry, Place
from synchrotron.store.rows import Image, Images
from synchrotron.store.state import State
from synchrotron.store.store import Store


class Attempt(NamedTuple):
    """What running an action again gave."""

    did: dict[Target, Effect]
    error: str | None = None
    """It raised: it has no effect at that place in history (A7)."""
    may_correct: bool = True
    """False where its code is unknown here (S10), or a foreign key may point to a row
    hidden from this user (A9): then what is known stands."""


class Revised(NamedTuple):
    """What carrying a revision out did."""

    replayed: int
    tables: set[str]
    """The synced tables whose rows are other than before."""
    outcomes: list[Outcome]
    """Of own actions whose outcome is another now."""
    left_out: list[tuple[ActionRecord, Target]]
    """Known patches that could not be applied."""


class FloorClash(Exception):
    """Rows at the floor that this database cannot hold together.

    Constraints judge the end of history alone (H5): at a place within it, or between two
    pages, UNIQUE values may clash. A snapshot is of the end.
    """


class Revision:
    """Changes to history, staged by entry and carried out at once."""

    def __init__(self, store: Store, runner: Runner, state: State) -> None:
        self._store = store
        self._runner = runner
        self._log = store.log
        self.state = state
        self.set_aside = SetAside(store.writer)
        self._entries: dict[int, Entry] = {}
        self._changed: dict[int, Entry] = {}
        self._added: dict[ActionId, Entry] = {}
        self._accepted: dict[OrderKey, Entry | None] = {}
        self._set_aside_ids: set[ActionId] = set()
        self._touched: set[int] = set()
        self._removed: set[int] = set()
        self._starts: list[OrderKey] = []
        self._floor_rows: dict[Target, Image | None] = {}
        self._left: set[Audience] = set()
        self._outcomes: dict[int, Outcome] = {}
        self._stored: dict[int, tuple[OrderKey, Outcome]] = {}
        self._told: dict[ActionId, tuple[OrderKey, Outcome]] = {}
        self._tables: set[str] = set()
        self._ahead = Ahead((), self._write_images, NOTHING)
        self._actions = store.definition.actions.keys()
        self._execute = store.writer.cursor().execute
        self._next_own, self._next_other = store.log.next_positions()
        self._next_own = max(self._next_own, state.n + 1)

    # ---- staging ------------------------------------------------------------------

    def expect(self, records: Sequence[ActionRecord]) -> None:
        """Look for these records at once, rather than one by one: most are new."""
        found = self._log.accepted_among([record.order_key for record in records])
        for record in records:
            self._accepted[record.order_key] = found.get(record.order_key)
        self._set_aside_ids = self.set_aside.among([record.id for record in records])

    def is_set_aside(self, record: ActionRecord) -> bool:
        """Whether an own action that was expected has left the log."""
        return record.id in self._set_aside_ids

    def find(self, record: ActionRecord) -> Entry | None:
        """The entry of an action: at its place in the order, or under its id if it moved."""
        if record.id in self._added:
            return self._added[record.id]
        if record.order_key not in self._accepted:
            self._accepted[record.order_key] = self._log.accepted_at(record.order_key)
        entry = self._same(self._accepted[record.order_key])
        if entry is not None and entry.record.id == record.id:
            return entry
        if record.client_id != self.state.client_id:
            return None
        pending = self._pending_by_id.get(record.id)
        return None if pending is None or pending.position in self._removed else pending

    @cached_property
    def _pending_by_id(self) -> dict[ActionId, Entry]:
        return {entry.record.id: entry for entry in self.pending()}

    def all(self) -> list[Entry]:
        """Every entry of the log, in order."""
        return self._present(self._log.all())

    def pending(self) -> list[Entry]:
        return self._present(self._log.pending())

    def looked_at(self) -> Iterable[Entry]:
        """The entries that this revision has read or added."""
        return self._entries.values()

    def accept_runs(self, runs: Sequence[AcceptedRun]) -> set[ActionId]:
        """Mark own runs as stored by the server with what they did; give which were just that.

        They are marked in the log at once: nothing of them was read before.
        """
        marked = self._log.accept_runs(runs)
        for n, seq, record in marked:
            self._stored[n] = record.order_key, Outcome(id=record.id, state="accepted", seq=seq)
        return {record.id for _, _, record in marked}

    def with_corrections(self) -> list[Entry]:
        """Accepted actions with corrections to send."""
        return self._present(self._log.unsent())

    def touch(self, entry: Entry) -> None:
        """History changes at this action: it and all after it are replayed."""
        self._starts.append(entry.key)
        self._touched.add(entry.position)
        self.keep(entry)

    def keep(self, entry: Entry) -> None:
        """Store the entry's changes; its effects on rows stay."""
        self._changed[entry.position] = entry

    def add(
        self,
        record: ActionRecord,
        seq: Seq | None,
        *,
        own: bool = False,
        position: int | None = None,
    ) -> Entry:
        """An action that was not in the log."""
        entry = Entry(position or self._position(own), record, seq, {})
        self._added[record.id] = entry
        self._entries[entry.position] = entry
        self._starts.append(entry.key)
        self.state.knows(entry.key)
        return entry

    def bring_back(self, record: ActionRecord, seq: Seq | None) -> Entry:
        """An own action that had left the log."""
        entry, found = self.add(record, seq, own=True), self.set_aside.get(record.id, None)
        self.set_aside.take(record.id)
        if found is not None and found[1].seq is not None:  # that it was accepted is no news
            self._outcomes[entry.position] = found[1]
        return entry

    def move(self, entry: Entry, key: OrderKey) -> None:
        """Another place in the order: a retry's stored one, or a fresh stamp."""
        self.touch(entry)
        entry.record = entry.record.moved(key)
        self._starts.append(key)
        self.state.knows(key)

    def renew(self, entry: Entry, record: ActionRecord) -> None:
        """The same run under another id: the file was restored or copied (O6)."""
        self.remove(entry)
        renewed = self.add(record, None, own=True)
        renewed.effects = entry.effects

    def next_n(self) -> int:
        """The n and position that the next own action gets."""
        return self._next_own

    def remove(self, entry: Entry) -> None:
        """Take an action out of the log and out of the rows; its n is not used again (O5)."""
        self._starts.append(entry.key)
        self._removed.add(entry.position)
        self.state.n = max(self.state.n, entry.position)
        self.state.knows(entry.key)

    def park(self, entry: Entry, reason: Reason, detail: str | None) -> None:
        """Set an own pending action aside: everything after it is replayed without it."""
        self.remove(entry)
        self.set_parked(entry.record, reason, detail)

    def set_parked(self, record: ActionRecord, reason: Reason, detail: str | None) -> None:
        """Keep a parked action, with why it is parked."""
        self.tell(record, Outcome(id=record.id, state="parked", reason=reason, detail=detail))

    def tell(self, record: ActionRecord, outcome: Outcome) -> None:
        """Keep the outcome of an action that is not in the log; it is news."""
        self.set_aside.put(record, outcome)
        self._told[record.id] = record.order_key, outcome

    def retire(self, entry: Entry) -> None:
        """Take an action out of the log and out of the rows; an own one keeps its outcome."""
        if entry.own:
            outcome = outcome_of(entry, self.state.server_floor)
            if _tells(outcome) == _tells(self._outcomes.get(entry.position)):
                self.set_aside.put(entry.record, outcome)
            else:
                self.tell(entry.record, outcome)
        self.remove(entry)

    def put_below(self, target: Target, image: Image | None) -> None:
        """A row as it stands at the floor, to be put under history (F2)."""
        self._floor_rows[target] = image
        self._starts.append(FIRST)

    def leave(self, audience: Audience) -> None:
        """Rows, patches and records of an audience disappear (F6)."""
        self._left.add(audience)
        self._starts.append(FIRST)

    def _position(self, own: bool) -> int:
        if own:
            position, self._next_own = self._next_own, self._next_own + 1
        else:
            position, self._next_other = self._next_other, self._next_other - 1
        return position

    def _same(self, entry: Entry | None) -> Entry | None:
        """One object for one entry, however it was found; None if it was removed."""
        if entry is None or entry.position in self._removed:
            return None
        return self._load(entry)

    def _load(self, entry: Entry) -> Entry:
        known = self._entries.get(entry.position)
        if known is not None:
            return known
        if entry.own and entry.position not in self._stored:  # as it was before the revision
            self._outcomes[entry.position] = outcome_of(entry, None)
        self._entries[entry.position] = entry
        return entry

    def _present(self, entries: Iterable[Entry]) -> list[Entry]:
        return [same for entry in entries if (same := self._same(entry)) is not None]

    # ---- carrying out --------------------------------------------------------------

    def carry_out(self) -> Revised:
        """Undo, replay and store.

        Raises `MachineError` and `FloorClash`; the caller then rolls back.
        """
        places: list[Place] = []
        match make_plan(self._starts, self._log.last_key()):
            case InStep():
                start = None
            case FastForward(start):
                pass
            case Rewind(start):
                places = self._log.places(start)
        old = {place.position for place in places}
        gone = self._prepare(places)
        self._store_early(old)
        if start is None:
            replayed, left_out = list[Entry](), list[tuple[ActionRecord, Target]]()
        else:
            gone |= self._put_floor_rows()
            turns = self._turns(places)
            self._forget_left(turns)
            replayed, left_out = self._replay(turns, start)
        changed = {entry.position: entry for entry in replayed}
        changed |= {at: entry for at, entry in self._changed.items() if at in old - self._removed}
        self._log.save(changed.values())
        self.state.pending_from = self._lowest_pending()
        self.state.knows(self._log.last_key())
        again = sum(entry.position in old for entry in replayed)
        return Revised(again, self._tables | gone, self._news(replayed), left_out)

    def _prepare(self, places: list[Place]) -> set[str]:
        """Take back what must run again in any case; give the tables that lost rows for good."""
        nothing_stays = self._runner.replay_all or self._floor_rows or self._left
        gone: set[str] = set()
        for place in places:
            if loaded := self._entries.get(place.position):
                place.footprint, place.newest = loaded.footprint, loaded.newest
                place.unsettled = loaded.pending or loaded.unsent
            if nothing_stays or self._must_run(place):
                place.footprint = None
            if place.position in self._removed:
                gone.update(row.table for row in place.before)
        self._ahead = Ahead(places, self._write_images, self._store.footprints.unique)
        lost = [row for place in places if place.footprint is None for row in place.before]
        self._ahead.take_back(lost, NOTHING)
        for place in places:
            if place.position in self._removed or self._moved(place):
                self._ahead.changed(place.before)
        return gone

    def _must_run(self, place: Place) -> bool:
        if place.position in self._touched or place.position in self._removed:
            return True
        if place.footprint is None:
            return True
        name, version, _ = read_footprint(place.footprint)
        return (name, version) not in self._actions

    def _turns(self, places: list[Place]) -> list[Place | Entry]:
        """Who is to be looked at again, in order: entries run, places may stay."""
        turns: list[Place | Entry] = list(self._added.values())
        turns += [
            self._entries[place.position] if self._moved(place) else place
            for place in places
            if place.position not in self._removed
        ]
        turns.sort(key=_key)
        return turns

    def _moved(self, place: Place) -> bool:
        entry = self._entries.get(place.position)
        return entry is not None and entry.key != place.key

    def _write_images(self, images: Images) -> None:
        with self._store.rows.unchecked():
            self._store.rows.write(images)

    def _store_early(self, later: set[int]) -> None:
        """Store what comes before the start: standing is read from the log there."""
        self._log.remove(self._removed)
        gone = later | self._removed | {entry.position for entry in self._added.values()}
        self._log.save(e for e in self._changed.values() if e.position not in gone)

    def _put_floor_rows(self) -> set[str]:
        """Put rows under history; give the tables where that changed any."""
        rows = self._store.rows
        images: dict[RowKey, Image | None] = {}
        for audience in sorted(self._left):
            images.update((row, None) for row in rows.in_audience(audience))
        # A row leaves one audience before it appears in another.
        for target, image in sorted(self._floor_rows.items(), key=lambda f: f[1] is not None):
            found = rows.read(target.row)
            if found is not None and image == found[0] and target.row not in images:
                continue
            if image is not None or (found is not None and found[1] == target.audience):
                images[target.row] = image
        if images:
            try:
                with rows.unchecked():
                    rows.write(images)
            except apsw.ConstraintError as error:
                if self._store.triggers.failed():
                    raise MachineError(f"a local trigger failed: {error}") from error
                raise FloorClash(str(error)) from error
        return {row.table for row in images}

    def _forget_left(self, turns: list[Place | Entry]) -> None:
        if self._left:
            for entry in map(self._entry, turns):
                entry.effects = {
                    target: effect
                    for target, effect in entry.effects.items()
                    if target.audience not in self._left
                }

    def _lowest_pending(self) -> int:
        lowest = self._log.first_pending_position()
        return self._log.next_positions()[0] if lowest is None else lowest

    # ---- replaying -----------------------------------------------------------------

    def _replay(
        self, turns: list[Place | Entry], start: OrderKey
    ) -> tuple[list[Entry], list[tuple[ActionRecord, Target]]]:
        """Give who ran again, and known patches that could not be applied."""
        replayed: list[Entry] = []
        left_out: list[tuple[ActionRecord, Target]] = []
        before = self._log.before(start, self.state.floor_seq)
        ahead = self._ahead
        for at, turn in enumerate(turns):
            if isinstance(turn, Place):
                stays = ahead.stays(turn)
                if not stays:
                    ahead.take_back(turn.before, NOTHING)
                ahead.passed(turn)
                if stays:
                    before = before.then(turn.newest, unsettled=turn.unsettled)
                    continue
            entry = self._entry(turn)
            failed = self._replay_one(entry, islice(turns, at), start, before)
            left_out += [(entry.record, target) for target in failed]
            replayed.append(entry)
            before = before.then(entry.newest, unsettled=entry.pending or entry.unsent)
        return replayed, left_out

    def _entry(self, turn: Place | Entry) -> Entry:
        if isinstance(turn, Entry):
            return turn
        return self._entries.get(turn.position) or self._load(turn.entry())

    def _replay_one(
        self, entry: Entry, earlier: Iterable[Place | Entry], start: OrderKey, before: Before
    ) -> list[Target]:
        had_unsent, old = entry.unsent, _traces(entry)
        if self._ahead:
            # Known patches may be applied: nothing that lies ahead may be in their way.
            unique = self._store.footprints.unique.intersection(t.table for t in entry.effects)
            self._ahead.take_back([target.row for target in entry.effects], unique)
        attempt = self._attempt(entry, earlier, start)
        entry.error = attempt.error
        failed: list[Target] = []
        if entry.pending:
            self._take(entry, attempt)
        else:
            failed = self._settle(entry, attempt, before, had_unsent)
        changed = _differing(old, _traces(entry))
        self._ahead.changed(changed)
        self._tables.update([row.table for row in changed])
        return failed

    def _attempt(self, entry: Entry, earlier: Iterable[Place | Entry], start: OrderKey) -> Attempt:
        """Run an action again inside a savepoint, which is left open for the decision."""
        record = entry.record
        action = self._store.definition.action_of(record)
        self._execute("SAVEPOINT synchrotron_replay")
        entry.rests_on = None
        if action is None or any(effect.foreign for effect in entry.effects.values()):
            return Attempt({}, may_correct=False, error=_standing_error(entry))
        did, error = self._run(action, record)
        while self._met_what_lies_ahead(did):
            self._execute("ROLLBACK TO synchrotron_replay")
            self._execute("RELEASE synchrotron_replay")
            self._ahead.take_back([target.row for target in did], self._runner.rested_on)
            self._execute("SAVEPOINT synchrotron_replay")
            did, error = self._run(action, record)
        if error is None:
            entry.rests_on = self._runner.rested_on
            return Attempt(did)
        if isinstance(error, PointsNowhere) and not entry.pending:
            before = [self._entry(turn) for turn in earlier]
            if not any(self._known_missing(m, before, start) for m in error.missing):
                return Attempt({}, may_correct=False, error=_standing_error(entry))
        kind = ForeignKeyError if isinstance(error, PointsNowhere) else type(error)
        return Attempt({}, error=f"{kind.__name__}: {error}")

    def _met_what_lies_ahead(self, did: dict[Target, Effect]) -> bool:
        if not self._ahead:
            return False
        return self._ahead.met_by([target.row for target in did], self._runner.rested_on)

    def _run(
        self, action: Action[Any, Any], record: ActionRecord
    ) -> tuple[dict[Target, Effect], Exception | None]:
        """What an action did, or why it raised: then it is taken back."""
        try:
            _, changes = self._runner.run(action, record, action.arguments(record.args))
        except BaseException as error:
            if self._store.writer.in_transaction:
                self._execute("ROLLBACK TO synchrotron_replay")
            if isinstance(error, MachineError) or not isinstance(error, Exception):
                raise
            if is_machine_error(error):
                raise MachineError(f"replaying {record.name}: {error!r}") from error
            return {}, error
        return effects_of(self._store.schema.tables, changes), None

    def _known_missing(self, missing: MissingParent, earlier: list[Entry], start: OrderKey) -> bool:
        """Whether the replica knows that the row is missing there, and not merely hidden (A9).

        It does if a patch above its floor deleted the row, or the insert it knew was removed.
        """
        if missing.made_here:
            return True
        table = self._store.schema.tables[missing.parent]
        named = next((v for v in missing.values if isinstance(v, str)), None)
        stored = self._log.mentioning(named or missing.parent, start)
        for one in (*stored, *earlier):
            for effect in one.effects.values():
                if effect.table == table.name and table.denotes(
                    effect.key, effect.before, missing.columns, missing.values
                ):
                    if effect.applied is not None:
                        if effect.applied.op == "delete":
                            return True
                    elif effect.unsent or (effect.known and effect.known.patch is None):
                        return True  # its insert was removed, by others or by this replay
        return False

    def _take(self, entry: Entry, attempt: Attempt) -> None:
        """An own pending action simply gets its new patches."""
        if attempt.may_correct:
            self._execute("RELEASE synchrotron_replay")
            entry.effects = attempt.did
            return
        # Its code is gone from this version: what it did before is all there is.
        old = {t: e.applied for t, e in entry.effects.items() if e.applied is not None}
        befores = self._apply(old)
        entry.effects = {
            target: Effect(*target, applied=old[target], before=before)
            for target, before in befores.items()
        }

    def _settle(
        self, entry: Entry, attempt: Attempt, before: Before, had_unsent: bool
    ) -> list[Target]:
        """Choose, row by row, between the replay and what is known; give what was left out."""
        did = attempt.did
        if self._agrees(entry, did):
            self._execute("RELEASE synchrotron_replay")
            return []
        decisions = {
            target: self._decide(entry, target, attempt, before, had_unsent)
            for target in (*did, *(t for t, e in entry.effects.items() if t not in did))
        }
        chosen = {t: d.patch for t, d in decisions.items() if d.patch is not None}
        befores = {target: done.before for target, done in did.items()}
        left_out: list[Target] = []
        if chosen == {target: done.applied for target, done in did.items()}:
            self._execute("RELEASE synchrotron_replay")
        else:
            befores = self._apply(chosen)
            left_out = [target for target in chosen if target not in befores]
            for target in left_out:
                decisions[target] = self._instead(entry, target, attempt, befores)
        self._record_effects(entry, decisions, befores, did)
        if any(effect.applied is not None for effect in entry.effects.values()):
            entry.error = None  # it raised, and what is known won over that
        # Tables that this schema does not have are left out on purpose (S11).
        return [target for target in left_out if target.table in self._store.schema.tables]

    def _agrees(self, entry: Entry, did: dict[Target, Effect]) -> bool:
        """Whether the replay did what is known, and no more: mostly so, and soon told.

        There is nothing to choose then, whoever has standing; what was done is kept.
        """
        if len(did) != len(entry.effects):
            return False
        for target, effect in entry.effects.items():
            done = did.get(target)
            if done is None or effect.known is None or effect.known.patch != done.applied:
                return False
        for target, effect in entry.effects.items():
            effect.applied, effect.before = did[target].applied, did[target].before
            effect.unsent = effect.overruled = False
        return True

    def _decide(
        self, entry: Entry, target: Target, attempt: Attempt, before: Before, had_unsent: bool
    ) -> Decision:
        effect = entry.effects.get(target)
        done = attempt.did.get(target)
        return decide(
            done.applied if done else None,
            effect.known if effect else None,
            before,
            unsent=had_unsent,
            may_correct=attempt.may_correct and not (effect is not None and effect.denied),
            visible=target.audience in self.state.audiences,
        )

    def _apply(self, patches: dict[Target, Patch]) -> dict[Target, Image | None]:
        """Instead of what the replay did, apply patches."""
        self._execute("ROLLBACK TO synchrotron_replay")
        self._execute("RELEASE synchrotron_replay")
        here = {t: p for t, p in patches.items() if t.table in self._store.schema.tables}
        if not here:
            return {}
        with self._store.rows.unchecked():
            return self._store.rows.apply(here)

    def _instead(
        self,
        entry: Entry,
        target: Target,
        attempt: Attempt,
        befores: dict[Target, Image | None],
    ) -> Decision:
        """A known patch that cannot be applied gives standing: the replay's own stands."""
        effect = entry.effects.get(target)
        known = effect.known if effect else None
        if not attempt.may_correct or (effect is not None and effect.denied):
            return Decision(None, False)
        done = attempt.did.get(target)
        patch = done.applied if done else None
        if patch is not None and (known is None or patch != known.patch):
            with self._store.rows.unchecked():
                befores.update(self._store.rows.apply({target: patch}))
        applied = patch if target in befores else None
        return Decision(applied, applied != (known.patch if known else None))

    def _record_effects(
        self,
        entry: Entry,
        decisions: dict[Target, Decision],
        befores: dict[Target, Image | None],
        did: dict[Target, Effect],
    ) -> None:
        first_seen = b"" if entry.own else None
        effects = {}
        for target, (patch, correction) in decisions.items():
            effect = entry.effects.get(target)
            if effect is None:
                effect = Effect(*target, accepted=first_seen)
            effect.applied = patch
            effect.before = befores.get(target) if patch is not None else None
            effect.unsent = correction
            effect.overruled = not correction and patch != (
                did[target].applied if target in did else None
            )
            effects[target] = effect
        entry.effects = effects

    # ---- what is new ---------------------------------------------------------------

    def _news(self, replayed: list[Entry]) -> list[Outcome]:
        """Own actions whose outcome is another than before, in order."""
        entries = {entry.position: entry for entry in replayed} | self._changed
        news = {at: stored for at, stored in self._stored.items() if at not in self._removed}
        for entry in entries.values():
            if entry.own and entry.position not in self._removed:
                now = outcome_of(entry, None)
                if _tells(now) != _tells(self._outcomes.get(entry.position)):
                    news[entry.position] = entry.key, now
        told = self._told | {found[1].id: found for found in news.values()}
        return [outcome for _, outcome in sorted(told.values(), key=itemgetter(0))]


def _key(turn: Place | Entry) -> OrderKey:
    return turn.key


def _standing_error(entry: Entry) -> str | None:
    """Why an action that cannot be judged here raised when it could be, if that still stands.

    It does as long as nobody knows of anything that it did (R2).
    """
    effects = entry.effects.values()
    does = any(effect.known is not None and effect.known.patch is not None for effect in effects)
    return None if does else entry.error


def _tells(outcome: Outcome | None) -> tuple[str | None, ...]:
    """What an application would say of an outcome: that the server has it by now is no news."""
    return () if outcome is None else (outcome.state, outcome.reason, outcome.detail)


def _traces(entry: Entry) -> dict[Target, tuple[Patch, Image | None]]:
    """What an entry did to each row. Where that is the same as before, the row is, too."""
    return {
        target: (effect.applied, effect.before)
        for target, effect in entry.effects.items()
        if effect.applied is not None
    }


def _differing(
    a: dict[Target, tuple[Patch, Image | None]], b: dict[Target, tuple[Patch, Image | None]]
) -> list[RowKey]:
    return [target.row for target in {**a, **b} if a.get(target) != b.get(target)]
