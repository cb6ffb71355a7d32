"""What a user may store: the form of a patch, its audience, and the right to write there.

A right is judged as things are now, a row as it stood at its place in history (H6). The
audience of a patch is never taken from the message (S9): an insert says it by its row's
`audience_key`; an update or a delete writes in the audience in which the row is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from synchrotron.core.fold import apply
from synchrotron.core.ids import ClientId
from synchrotron.core.messages import SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target, Values
from synchrotron.core.records import ActionRecord
from synchrotron.testing.membership import Membership, Viewer
from synchrotron.testing.proposals import Proposals
from synchrotron.testing.server_state import State
from synchrotron.testing.server_tables import UNFIT

Policy = Callable[[str, str, str, Mapping[str, Any]], bool]
"""`policy(user, op, table, row)`: may this user insert, update or delete this row?"""


class Fault(NamedTuple):
    """Why something may not be stored, and the row where that shows."""

    row: RowKey | None
    reason: str


class Rights:
    """Judges what is proposed against what is stored."""

    def __init__(
        self,
        state: State,
        proposals: Proposals,
        membership: Membership,
        policy: Callable[[], Policy | None],
    ) -> None:
        self._state = state
        self._proposals = proposals
        self._membership = membership
        self._policy = policy

    # ---- actions ------------------------------------------------------------------

    def action_fault(self, user: str, client: ClientId, sent: SentAction) -> Fault | None:
        """What denies an action that is not stored yet."""
        if fault := self.form_fault(user, client, sent):
            return fault
        for audience in sent.record.audiences or ():
            if not self._membership.may_write(user, audience):
                return Fault(None, f"it declares {audience}, in which {user} may not write (H7)")
        for sent_patch in sent.patches:
            target, patch = sent_patch.target, sent_patch.patch
            if patch and (reason := self._patch_fault(user, sent.record, target, patch)):
                return Fault(target.row, reason)
        return None

    def form_fault(self, user: str, client: ClientId, sent: SentAction) -> Fault | None:
        """What denies an action whatever rows and rights there are."""
        record = sent.record
        if record.user != user or record.client_id != client:
            return Fault(None, "a replica uploads its own user's and its own client's actions (H9)")
        if reason := self._proposals.record_fault(record):
            return Fault(None, reason)
        if self._state.action_at(record.order_key):
            return Fault(None, f"another action has the order key {record.order_key}")
        seen: set[Target] = set()
        for patch in sent.patches:
            row = RowKey(patch.table, tuple(patch.key))
            if reason := self._proposals.fault(patch):
                return Fault(row, reason)
            if patch.op is None:
                return Fault(row, "a new action has nothing to remove")
            if patch.target in seen:
                return Fault(row, "an action has one patch for a row in an audience (A8)")
            seen.add(patch.target)
        return None

    def _patch_fault(
        self, user: str, record: ActionRecord, target: Target, patch: Patch
    ) -> str | None:
        if reason := self._write_fault(user, record, target):
            return reason
        before = self._state.row_before(target, record.order_key)
        known = self._state.is_known(target)
        return self.place_fault(user, target, before, patch, known=known)

    # ---- corrections --------------------------------------------------------------

    def correction_fault(self, viewer: Viewer, correction: SentCorrection) -> str | None:
        """What denies a correction, whatever else its upload stores."""
        action, sent = self._state.actions.get(correction.action_id), correction.patch
        if action is None or not viewer.sees(action):
            return "there is no such action"  # unknown or invisible: answered alike (H4a)
        if reason := self._proposals.fault(sent):
            return reason
        if sent.op is None and sent.target not in action.patches:
            return "there is no such patch to remove"
        return self._write_fault(viewer.user, action.record, sent.target)

    # ---- a patch ------------------------------------------------------------------

    def _write_fault(self, user: str, record: ActionRecord, target: Target) -> str | None:
        audience = target.audience
        if record.audiences is not None and audience not in record.audiences:
            return f"{audience} is not among the audiences that its action declares (A10)"
        if not self._membership.may_write(user, audience):
            return f"{user} may not write in {audience}"
        return None

    def place_fault(
        self, user: str, target: Target, before: Values | None, patch: Patch, *, known: bool
    ) -> str | None:
        """What denies a patch at its place, where the row was `before`.

        `known`: something else is stored of the row in this audience. A patch may have no
        effect at its place; but a row of another audience is not there at all.
        """
        if before is None and patch.op != "insert":
            return None if known else f"{target.audience} has no such row"
        after = apply(before, patch)
        if after is not None and (reason := self._audience_fault(target, after)):
            return reason
        return self._policy_fault(user, target, before, after, patch)

    def removal_fault(
        self, user: str, target: Target, before: Values | None, removed: Patch | None
    ) -> str | None:
        """What denies the removal of a patch: a policy that would deny the patch."""
        if removed is None:
            return None
        return self._policy_fault(user, target, before, apply(before, removed), removed)

    def _audience_fault(self, target: Target, row: Values) -> str | None:
        try:
            audience = self._proposals.audience_of(target.table, row)
        except UNFIT as error:
            return f"its audience_key cannot be made: {error}"
        if audience != target.audience:
            return f"its audience_key is {audience}, not {target.audience} (S9)"
        return None

    def _policy_fault(
        self, user: str, target: Target, before: Values | None, after: Values | None, patch: Patch
    ) -> str | None:
        """The old row for an update or delete, the new one for an insert or update."""
        policy = self._policy()
        if policy is None:
            return None
        judged = [before] if patch.op == "delete" else [after]
        if patch.op == "update":
            judged = [before, after]
        for row in judged:
            if row is not None:
                shown = self._proposals.python_row(target.table, row, target.audience)
                if not policy(user, patch.op, target.table, shown):
                    return f"a policy forbids {user} to {patch.op} this row"
        return None
