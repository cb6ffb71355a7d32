"""An event loop in a thread of its own, for callers that have none or must not wait in theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from synchrotron.errors import Offline

T = TypeVar("T")
INSIST_S = 1
"""After so long, work that has not ended is told once more to end."""
LAST_S = 5
"""So long the last thing may take: it must not hold up the end of a program."""


class LoopThread:
    """Runs coroutines for any thread. The thread starts with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin some work; cancelling its future ends it. Raises `Offline` once closed."""
        with self._lock:
            if self._closed:
                work.close()
                raise Offline("the connection to the server is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name=self._name, daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for some work to be done. Raises what it raises, and `Offline` if cancelled."""
        return self.begin(work)()

    def begin(self, work: Coroutine[Any, Any, T]) -> Callable[[], T]:
        """Begin some work that `cancel` may end; the function waits for it, as `run` does."""
        future = self.start(work)
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

        def wait() -> T:
            try:
                return future.result()
            except CancelledError:
                raise Offline("the request was given up") from None
            except BaseException:  # such as a KeyboardInterrupt while waiting
                future.cancel()
                raise

        return wait

    def cancel(self) -> None:
        """Give up whatever is waited for."""
        for future in tuple(self._waiting):
            future.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """End all work, do this last, and end the thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_end(last), loop)
            thread.join()
            loop.close()


async def _end(last: Callable[[], Coroutine[Any, Any, object]]) -> None:
    try:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=INSIST_S)
        async with asyncio.timeout(LAST_S):
            await last()
    finally:
        asyncio.get_running_loop().stop()
