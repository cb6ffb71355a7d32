"""What wakes those who wait, in threads and in coroutines.

Not a `threading.Condition`, since Ctrl+C may end whoever waits: a KeyboardInterrupt that meets
the `__enter__` of a condition leaves its lock taken, and the next thread that wants to wake
somebody hangs. (So it was in one of nine interrupts, where others were waking all the time.)
Nobody waits with this lock, and a lock of the interpreter's own is not left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Bell:
    """Rung after something was set that others may be waiting for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: set[Callable[[], object]] = set()

    def ring(self) -> None:
        """Wake all who wait."""
        with self._lock:
            wakers, self._wakers = self._wakers, set()
        for wake in wakers:
            wake()

    def wait(self, is_due: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Until it rings or the time is over; not at all if what is waited for is there."""
        gate = threading.Lock()
        gate.acquire()
        wake = gate.release
        self._add(wake)
        try:
            if not is_due():
                gate.acquire(timeout=-1 if timeout_s is None else timeout_s)
        finally:
            self._remove(wake)

    async def wait_async(self, is_due: Callable[[], bool], timeout_s: float | None = None) -> None:
        """The same, in an event loop of asyncio."""
        import asyncio  # who gets here has it; a replica without an event loop needs none

        loop = asyncio.get_running_loop()
        rung = loop.create_future()
        wake = _waker(loop, rung)
        self._add(wake)
        try:
            if not is_due():
                await asyncio.wait((rung,), timeout=timeout_s)
        finally:
            self._remove(wake)

    def _add(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._wakers.add(wake)

    def _remove(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._wakers.discard(wake)


def _waker(loop: Any, rung: Any) -> Callable[[], None]:
    """What settles a future of an event loop, from any thread."""

    def settle() -> None:
        if not rung.done():
            rung.set_result(None)

    def wake() -> None:
        with suppress(RuntimeError):  # its loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle)

    return wake
