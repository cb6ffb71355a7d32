"""What open event streams cost a server's process: memory, and time at each commit.

So many users listen, as replicas do, all in one process beside the server's. Then something is
committed that none of them can see, something that all can, and a change of who is a member,
after which each of them is looked up. What is told is processor time, of the server's process
and of PostgreSQL, and how long it takes until the last one has heard. (Each stream is a
connection: `ulimit -n` has to admit twice as many.)

    python -m benchmarks.streams            # 1, 100, 1,000 and 4,000
    python -m benchmarks.streams 1 50
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp

from benchmarks.application import add_member, app, create_project, create_todo
from benchmarks.filled import cluster, filled
from benchmarks.http import SECRET, server_process_of
from benchmarks.measuring import tell
from benchmarks.processors import Processors, Used
from synchrotron import Replica
from synchrotron.server.tokens import sign
from synchrotron.wire.formats import EVENTS

STREAMS = (1, 100, 1_000, 4_000)
IDLE_S = 3.0
COMMITS = {"none sees": 20, "all see": 5, "a member is added": 3}
AT_ONCE = 50
"""Streams that are being opened at the same time."""
_ids = map(str, itertools.count())


class Listeners:
    """Open event streams, and how many of them have heard of a commit."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._heard: dict[int, int] = {}
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            session = await opened.enter_async_context(
                aiohttp.ClientSession(
                    url,
                    connector=aiohttp.TCPConnector(limit=0),
                    timeout=aiohttp.ClientTimeout(total=None),
                )
            )
            gate = asyncio.Semaphore(AT_ONCE)
            tasks = [asyncio.create_task(self._listen(session, n, gate)) for n in range(self.count)]
            await self.all_heard(0)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, session: aiohttp.ClientSession, n: int, gate: asyncio.Semaphore):  # noqa: ANN202
        token = sign(SECRET, f"user{n}", time.time(), 3600)
        headers = {"authorization": f"Bearer {token}", "accept": EVENTS}
        await gate.acquire()
        async with session.get("/v1/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"id:"):
                    if n not in self._heard:
                        gate.release()
                    async with self._news:
                        self._heard[n] = int(line[3:])
                        self._news.notify_all()

    async def all_heard(self, seq: int) -> None:
        """Wait until everyone has heard of this commit, or a later one."""
        async with self._news:
            await self._news.wait_for(
                lambda: len(self._heard) == self.count and min(self._heard.values()) >= seq
            )
