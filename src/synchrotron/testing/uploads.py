"""Judging an upload: whole or not at all (H1).

Corrections come first, then the actions, in order; each action is judged after the ones
before it. A right that is missing denies the action, or just the correction (S5).

Constraints judge the end state alone (H5). Where that is invalid, the prefixes of the
upload say whose fault it is: the first action with an invalid prefix after a valid one.
If no prefix is valid, it is the corrections' fault: a group of them, all of one action,
is denied, and the rest is judged anew. Denied corrections never refuse an upload.

Everything is staged in the state and written to the tables while it is judged; the
caller commits, or rolls both back. Memberships are read from the tables, and so from
the newest valid prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from synchrotron.core.ids import ActionId, ClientId, Seq
from synchrotron.core.messages import (
    Corrected,
    Denied,
    Invalid,
    SentAction,
    SentCorrection,
    row_patch,
)
from synchrotron.core.patches import Patch, RowKey, Target, Values
from synchrotron.testing.membership import Membership, Viewer
from synchrotron.testing.proposals import Proposals
from synchrotron.testing.rights import Rights
from synchrotron.testing.server_state import Stage, State, StoredAction, StoredPatch
from synchrotron.testing.server_tables import ServerTables, Violation

Index = int
"""The place of a correction in its upload."""


class Upload(NamedTuple):
    """What is to be stored: actions that the server does not have, and corrections."""

    client: ClientId
    viewer: Viewer
    actions: Sequence[SentAction]
    corrections: Sequence[SentCorrection]


class Refused(NamedTuple):
    """Why an upload is not stored: one action, and the row where it shows."""

    kind: type[Denied] | type[Invalid]
    action_id: ActionId
    row: RowKey | None
    reason: str


class Trial(NamedTuple):
    """What came of staging corrections and actions."""

    denied: set[Index]
    refused: Refused | None
    violations: list[Violation | None]
    """Of each prefix: of the corrections alone, with the first action, with two, …"""


class Judgement:
    """The judgement of one upload."""

    def __init__(
        self,
        upload: Upload,
        state: State,
        tables: ServerTables,
        membership: Membership,
        rights: Rights,
    ) -> None:
        self._upload = upload
        self._state = state
        self._tables = tables
        self._membership = membership
        self._rights = rights
        self._begin = state.undo.mark()
        self._unwritten: dict[RowKey, None] = {}
        self._denied: set[Index] = set()

    def decide(self) -> Refused | None:
        """Stage the upload without the corrections that it denies, or say what refuses it."""
        while True:
            trial = self._try(self._allowed(), self._upload.actions)
            self._denied |= trial.denied
            if trial.refused or trial.violations[-1] is None:
                return trial.refused
            if None in trial.violations:
                return self._action_to_blame(trial.violations)
            self._denied |= self._group_to_blame()

    def corrected(self) -> list[Corrected]:
        """What became of each correction, once the upload is numbered."""
        return [
            Corrected(c.action_id, c.patch.table, c.patch.key, c.patch.audience, self._seq(i, c))
            for i, c in enumerate(self._upload.corrections)
        ]

    def _seq(self, index: Index, correction: SentCorrection) -> Seq | None:
        if index in self._denied:
            return None
        return self._state.actions[correction.action_id].patches[correction.patch.target].known.seq

    def _allowed(self) -> set[Index]:
        return set(range(len(self._upload.corrections))) - self._denied

    # ---- whose fault it is --------------------------------------------------------

    def _action_to_blame(self, violations: Sequence[Violation | None]) -> Refused:
        """The first action with an invalid prefix after a valid one."""
        valid = violations.index(None)
        i, violation = next((i, v) for i, v in enumerate(violations) if v and i > valid)
        id = self._upload.actions[i - 1].record.id
        return Refused(Invalid, id, violation.row, violation.reason)

    def _group_to_blame(self) -> set[Index]:
        """The group without which some prefix is valid, else the first with which none is."""
        groups: dict[ActionId, set[Index]] = {}
        for i in sorted(self._allowed()):
            groups.setdefault(self._upload.corrections[i].action_id, set()).add(i)
        for group in groups.values():
            if None in self._try(self._allowed() - group, self._upload.actions).violations:
                return group
        begun: set[Index] = set()
        for group in groups.values():
            begun |= group
            if None not in self._try(begun, ()).violations:
                break
        return group

    # ---- trials -------------------------------------------------------------------

    def _try(self, corrections: set[Index], actions: Sequence[SentAction]) -> Trial:
        """Stage these corrections, but for those without a right to stay, and these actions."""
        denied: set[Index] = set()
        while more := self._out_of_place(corrections - denied, actions):
            denied |= more
        self._restart()
        self._stage_corrections(corrections - denied)
        violations = [self._write()]
        for sent in actions:
            user, client = self._upload.viewer.user, self._upload.client
            if fault := self._rights.action_fault(user, client, sent):
                return Trial(denied, Refused(Denied, sent.record.id, *fault), violations)
            self._stage_action(sent)
            violations.append(self._write())
        return Trial(denied, None, violations)

    def _restart(self) -> None:
        if self._state.undo.mark() > self._begin:
            self._state.undo.back_to(self._begin)
            self._tables.back_to_begin()
        self._unwritten.clear()

    def _write(self) -> Violation | None:
        """Bring the tables to the present end state, if that is valid."""
        violation = self._split() or self._tables.write(
            {row: self._state.living(row) for row in self._unwritten}
        )
        if violation is None:
            self._unwritten.clear()
            self._membership.note_members()
        return violation

    def _split(self) -> Violation | None:
        """No replica could hold one key twice, not even between two actions (S9)."""
        for row in self._unwritten:
            if self._state.is_split(row):
                return Violation(
                    row, "it would be in several audiences at one place in history (S9)"
                )
        return None

    def _stage_action(self, sent: SentAction) -> None:
        self._state.stage_action(sent.record)
        for patch in sent.patches:
            self._stage(sent.record.id, patch.target, patch.patch)
            self._state.refold(patch.target, added=sent.record.id)

    def _stage_corrections(self, indices: Iterable[Index]) -> None:
        targets: dict[Target, None] = {}
        for i in sorted(indices):
            id, sent = self._upload.corrections[i].action_id, self._upload.corrections[i].patch
            self._stage(id, sent.target, sent.patch)
            self._state.undo.append(self._state.staged, Stage(id, sent.target))
            targets[sent.target] = None
        for target in targets:
            self._state.refold(target)

    def _stage(self, id: ActionId, target: Target, patch: Patch | None) -> None:
        user, client = self._upload.viewer.user, self._upload.client
        self._state.stage_patch(id, target, patch, client, user)
        self._unwritten[target.row] = None

    # ---- corrections --------------------------------------------------------------

    def _out_of_place(self, indices: set[Index], actions: Iterable[SentAction]) -> set[Index]:
        """Corrections to be denied, whatever becomes of the actions: for a right, or a row.

        A correction may rest on another one, or on an action, as an update rests on an
        insert that came late. So its row is looked at when everything is staged.
        """
        if not indices:
            return set()
        self._restart()
        corrections = {i: self._upload.corrections[i] for i in sorted(indices)}
        viewer = self._upload.viewer
        faults = {i: self._rights.correction_fault(viewer, c) for i, c in corrections.items()}
        if denied := {i for i, fault in faults.items() if fault}:
            return denied
        replaced = {
            i: self._state.actions[c.action_id].patches.get(c.patch.target)
            for i, c in corrections.items()
        }
        self._stage_corrections(indices)
        for sent in takewhile(self._has_form, actions):
            self._stage_action(sent)
        places = {(c.patch.target, c.action_id): i for i, c in corrections.items()}
        return {
            i
            for target in {target for target, _ in places}
            for id, before in self._state.life_of(target)
            if (i := places.get((target, id))) is not None
            and self._place_fault(target, id, before, replaced[i])
        }

    def _has_form(self, sent: SentAction) -> bool:
        viewer, client = self._upload.viewer, self._upload.client
        return self._rights.form_fault(viewer.user, client, sent) is None

    def _place_fault(
        self, target: Target, id: ActionId, before: Values | None, old: StoredPatch | None
    ) -> str | None:
        user = self._upload.viewer.user
        patch = self._state.patch(id, target)
        if patch is None:
            removed = old.known.patch if old else None
            return self._rights.removal_fault(user, target, before, removed)
        known = old is not None or self._state.is_known(target, besides=id)
        return self._rights.place_fault(user, target, before, patch, known=known)


def differences(
    viewer: Viewer, stored: StoredAction, sent: SentAction, proposals: Proposals
) -> Iterator[SentCorrection]:
    """What a retry changes in what it stored before, as corrections (H4).

    Only rows that the user can see count: of others the replica had no patch to send.
    """
    id = sent.record.id
    held = viewer.patches_of(stored)
    kept: set[Target] = set()
    for patch in sent.patches:
        if proposals.fault(patch):
            yield SentCorrection(id, patch)  # to be denied, for its form
        elif patch.audience in viewer.audiences:
            kept.add(patch.target)
            known = held.get(patch.target)
            if (known.known.patch if known else None) != patch.patch:
                yield SentCorrection(id, patch)
    for target, stored_patch in held.items():
        if target not in kept and stored_patch.known.patch is not None:
            yield SentCorrection(id, row_patch(target, None))
