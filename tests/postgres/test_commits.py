"""Readers are woken by commits that they can see, of any server process."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.twin import described
from tests.testing.by_hand import APP, P1, File, create_project, insert, membership

from synchrotron.core.ids import Seq
from synchrotron.core.messages import Ok, SyncRequest
from synchrotron.server import notify
from synchrotron.server.postgres import PostgresAuthority

SOON_S, NEVER_S = 20.0, 0.3


class Station:
    """Two authorities on one database, as two server processes have them, and files."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.one = PostgresAuthority(database, connections_max=4)
        self.two = PostgresAuthority(database, connections_max=4)

    async def __aenter__(self) -> "Station":
        await self.one.open()
        await self.two.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.one.close()
        await self.two.close()

    def file(self, user: str, letter: str) -> File:
        nobody = SimpleNamespace(connect=lambda user: None)
        return File(nobody, user, letter)  # type: ignore[arg-type]

    async def send(self, file: File, *actions: Any) -> Ok:
        request: SyncRequest = file.request(*actions)
        answer = await self.one.sync(file.user, request)
        assert isinstance(answer, Ok), answer
        file.take(answer.download)
        return answer


def station(test: Any) -> Any:
    """Run a test of a station in an event loop of its own."""

    def run() -> None:
        async def within() -> None:
            async with Station(database) as station:
                await test(station)

        database = new_database(described(APP, given=False))
        try:
            asyncio.run(within())
        finally:
            drop_database(database)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def soon(commits: AsyncIterator[Seq]) -> Seq:
    return await asyncio.wait_for(anext(commits), SOON_S)


async def stays_quiet(task: "asyncio.Task[Seq]") -> bool:
    done, _ = await asyncio.wait([task], timeout=NEVER_S)
    return not done


@pytest.mark.spec("H10")
@station
async def test_what_is_committed_while_a_reader_looks_is_not_missed(station: Station) -> None:
    alice = station.file("alice", "a")
    await station.send(alice, create_project(alice, 1, "p1", "alice", "bob"))
    look, committed = notify.fetch_one, []

    async def look_and_commit(*query: Any) -> Any:
        seen = await look(*query)
        if not committed:
            committed.append(await station.send(alice, alice.action(2, insert("x"))))
            await asyncio.sleep(NEVER_S)  # its notice comes before what was seen is known
        return seen

    with patch.object(notify, "fetch_one", look_and_commit):
        his = station.two.commits("bob")
        assert await soon(his) == 1
        assert await soon(his) == 2


@pytest.mark.spec("H10")
@station
async def test_readers_of_another_process_are_woken_by_what_they_can_see(
    station: Station,
) -> None:
    alice, eve = station.file("alice", "a"), station.file("eve", "e")
    await station.send(alice, create_project(alice, 1, "p1", "alice", "bob"))
    hers, his = station.two.commits("eve"), station.two.commits("bob")
    assert await soon(hers) == await soon(his) == 1

    next_of_eve = asyncio.create_task(anext(hers))
    await station.send(alice, alice.action(2, insert("x")))
    assert await soon(his) == 2
    assert await stays_quiet(next_of_eve), "she is told of what she cannot see"
    await station.send(eve, create_project(eve, 3, "p2", "eve"))
    assert await asyncio.wait_for(next_of_eve, SOON_S) == 3
    await hers.aclose()  # type: ignore[attr-defined]
    await his.aclose()  # type: ignore[attr-defined]


@pytest.mark.spec("F6")
@station
async def test_who_joins_or_leaves_an_audience_is_woken(station: Station) -> None:
    alice = station.file("alice", "a")
    await station.send(alice, create_project(alice, 1, "p1", "alice"))
    his = station.two.commits("bob")
    assert await soon(his) == 1
    await station.send(alice, alice.action(2, membership("m", "p1", "bob")))
    assert await soon(his) == 2
    await his.aclose()  # type: ignore[attr-defined]


@station
async def test_several_commits_may_come_as_one_and_none_is_lost(station: Station) -> None:
    alice = station.file("alice", "a")
    await station.send(alice, create_project(alice, 1, "p1", "alice"))
    hers = station.two.commits("alice")
    await soon(hers)
    for n in range(5):
        await station.send(alice, alice.action(10 + n, insert(f"x{n}", in_=P1)))
    last = await soon(hers)
    while last < 6:
        last = await soon(hers)
    assert last == 6
    await hers.aclose()  # type: ignore[attr-defined]


@station
async def test_listening_goes_on_after_its_connection_broke(station: Station) -> None:
    alice = station.file("alice", "a")
    await station.send(alice, create_project(alice, 1, "p1", "alice"))
    hers = station.two.commits("alice")
    await soon(hers)
    execute(
        station.database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' AND datname = current_database()",
    )
    await station.send(alice, alice.action(2, insert("x", in_=P1)))
    assert await soon(hers) == 2
    await hers.aclose()  # type: ignore[attr-defined]


def test_a_notice_of_many_audiences_is_still_delivered() -> None:
    """A payload is limited to 8000 bytes: then readers look for themselves."""

    async def within(database: str) -> None:
        async with Station(database) as station:
            alice = station.file("alice", "a")
            hers = station.two.commits("alice")
            await soon(hers)
            many = [create_project(alice, n, f"p{n:0100}", "alice") for n in range(1, 150)]
            await station.send(alice, *many)
            assert await soon(hers) == 149
            await hers.aclose()  # type: ignore[attr-defined]

    database = new_database(described(APP, given=False))
    asyncio.run(within(database))
    drop_database(database)
