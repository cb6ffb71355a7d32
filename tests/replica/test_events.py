"""What an application can subscribe to, and the state of a replica's sync."""

import logging
import threading

import pytest
from tests.replica import shop
from tests.replica.shop import add, buy, create_counter, put_on_sale

from synchrotron import App, SyncReport
from synchrotron.errors import Blocked, Closed, Offline, UsageError

EVENTS = ("changed", "rejected", "parked", "accepted", "synced", "blocked", "tables", "state")


def listen(replica, *events):
    heard = []
    for event in events or EVENTS:
        replica.on(event, lambda value, event=event: heard.append((event, value)))
    return heard


def test_running_tells_of_tables_and_syncing_of_outcomes(world):
    a = world.synced("alice")
    heard = listen(a)
    run = a.run(create_counter, id="x")
    assert heard == [("tables", {"counter"})]
    heard.clear()

    report = a.sync()

    assert heard == [
        ("state", "syncing"),
        ("accepted", run.outcome),
        ("state", "in step"),
        ("synced", report),
    ]
    assert isinstance(report, SyncReport)


def test_what_a_sync_brings_is_told_by_table_and_by_outcome(world):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(create_counter, id="x")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(add, id="x", by=1)
    b.run(buy, id="pen")
    changed = a.run(add, id="x", by=1)
    rejected = a.run(buy, id="pen")
    a.sync()
    world.settle(b)
    heard = listen(a, "changed", "rejected", "accepted", "parked", "tables")

    report = a.sync()

    outcomes = [(event, value.id) for event, value in heard if event != "tables"]
    assert outcomes == [("changed", changed.id), ("rejected", rejected.id)]
    tables = set().union(*(value for event, value in heard if event == "tables"))
    assert tables == {"counter", "item", "sale"}
    assert (report.changed, report.rejected, report.parked) == (1, 1, 0)
    heard.clear()
    a.sync()
    assert heard == []


def test_a_rejection_before_the_first_upload_is_told_and_counted_once(world):
    """It is rejected when others' actions arrive, and again known to be so by the upload."""
    a, b = world.synced("alice"), world.synced("bob")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(buy, id="pen")
    rejected = a.run(buy, id="pen")
    b.sync()
    heard = listen(a, "rejected")
    report = a.sync()
    assert [value.id for _, value in heard] == [rejected.id]
    assert (report.rejected, report.uploaded) == (1, 1)
    assert rejected.outcome.seq is not None


def test_parked_is_told_with_the_outcome(world):
    a = world.synced("alice")
    world.server.policy = lambda *_: False
    heard = listen(a, "parked")
    run = a.run(create_counter, id="x")
    a.sync()
    assert heard == [("parked", run.outcome)]


def test_callbacks_run_after_the_commit(world, counts):
    a = world.synced("alice", "a.db")
    seen = []

    def look(_):
        other = world.replica("alice", "a.db")  # another connection sees commits only
        seen.append(counts(other))
        other.close()
        a.run(create_counter, id=f"y{len(seen)}") if len(seen) < 3 else None

    a.on("tables", look)
    a.run(create_counter, id="x")
    assert seen[0] == {"x": 0}
    assert counts(a) == {"x": 0, "y1": 0, "y2": 0}


def test_an_exception_in_a_callback_is_logged_and_harmless(world, caplog, counts):
    a = world.synced("alice")
    heard = []

    def fail(_):
        raise RuntimeError("a callback's own trouble")

    for event in EVENTS:
        a.on(event, fail)
        a.on(event, heard.append)
    with caplog.at_level(logging.ERROR, "synchrotron"):
        run = a.run(create_counter, id="x")
        report = a.sync()

    assert "a callback's own trouble" in caplog.text
    assert run.outcome.state == "accepted"
    assert heard == [{"counter"}, "syncing", run.outcome, "in step", report]
    assert counts(world.server) == {"x": 0}


@pytest.mark.parametrize("event", ["state", "tables", "accepted", "synced"])
@pytest.mark.parametrize("what", ["sync", "wait"])
def test_a_callback_that_would_wait_for_its_own_sync_is_told_so(world, event, what, counts):
    a = world.synced("alice", "a.db")
    told = []

    def wait(_):
        do = a.sync if what == "sync" else later.wait
        try:
            do()
        except UsageError as error:
            told.append(str(error))

    other = world.synced("bob")
    other.run(create_counter, id="y")
    other.sync()
    a.run(create_counter, id="x")
    a.on(event, lambda _: a.run(create_counter, id="z") if not counts(a).get("z") else None)
    later = a.run(create_counter, id="later")
    a.on(event, wait)
    syncing = threading.Thread(target=a.sync, daemon=True)
    syncing.start()
    syncing.join(30)
    assert not syncing.is_alive(), "it hangs"
    assert told or (what == "wait" and later.outcome.seq is not None)
    assert all("in a callback of a sync" in each for each in told)
    a.sync()
    assert counts(world.server).keys() >= {"x", "y", "later"}


def test_a_callback_may_close_its_replica(world):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.on("state", lambda state: a.close() if state == "syncing" else None)
    with pytest.raises(Closed):
        a.sync()
    with world.replica("alice", "a.db") as again:
        assert again.sync().uploaded == 1


def test_unsubscribing_ends_it_at_once_and_twice_does_no_harm(world):
    a = world.synced("alice")
    heard = []
    stop = a.on("tables", heard.append)
    stay = []
    a.on("tables", stay.append)
    a.run(create_counter, id="x")
    stop()
    stop()
    a.run(create_counter, id="y")
    assert len(heard) == 1
    assert len(stay) == 2


def test_an_unknown_event_is_refused(world):
    with pytest.raises(UsageError, match="no event 'change'"):
        world.replica().on("change", print)


def test_the_state_follows_the_sync(world):
    a = world.replica("alice")
    states = []
    a.on("state", states.append)
    assert a.state == "offline"
    a.sync()
    assert a.state == "in step"
    a.run(create_counter, id="x")
    world.wires[a].lose("request")
    with pytest.raises(Offline):
        a.sync()
    assert a.state == "offline"
    a.sync()
    assert states == ["syncing", "in step", "syncing", "offline", "syncing", "in step"]


@pytest.mark.spec("S11")
def test_blocked_says_who_has_to_act(world):
    newer = App("shop", schema=shop.SCHEMA, migrations=["CREATE INDEX i ON counter (n)"])
    newer.actions = shop.app.actions
    a = world.replica("alice", app=newer)
    heard = listen(a, "blocked", "state")
    a.run(create_counter, id="x")

    with pytest.raises(Blocked, match="synchrotron install"):
        a.sync()

    assert a.state.startswith("blocked: the server has seen 0 migrations")
    assert heard == [
        ("state", "syncing"),
        ("state", a.state),
        ("blocked", a.state.removeprefix("blocked: ")),
    ]
    assert a.outcomes()[0].state == "pending"
    a.run(create_counter, id="y")  # offline it works on


def test_without_a_server_syncing_is_a_mistake(world):
    alone = shop.app.open(":memory:", user="alice")
    with alone, pytest.raises(UsageError, match="there is no server"):
        alone.sync()


def test_each_exchange_is_one_line_of_log(world, caplog):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    with caplog.at_level(logging.INFO, "synchrotron"):
        report = a.sync()
    lines = [r.getMessage() for r in caplog.records if r.name == "synchrotron"]
    assert len(lines) == report.rounds
