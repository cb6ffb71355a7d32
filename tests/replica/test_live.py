"""Live queries: who reads on is given the newest rows, when a table of the query has changed."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest
from tests.replica import shop
from tests.replica.shop import add, create_counter, create_task, give_badge, put_on_sale

from synchrotron import App, Live
from synchrotron.errors import Closed, QueryError, WriteOutsideAction
from synchrotron.testing import MemoryServer

COUNTERS = "SELECT id, n FROM counter ORDER BY id"


@dataclass
class Counter:
    id: str
    n: int


@pytest.fixture(params=["a.db", ":memory:"])
def replica(request, world):
    return world.synced("alice", request.param)


def read(rows):
    return {row["id"]: row["n"] for row in rows}


def is_news(live, seconds=0.05):
    """Whether another step would give rows; it is not taken."""
    until_s = time.monotonic() + seconds
    while not live._stale and (left_s := until_s - time.monotonic()) > 0:
        live._bell.wait(lambda: live._stale, left_s)
    return live._stale


def step(live):
    """The next rows; a test that waits for news in vain fails, and does not hang."""
    assert is_news(live, 10)
    return next(live)


# ---- what is given, and when ---------------------------------------------------------


@pytest.mark.spec("L1")
def test_the_rows_come_now_and_after_every_commit_that_changed_their_table(replica):
    seen = []
    for rows in replica.live(COUNTERS):
        seen.append(read(rows))
        if len(seen) == 4:
            break
        replica.run(create_counter, id=f"x{len(seen)}")
    assert seen == [{}, {"x1": 0}, {"x1": 0, "x2": 0}, {"x1": 0, "x2": 0, "x3": 0}]


@pytest.mark.spec("L1")
def test_only_changes_of_a_table_that_is_read_are_news(replica):
    live = replica.live("SELECT count(*) AS n FROM counter AS c")
    other = replica.live("SELECT t.id FROM task t WHERE EXISTS (SELECT 1 FROM item)")
    none = replica.live("SELECT 1 AS one")
    assert [step(live)[0]["n"], step(other), step(none)[0]["one"]] == [0, [], 1]

    replica.run(create_counter, id="x")
    assert [is_news(each) for each in (live, other, none)] == [True, False, False]
    assert step(live)[0]["n"] == 1
    replica.run(put_on_sale, id="pen", stock=1)
    assert [is_news(each) for each in (live, other, none)] == [False, True, False]
    step(other)
    with pytest.raises(LookupError):
        replica.run(add, id="nothing", by=1)
    replica.run(shop.claim, id="nothing")  # runs, and changes nothing
    assert [is_news(each) for each in (live, other, none)] == [False, False, False]


@pytest.mark.spec("L1")
def test_what_a_sync_brings_is_news_for_the_tables_whose_rows_it_changed(world, replica):
    b = world.synced("bob")
    b.run(create_counter, id="x")
    replica.run(create_task, id="mine")
    replica.run(give_badge, name="later")
    badges, counters = replica.live("SELECT * FROM badge"), replica.live(COUNTERS)
    step(badges)
    step(counters)
    world.settle(b, replica)
    assert read(step(counters)) == {"x": 0}
    assert not is_news(badges), "it was undone and run again, and is the same as before"
    assert not is_news(counters)


@pytest.mark.spec("L1")
def test_the_rows_of_a_snapshot_are_news(world):
    b = world.synced("bob")
    b.run(create_counter, id="x")
    b.sync()
    a = world.replica("alice", "a.db")
    live, other = a.live(COUNTERS), a.live("SELECT * FROM badge")
    assert step(live) == step(other) == []
    a.sync()
    assert read(step(live)) == {"x": 0}
    assert not is_news(other)


@pytest.mark.spec("L1")
def test_rows_that_go_with_an_audience_are_news(make_world):
    world = make_world({"alice": {"all", "p"}, "bob": {"all", "p"}})
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x", scope="p")
    a.run(create_counter, id="y")
    a.sync()
    a.prune()  # below the floor nothing but rows tells of them
    live, other = a.live(COUNTERS), a.live("SELECT * FROM badge")
    assert read(step(live)) == {"x": 0, "y": 0}
    step(other)
    world.server.audiences["alice"].discard("p")
    a.sync()
    assert read(step(live)) == {"y": 0}
    assert not is_news(other)


@pytest.mark.spec("L1")
def test_parking_and_discarding_are_followed(world, replica):
    world.server.policy = lambda user, op, table, row: row.get("id") != "bad"
    live = replica.live(COUNTERS)
    replica.run(create_counter, id="good")
    bad = replica.run(create_counter, id="bad")
    assert read(step(live)) == {"good": 0, "bad": 0}
    replica.sync()
    assert read(step(live)) == {"good": 0}
    replica.retry(bad.id)
    assert read(step(live)) == {"good": 0, "bad": 0}


@pytest.mark.spec("L2")
def test_who_is_slow_gets_the_newest_rows_and_no_backlog(replica):
    live = replica.live(COUNTERS)
    replica.run(create_counter, id="x")
    for _ in range(50):
        replica.run(add, id="x", by=1)
    assert read(step(live)) == {"x": 50}
    assert not is_news(live)


@pytest.mark.spec("L2")
def test_no_commit_is_missed_however_reading_and_committing_interleave(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    live, total = a.live(COUNTERS), 60
    threading.Thread(target=lambda: [a.run(add, id="x", by=1) for _ in range(total)]).start()
    seen = []
    while not seen or seen[-1] < total:
        seen.append(step(live)[0]["n"])
    assert seen == sorted(seen)


@pytest.mark.spec("L2")
def test_what_is_committed_while_rows_are_read_is_news():
    def read_slowly():
        live.tell({"counter"})
        return []

    live = Live(read_slowly, frozenset({"counter"}))
    assert step(live) == []
    assert is_news(live, 0)


def test_parameters_and_types_are_those_of_query(replica):
    replica.run(create_counter, id="x", n=3)
    replica.run(create_counter, id="y", n=5)
    wanted = ["x"]
    live = replica.live("SELECT id, n FROM counter WHERE id = ?", wanted, into=Counter)
    wanted[0] = "y"
    assert step(live) == [Counter("x", 3)]
    named = replica.live("SELECT id, n FROM counter WHERE n > :n", {"n": 4}, into=Counter)
    assert step(named) == [Counter("y", 5)]


def test_a_wrong_query_is_refused_at_once(replica):
    with pytest.raises(QueryError, match="no such table: missing"):
        replica.live("SELECT * FROM missing")
    with pytest.raises(WriteOutsideAction):
        replica.live("DELETE FROM counter")
    with pytest.raises(QueryError, match="parameters are a sequence"):
        replica.live("SELECT * FROM counter WHERE id = ?", "x")


def test_rows_that_do_not_fit_are_an_error_and_come_again(replica):
    live = replica.live("SELECT id FROM counter", into=Counter)
    assert step(live) == []
    replica.run(create_counter, id="x")
    for _ in range(2):
        with pytest.raises(QueryError, match="does not fit Counter"):
            step(live)


@pytest.mark.spec("L1")
def test_tables_named_from_outside_are_news(replica):
    """So another process can tell what it has committed to the same file."""
    live = replica.live(COUNTERS)
    step(live)
    replica._listeners.emit("tables", {"counter"})
    assert step(live) == []


# ---- local tables ----------------------------------------------------------------------

NOTES = App(
    "notes",
    schema="""
        CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
        CREATE TABLE tag (id TEXT PRIMARY KEY, name TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
        CREATE TABLE other (id TEXT PRIMARY KEY,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    """,
    local="""
        CREATE VIRTUAL TABLE words USING fts5(note UNINDEXED, text);
        CREATE VIRTUAL TABLE terms USING fts5vocab(words, 'row');
        CREATE TABLE total (what TEXT PRIMARY KEY, n INTEGER NOT NULL);
        CREATE TABLE deep (n INTEGER);
        CREATE TRIGGER note_in AFTER INSERT ON note BEGIN
            INSERT INTO words (note, text) VALUES (NEW.id, NEW.text);
        END;
        CREATE TRIGGER tag_in AFTER INSERT ON tag BEGIN
            INSERT INTO total VALUES ('tags', 1) ON CONFLICT DO UPDATE SET n = n + 1;
        END;
        CREATE TRIGGER total_in AFTER INSERT ON total BEGIN
            INSERT INTO deep VALUES (NEW.n);
        END;
    """,
)


@NOTES.action(audience="all")
def write(ctx, *, table: str, text: str) -> None:
    column = {"note": ", text", "tag": ", name", "other": ""}[table]
    values = (ctx.new_id(table), text)[: 2 if column else 1]
    marks = ", ".join("?" * len(values))
    ctx.execute(f"INSERT INTO {table} (id{column}) VALUES ({marks})", values)


@pytest.mark.spec("L3")
@pytest.mark.parametrize(
    ("sql", "follows"),
    [
        ("SELECT note FROM words WHERE words MATCH 'milk'", {"note"}),
        ("SELECT n FROM total", {"tag"}),
        ("SELECT n FROM deep", {"tag"}),
        ("SELECT count(*) AS n FROM terms", {"note", "tag"}),
        ("SELECT w.note FROM words w JOIN other o", {"note", "other"}),
    ],
)
@pytest.mark.parametrize("path", ["a.db", ":memory:"])
def test_a_query_of_local_tables_follows_the_synced_ones_behind_them(tmp_path, path, sql, follows):
    where = path if path == ":memory:" else tmp_path / path
    with NOTES.open(where, user="alice") as replica:
        live = replica.live(sql)
        step(live)
        for table in ("note", "tag", "other"):
            replica.run(write, table=table, text="milk and bread")
            assert is_news(live, 0) == (table in follows), table
            if table in follows:
                assert [tuple(row.values()) for row in step(live)] == [
                    tuple(row.values()) for row in replica.query(sql)
                ]


@pytest.mark.spec("L3")
def test_what_a_sync_brings_reaches_local_tables_too(tmp_path):
    server = MemoryServer(NOTES, audiences={"alice": {"all"}, "bob": {"all"}})
    with (
        NOTES.open(tmp_path / "a.db", transport=server.connect("alice")) as a,
        NOTES.open(":memory:", transport=server.connect("bob")) as b,
    ):
        live = a.live("SELECT note FROM words WHERE words MATCH 'milk'")
        assert step(live) == []
        b.run(write, table="note", text="milk")
        b.sync()
        a.sync()
        assert len(step(live)) == 1


# ---- asyncio -------------------------------------------------------------------------


@pytest.mark.spec("L1")
def test_a_coroutine_gets_the_same(replica):
    async def main():
        seen = []
        async for rows in replica.live(COUNTERS):
            seen.append(read(rows))
            if len(seen) == 3:
                return seen
            await asyncio.to_thread(replica.run, create_counter, id=f"x{len(seen)}")
        return None

    assert asyncio.run(main()) == [{}, {"x1": 0}, {"x1": 0, "x2": 0}]


@pytest.mark.spec("L2")
def test_a_coroutine_that_waits_leaves_the_loop_free_and_is_woken_from_any_thread(replica):
    async def main():
        live = replica.live(COUNTERS)
        await anext(live)
        waiting = asyncio.create_task(anext(live))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        thread = threading.Thread(target=lambda: replica.run(create_counter, id="x"))
        thread.start()
        rows = await asyncio.wait_for(waiting, 60)
        thread.join()
        assert read(rows) == {"x": 0}
        for _ in range(20):  # on the loop itself
            replica.run(add, id="x", by=1)
        assert read(await anext(live)) == {"x": 20}

    asyncio.run(main())


@pytest.mark.spec("L2")
def test_a_step_that_is_cancelled_loses_no_news(replica):
    async def main():
        live = replica.live(COUNTERS)
        await anext(live)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(live), 0.01)
        assert not live._bell._wakers
        replica.run(create_counter, id="x")
        step = asyncio.create_task(anext(live))
        await asyncio.sleep(0)  # it is reading
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert read(await asyncio.wait_for(anext(live), 60)) == {"x": 0}

    asyncio.run(main())


def test_a_commit_after_the_loop_ended_does_no_harm(replica):
    live = replica.live(COUNTERS)

    async def main():
        await anext(live)
        step = asyncio.create_task(anext(live))
        await asyncio.sleep(0)
        kept.extend(live._bell._wakers)
        step.cancel()

    kept = []
    asyncio.run(main())
    assert len(kept) == 1
    live._bell._wakers.update(kept)
    replica.run(create_counter, id="x")
    assert read(step(live)) == {"x": 0}


# ---- their end -----------------------------------------------------------------------


def follow(live, seen):
    for rows in live:
        seen.append(len(rows))


def follow_async(live, seen):
    async def main():
        async for rows in live:
            seen.append(len(rows))

    asyncio.run(main())


@pytest.mark.spec("L4")
@pytest.mark.parametrize("closing", ["live", "replica"])
@pytest.mark.parametrize("consumer", [follow, follow_async])
def test_closing_it_or_its_replica_ends_who_waits_in_another_thread(replica, closing, consumer):
    live, seen = replica.live(COUNTERS), []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(consumer, live, seen)
        while not seen:
            time.sleep(0.001)
        {"live": live, "replica": replica}[closing].close()
        try:
            waiting.result(10)
        finally:
            live.close()
    assert seen == [0]
    assert list(live) == []
    live.close()


@pytest.mark.spec("L4")
def test_closing_while_many_read_ends_all_of_them_cleanly(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    lives = [a.live(COUNTERS) for _ in range(4)]
    started = threading.Barrier(6)

    def count(live):
        started.wait(60)
        return sum(1 for _ in live)

    def change():
        started.wait(60)
        with suppress(Closed):
            while True:
                a.run(add, id="x", by=1)

    def close():
        started.wait(60)
        while read(a.query(COUNTERS))["x"] < 10:
            pass
        a.close()

    with ThreadPoolExecutor(6) as pool:
        following = [pool.submit(count, live) for live in lives]
        others = [pool.submit(change), pool.submit(close)]
        for done in (*following, *others):
            done.result(60)


@pytest.mark.spec("L4")
def test_it_is_a_context_manager_and_cannot_be_made_of_a_closed_replica(replica):
    with replica.live(COUNTERS) as live:
        step(live)
    assert list(live) == []
    replica.close()
    with pytest.raises(Closed):
        replica.live(COUNTERS)


@pytest.mark.spec("L4")
def test_one_that_nobody_holds_any_more_is_forgotten(replica):
    for _ in replica.live(COUNTERS):
        break
    live = replica.live(COUNTERS)
    held = weakref.ref(live)
    step(live)
    del live
    gc.collect()
    assert held() is None
    assert replica._live._all() == ()


def test_without_live_queries_a_run_tells_nobody_of_tables(replica):
    assert "tables" not in replica._listeners
    replica.live(COUNTERS)
    assert "tables" in replica._listeners
