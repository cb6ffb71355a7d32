"""When to exchange: coalesced, woken, patient; and a state that tells."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from tests.replica import shop
from tests.replica.shop import create_counter
from tests.server.running import eventually, free_port, running, token

from synchrotron import Replica
from synchrotron.client.http import HttpTransport
from synchrotron.core.clock import Timestamp, order_key
from synchrotron.core.messages import SyncAnswer, SyncRequest
from synchrotron.errors import Offline, UsageError
from synchrotron.replica.backoff import FIRST_S, LAST_S, Backoff
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_server import Connection

EVERYONE = {"alice": {"all"}, "bob": {"all"}}


class Counted(Connection):
    """Counts exchanges; can be cut off, be slow, and be deaf to events."""

    def __init__(self, server: MemoryServer, user: str) -> None:
        super().__init__(server, user)
        self.exchanges = 0
        self.under_way = 0
        self.most_at_once = 0
        self.offline = False
        self.deaf = False
        self.slow_s = 0.0
        self.tell: Callable[[bool], None] = lambda _: None

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        self.exchanges += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            time.sleep(self.slow_s)
            if self.offline:
                raise Offline("cut off")
            return super().exchange(request)
        finally:
            self.under_way -= 1

    def listen(self, news, connected):
        self.tell = connected
        if self.deaf:
            return lambda: None
        return super().listen(news, connected)


@pytest.fixture
def memory() -> MemoryServer:
    return MemoryServer(shop.app, EVERYONE)


@pytest.fixture
def opened(memory: MemoryServer) -> Iterator[Callable[..., tuple[Replica, Counted]]]:
    made: list[Replica] = []

    def open_for(user: str) -> tuple[Replica, Counted]:
        wire = Counted(memory, user)
        made.append(shop.app.open(":memory:", transport=wire))
        made[-1].sync()
        wire.exchanges = 0
        return made[-1], wire

    yield open_for
    for replica in made:
        replica.close()


# ---- one at a time, and coalesced ------------------------------------------------------


@pytest.mark.spec("M7")
def test_however_many_ask_one_sync_serves_all_who_wait(opened) -> None:
    a, wire = opened("alice")
    wire.slow_s = 0.05
    threads = [threading.Thread(target=a.sync) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wire.most_at_once == 1
    assert 2 <= wire.exchanges <= 4


def test_a_sync_that_began_before_one_asked_does_not_count(opened) -> None:
    a, wire = opened("alice")
    wire.slow_s = 0.1
    first = threading.Thread(target=a.sync)
    first.start()
    eventually(lambda: wire.under_way)
    run = a.run(create_counter, id="x")
    a.sync()
    assert run.outcome.state == "accepted"
    first.join()


def test_whoever_waited_for_a_sync_that_failed_tries_alone(opened) -> None:
    a, wire = opened("alice")
    wire.slow_s, wire.offline = 0.05, True
    errors: list[Exception] = []

    def sync() -> None:
        try:
            a.sync()
        except Offline as error:
            errors.append(error)

    threads = [threading.Thread(target=sync) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3


@pytest.mark.spec("M7")
def test_many_runs_go_together(opened) -> None:
    a, wire = opened("alice")
    with a.syncing():
        eventually(lambda: a.state == "in step" and wire.exchanges)
        runs = [a.run(create_counter, id=f"{i}") for i in range(200)]
        runs[-1].wait(20)
    assert wire.exchanges < 50
    assert all(run.outcome.state == "accepted" for run in runs)


def test_an_own_upload_does_not_wake_oneself(opened) -> None:
    a, wire = opened("alice")
    with a.syncing():
        eventually(lambda: wire.exchanges == 1 and a.state == "in step")
        a.run(create_counter, id="x").wait(20)
        eventually(lambda: a.state == "in step")
        time.sleep(0.1)
        assert wire.exchanges == 2


def test_nothing_is_exchanged_without_a_reason(opened) -> None:
    a, wire = opened("alice")
    with a.syncing():
        eventually(lambda: a.state == "in step" and wire.exchanges)
        time.sleep(0.2)
        assert wire.exchanges == 1


# ---- where events fail -----------------------------------------------------------------


@pytest.mark.spec("M7")
def test_where_events_fail_it_looks_now_and_then(opened) -> None:
    a, _ = opened("alice")
    b, wire = opened("bob")
    wire.deaf = True
    with b.syncing(poll_s=0.05):
        a.run(create_counter, id="x")
        a.sync()
        eventually(lambda: b.query("SELECT id FROM counter"))


def test_where_events_are_heard_it_does_not_look(opened) -> None:
    a, wire = opened("alice")
    with a.syncing(poll_s=0.02):
        eventually(lambda: a.state == "in step" and wire.exchanges)
        time.sleep(0.2)
        assert wire.exchanges == 1


# ---- where the server cannot be reached ------------------------------------------------


@pytest.mark.spec("M7")
def test_a_lost_server_is_tried_again_later_each_time_and_runs_do_not_hurry_it(opened) -> None:
    a, wire = opened("alice")
    wire.offline = True
    with a.syncing():
        eventually(lambda: wire.exchanges == 1)
        for i in range(50):
            a.run(create_counter, id=f"{i}")
            time.sleep(0.002)
        assert wire.exchanges == 1
        wire.offline = False
        eventually(lambda: a.outcomes()[-1].state == "accepted")


def test_when_it_is_heard_again_everything_goes_at_once(opened) -> None:
    a, wire = opened("alice")
    wire.offline = True
    with a.syncing():
        eventually(lambda: a.state == "offline")
        a._background._backoff.failures = 20  # it would wait for half a minute
        eventually(lambda: wire.exchanges >= 2)
        run = a.run(create_counter, id="x")
        wire.offline = False
        begin_s = time.monotonic()
        wire.tell(True)
        run.wait(10)
        assert time.monotonic() - begin_s < 5


def test_the_state_is_told(opened) -> None:
    a, wire = opened("alice")
    states: list[str] = []
    a.on("state", states.append)
    with a.syncing():
        a.run(create_counter, id="x").wait(20)
        eventually(lambda: states[-1] == "in step")
        wire.offline = True
        a.run(create_counter, id="y")
        eventually(lambda: states[-1] == "offline")
    assert states[:2] == ["syncing", "in step"]
    assert set(states) == {"syncing", "in step", "offline"}
    assert all(one != other for one, other in pairwise(states))


def test_syncing_twice_at_once_is_refused(opened) -> None:
    a, _ = opened("alice")
    with a.syncing() as background, pytest.raises(UsageError, match="syncing already"):
        a.syncing()
    with pytest.raises(UsageError, match="begun already"):
        background.start()


def test_without_a_server_there_is_nothing_to_sync_with() -> None:
    with shop.app.open(":memory:", user="alice") as a:
        for sync in (a.sync, a.syncing, a.syncing_async):
            with pytest.raises(UsageError, match="there is no server"):
                sync()


def test_an_error_of_the_machine_does_not_end_it(opened, caplog) -> None:
    a, wire = opened("alice")
    failures = [MemoryError("no memory"), RuntimeError("odd")]
    exchange = wire.exchange

    def failing(request: SyncRequest) -> SyncAnswer:
        if failures:
            raise failures.pop(0)
        return exchange(request)

    wire.exchange = failing
    with a.syncing():
        run = a.run(create_counter, id="x")
        assert run.wait(20).state == "accepted"
    assert "syncing failed, and is tried again" in caplog.text


@pytest.mark.spec("O4", "M7")
def test_what_waits_for_the_servers_clock_is_asked_for_again_soon(memory: MemoryServer) -> None:
    """Others' keys run ahead; the server's clock reaches them after a while."""
    ahead_ms = [0]
    server = MemoryServer(
        shop.app,
        EVERYONE,
        clock=lambda: time.time_ns() // 10**6 + ahead_ms[0],
        max_clock_drift_ms=500,
    )
    with shop.app.open(":memory:", transport=server.connect("alice")) as a, a.syncing():
        eventually(lambda: a.state == "in step")
        a._engine.store.writer.execute(
            "UPDATE synchrotron_replica SET clock = ?",
            (order_key(Timestamp(time.time_ns() // 10**6 + 900, 0), "f" * 24),),
        )
        a._engine._stamps._stamp = None
        run = a.run(create_counter, id="x")
        eventually(lambda: a.state.startswith("blocked"))
        ahead_ms[0] = 700
        assert run.wait(10).state == "accepted"


# ---- over HTTP -------------------------------------------------------------------------


def test_a_server_that_comes_and_goes_is_followed(memory: MemoryServer) -> None:
    port = free_port()
    transport = HttpTransport(f"http://127.0.0.1:{port}", token("alice"), dice=random.Random(1))
    with shop.app.open(":memory:", transport=transport) as a, a.syncing():
        eventually(lambda: a.state == "offline")
        for i in range(2):
            serving = running(memory)
            serving.serving.config.port = port
            with serving:
                assert a.run(create_counter, id=f"{i}").wait(20).state == "accepted"
            a.run(create_counter, id=f"offline {i}")
            eventually(lambda: a.state == "offline")
        serving = running(memory)
        serving.serving.config.port = port
        with serving:
            eventually(lambda: len(memory.history) == 4)
    transport.close()


def test_leaving_does_not_wait_for_a_server_that_does_not_answer() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with shop.app.open(":memory:", server=url, token=token("alice")) as a:
            with a.syncing():
                eventually(lambda: a.state == "syncing")
                time.sleep(0.05)
                begin_s = time.monotonic()
            assert time.monotonic() - begin_s < 3


def test_a_token_that_expires_is_replaced_while_syncing(memory: MemoryServer) -> None:
    given: list[str] = []

    def short() -> str:
        given.append(token("alice", valid_s=-29))  # the leeway leaves it a second
        return given[-1]

    with running(memory) as serving:
        with (
            shop.app.open(":memory:", server=serving.url, token=short, user="alice") as a,
            a.syncing(),
        ):
            begin_s = time.monotonic()
            i = 0
            while time.monotonic() - begin_s < 2.5:
                a.run(create_counter, id=f"{i}").wait(20)
                i += 1
                time.sleep(0.05)
    assert len(given) >= 2


# ---- back-off --------------------------------------------------------------------------


def test_waiting_times_double_up_to_the_longest_and_are_spread() -> None:
    waits = [Backoff(random.Random(seed)).next_s() for seed in range(200)]
    assert FIRST_S / 2 <= min(waits) < max(waits) <= FIRST_S
    assert len({round(wait, 3) for wait in waits}) > 50
    backoff = Backoff(random.Random(1))
    longest = [FIRST_S * 2**n for n in range(20)]
    for wait, most in zip([backoff.next_s() for _ in range(20)], longest, strict=True):
        assert min(most, LAST_S) / 2 <= wait <= min(most, LAST_S)
    backoff.reset()
    assert backoff.next_s() <= FIRST_S
    backoff.failures = 10**6
    assert backoff.next_s() <= LAST_S
