"""An authority for those who do not await: its event loop runs in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from synchrotron.core.ids import Seq
from synchrotron.core.messages import (
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
    decode_answer,
    decode_chunks,
    decode_request,
    decode_snapshot_request,
    encode,
)
from synchrotron.server.postgres import PostgresAuthority

T = TypeVar("T")


class Bridge:
    """Runs coroutines in a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Run a coroutine until the function that is returned is called."""
        task = asyncio.run_coroutine_threadsafe(coroutine, self._loop)

        def stop() -> None:
            task.cancel()
            # Cancelled in the loop: what comes after has to wait for that.
            self.run(asyncio.sleep(0))

        return stop

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Served:
    """A PostgreSQL authority with the face of a `MemoryServer`, as far as tests need it."""

    def __init__(self, database: str, **options: Any) -> None:
        self.database = database
        self.bridge = Bridge()
        self.authority = PostgresAuthority(database, **options)
        self.bridge.run(self.authority.open())

    def close(self) -> None:
        self.bridge.run(self.authority.close())
        self.bridge.close()

    def connect(self, user: str) -> "Wire":
        return Wire(self, user)

    def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        return self.bridge.run(self.authority.sync(user, request))

    def snapshot(self, user: str, request: SnapshotRequest) -> list[SnapshotChunk]:
        async def collect() -> list[SnapshotChunk]:
            return [chunk async for chunk in self.authority.snapshot(user, request)]

        return self.bridge.run(collect())

    def prune(self, keep: int = 100) -> int:
        return self.bridge.run(self.authority.prune(keep=keep))


class Wire:
    """A transport, over which messages are encoded and decoded."""

    def __init__(self, served: Served, user: str, wait: Callable[[float], None] = time.sleep):
        self._served = served
        self._wait = wait
        self.user = user

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        answer = self._served.sync(self.user, decode_request(encode(request)))
        return decode_answer(encode(answer))

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        chunks = self._served.snapshot(self.user, decode_snapshot_request(encode(request)))
        return decode_chunks(iter([encode(chunk) for chunk in chunks]))

    def wait(self, ms: int) -> None:
        self._wait(ms / 1000)

    def listen(
        self, news: Callable[[Seq], None], connected: Callable[[bool], None]
    ) -> Callable[[], None]:
        async def follow() -> None:
            async with aclosing(self._served.authority.commits(self.user)) as commits:  # type: ignore[type-var]
                async for horizon in commits:
                    connected(True)
                    news(horizon)

        return self._served.bridge.start(follow())
