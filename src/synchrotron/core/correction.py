"""Corrections: when a replay may replace what the server knows (SPEC section 5).

A correction replaces the patch of one action on one row, *in place*. It is never an
action of its own and never sits at the end of history (S3). Who may correct is a
matter of *standing*: history before the action has changed since the known patch was
computed.
"""

from __future__ import annotations

from typing import NamedTuple

from synchrotron.core.ids import Seq
from synchrotron.core.patches import Known, Patch


class Before(NamedTuple):
    """What a replica knows of history before an action."""

    newest: int
    """The newest seq among the events ordered before, those below the floor included."""
    unsettled: bool
    """A pending action, or one with an unsent correction, is ordered before."""

    def gives_standing_over(self, basis: Seq) -> bool:
        return self.unsettled or self.newest > basis

    def then(self, newest: int | None, *, unsettled: bool) -> Before:
        """What is known before the next action."""
        return Before(max(self.newest, newest or 0), self.unsettled or unsettled)


class Decision(NamedTuple):
    """What is applied for one row, and whether that is a correction to send."""

    patch: Patch | None
    correction: bool


def decide(
    replayed: Patch | None,
    known: Known | None,
    before: Before,
    *,
    unsent: bool,
    may_correct: bool,
    visible: bool,
) -> Decision:
    """Choose between what a replay produced and what is known, for one row.

    `unsent`: the action already has a correction that was not sent. `may_correct`: False
    for code that the replica lacks (S10) and for rows on which the server denied it (S5).
    `visible`: whether rows of this audience may be written here at all (S6).
    """
    if known is None:
        stands = may_correct and visible and replayed is not None
        return Decision(replayed if stands else None, stands)
    if may_correct and (unsent or before.gives_standing_over(known.basis)):
        return Decision(replayed, replayed != known.patch)
    return Decision(known.patch, False)
