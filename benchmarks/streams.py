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
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

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
    """Open event streams, and which of them have heard of a commit."""

    def __init__(self, count: int) -> None:
        self._heard = [-1] * count
        self._wanted = 0
        self._missing = count
        self._all_heard = asyncio.Event()

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[None]:
        """Ends the streams at the end. All are open, and were told where they stand."""
        async with aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session:
            gate = asyncio.Semaphore(AT_ONCE)
            tasks = [
                asyncio.create_task(self._listen(session, gate, n)) for n in range(len(self._heard))
            ]
            failed = asyncio.gather(*tasks)
            await asyncio.wait(
                {failed, asyncio.create_task(self._all_heard.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            try:
                yield
            finally:
                failed.cancel()
                await asyncio.gather(failed, return_exceptions=True)

    async def _listen(
        self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, n: int
    ) -> None:
        token = sign(SECRET, user(n), time.time(), 3600)
        headers = {"authorization": f"Bearer {token}", "accept": EVENTS}
        async with gate:
            response = await session.get("/v1/events", headers=headers)
            assert response.status == 200, await response.text()
            await self._next(response, n)
        while True:
            await self._next(response, n)

    async def _next(self, response: aiohttp.ClientResponse, n: int) -> None:
        while not (line := await response.content.readline()).startswith(b"id:"):
            assert line, "a stream ended"
        before, self._heard[n] = self._heard[n], int(line[3:])
        if before < self._wanted <= self._heard[n]:
            self._missing -= 1
            if not self._missing:
                self._all_heard.set()

    async def all_heard(self, seq: int) -> None:
        """Wait until everyone has heard of this commit, or of a later one."""
        self._wanted = seq
        self._missing = sum(heard < seq for heard in self._heard)
        if self._missing:
            self._all_heard.clear()
            await asyncio.wait_for(self._all_heard.wait(), 120)


class Writer:
    """Commits something, and tells its seq."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        replica.run(create_project, id="own", members=["writer"])
        replica.sync()

    def commit(self, kind: str) -> int:
        id = next(_ids)
        if kind == "none sees":
            run = self._replica.run(create_todo, id=id, project_id="own")
        elif kind == "all see":
            run = self._replica.run(create_todo, id=id, project_id="p1")
        else:
            run = self._replica.run(add_member, project_id="p1", user=f"new{id}")
        self._replica.sync()
        assert run.outcome.seq is not None
        return run.outcome.seq


def user(n: int) -> str:
    return f"user{n}"


class Cost(NamedTuple):
    """Of one commit, in milliseconds: processor time, and until the last one has heard."""

    server: float
    postgres: float
    heard: float


async def idle(processors: Processors) -> Used:
    """What is used in a second in which nothing happens."""
    before = processors.used()
    await asyncio.sleep(IDLE_S)
    used = processors.used().since(before)
    return Used(used.server / IDLE_S, used.postgres / IDLE_S)


async def commits(
    kind: str, writer: Writer, listeners: Listeners, processors: Processors, at_rest: Used
) -> Cost:
    before, begin_s, times_ms = processors.used(), time.perf_counter(), []
    for _ in range(COMMITS[kind]):
        one_s = time.perf_counter()
        seq = await asyncio.to_thread(writer.commit, kind)
        if kind != "none sees":
            await listeners.all_heard(seq)
        times_ms.append((time.perf_counter() - one_s) * 1000)
    await asyncio.sleep(0.2)  # what is still on its way
    taken_s = time.perf_counter() - begin_s
    used = processors.used().since(before)
    server, postgres = (
        (u - rest * taken_s) * 1000 / COMMITS[kind] for u, rest in zip(used, at_rest, strict=True)
    )
    return Cost(server, postgres, median(times_ms))


async def listening(
    url: str, streams: int, writer: Writer, processors: Processors
) -> tuple[list[Any], list[list[Any]]]:
    """What it takes to open streams, and what commits cost then."""
    before_mb, begin_s, before = processors.server_mb(), time.perf_counter(), processors.used()
    listeners = Listeners(streams)
    async with listeners.open(url):
        opening = processors.used().since(before)
        open_s = time.perf_counter() - begin_s
        each_kb = (processors.server_mb() - before_mb) * 1024 / streams
        at_rest = await idle(processors)
        costs = [await commits(k, writer, listeners, processors, at_rest) for k in COMMITS]
    opened = [1000 * used / streams for used in opening]
    return [streams, each_kb, streams / open_s, *opened, at_rest.server * 100], [
        [kind, streams, *cost] for kind, cost in zip(COMMITS, costs, strict=True)
    ]


def measure(cluster: str, streams: int) -> tuple[list[Any], list[list[Any]]]:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        users = ["writer", *map(user, range(streams))]
        database = opened.enter_context(filled(cluster, users=users))
        url, pid = opened.enter_context(server_process_of(database))
        token = sign(SECRET, "writer", time.time(), 3600)
        replica = opened.enter_context(app.open(folder / "writer.db", server=url, token=token))
        replica.sync()
        writer = Writer(replica)
        return asyncio.run(listening(url, streams, writer, Processors(pid, database)))


def main(sizes: tuple[int, ...] = STREAMS) -> None:
    with cluster() as url:
        found = [measure(url, streams) for streams in sizes]
    tell(
        "streams: what open event streams cost, beside PostgreSQL",
        ["streams", "KB each", "opened/s", "server ms each", "postgres ms each",
         "at rest, % of a core"],
        [opened for opened, _ in found],
    )  # fmt: skip
    tell(
        "streams-commits: one commit, while so many streams are open",
        ["commit", "streams", "server ms", "postgres ms", "until the last has heard, ms"],
        sorted((row for _, rows in found for row in rows), key=lambda row: row[0]),
    )


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or STREAMS)
