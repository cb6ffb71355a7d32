"""One replica from many threads, one file opened twice, and the end of a replica."""

import threading
from concurrent.futures import ThreadPoolExecutor

import apsw
import pytest
from tests.replica.shop import add, app, buy, create_counter, put_on_sale

from synchrotron.errors import Closed, Offline, WrongUser


def at_once(*tasks):
    """Run all of them in threads that start together; raises what any of them raises."""
    barrier = threading.Barrier(len(tasks))

    def run(task):
        barrier.wait(60)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


@pytest.mark.parametrize("path", ["a.db", ":memory:"])
def test_many_threads_run_query_and_sync_at_once(world, counts, path):
    a, b = world.synced("alice", path), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)

    def work(replica):
        for _ in range(20):
            replica.run(add, id="x", by=1)

    def look():
        for _ in range(40):
            [row] = a.query("SELECT n FROM counter")
            assert row["n"] >= 0

    def sync():
        for _ in range(5):
            a.sync()

    at_once(*[lambda: work(a)] * 3, lambda: work(b), *[look] * 2, *[sync] * 2, b.sync)

    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 80}
    ids = [record.id for record in world.server.history]
    assert len(set(ids)) == len(ids) == 81
    assert {o.state for o in a.outcomes()} <= {"accepted", "changed"}


def test_a_query_never_sees_half_of_a_sync(world):
    """Of each purchase both rows change: what is left and what is sold always add up."""
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    b.run(put_on_sale, id="pen", stock=1_000)
    world.settle(b, a)
    ended = threading.Event()
    sums = set()

    def look():
        while not ended.is_set():
            [row] = a.query("SELECT stock + (SELECT count(*) FROM sale) AS total FROM item")
            sums.add(row["total"])

    def take_in():
        try:
            for _ in range(10):
                for _ in range(5):
                    b.run(buy, id="pen")
                a.run(buy, id="pen")
                b.sync()
                a.sync()
        finally:
            ended.set()

    at_once(look, look, take_in)

    assert sums == {1_000}


def test_a_query_does_not_wait_for_a_sync(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    seen = []
    with a._engine.lock, a._engine.store.database.transaction():  # as during a reconcile
        thread = threading.Thread(target=lambda: seen.append(counts(a)))
        thread.start()
        thread.join(60)
        assert seen == [{"x": 0}]


def test_running_goes_on_while_an_exchange_is_under_way(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    wire = world.wires[a]
    exchange, ran = wire.connection.exchange, []

    def slow(request):
        ran.append(a.run(add, id="x", by=1)) if not ran else None
        return exchange(request)

    wire.connection.exchange = slow
    a.sync()

    assert counts(a) == counts(world.server) == {"x": 1}
    assert ran[0].outcome.state == "accepted"


@pytest.mark.spec("O2")
def test_two_replica_objects_on_one_file_are_one_replica(world, counts):
    one, two = world.synced("alice", "a.db"), world.replica("alice", "a.db")
    one.run(create_counter, id="x")
    assert counts(two) == {"x": 0}

    def work(replica):
        for _ in range(15):
            replica.run(add, id="x", by=1)

    at_once(lambda: work(one), lambda: work(two), one.sync, two.sync)
    world.settle(one, two)

    assert counts(one) == counts(two) == counts(world.server) == {"x": 30}
    assert len({record.client_id for record in world.server.history}) == 1
    assert len(world.server.history) == 31
    assert one.outcomes() == two.outcomes()


@pytest.mark.parametrize("path", ["a.db", ":memory:"])
def test_after_close_every_use_says_closed(world, path):
    a = world.synced("alice", path)
    run = a.run(create_counter, id="x")
    a.close()
    a.close()
    for use in (
        lambda: a.run(add, id="x", by=1),
        lambda: a.query("SELECT 1 AS one"),
        a.sync,
        a.log,
        a.outcomes,
        a.parked,
        a.prune,
        lambda: a.live("SELECT 1 AS one"),
        lambda: a.outcome(run.id),
        lambda: a.retry(run.id),
        lambda: a.discard(run.id),
        lambda: run.outcome,
        lambda: run.wait(0),
    ):
        with pytest.raises(Closed, match="is closed"):
            use()


def test_a_replica_is_a_context_manager(world, counts):
    with world.replica("alice", "a.db") as a:
        a.run(create_counter, id="x")
    with pytest.raises(Closed):
        a.query("SELECT 1 AS one")
    with world.replica("alice", "a.db") as again:
        assert counts(again) == {"x": 0}


def test_closing_while_others_use_it_ends_them_with_closed(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    started = threading.Barrier(4)

    def use(what):
        started.wait(60)
        try:
            while True:
                what()
        except Closed:
            return True

    def close():
        started.wait(60)
        a.close()

    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda task: task(),
                [
                    lambda: use(lambda: a.query("SELECT * FROM counter")),
                    lambda: use(lambda: a.run(add, id="x", by=1)),
                    lambda: use(a.sync),
                    close,
                ],
            )
        )


def test_a_sync_that_is_under_way_while_the_replica_is_closed_ends_with_closed(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    exchange = world.wires[a].exchange

    def close_meanwhile(request):
        answer = exchange(request)
        closing = threading.Thread(target=a.close)
        closing.start()
        closing.join(30)
        return answer

    world.wires[a].exchange = close_meanwhile
    with pytest.raises(Closed):
        a.sync()
    with world.replica("alice", "a.db") as again:
        again.sync()
        assert [outcome.state for outcome in again.outcomes()] == ["accepted"]


def test_what_reads_a_replica_that_is_closed_meanwhile_ends_with_closed(world):
    """They looked whether it is open before another thread closed it."""
    a = world.synced("alice", "a.db")
    run = a.run(create_counter, id="x")
    engine = a._engine
    a.close()
    for read in (engine.state, engine.outcomes, engine.records, engine.has_something_to_send):
        with pytest.raises(Closed):
            read()
    for use in (engine.outcome, engine.discard, engine.retry, engine.undo):
        with pytest.raises(Closed):
            use(run.id)
    with pytest.raises(Closed):
        engine.run(create_counter, create_counter.bind((), {"id": "y"}))


def test_a_query_that_is_under_way_while_the_replica_is_closed_is_read_to_its_end(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    with a._database.reading() as reader:
        a.close()
        assert reader.execute("SELECT id FROM counter").get == "x"
    with pytest.raises(apsw.ConnectionClosedError):
        reader.execute("SELECT 1")
    with pytest.raises(Closed), a._database.reading():
        pass


def test_waiting_ends_when_the_replica_is_closed(world):
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    ended = []

    def wait():
        try:
            run.wait()
        except Closed as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    a.close()
    thread.join(10)
    assert len(ended) == 1


def test_a_file_has_one_user(world):
    world.replica("alice", "a.db").close()
    with pytest.raises(WrongUser, match="belongs to user 'alice', not 'bob'"):
        world.replica("bob", "a.db")
    with app.open(world.folder / "a.db", clock=world.clock) as again:
        assert again.run(create_counter, id="x").outcome.state == "pending"


def test_a_sync_that_fails_lets_the_next_one_go(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    world.wires[a].lose("request", "answer")
    for _ in range(2):
        with pytest.raises(Offline):
            a.sync()
    assert at_once(a.sync, a.sync)
    assert a.outcomes()[0].state == "accepted"
