"""What an application subscribes to, and the report of a sync."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import msgspec

from synchrotron.errors import UsageError

logger = logging.getLogger("synchrotron")
EventName = Literal[
    "changed", "rejected", "parked", "accepted", "synced", "blocked", "tables", "state"
]


class SyncReport(msgspec.Struct):
    """What one `sync` did, in numbers of actions, rows' corrections or exchanges."""

    uploaded: int = 0
    """Own actions that the server accepted."""
    received: int = 0
    """Others' actions that came."""
    replayed: int = 0
    """Actions undone and run again, own and others'."""
    corrected: int = 0
    """Corrections that the server accepted."""
    changed: int = 0
    rejected: int = 0
    parked: int = 0
    rebased: int = 0
    """Snapshots taken."""
    rounds: int = 0
    """Exchanges with the server."""
    skew_ms: int = 0
    """How far the server's clock is ahead of this machine's, by the last exchange (O4)."""

    def count(self, states: Iterable[str]) -> None:
        """Count outcomes that are new."""
        for state in states:
            if state in ("changed", "rejected", "parked"):
                setattr(self, state, getattr(self, state) + 1)

    def add(self, other: SyncReport) -> None:
        """Add what a later exchange did."""
        skew_ms = other.skew_ms if other.rounds else self.skew_ms
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skew_ms = skew_ms


class Listeners:
    """Callbacks by event. They run after the commit; what they raise is logged."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[[Any], object]]] = {
            name: [] for name in get_args(EventName)
        }

    def on(self, event: EventName, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Subscribe; gives the function that ends the subscription."""
        if event not in self._callbacks:
            raise UsageError(f"there is no event {event!r}: choose of {', '.join(self._callbacks)}")
        callbacks = self._callbacks[event]
        callbacks.append(callback)

        def stop() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return stop

    def __contains__(self, event: EventName) -> bool:
        """Whether anyone listens to an event."""
        return bool(self._callbacks[event])

    def emit(self, event: EventName, value: object) -> None:
        for callback in tuple(self._callbacks[event]):
            try:
                callback(value)
            except Exception:
                logger.exception("a callback for %r raised", event)
