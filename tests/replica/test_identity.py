"""Restored and copied files, and ids that are never used twice (O5, O6)."""

import pytest
from tests.replica.shop import add, buy, create_counter, put_on_sale

from synchrotron.errors import Offline

pytestmark = pytest.mark.spec("O6")


def client_of(run):
    return run.id.rpartition("-")[0]


def put_back_to_before_a_sync(world, replica):
    """The file "a.db" opened again, as it was before it synced; and what it hears of outcomes."""
    replica.close()
    world.copy_file("a.db", "backup.db")
    with world.replica("alice", "a.db") as synced:
        synced.sync()
    world.copy_file("backup.db", "a.db")
    restored, heard = world.replica("alice", "a.db"), []
    restored.on("accepted", heard.append)
    return restored, heard


def test_a_restored_file_returns_to_the_present_by_itself(world, counts):
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    a.run(create_counter, id="x")
    old = a.run(add, id="x", by=1)
    a.sync()
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    a.run(add, id="x", by=10)
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")
    assert counts(a) == {"x": 1}

    a.sync()
    assert counts(a) == {"x": 11}
    run = a.run(add, id="x", by=100)
    a.sync()

    assert run.outcome.state == "accepted", "it is not taken for a retry"
    assert client_of(run) != client_of(old)
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 111}
    assert len(world.server.history) == 4


def test_a_restored_file_that_runs_before_it_syncs_is_not_taken_for_a_retry(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    lost = a.run(add, id="x", by=10)
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")
    run = a.run(add, id="x", by=100)
    assert run.id == lost.id, "the file does not know better"

    a.sync()

    assert counts(a) == counts(world.server) == {"x": 110}
    assert run.outcome.state == "accepted"
    assert run.outcome.id != run.id, "the old id leads to the outcome of the new one"
    assert a.outcome(run.id) == a.outcome(run.outcome.id)


def test_a_renewed_action_keeps_its_seed_and_so_the_ids_it_made(world, rows):
    a = world.synced("alice", "a.db")
    a.run(put_on_sale, id="pen", stock=5)
    a.sync()
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    a.run(buy, id="pen")
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")
    run = a.run(buy, id="pen")
    seed = a.log()[-1].seed

    a.sync()

    [record] = [r for r in a.log() if r.id == run.outcome.id]
    assert record.seed == seed
    assert run.result in [row["id"] for row in rows(a, "sale")]
    assert len(rows(a, "sale")) == 2
    assert rows(a, "item") == world.server.rows("item")


def test_pending_actions_in_the_copy_that_were_accepted_are_not_run_again(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    run = a.run(add, id="x", by=10)
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    a.sync()  # the action is accepted
    a.run(add, id="x", by=100)
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")
    fresh = a.run(add, id="x", by=1_000)

    a.sync()

    assert counts(a) == counts(world.server) == {"x": 1_110}
    assert a.outcome(run.id).state == "accepted"
    assert fresh.outcome.state == "accepted"
    assert len(world.server.history) == 4
    assert len({record.seed for record in world.server.history}) == 4


def test_what_a_file_ran_before_its_first_sync_gets_its_seq_from_the_snapshot(world, counts):
    a = world.replica("alice", "a.db")
    run = a.run(create_counter, id="x")
    a, heard = put_back_to_before_a_sync(world, a)

    a.sync()

    assert counts(a) == counts(world.server) == {"x": 0}
    outcome = a.outcome(run.id)
    assert (outcome.state, outcome.seq) == ("accepted", 1)
    assert a.wait_for(run.id, 1) == outcome
    assert heard == [outcome]


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_pruning_stops_at_what_a_restored_file_waits_to_get_back(world, counts, lost):
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    run = a.run(add, id="x", by=1)
    b.run(add, id="x", by=10)
    b.sync()
    world.wires[a].lose("", "request")  # the download is taken in, the upload is lost
    with pytest.raises(Offline):
        a.sync()
    a, heard = put_back_to_before_a_sync(world, a)
    world.wires[a].lose("", lost)  # after it was told that the file is a restored one
    with pytest.raises(Offline):
        a.sync()

    a.prune(keep=0)
    a.sync()

    assert counts(a) == counts(world.server) == {"x": 11}
    outcome = a.wait_for(run.id, 1)
    assert outcome.state == "accepted"
    assert outcome in heard


def test_pending_actions_that_were_accepted_and_pruned_are_parked_as_restored(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    run = a.run(add, id="x", by=10)
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    a.sync()
    a.close()
    world.server.prune(keep=0)
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")

    a.sync()

    outcome = a.outcome(run.id)
    assert (outcome.state, outcome.reason) == ("parked", "restored")
    assert counts(a) == counts(world.server) == {"x": 10}


def test_a_copied_file_used_twice_becomes_two_replicas(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    a.close()
    world.copy_file("a.db", "copy.db")
    one, two = world.replica("alice", "a.db"), world.replica("alice", "copy.db")

    for i in range(3):
        one.run(add, id="x", by=1)
        two.run(add, id="x", by=10)
        for replica in (one, two) if i % 2 else (two, one):
            replica.sync()
    world.settle(one, two)

    assert counts(one) == counts(two) == counts(world.server) == {"x": 33}
    assert len({r.client_id for r in world.server.history}) == 2
    assert all(o.seq is not None for r in (one, two) for o in r.outcomes())


def test_a_copy_with_a_pending_action_used_twice_runs_it_once(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    a.run(add, id="x", by=1)
    a.close()
    world.copy_file("a.db", "copy.db")
    one, two = world.replica("alice", "a.db"), world.replica("alice", "copy.db")
    world.settle(one, two)
    assert counts(one) == counts(two) == counts(world.server) == {"x": 1}
    assert len(world.server.history) == 2


def test_a_file_can_be_restored_again_and_again(world, counts):
    a = world.synced("alice", "a.db")
    a.run(create_counter, id="x")
    a.sync()
    for i in range(3):
        a.close()
        world.copy_file("a.db", "backup.db")
        a = world.replica("alice", "a.db")
        a.run(add, id="x", by=1)
        a.sync()
        a.close()
        world.copy_file("backup.db", "a.db")
        a = world.replica("alice", "a.db")
        a.run(add, id="x", by=10)
        if i != 1:  # this one's fate is decided in the next round
            a.sync()
    world.settle(a)
    assert counts(a) == counts(world.server) == {"x": 33}
    assert len({r.seed for r in world.server.history}) == len(world.server.history) == 7


@pytest.mark.spec("O6", "O5")
def test_a_lost_answer_is_no_restored_file(world, counts):
    a = world.synced("alice", "a.db")
    wire = world.wires[a]
    first = a.run(create_counter, id="x")
    for _ in range(3):
        wire.lose("answer")
        with pytest.raises(Offline):
            a.sync()
        a.run(add, id="x", by=1)
    a.close()
    a = world.replica("alice", "a.db")
    a.sync()

    assert counts(a) == counts(world.server) == {"x": 3}
    assert {r.client_id for r in world.server.history} == {client_of(first)}


def test_a_snapshot_request_of_a_restored_file_is_recognised(world, counts):
    a = world.replica("alice", "a.db")
    a.run(create_counter, id="x")
    a.close()
    world.copy_file("a.db", "backup.db")  # it never synced
    a = world.synced("alice", "a.db")
    a.run(add, id="x", by=1)
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.replica("alice", "a.db")
    a.run(create_counter, id="y")

    a.sync()

    assert counts(a) == counts(world.server) == {"x": 1, "y": 0}
    assert len(world.server.history) == 3


def test_parked_actions_of_a_restored_file_can_still_be_retried(world, counts):
    a = world.synced("alice", "a.db")
    world.server.policy = lambda *_: False
    run = a.run(create_counter, id="x")
    a.sync()
    a.close()
    world.copy_file("a.db", "backup.db")
    a = world.replica("alice", "a.db")
    world.server.policy = None
    a.run(create_counter, id="y")
    a.sync()
    a.close()
    world.copy_file("backup.db", "a.db")
    a = world.synced("alice", "a.db")

    retried = a.retry(run.id)
    a.sync()

    assert retried.id != run.id
    assert a.outcome(run.id).state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 0, "y": 0}
