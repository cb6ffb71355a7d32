"""Live queries: the rows of a query now, and again after every commit that changed them.

A live query sleeps until a commit changes a table that it reads; SQLite's authorizer told
which ones when the query was compiled. What happens while its rows are being looked at is
only noted: the next step reads the newest state, and there is no backlog. It has no thread
of its own. Whoever commits wakes who waits, a thread by a condition and a coroutine by its
event loop.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

from synchrotron.errors import Closed
from synchrotron.replica.events import Listeners

T = TypeVar("T")


class Live(Generic[T]):
    """The rows of one query, whenever they may have changed. Made by `replica.live`.

    Each step gives the rows as of the last commit: the first at once, the next ones when a
    table that the query reads has changed since. It is for one consumer, a thread (`for`) or
    a coroutine of asyncio (`async for`); who comes late gets the newest state. It ends when
    it or its replica is closed, by whichever thread.
    """

    def __init__(self, read: Callable[[], list[T]], tables: frozenset[str]) -> None:
        self.tables = tables
        """The synced tables on which the query depends."""
        self._read = read
        self._news = threading.Condition()
        self._stale = True
        self._closed = False
        self._sleeping: set[Callable[[], None]] = set()

    def close(self) -> None:
        """End it, also for who waits in it. Closing twice does no harm."""
        with self._news:
            self._closed = True
            self._rouse()

    def tell(self, changed: Set[str]) -> None:
        """A commit changed these tables."""
        if not self.tables.isdisjoint(changed):
            with self._news:
                self._stale = True
                self._rouse()

    def _rouse(self) -> None:
        self._news.notify_all()
        for wake in self._sleeping:
            wake()
        self._sleeping.clear()

    # ---- in a thread ----------------------------------------------------------------

    def __iter__(self) -> Live[T]:
        return self

    def __next__(self) -> list[T]:
        with self._news:
            self._news.wait_for(lambda: self._stale or self._closed)
            if self._closed:
                raise StopIteration
            self._stale = False  # before reading: what comes meanwhile is news
        try:
            return self._read()
        except Closed:
            raise StopIteration from None
        except BaseException:
            self._stale = True
            raise

    # ---- in a coroutine -------------------------------------------------------------

    def __aiter__(self) -> Live[T]:
        return self

    async def __anext__(self) -> list[T]:
        import asyncio  # who gets here has it; a replica without an event loop needs none

        loop = asyncio.get_running_loop()
        while not self._take():
            news = loop.create_future()
            wake = _waker(loop, news)
            with self._news:
                if self._stale or self._closed:
                    continue
                self._sleeping.add(wake)
            try:
                await news
            finally:
                with self._news:
                    self._sleeping.discard(wake)
        try:
            # A query may be slow, and in memory it waits for its turn: not on the loop.
            return await asyncio.to_thread(self._read)
        except Closed:
            raise StopAsyncIteration from None
        except BaseException:  # cancelled, too: these rows reached nobody
            self._stale = True
            raise

    def _take(self) -> bool:
        """Whether there is news, which is then taken. Raises `StopAsyncIteration`."""
        with self._news:
            if self._closed:
                raise StopAsyncIteration
            news, self._stale = self._stale, False
            return news

    # ---- its end --------------------------------------------------------------------

    def __enter__(self) -> Live[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _waker(loop: Any, news: Any) -> Callable[[], None]:
    """What wakes a coroutine that waits for a future, from any thread."""

    def settle() -> None:
        if not news.done():
            news.set_result(None)

    def wake() -> None:
        with suppress(RuntimeError):  # its loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle)

    return wake


class LiveQueries:
    """The live queries of a replica. One that nobody holds any more is forgotten."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[Live[Any]] = weakref.WeakSet()
        self._subscribed = False
        self._closed = False

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
