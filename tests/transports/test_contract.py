"""What every way to a server keeps, and every place where a replica keeps its rows: one suite.

Each transport is tried with rows in memory, and each store in process; a fault that only one
pair of them had would have to lie in both.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.replica import shop
from tests.replica.shop import add, create_counter, create_project, create_todo
from tests.server.running import eventually
from tests.transports.backends import BACKENDS, Backend

from synchrotron import Replica
from synchrotron.client.http import HttpTransport
from synchrotron.core.messages import SnapshotEnd, SnapshotHead
from synchrotron.errors import ProtocolError
from synchrotron.replica.transport import Cancels, Listens, SignsIn, Transport

Connect = Callable[[str], Transport]
CAN_ENCRYPT = hasattr(apsw, "mc_version")
STORES = ["memory", "file", *(["encrypted file"] if CAN_ENCRYPT else [])]
"""`.ci/run` has them all: SQLite with encryption takes the place of the other."""
PAIRS = [
    *((backend, "memory") for backend in BACKENDS),
    *(("in process", store) for store in STORES if store != "memory"),
    ("postgres over http", STORES[-1]),
]


@pytest.fixture(params=PAIRS, ids=" and ".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A transport and a store."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def server(pair: tuple[str, str]) -> Iterator[Backend]:
    with ExitStack() as opened:
        yield BACKENDS[pair[0]](opened)


@pytest.fixture
def connect(server: Backend) -> Connect:
    return server.connect


@pytest.fixture
def replica(
    pair: tuple[str, str], connect: Connect, tmp_path: Path
) -> Iterator[Callable[..., Replica]]:
    opened: list[Replica] = []

    def open_for(user: str, **options: Any) -> Replica:
        path = ":memory:" if pair[1] == "memory" else tmp_path / f"{len(opened)}.db"
        if pair[1] == "encrypted file":
            options["key"] = "a passphrase"
        opened.append(shop.app.open(path, transport=connect(user), **options))
        return opened[-1]

    yield open_for
    for each in opened:
        each.close()


def counts(of: Replica) -> dict[str, int]:
    return {row["id"]: row["n"] for row in of.query("SELECT id, n FROM counter")}


# ---- exchanges -----------------------------------------------------------------------


def test_it_says_whose_connection_it_is(connect: Connect) -> None:
    assert connect("alice").user == "alice"


@pytest.mark.spec("M3", "S7")
def test_two_replicas_agree(replica: Callable[..., Replica], server: Backend) -> None:
    a, b = replica("alice"), replica("bob")
    run = a.run(create_counter, id="x")
    assert (a.sync().uploaded, b.sync().received) == (1, 0)
    a.run(add, id="x", by=1)
    b.run(add, id="x", by=10)
    for each in (a, b, a):
        each.sync()
    assert counts(a) == counts(b) == {"x": 11}
    assert server.rows("counter") == [dict(row) for row in a.query("SELECT * FROM counter")]
    assert run.outcome.state == "accepted"


@pytest.mark.spec("H7")
def test_the_connection_carries_the_user(replica: Callable[..., Replica]) -> None:
    a, c = replica("alice"), replica("carol")
    a.run(create_counter, id="x")
    a.sync()
    c.sync()
    assert counts(c) == {}


@pytest.mark.spec("M1")
def test_what_the_protocol_does_not_allow_is_refused(
    replica: Callable[..., Replica], connect: Connect, server: Backend
) -> None:
    a = replica("alice")
    a.sync()
    request = a._engine.ask()
    with pytest.raises(ProtocolError, match="belongs to another user than bob"):
        connect("bob").exchange(request)
    assert server.accepted() == 0


@pytest.mark.spec("F1")
def test_a_snapshot_comes_in_chunks(replica: Callable[..., Replica], connect: Connect) -> None:
    a = replica("alice")
    for i in range(1200):
        a.run(create_counter, id=str(i))
    a.sync()
    b = replica("bob")
    chunks = list(connect("bob").snapshot(b._engine.ask_snapshot()))
    assert isinstance(chunks[0], SnapshotHead)
    assert chunks[-1] == SnapshotEnd(1200)
    assert len(chunks) > 3


@pytest.mark.spec("H1")
def test_a_large_upload_goes_in_parts(replica: Callable[..., Replica], server: Backend) -> None:
    a = replica("alice")
    a.sync()
    a.run(create_project, id="p")
    for _ in range(3):
        a.run(create_todo, project="p", text="x" * 600_000)
    a.sync()
    assert server.accepted() == 4
    assert len(server.rows("todo")) == 3


@pytest.mark.spec("O4")
def test_the_skew_of_the_clock_is_told(replica: Callable[..., Replica]) -> None:
    late = replica("alice", clock=lambda: time.time_ns() // 1_000_000 - 5_000)
    late.sync()
    assert abs(late.sync().skew_ms - 5_000) < 1_000


# ---- events and waiting ----------------------------------------------------------------


def test_commits_are_heard_by_those_who_can_see_them(
    replica: Callable[..., Replica], connect: Connect, server: Backend
) -> None:
    a, listener, stranger = replica("alice"), connect("bob"), connect("carol")
    a.sync()
    assert isinstance(listener, Listens) and isinstance(stranger, Listens)
    heard: list[int] = []
    heard_by_stranger: list[int] = []
    hears: list[bool] = []
    stranger_hears: list[bool] = []
    stops = [
        listener.listen(heard.append, hears.append),
        stranger.listen(heard_by_stranger.append, stranger_hears.append),
    ]
    eventually(lambda: hears == stranger_hears == [True])
    a.run(create_counter, id="x")
    a.sync()
    eventually(lambda: 1 in heard)
    for stop in stops:
        stop()
    assert 1 not in heard_by_stranger
    heard.clear()
    time.sleep(0.05)
    a.run(create_counter, id="y")
    a.sync()
    time.sleep(0.1)
    assert heard == []


def test_waiting_takes_its_time(connect: Connect) -> None:
    begin_s = time.monotonic()
    connect("alice").wait(30)
    assert time.monotonic() - begin_s >= 0.029


def test_what_a_transport_can_do_is_seen(connect: Connect) -> None:
    transport = connect("alice")
    assert isinstance(transport, Listens)
    if isinstance(transport, HttpTransport):
        assert isinstance(transport, SignsIn) and isinstance(transport, Cancels)
        assert transport.sign_in() == "alice"


# ---- in the background -----------------------------------------------------------------


def test_syncing_uploads_runs_and_takes_in_what_others_did(
    replica: Callable[..., Replica],
) -> None:
    a, b = replica("alice"), replica("bob")
    with a.syncing(), b.syncing():
        run = a.run(create_counter, id="x")
        assert run.wait(20).state == "accepted"
        eventually(lambda: counts(b) == {"x": 0})
        for i in range(20):
            (a, b)[i % 2].run(add, id="x", by=1)
        eventually(lambda: counts(a) == counts(b) == {"x": 20})
        eventually(lambda: a.state == b.state == "in step")
    assert not a.parked() and not b.parked()


def test_syncing_begins_and_ends_as_often_as_one_likes(replica: Callable[..., Replica]) -> None:
    a = replica("alice")
    for i in range(3):
        with a.syncing():
            a.run(create_counter, id=str(i)).wait(20)
    a.run(create_counter, id="later")
    time.sleep(0.05)
    assert a.outcomes()[-1].state == "pending"


def test_closing_a_replica_ends_its_syncing(replica: Callable[..., Replica]) -> None:
    a = replica("alice")
    background = a.syncing()
    background.start()
    a.run(create_counter, id="x").wait(20)
    a.close()
    assert background.ended


def test_syncing_under_asyncio_leaves_the_loop_free(replica: Callable[..., Replica]) -> None:
    a, b = replica("alice"), replica("bob")
    threads: set[int] = set()
    for one in (a, b):
        one.on("synced", lambda _: threads.add(threading.get_ident()))

    async def work() -> None:
        async with a.syncing_async(), b.syncing_async():
            for i in range(200):
                a.run(create_counter, id=str(i))
            while len(counts(b)) < 200:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(work(), 30))
    assert threads and threading.get_ident() not in threads
    assert len(counts(a)) == len(counts(b)) == 200


def test_sync_works_inside_a_running_event_loop(replica: Callable[..., Replica]) -> None:
    a = replica("alice")

    async def work() -> None:
        a.run(create_counter, id="x")
        assert a.sync().uploaded == 1

    asyncio.run(work())
