"""Judging an upload: whole or not at all (H1).

Corrections come first, then the actions, in order; each action is judged after the ones
before it. A right that is missing denies the action, or just the correction (S5).

Actions are judged in *sets*: rights are those before an action, so a set ends at one that
writes a table which rights depend on, and there its rows are written. Constraints judge the
end state alone (H5). Where that is invalid, everything is judged again in sets of one
action, and the prefixes of the upload say whose fault it is: the first action with an
invalid prefix after a valid one. If no prefix is valid, it is the corrections' fault: a
group of them, all of one action, is denied, and the rest is judged anew.

What is judged is staged in memory (`history`); only the live tables are written, and what
was written is rolled back to begin anew.

Most uploads do nothing but insert new rows, with which nothing is wrong. This is tried first:
the user inserts them. Where anything is in the way, they are judged as above.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, takewhile
from typing import Any, NamedTuple, TypeAlias

from synchrotron.core.clock import OrderKey
from synchrotron.core.fold import apply
from synchrotron.core.ids import ActionId, Audience, ClientId
from synchrotron.core.messages import Denied, Invalid, RowPatch, SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target, Values
from synchrotron.server.brought import Brought, Proposed, audiences_of
from synchrotron.server.database import Asking, Connection, Query, fetch, fetch_until
from synchrotron.server.form import audience_fault
from synchrotron.server.history import History, Place
from synchrotron.server.installed import Installed
from synchrotron.server.live import UNFIT, Change, Live, Violation
from synchrotron.server.parameters import batched
from synchrotron.server.shadow import Shadow, Write
from synchrotron.server.touched import Stored

Index = int
"""The place of a correction in its upload."""
Row: TypeAlias = Sequence[Any]


class Upload(NamedTuple):
    """What is to be stored, and what is stored of what it touches."""

    user: str
    client: ClientId
    audiences: frozenset[Audience]
    """In which the user may read, before the upload."""
    brought: Brought
    stored: dict[ActionId, Stored]
    """The actions that are corrected."""
    taken: frozenset[OrderKey]
    """Which of the order keys others have."""

    @property
    def actions(self) -> Sequence[SentAction]:
        return self.brought.actions

    @property
    def corrections(self) -> Sequence[SentCorrection]:
        return self.brought.corrections

    def proposed(self, patch: RowPatch) -> Proposed:
        """What a patch of the message proposes."""
        return self.brought.proposed[id(patch)]


class Refused(NamedTuple):
    """Why an upload is not stored: one action, and the row where it shows."""

    kind: type[Denied] | type[Invalid]
    action_id: ActionId
    row: RowKey | None
    reason: str


class Fault(NamedTuple):
    """Why something may not be stored, and the row where that shows."""

    row: RowKey | None
    reason: str


class Written(NamedTuple):
    """What came of writing the end state of a set."""

    violation: Violation | None
    stored: Row | None
    """What the statement that stores it all gave, if that was asked."""


class Trial(NamedTuple):
    """What came of staging corrections and actions."""

    denied: set[Index]
    refused: Refused | None
    violations: list[Violation | None]
    """Of each prefix: of the corrections alone, with the first set, with two, …"""
    stored: Row | None
    """What the statement that stores it all gave, where nothing refused the upload."""


Storing: TypeAlias = Callable[[frozenset[Index]], Query]
"""Makes the statement that stores all that is staged; not the corrections that are denied.

It gives one row. It is made and asked while the last rows are still being written, and is
rolled back with them.
"""


class Judgement:
    """The judgement of one upload, behind the savepoint `judgement`."""

    def __init__(
        self,
        connection: Connection,
        installed: Installed,
        upload: Upload,
        history: History,
        live: Live,
        shadow: Shadow,
        rights: Mapping[Audience, bool],
        storing: Storing,
    ) -> None:
        """`rights` say of some audiences whether the user may write in them, at the beginning."""
        self._connection = connection
        self._installed = installed
        self._upload = upload
        self._history = history
        self._live = live
        self._shadow = shadow
        self._unwritten: dict[RowKey, None] = {}
        self._written_tables: set[str] = set()
        self._rights = dict(rights)
        self._storing = storing
        self._denied: set[Index] = set()
        self._is_fresh = True

    @property
    def denied(self) -> frozenset[Index]:
        """The corrections that are not stored."""
        return frozenset(self._denied)

    @property
    def changes_rights(self) -> bool:
        return not self._written_tables.isdisjoint(self._installed.rights_tables)

    async def decide(self) -> Refused | Row:
        """Store the upload without the corrections that it denies, or say what refuses it.

        Of one that is stored: the row that `storing` gave.
        """
        if self._only_inserts() and (stored := await self._insert()):
            return stored
        one_by_one = False
        while True:
            trial = await self._try(
                self._allowed(), self._upload.actions, one_by_one, storing=self._storing
            )
            self._denied |= trial.denied
            if trial.stored is not None:
                return trial.stored
            if not one_by_one and any(trial.violations):
                one_by_one = True
                continue
            if trial.refused:
                return trial.refused
            if None in trial.violations:
                return self._action_to_blame(trial.violations)
            self._denied |= await self._group_to_blame()

    def _allowed(self) -> set[Index]:
        return set(range(len(self._upload.corrections))) - self._denied

    # ---- new rows alone -----------------------------------------------------------

    def _only_inserts(self) -> bool:
        """Whether an upload does nothing but insert rows, all of which the user can insert at once.

        Nothing is known of them, so each is at its place what it is in the end. Their audiences
        are the user's already, so that they can be seen when they are written. Nothing that
        judges one of them looks at another row, and nobody becomes a member by them.
        """
        upload, brought, installed = self._upload, self._upload.brought, self._installed
        return (
            brought.only_inserts
            and self._history.is_empty
            and upload.audiences.issuperset(brought.patched)
            and installed.self_contained.issuperset(brought.tables)
            and installed.audience_tables.isdisjoint(brought.tables)
        )

    async def _insert(self) -> Row | None:
        """Insert the rows as the user and store it all; None where anything is in the way."""
        self._is_fresh = False
        brought, denied = self._upload.brought, False
        await self._read_rights([*brought.patched, *brought.declared])
        self._written_tables.update(brought.tables)

        def rows() -> Iterator[tuple[Target, Values, Patch]]:
            nonlocal denied
            for sent in brought.actions:
                declared = sent.record.audiences
                if self._action_fault(sent) or any(
                    self._write_fault(declared, patch.audience) for patch in sent.patches
                ):
                    denied = True
                    return
                for sent_patch in sent.patches:
                    _, target, _, _, patch = brought.proposed[id(sent_patch)]
                    assert patch is not None  # it is an insert
                    self._history.insert(target)
                    yield target, sent_patch.values or {}, patch

        inserting = Asking(chain.from_iterable(map(self._live.inserting, batched(rows()))))

        def queries() -> Iterator[Query]:
            yield from inserting
            if not denied:
                yield ("SELECT synchrotron.check_constraints()",)
                yield self._storing(frozenset())

        told = await fetch_until(self._connection, queries())
        is_of_storing = len(told.rows) > inserting.count
        if told.error and (is_of_storing or not isinstance(told.error, UNFIT)):
            raise told.error
        if denied or told.error:
            return None
        *misplaced, _, [stored] = told.rows
        return None if any(misplaced) else stored

    # ---- whose fault it is --------------------------------------------------------

    def _action_to_blame(self, violations: Sequence[Violation | None]) -> Refused:
        """The first action with an invalid prefix after a valid one."""
        valid = violations.index(None)
        i, violation = next((i, v) for i, v in enumerate(violations) if v and i > valid)
        id = self._upload.actions[i - 1].record.id
        return Refused(Invalid, id, violation.row, violation.reason)

    async def _group_to_blame(self) -> set[Index]:
        """The group without which some prefix is valid, else the first with which none is."""
        groups: dict[ActionId, set[Index]] = {}
        for i in sorted(self._allowed()):
            groups.setdefault(self._upload.corrections[i].action_id, set()).add(i)
        for group in groups.values():
            trial = await self._try(self._allowed() - group, self._upload.actions, True)
            if None in trial.violations:
                return group
        begun: set[Index] = set()
        for group in groups.values():
            begun |= group
            if None not in (await self._try(begun, (), True)).violations:
                break
        return group

    # ---- trials -------------------------------------------------------------------

    async def _try(
        self,
        corrections: set[Index],
        actions: Sequence[SentAction],
        one_by_one: bool,
        *,
        storing: Storing | None = None,
    ) -> Trial:
        """Stage these corrections, but for those without a right to stay, and these actions.

        Then store all that, with `storing`; but not where a prefix was invalid that may hold more
        than one action.
        """
        denied: set[Index] = set()
        while more := await self._out_of_place(corrections - denied, actions):
            denied |= more
        await self._restart()
        self._stage_corrections(corrections - denied)
        violations: list[Violation | None] = []
        stored: Row | None = None
        sets = [(), *self._sets(actions, one_by_one)]
        for i, actions_of_set in enumerate(sets, 1):
            finish: Callable[[], Query] | None = None
            if storing and i == len(sets) and (one_by_one or not any(violations)):
                finish = partial(storing, frozenset(self._denied | denied))
            came = await self._judge_set(actions_of_set, finish)
            if isinstance(came, Refused):
                return Trial(denied, came, violations, None)
            violations.append(came.violation)
            stored = came.stored
        return Trial(denied, None, violations, stored)

    def _sets(
        self, actions: Iterable[SentAction], one_by_one: bool
    ) -> Iterator[Sequence[SentAction]]:
        ends = self._installed.rights_tables
        set: list[SentAction] = []
        for sent in actions:
            set.append(sent)
            if one_by_one or any(patch.table in ends for patch in sent.patches):
                yield set
                set = []
        if set:
            yield set

    async def _restart(self) -> None:
        if self._is_fresh:
            self._is_fresh = False
            return
        self._history.restart()
        self._live.restart()
        self._unwritten.clear()
        self._written_tables.clear()
        self._rights.clear()
        await self._connection.execute(b"ROLLBACK TO SAVEPOINT judgement")

    def _split(self) -> Violation | None:
        """No replica could hold one key twice, not even between two actions (S9)."""
        for row in self._unwritten:
            if self._history.is_split(row):
                return Violation(
                    row, "it would be in several audiences at one place in history (S9)"
                )
        return None

    # ---- actions ------------------------------------------------------------------

    async def _judge_set(
        self, actions: Sequence[SentAction], finish: Callable[[], Query] | None
    ) -> Refused | Written:
        """Judge actions between which no right changes, and bring the tables to the end state.

        Then ask the last statement of all. It is one round trip: each of these is made while
        PostgreSQL is at those before it. What was done behind a fault is in vain, and is there
        until it is rolled back with the upload.
        """
        if not actions and not self._unwritten and finish is None:
            return Written(None, None)
        declared = chain.from_iterable(sent.record.audiences or () for sent in actions)
        patched = audiences_of(sent.patches for sent in actions)
        await self._read_rights(dict.fromkeys([*patched, *declared]))
        authors: list[ActionId] = []
        refused: list[Refused] = []
        split: Violation | None = None

        def rest(change: Change) -> Iterator[Query]:
            nonlocal split
            if refused or (split := self._split()):
                return
            yield from change.queries
            tables = {row.table for row in self._unwritten}
            self._written_tables |= tables
            if not tables.isdisjoint(self._installed.audience_tables):
                yield ("SELECT synchrotron.note_members()",)
            if finish is not None:
                yield finish()

        tries = self._shadow.tries(self._stage_set(actions, authors, refused))
        change = self._live.change(self._unwritten, self._history.homes)
        told = await fetch_until(self._connection, chain(tries.queries, rest(change)))
        if first := await self._shadow.first_fault(self._upload.user, tries, told):
            i, reason = first
            return Refused(Denied, authors[i], tries.all_writes()[i].target.row, reason)
        if refused:
            return refused[0]
        if tries.broke_off(told):  # and yet nothing is wrong with any of them
            change = self._live.change(self._unwritten, self._history.homes)
            told = await fetch_until(self._connection, rest(change))
        else:
            told = told.after(tries.queries.count)
        if split:
            return Written(split, None)
        if violation := await self._live.violation(change, told):
            return Written(violation, None)
        self._unwritten.clear()
        self._rights.clear()
        return Written(None, told.rows[-1][0] if finish is not None else None)

    def _stage_set(
        self, actions: Sequence[SentAction], authors: list[ActionId], refused: list[Refused]
    ) -> Iterator[Write]:
        """Stage actions, until one is denied. Gives the writes by which each is to be judged."""
        for sent in actions:
            writes: list[Write] = []
            fault = self._action_fault(sent) or self._stage_action(sent, writes)
            authors.extend([sent.record.id] * len(writes))
            yield from writes
            if fault is not None:
                refused.append(Refused(Denied, sent.record.id, *fault))
                return

    def _action_fault(self, sent: SentAction) -> Fault | None:
        """What denies an action before its rows are looked at."""
        if fault := self._form_fault(sent):
            return fault
        for audience in sent.record.audiences or ():
            if not self._rights[audience]:
                user = self._upload.user
                return Fault(None, f"it declares {audience}, in which {user} may not write (H7)")
        return None

    def _form_fault(self, sent: SentAction) -> Fault | None:
        """What denies an action whatever rows and rights there are."""
        record, upload, proposed = sent.record, self._upload, self._upload.brought.proposed
        if record.user != upload.user or record.client_id != upload.client:
            return Fault(None, "a replica uploads its own user's and its own client's actions (H9)")
        if not upload.brought.records_fit and (reason := self._installed.form.record_fault(record)):
            return Fault(None, reason)
        if record.order_key in upload.taken:
            return Fault(None, f"another action has the order key {record.order_key}")
        seen: set[Target] = set()
        is_single = len(sent.patches) == 1
        for patch in sent.patches:
            fault, target, row, _, _ = proposed[id(patch)]
            if fault is not None:
                return Fault(row, fault)
            if patch.op is None:
                return Fault(row, "a new action has nothing to remove")
            if is_single:
                break
            if target in seen:
                return Fault(row, "an action has one patch for a row in an audience (A8)")
            seen.add(target)
        return None

    def _stage_action(self, sent: SentAction, writes: list[Write]) -> Fault | None:
        """Stage an action, and note the writes by which it is to be judged."""
        record, proposed = sent.record, self._upload.brought.proposed
        for sent_patch in sent.patches:
            _, target, row, _, patch = proposed[id(sent_patch)]
            assert patch is not None
            if reason := self._write_fault(record.audiences, target.audience):
                return Fault(row, reason)
            life = self._history.opened(target, row)
            before = life.row_before(record.order_key)
            after = apply(before, patch)
            if before is None and patch.op != "insert":
                if not life.is_known():
                    return Fault(row, f"{target.audience} has no such row")
            else:
                writes.append(Write(target, patch, before, after))
            life.put(record.order_key, patch, after)
            self._unwritten[row] = None
        return None

    def _stage(self, place: Place, row: RowKey, patch: Patch | None) -> None:
        self._history.opened(place.target, row).put(place.order_key, patch)
        self._unwritten[row] = None

    # ---- rights -------------------------------------------------------------------

    async def _read_rights(self, audiences: Iterable[Audience]) -> None:
        unknown = [audience for audience in audiences if audience not in self._rights]
        self._rights |= dict.fromkeys(unknown, False)
        if unknown := [a for a in unknown if audience_fault(a) is None]:
            rows = await fetch(
                self._connection, "SELECT * FROM synchrotron.may_write(%s::text[])", unknown
            )
            self._rights |= {audience: True for (audience,) in rows}

    def _write_fault(self, declared: Container[Audience] | None, audience: Audience) -> str | None:
        if declared is not None and audience not in declared:
            return f"{audience} is not among the audiences that its action declares (A10)"
        if not self._rights[audience]:
            return f"{self._upload.user} may not write in {audience}"
        return None

    # ---- corrections --------------------------------------------------------------

    def _stage_corrections(self, indices: Iterable[Index]) -> None:
        for i in sorted(indices):
            proposed = self._upload.proposed(self._upload.corrections[i].patch)
            self._stage(self.place(i), proposed.row, proposed.patch)

    def place(self, i: Index) -> Place:
        """Where a correction belongs, whose action is stored."""
        sent = self._upload.corrections[i]
        target = self._upload.proposed(sent.patch).target
        return Place(self._upload.stored[sent.action_id].order_key, target)

    async def _out_of_place(self, indices: set[Index], actions: Iterable[SentAction]) -> set[Index]:
        """Corrections to be denied, whatever becomes of the actions: for a right, or a row.

        A correction may rest on another one, or on an action, as an update rests on an
        insert that came late. So its row is looked at when everything is staged.
        """
        if not indices:
            return set()
        await self._restart()
        corrections = {i: self._upload.corrections[i] for i in sorted(indices)}
        await self._read_rights(c.patch.audience for c in corrections.values())
        if denied := {i for i, c in corrections.items() if self._correction_fault(c)}:
            return denied
        places = {self.place(i): i for i in corrections}
        replaced = {
            place: (self._history.has_patch(place), self._history.stored_patch(place))
            for place in places
        }
        self._stage_corrections(indices)
        for sent in takewhile(lambda sent: self._form_fault(sent) is None, actions):
            for sent_patch in sent.patches:
                _, target, row, _, patch = self._upload.proposed(sent_patch)
                self._stage(Place(sent.record.order_key, target), row, patch)
        faulty: set[Index] = set()
        writes: dict[Index, Write] = {}
        for target in {place.target for place in places}:
            for key, before in self._history.life(target).steps():
                place = Place(key, target)
                if (i := places.get(place)) is None:
                    continue
                write = self._write_of(place, before, *replaced[place])
                if isinstance(write, Write):
                    writes[i] = write
                elif write is not None:
                    faulty.add(i)
        order = sorted(writes)
        tried = await self._shadow.faults(self._upload.user, [writes[i] for i in order])
        return faulty | {order[i] for i in tried}

    def _write_of(
        self, place: Place, before: Values | None, was_there: bool, replaced: Patch | None
    ) -> Write | str | None:
        """The write by which a correction is judged, or what denies it without one.

        A removal is judged as the patch that it takes away would be.
        """
        target = place.target
        patch = self._history.life(target).patches[place.order_key]
        if patch is None:
            if replaced is None or (before is None and replaced.op != "insert"):
                return None
            return Write(target, replaced, before, apply(before, replaced))
        if before is None and patch.op != "insert":
            known = was_there or self._history.life(target).is_known(besides=place.order_key)
            return None if known else f"{target.audience} has no such row"
        return Write(target, patch, before, apply(before, patch))

    def _correction_fault(self, correction: SentCorrection) -> str | None:
        """What denies a correction, whatever else its upload stores."""
        action, sent = self._upload.stored.get(correction.action_id), correction.patch
        if action is None or not action.is_seen_by(self._upload.user, self._upload.audiences):
            return "there is no such action"  # unknown or invisible: answered alike (H4a)
        fault, target, _, _, _ = self._upload.proposed(sent)
        if fault is not None:
            return fault
        if sent.op is None and not self._history.has_patch(Place(action.order_key, target)):
            return "there is no such patch to remove"
        return self._write_fault(action.audiences, target.audience)
