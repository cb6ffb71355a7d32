"""`MemoryServer` behind the port that the HTTP server has to PostgreSQL.

So an application's tests can go through real HTTP without a database:

    server = MemoryServer(app)
    asgi(authority=MemoryAuthority(server), jwt_secret=…)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from synchrotron.core.ids import Seq
from synchrotron.core.messages import SnapshotChunk, SnapshotRequest, SyncAnswer, SyncRequest
from synchrotron.testing.memory_server import MemoryServer


class MemoryAuthority:
    """An authority whose history is in memory; for tests."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server

    async def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        return await asyncio.to_thread(self.server.sync, user, request)

    async def snapshot(self, user: str, request: SnapshotRequest) -> AsyncIterator[SnapshotChunk]:
        for chunk in await asyncio.to_thread(self.server.snapshot, user, request):
            yield chunk

    async def commits(self, user: str) -> AsyncIterator[Seq]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(woken.set)

        stop = self.server.watch(wake)
        try:
            seen = self.server.horizon
            yield seen
            while True:
                await woken.wait()
                woken.clear()
                before, seen = seen, self.server.horizon
                if self.server.has_news(user, before):
                    yield seen
        finally:
            stop()

    async def check(self) -> None:
        """Memory is always there."""
