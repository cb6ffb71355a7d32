"""Plans: where histories part, as data. Another part carries them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from synchrotron.core.clock import OrderKey


class InStep(NamedTuple):
    """Nothing in history changes; only the cursor moves."""


class FastForward(NamedTuple):
    """Everything new sorts after everything known: nothing is undone."""

    start: OrderKey


class Rewind(NamedTuple):
    """Undo everything from `start` on, and replay it in order."""

    start: OrderKey


Plan = InStep | FastForward | Rewind


def make_plan(changes: Iterable[OrderKey], last: OrderKey) -> Plan:
    """From the order keys at which history changes, and the last one in the log."""
    start = min(changes, default=None)
    if start is None:
        return InStep()
    return Rewind(start) if start <= last else FastForward(start)
