"""Floors: new replicas, pruning on either side, late arrivals, pages (SPEC section 7)."""

from collections.abc import Iterator
from itertools import islice

import pytest
from tests.replica.conftest import Wire
from tests.replica.shop import (
    add,
    buy,
    copy,
    create_counter,
    give_badge,
    put_on_sale,
    rename_badge,
)

from synchrotron.core.messages import SnapshotChunk, SnapshotRequest
from synchrotron.errors import Offline, ProtocolError


def in_step(world, counts, *replicas):
    world.settle(*replicas)
    for replica in replicas:
        assert counts(replica) == counts(world.server)


# ---- new replicas ------------------------------------------------------------------


@pytest.mark.spec("F1")
def test_a_new_replica_starts_from_rows_and_not_by_replaying_history(world, rows):
    a = world.synced("alice")
    a.run(put_on_sale, id="pen", stock=5)
    for _ in range(3):
        a.run(buy, id="pen")
    a.sync()

    b = world.replica("bob")
    report = b.sync()

    assert (report.rebased, report.received, report.replayed) == (1, 0, 0)
    assert b.log() == []
    for table in ("item", "sale"):
        assert rows(b, table) == rows(a, table) == world.server.rows(table)
    assert b.run(buy, id="pen").outcome.state == "pending"
    assert b.log()[0].order_key > a.log()[-1].order_key


@pytest.mark.spec("F1")
def test_what_ran_before_the_first_sync_runs_again_on_the_snapshot(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x", n=5)
    a.sync()
    b = world.replica("bob")
    runs = [b.run(create_counter, id="mine"), b.run(add, id="mine", by=1)]
    clash = b.run(create_counter, id="x")

    b.sync()

    assert [run.outcome.state for run in runs] == ["accepted", "accepted"]
    assert clash.outcome.state == "rejected"
    assert counts(b) == counts(world.server) == {"mine": 1, "x": 5}


@pytest.mark.spec("F2", "S7")
def test_a_late_action_below_a_new_replicas_floor_comes_as_rows(world, counts):
    a, c = world.synced("alice"), world.synced("carol")
    a.run(create_counter, id="x")
    world.settle(a, c)
    c.run(add, id="x", by=10)  # offline
    a.run(add, id="x", by=1)
    a.sync()
    d = world.synced("bob")
    assert counts(d) == {"x": 1}
    d.run(add, id="x", by=100)
    d.sync()

    c.sync()
    d.sync()

    assert [record.user for record in d.log()] == ["bob"], "it comes as rows, not as events"
    assert counts(d) == counts(c) == counts(world.server) == {"x": 111}
    in_step(world, counts, a, c, d)


@pytest.mark.spec("F2", "S7")
def test_what_came_below_the_floor_gives_standing_over_what_is_above(world, counts):
    a, c = world.synced("alice"), world.synced("carol")
    a.run(create_counter, id="x")
    world.settle(a, c)
    c.run(add, id="x", by=10)  # offline
    d = world.synced("bob")
    a.run(add, id="x", by=1)
    world.settle(a, d)
    d.prune(keep=1)
    a.prune(keep=1)

    # Carol's upload is computed without her knowing Alice's action: her correction is lost.
    world.wires[c].lose("", "request")
    with pytest.raises(Offline):
        c.sync()
    c.sync()

    in_step(world, counts, a, c, d)
    assert counts(d) == {"x": 11}


@pytest.mark.spec("F1")
def test_a_snapshot_that_ends_early_changes_nothing(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    a.sync()
    b = world.replica("bob")
    b.run(create_counter, id="mine")

    class Cut(Wire):
        keep = 1

        def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
            return islice(super().snapshot(request), self.keep)

    cut = Cut(world.server.connect("bob"), world.clock)
    b._syncing._transport = cut
    for cut.keep in (0, 1, 2):
        with pytest.raises(ProtocolError, match="before its end"):
            b.sync()
        assert counts(b) == {"mine": 0}
        assert b.state == "offline"
    cut.keep = 3
    b.sync()
    assert counts(b) == counts(world.server) == {"mine": 0, "x": 0}


# ---- own pruning (F3, F5) ----------------------------------------------------------


@pytest.mark.spec("F3", "F5", "S7")
def test_pruning_changes_no_row_and_late_actions_still_find_their_place(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(add, id="x", by=10)  # offline
    for _ in range(5):
        a.run(add, id="x", by=1)
    a.sync()

    assert a.prune(keep=2) == 4
    assert counts(a) == {"x": 5}
    assert len(a.log()) == 2
    assert a.prune(keep=2) == 0

    world.settle(b)
    in_step(world, counts, a, b)
    assert counts(a) == {"x": 15}
    assert len(a.log()) == 2


@pytest.mark.spec("F3")
def test_pruning_stops_at_what_is_pending_or_unsent(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    world.wires[b].lose("", "request")
    with pytest.raises(Offline):
        b.sync()  # Bob's action is pending, Alice's has an unsent correction

    assert b.prune() == 1
    assert [r.user for r in b.log()] == ["bob", "alice"]
    in_step(world, counts, b, a)
    assert counts(b) == {"x": 11}


@pytest.mark.spec("F5")
def test_a_pruned_file_opened_again_goes_on(world, counts):
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    a.prune()
    a.close()
    a = world.replica("alice", "a.db")
    a.run(add, id="x", by=1)
    b.run(add, id="x", by=2)
    in_step(world, counts, b, a)
    assert counts(a) == {"x": 3}


@pytest.mark.spec("F3", "S5")
def test_pruning_stops_at_an_unsent_correction(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    world.server.policy = lambda user, op, table, row: user != "bob" or row["n"] != 11
    b.sync()  # Bob may not correct Alice's action: she will
    world.wires[a].lose("", "request")
    with pytest.raises(Offline):
        a.sync()

    assert a.prune() == 2
    [record] = a.log()
    assert record.user == "alice"
    in_step(world, counts, a, b)
    assert counts(a) == {"x": 11}


@pytest.fixture
def club_world(make_world):
    """Bob joins the club later; Alice, who could correct there as well, is gone by then."""
    world = make_world({"alice": {"all", "club"}, "bob": {"all"}, "carol": {"all"}})
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    a.run(create_counter, id="y", scope="club", n=-5)
    world.settle(a, b, c)
    c.run(add, id="x", by=10)  # offline
    b.run(create_counter, id="z")
    b.sync()
    a.run(copy, source="x", to="y")
    a.sync()
    return world, b, c


@pytest.mark.spec("F3", "S7")
def test_what_was_pruned_gives_standing_over_what_comes_later(club_world, counts):
    world, b, c = club_world
    world.settle(c, b)
    b.prune()
    world.server.audiences["bob"].add("club")

    b.sync()

    assert counts(b) == counts(world.server) == {"x": 10, "y": 10, "z": 0}


@pytest.mark.spec("F2", "S7")
def test_so_does_what_arrived_below_the_floor(club_world, counts):
    world, b, c = club_world
    b.prune()
    world.settle(c, b)
    assert [record.name for record in b.log()] == []
    world.server.audiences["bob"].add("club")

    b.sync()

    assert counts(b) == counts(world.server) == {"x": 10, "y": 10, "z": 0}


# ---- the server's pruning (F3, F4) -------------------------------------------------


@pytest.mark.spec("F3", "F4")
def test_a_replica_left_behind_by_the_servers_pruning_rebases(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    pending = [a.run(add, id="x", by=10), a.run(create_counter, id="y")]
    before = a.log()[-2:]
    for _ in range(3):
        b.run(add, id="x", by=1)
    b.sync()
    world.server.prune(keep=0)

    report = a.sync()

    assert report.rebased == 1
    assert [run.outcome.state for run in pending] == ["accepted", "accepted"]
    after = a.log()
    assert [r.id for r in after] == [r.id for r in before]
    assert [(r.seed, r.now, r.args) for r in after] == [(r.seed, r.now, r.args) for r in before]
    newest = b.log()[-1].order_key
    assert newest < after[0].order_key < after[1].order_key
    in_step(world, counts, a, b)
    assert counts(a) == {"x": 13, "y": 0}


@pytest.mark.spec("F4")
def test_pending_actions_below_the_servers_floor_rebase_too(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    late = a.run(add, id="x", by=10)
    b.run(add, id="x", by=1)
    b.sync()
    world.server.prune(keep=0)
    a._engine.take(*ask_only(world, a))  # told to rebase, which it has not done yet

    a.sync()

    assert late.outcome.state == "accepted"
    in_step(world, counts, a, b)
    assert counts(a) == {"x": 11}


def ask_only(world, replica):
    request = replica._engine.ask()
    return request, world.wires[replica].connection.exchange(request)


@pytest.mark.spec("F4", "O5")
def test_a_lost_answer_and_then_pruning_does_not_run_an_action_twice(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    run, heard = a.run(add, id="x", by=1), []
    a.on("accepted", heard.append)
    world.wires[a].lose("answer")
    with pytest.raises(Offline):
        a.sync()
    b.sync()
    b.run(add, id="x", by=5)
    b.sync()
    world.server.prune(keep=0)

    a.sync()

    assert heard == [run.outcome], "it is news, though it comes with a snapshot"
    assert counts(a) == counts(world.server) == {"x": 6}
    assert (run.outcome.state, run.outcome.final) == ("accepted", True)
    assert a.run(add, id="x", by=1).result == 7
    in_step(world, counts, a, b)
    assert len(world.server.history) == 4


@pytest.mark.spec("F4", "R1")
def test_a_rebase_keeps_outcomes_and_what_is_parked(world):
    a, b = world.synced("alice"), world.synced("bob")
    world.server.policy = lambda user, op, table, row: row.get("id") != "no"
    accepted = a.run(create_counter, id="x")
    parked = a.run(create_counter, id="no")
    world.settle(a, b)
    b.run(add, id="x", by=1)
    b.sync()
    world.server.prune(keep=0)

    assert a.sync().rebased == 1

    assert (accepted.outcome.state, accepted.outcome.final) == ("accepted", True)
    assert (parked.outcome.state, parked.outcome.reason) == ("parked", "denied")
    world.server.policy = None
    a.retry(parked.id)
    a.sync()
    assert parked.outcome.state == "accepted"


@pytest.mark.spec("F5", "S7")
def test_the_servers_pruning_changes_no_row(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    a.run(add, id="x", by=1)
    b.run(add, id="x", by=2)
    world.settle(a, b)
    world.server.prune(keep=1)
    assert counts(world.server) == {"x": 3}
    a.run(add, id="x", by=4)
    in_step(world, counts, a, b)
    assert counts(a) == {"x": 7}


@pytest.mark.spec("F4")
def test_a_rebase_of_actions_that_fail_on_the_new_rows_is_told(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b)
    run = a.run(buy, id="pen")
    b.run(buy, id="pen")
    b.sync()
    world.server.prune(keep=0)
    heard = []
    a.on("rejected", heard.append)

    a.sync()

    assert run.outcome.state == "rejected"
    assert [outcome.id for outcome in heard][:1] == [run.id]
    assert rows(a, "sale") == rows(b, "sale") == world.server.rows("sale")


# ---- pages (F2a) -------------------------------------------------------------------


@pytest.mark.spec("F2a", "S7")
@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_long_download_comes_in_pages(make_world, counts, page):
    world = make_world(page_events=page)
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    pending = b.run(add, id="x", by=100)
    for _ in range(7):
        a.run(add, id="x", by=1)
    a.sync()

    report = b.sync()

    assert report.received == 7
    assert report.rounds >= 7 // page
    assert pending.outcome.state == "accepted"
    in_step(world, counts, a, b)
    assert counts(b) == {"x": 107}


@pytest.mark.spec("F2a")
def test_an_interrupted_download_goes_on_where_it_was(make_world, counts):
    world = make_world(page_events=1)
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    for _ in range(4):
        a.run(add, id="x", by=1)
    a.sync()
    world.wires[b].lose("", "", "answer")
    with pytest.raises(Offline):
        b.sync()
    assert counts(b) == {"x": 1}, "two pages, each whole"

    assert b.sync().received == 3
    assert counts(b) == {"x": 4}


@pytest.mark.spec("F2a")
def test_a_page_carries_patches_newer_than_itself(make_world, counts):
    world = make_world(page_events=1)
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    c.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    c.sync()  # corrects Alice's action, after it in seq

    for _ in range(2):
        request, answer = ask_only(world, b)
        b._engine.take(request, answer)
    in_step(world, counts, a, b, c)
    assert counts(b) == {"x": 11}


@pytest.mark.spec("F2a", "F5")
def test_pruning_between_two_pages_does_no_harm(make_world, counts):
    world = make_world(page_events=1)
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    c.run(add, id="x", by=10)
    for _ in range(3):
        a.run(add, id="x", by=1)
    a.sync()
    c.sync()
    while True:
        request, answer = ask_only(world, b)
        b._engine.take(request, answer)
        b.prune()
        if not answer.download.more:
            break
    in_step(world, counts, a, b, c)
    assert counts(b) == {"x": 13}


@pytest.mark.spec("F2")
def test_rows_at_a_floor_that_clash_with_what_is_there_are_a_rebase(make_world, rows):
    """A page brings who has a UNIQUE value now, and only the next one who had it before."""
    world = make_world(page_events=1)
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    badge = a.run(give_badge, name="red").result
    a.sync()
    a.run(rename_badge, id=badge, name="blue")  # offline
    b.run(give_badge, name="red")
    world.settle(c)
    c.run(create_counter, id="x")
    world.settle(c)
    c.prune()
    b.sync()  # refused: the name is taken
    a.sync()  # and now it is not

    c.sync()

    world.settle(a, b, c)
    assert rows(c, "badge") == rows(a, "badge") == world.server.rows("badge")
    assert sorted(row["name"] for row in rows(c, "badge")) == ["blue", "red"]


@pytest.mark.spec("F4", "R1")
def test_what_was_parked_is_accepted_where_the_snapshot_says_so(make_world):
    """Its answer was lost, its audience was left, and its own event is on a page to come."""
    world = make_world({"alice": {"all"}, "bob": {"all"}}, page_events=1)
    a = world.synced("alice")
    a.run(create_counter, id="x")
    run = a.run(create_counter, id="y")
    world.wires[a].lose("answer")
    with pytest.raises(Offline):
        a.sync()
    world.server.audiences["alice"].discard("all")
    request = a._engine.ask(upload=False)
    a._engine.take(request, world.wires[a].connection.exchange(request))
    assert run.outcome.reason == "left"
    world.server.prune(keep=0)
    heard = []
    a.on("accepted", heard.append)

    a.sync()

    assert run.outcome.state == "accepted"
    assert run.outcome in heard
    assert len(world.server.history) == 2


@pytest.mark.spec("F4")
def test_a_snapshot_that_an_upload_overtook_is_asked_for_again(world, counts):
    """What was sent after it was asked for may be stored under a key below its floor."""
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    run = a.run(add, id="x", by=1)
    world.clock.now_ms += 10
    b.run(create_counter, id="y")
    b.sync()
    a._engine.take(request := a._engine.ask(), world.server.sync("alice", request))
    engine, server = a._engine, world.server
    wish = engine.ask_snapshot()
    chunks = server.snapshot("alice", wish)
    upload = engine.ask()
    answer = server.sync("alice", upload)

    taken = engine.take_snapshot(wish, chunks)

    assert (taken.report.rebased, taken.next.rebase) == (0, True)
    engine.take(upload, answer)
    assert run.outcome.state == "accepted"
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(server) == {"x": 1, "y": 0}
