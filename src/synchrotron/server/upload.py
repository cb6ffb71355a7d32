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
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from synchrotron.app.types import formless_text
from synchrotron.core.canonical import text_of
from synchrotron.core.clock import OrderKey
from synchrotron.core.fold import apply
from synchrotron.core.ids import ActionId, Audience, ClientId
from synchrotron.core.messages import Denied, Invalid, RowPatch, SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target, Values
from synchrotron.server.database import Connection, fetch
from synchrotron.server.form import Form
from synchrotron.server.history import History, Place
from synchrotron.server.installed import Installed
from synchrotron.server.live import Live, Violation
from synchrotron.server.shadow import Shadow, Write

Index = int
"""The place of a correction in its upload."""


class Stored(NamedTuple):
    """An action that is stored already, as far as its correction needs it."""

    id: ActionId
    order_key: OrderKey
    user: str
    audiences: frozenset[Audience] | None
    patched: frozenset[Audience]
    """The audiences of its patches."""

    def is_seen_by(self, user: str, audiences: frozenset[Audience]) -> bool:
        """Whether the record is theirs to read: their own, declared for them, or in view."""
        scopes = self.patched.union(self.audiences or ())
        return self.user == user or not audiences.isdisjoint(scopes)


class Proposed(NamedTuple):
    """A patch of a message, read once."""

    fault: str | None
    """What is wrong with its form; then it is nothing else."""
    target: Target
    row: RowKey
    key: str
    """The target's key as it is stored."""
    patch: Patch | None


def read_proposed(form: Form, patches: Iterable[RowPatch]) -> dict[int, Proposed]:
    """By the `id` of each patch: what it proposes."""
    return {id(patch): _proposed(form, patch) for patch in patches}


def _proposed(form: Form, sent: RowPatch) -> Proposed:
    target = sent.target
    if fault := form.fault(sent):
        return Proposed(fault, target, target.row, "", None)
    return Proposed(None, target, target.row, text_of(sent.key), sent.patch)


class Upload(NamedTuple):
    """What is to be stored, and what is stored of what it touches."""

    user: str
    client: ClientId
    audiences: frozenset[Audience]
    """In which the user may read, before the upload."""
    actions: Sequence[SentAction]
    corrections: Sequence[SentCorrection]
    stored: dict[ActionId, Stored]
    """The actions that are corrected."""
    taken: frozenset[OrderKey]
    """Which of the order keys others have."""
    proposed: Mapping[int, Proposed]
    """By the `id` of a patch in the message."""


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


class Trial(NamedTuple):
    """What came of staging corrections and actions."""

    denied: set[Index]
    refused: Refused | None
    violations: list[Violation | None]
    """Of each prefix: of the corrections alone, with the first set, with two, …"""


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
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """`rights` say of some audiences whether the user may write in them, at the beginning.

        `meanwhile` may be done once everything is staged, while the last rows are written.
        """
        self._connection = connection
        self._installed = installed
        self._upload = upload
        self._history = history
        self._live = live
        self._shadow = shadow
        self._unwritten: dict[RowKey, None] = {}
        self._written_tables: set[str] = set()
        self._rights = dict(rights)
        self._meanwhile = meanwhile
        self._denied: set[Index] = set()
        self._is_fresh = True

    @property
    def denied(self) -> frozenset[Index]:
        """The corrections that are not stored."""
        return frozenset(self._denied)

    @property
    def changes_rights(self) -> bool:
        return not self._written_tables.isdisjoint(self._installed.rights_tables)

    async def decide(self) -> Refused | None:
        """Stage the upload without the corrections that it denies, or say what refuses it."""
        one_by_one = False
        while True:
            trial = await self._try(self._allowed(), self._upload.actions, one_by_one)
            self._denied |= trial.denied
            if not any(trial.violations) and not trial.refused:
                return None
            if not one_by_one and any(trial.violations):
                one_by_one = True
                continue
            if trial.refused or trial.violations[-1] is None:
                return trial.refused
            if None in trial.violations:
                return self._action_to_blame(trial.violations)
            self._denied |= await self._group_to_blame()

    def _allowed(self) -> set[Index]:
        return set(range(len(self._upload.corrections))) - self._denied

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
        self, corrections: set[Index], actions: Sequence[SentAction], one_by_one: bool
    ) -> Trial:
        """Stage these corrections, but for those without a right to stay, and these actions."""
        denied: set[Index] = set()
        while more := await self._out_of_place(corrections - denied, actions):
            denied |= more
        await self._restart()
        self._stage_corrections(corrections - denied)
        violations = [await self._write()]
        sets = list(self._sets(actions, one_by_one))
        for i, actions_of_set in enumerate(sets, 1):
            if refused := await self._stage_set(actions_of_set):
                return Trial(denied, refused, violations)
            violations.append(await self._write(is_last=i == len(sets)))
        return Trial(denied, None, violations)

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

    async def _write(self, *, is_last: bool = False) -> Violation | None:
        """Bring the tables to the present end state, if that is valid."""
        if not self._unwritten:
            return None
        violation = self._split() or await self._live.write(
            {row: self._history.homes(row) for row in self._unwritten},
            self._meanwhile if is_last else lambda: None,
        )
        if violation is None:
            tables = {row.table for row in self._unwritten}
            self._unwritten.clear()
            self._written_tables |= tables
            if not tables.isdisjoint(self._installed.audience_tables):
                await self._connection.execute(b"SELECT synchrotron.note_members()")
            self._rights.clear()
        return violation

    def _split(self) -> Violation | None:
        """No replica could hold one key twice, not even between two actions (S9)."""
        for row in self._unwritten:
            if self._history.is_split(row):
                return Violation(
                    row, "it would be in several audiences at one place in history (S9)"
                )
        return None

    # ---- actions ------------------------------------------------------------------

    async def _stage_set(self, actions: Sequence[SentAction]) -> Refused | None:
        """Judge and stage actions between which no right changes; the first that is denied."""
        declared = [audience for sent in actions for audience in sent.record.audiences or ()]
        await self._read_rights(
            dict.fromkeys(patch.audience for sent in actions for patch in sent.patches)
            | dict.fromkeys(declared)
        )
        tried: list[tuple[ActionId, Write]] = []
        faults: list[Refused] = []

        def writes() -> Iterator[Write]:
            for sent in actions:
                made: list[Write] = []
                fault = self._action_fault(sent) or self._stage_action(sent, made)
                tried.extend((sent.record.id, write) for write in made)
                yield from made
                if fault is not None:
                    faults.append(Refused(Denied, sent.record.id, *fault))
                    return

        if first := await self._shadow.first_fault(self._upload.user, writes()):
            i, reason = first
            id, write = tried[i]
            return Refused(Denied, id, write.target.row, reason)
        return faults[0] if faults else None

    def _action_fault(self, sent: SentAction) -> Fault | None:
        """What denies an action before its rows are looked at."""
        if fault := self._form_fault(sent):
            return fault
        for audience in sent.record.audiences or ():
            if not self._rights[audience]:
                user = self._upload.user
                return Fault(None, f"it declares {audience}, in which {user} may not write (H7)")
        return None

    @cached_property
    def _records_fit(self) -> bool:
        return Form.records_fit([sent.record for sent in self._upload.actions])

    def _form_fault(self, sent: SentAction) -> Fault | None:
        """What denies an action whatever rows and rights there are."""
        record, upload = sent.record, self._upload
        if record.user != upload.user or record.client_id != upload.client:
            return Fault(None, "a replica uploads its own user's and its own client's actions (H9)")
        if not self._records_fit and (reason := self._installed.form.record_fault(record)):
            return Fault(None, reason)
        if record.order_key in upload.taken:
            return Fault(None, f"another action has the order key {record.order_key}")
        seen: set[Target] = set()
        for patch in sent.patches:
            fault, target, row, _, _ = upload.proposed[id(patch)]
            if fault is not None:
                return Fault(row, fault)
            if patch.op is None:
                return Fault(row, "a new action has nothing to remove")
            if target in seen:
                return Fault(row, "an action has one patch for a row in an audience (A8)")
            seen.add(target)
        return None

    def _stage_action(self, sent: SentAction, writes: list[Write]) -> Fault | None:
        """Stage an action, and note the writes by which it is to be judged."""
        record, proposed = sent.record, self._upload.proposed
        staged: list[tuple[Target, RowKey, Patch, Values | None]] = []
        for sent_patch in sent.patches:
            _, target, row, _, patch = proposed[id(sent_patch)]
            assert patch is not None
            if reason := self._write_fault(record.audiences, target.audience):
                return Fault(row, reason)
            life = self._history.life(target)
            before = life.row_before(record.order_key)
            after = apply(before, patch)
            if before is None and patch.op != "insert":
                if not life.is_known():
                    return Fault(row, f"{target.audience} has no such row")
            else:
                writes.append(Write(target, patch, before, after))
            staged.append((target, row, patch, after))
        for target, row, patch, after in staged:
            self._stage(Place(record.order_key, target), row, patch, after)
        return None

    def _stage(
        self,
        place: Place,
        row: RowKey,
        patch: Patch | None,
        after: Values | UnsetType | None = UNSET,
    ) -> None:
        self._history.stage(place, row, patch, after)
        self._unwritten[row] = None

    # ---- rights -------------------------------------------------------------------

    async def _read_rights(self, audiences: Iterable[Audience]) -> None:
        unknown = [audience for audience in audiences if audience not in self._rights]
        self._rights |= dict.fromkeys(unknown, False)
        if unknown := [a for a in unknown if formless_text(a) is None]:
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
            proposed = self._upload.proposed[id(self._upload.corrections[i].patch)]
            self._stage(self.place(i), proposed.row, proposed.patch)

    def place(self, i: Index) -> Place:
        """Where a correction belongs, whose action is stored."""
        sent = self._upload.corrections[i]
        target = self._upload.proposed[id(sent.patch)].target
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
                _, target, row, _, patch = self._upload.proposed[id(sent_patch)]
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
        fault, target, _, _, _ = self._upload.proposed[id(sent)]
        if fault is not None:
            return fault
        if sent.op is None and not self._history.has_patch(Place(action.order_key, target)):
            return "there is no such patch to remove"
        return self._write_fault(action.audiences, target.audience)
