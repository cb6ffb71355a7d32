"""Live queries: the rows of a query now, and again after every commit that changed them.

A live query sleeps until a commit changes a table that it reads; SQLite's authorizer told
which ones when the query was compiled. What happens while its rows are being looked at is
only noted: the next step reads the newest state, and there is no backlog. It has no thread
of its own: whoever commits wakes who waits. Who waits also looks, some times a second, whether
another process has committed to the file. Of such a commit nobody tells the tables: the rows
are read, and given if they are others.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Set
from typing import Any, Generic, TypeVar

from synchrotron.errors import Closed
from synchrotron.replica.bell import Bell
from synchrotron.replica.events import Listeners
from synchrotron.store.closing import Closing

T = TypeVar("T")
LOOK_S = 0.05
"""How often who waits looks for commits by other processes."""


class Live(Closing, Generic[T]):
    """The rows of one query, whenever they may have changed. Made by `replica.live`.

    Each step gives the rows as of the last commit: the first at once, the next ones when a
    table that the query reads has changed since. It is for one consumer, a thread (`for`) or
    a coroutine of asyncio (`async for`); who comes late gets the newest state. It ends when
    it or its replica is closed, by whichever thread.
    """

    def __init__(
        self,
        read: Callable[[], list[T]],
        tables: frozenset[str],
        look: Callable[[], None] | None = None,
    ) -> None:
        self.tables = tables
        """The synced tables on which the query depends."""
        self._read = read
        self._look = look
        self._look_s = None if look is None else LOOK_S
        self._given: list[T] | None = None
        self._bell = Bell()
        self._lock = threading.Lock()
        self._stale = True
        self._doubtful = False
        self._closed = False

    def close(self) -> None:
        """End it, also for who waits in it. Closing twice does no harm."""
        self._closed = True
        self._bell.ring()

    def tell(self, changed: Set[str]) -> None:
        """A commit changed these tables."""
        if not self.tables.isdisjoint(changed):
            with self._lock:
                self._stale = True
            self._bell.ring()

    def doubt(self) -> None:
        """Another process has committed: the rows may be others."""
        with self._lock:
            self._doubtful = True
        self._bell.ring()

    # ---- in a thread ----------------------------------------------------------------

    def __iter__(self) -> Live[T]:
        return self

    def __next__(self) -> list[T]:
        while True:
            self._bell.wait(self._is_due, self._look_s)
            if self._closed:
                raise StopIteration
            due, certain = self._take()
            if not due:
                self._look_around()
                continue
            try:
                rows = self._read()
            except Closed:
                raise StopIteration from None
            except BaseException:
                self._stale = True
                raise
            if self._gives(rows, certain):
                return rows

    def _is_due(self) -> bool:
        return self._stale or self._doubtful or self._closed

    def _take(self) -> tuple[bool, bool]:
        """Whether to read, and whether that is certainly news; what comes from here on is more."""
        with self._lock:
            due, certain = self._stale or self._doubtful, self._stale
            self._stale = self._doubtful = False
        return due, certain

    def _gives(self, rows: list[T], certain: bool) -> bool:
        """Whether rows are to be given: they are news, or other than the last ones."""
        if not certain and rows == self._given:
            return False
        self._given = None if self._look is None else list(rows)
        return True

    def _look_around(self) -> None:
        if self._look is not None:
            self._look()

    # ---- in a coroutine -------------------------------------------------------------

    def __aiter__(self) -> Live[T]:
        return self

    async def __anext__(self) -> list[T]:
        import asyncio  # who gets here has it; a replica without an event loop needs none

        while True:
            await self._bell.wait_async(self._is_due, self._look_s)
            if self._closed:
                raise StopAsyncIteration
            due, certain = self._take()
            if not due:
                self._look_around()
                continue
            try:
                # A query may be slow, and in memory it waits for its turn: not on the loop.
                rows = await asyncio.to_thread(self._read)
            except Closed:
                raise StopAsyncIteration from None
            except BaseException:  # cancelled, too: these rows reached nobody
                self._stale = True
                raise
            if self._gives(rows, certain):
                return rows


class LiveQueries:
    """The live queries of a replica. One that nobody holds any more is forgotten.

    `committed_elsewhere` tells whether another process has, since it was last asked.
    """

    def __init__(self, listeners: Listeners, committed_elsewhere: Callable[[], bool]) -> None:
        self._listeners = listeners
        self._committed_elsewhere = committed_elsewhere
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[Live[Any]] = weakref.WeakSet()
        self._subscribed = False
        self._closed = False

    def look(self) -> None:
        """Look for commits by other processes."""
        if self._committed_elsewhere():
            for live in self._all():
                live.doubt()

    def add(self, live: Live[Any]) -> None:
        with self._lock:
            self._open.add(live)
            if not self._subscribed:  # a run tells of tables only where someone listens
                self._subscribed = True
                self._listeners.on("tables", self._tell)
            if self._closed:
                live.close()

    def _tell(self, changed: Set[str]) -> None:
        for live in self._all():
            live.tell(changed)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for live in self._all():
            live.close()

    def _all(self) -> Iterable[Live[Any]]:
        with self._lock:
            return tuple(self._open)
