"""What became of an action: every outcome, how long it lasts, and how to wait for it."""

import threading

import pytest
from tests.replica.shop import (
    add,
    buy,
    create_counter,
    give_badge,
    put_on_sale,
)

from synchrotron.errors import Offline, UsageError


def refuse(user):
    """A policy that lets this user write nothing."""
    return lambda who, op, table, row: who != user


def test_an_action_is_pending_and_then_accepted(world):
    replica = world.synced()
    run = replica.run(create_counter, id="x")
    assert (run.outcome.state, run.outcome.seq, run.outcome.final) == ("pending", None, False)

    replica.sync()

    assert (run.outcome.state, run.outcome.seq, run.outcome.final) == ("accepted", 1, False)
    assert run.outcome.detail is None


@pytest.mark.spec("R3")
def test_changed_names_the_rows_that_differ_and_ends_when_they_do_not(world):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(create_counter, id="x")
    world.settle(b, a)
    b.run(add, id="x", by=1)
    run = a.run(add, id="x", by=1)
    a.sync()
    assert run.outcome.state == "accepted"

    world.settle(b, a)

    assert run.outcome.state == "changed"
    assert run.outcome.detail == "other effects on counter x"
    assert run.outcome.seq is not None


@pytest.mark.spec("R2")
def test_rejected_after_acceptance_says_the_error(world):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(buy, id="pen")
    run = a.run(buy, id="pen")
    a.sync()
    world.settle(b, a)

    assert run.outcome.state == "rejected"
    assert run.outcome.detail == "OutOfStock: no 1 of pen"
    assert run.outcome.seq is not None


@pytest.mark.spec("H1", "R2")
def test_rejected_before_acceptance_is_uploaded_without_patches(world):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(buy, id="pen")
    run = a.run(buy, id="pen")
    b.sync()
    world.wires[a].lose("", "request")  # the first is answered `behind`
    with pytest.raises(Offline):
        a.sync()

    assert (run.outcome.state, run.outcome.seq) == ("rejected", None)
    assert run.outcome.detail == "OutOfStock: no 1 of pen"

    a.sync()
    [sent] = world.wires[a].sent[-1].actions
    assert (sent.record.id, sent.patches) == (run.id, [])
    assert (run.outcome.state, run.outcome.seq) == ("rejected", world.server.log()[-1][1])


@pytest.mark.spec("R4")
def test_denied_is_parked_and_taken_out_of_local_state(world, counts):
    a = world.synced("alice")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    assert counts(a) == {"x": 0}

    report = a.sync()

    assert report.parked == 1
    assert (run.outcome.state, run.outcome.reason) == ("parked", "denied")
    assert "counter x" in run.outcome.detail
    assert run.outcome.seq is None
    assert counts(a) == counts(world.server) == {}
    assert a.parked() == [run.outcome]
    assert a.log() == []
    assert a.state == "in step"


@pytest.mark.spec("O5", "R4")
def test_a_retry_keeps_id_and_order_key_while_they_are_above_the_floors(world, counts):
    a = world.synced("alice")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    [before] = a.log()
    a.sync()
    a.run(create_counter, id="y")
    world.server.policy = None

    assert a.retry(run.id).state == "pending"

    assert a.log()[0] == before, "in its old place, before y"
    a.sync()
    assert run.outcome.state == "accepted"
    assert counts(world.server) == {"x": 0, "y": 0}
    assert a.parked() == []


@pytest.mark.spec("F4")
def test_a_retry_below_the_floor_keeps_its_id_under_a_new_order_key(world):
    a, b = world.synced("alice"), world.synced("bob")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    [before] = a.log()
    a.sync()
    world.server.policy = None
    b.run(create_counter, id="y")
    b.sync()
    world.server.prune(0)
    a.sync()

    a.retry(run.id)

    [after] = [record for record in a.log() if record.id == run.id]
    assert after.order_key > b.log()[0].order_key > before.order_key
    assert (after.seed, after.now) == (before.seed, before.now)
    a.sync()
    assert run.outcome.state == "accepted"


def test_what_is_refused_again_is_parked_again(world):
    a = world.synced("alice")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    a.sync()
    a.retry(run.id)
    a.sync()
    assert (run.outcome.state, run.outcome.reason) == ("parked", "denied")
    assert len(a.parked()) == 1


@pytest.mark.spec("R4")
def test_a_discarded_action_stays_discarded(world):
    a = world.synced("alice")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    a.sync()

    assert a.discard(run.id).state == "discarded"

    assert run.outcome.state == "discarded"
    assert a.parked() == []
    for act in (a.retry, a.discard):
        with pytest.raises(UsageError, match="not parked"):
            act(run.id)
    world.server.policy = None
    a.sync()
    assert world.server.history == []


def test_only_what_is_parked_can_be_retried_or_discarded(world):
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    for act in (a.retry, a.discard):
        with pytest.raises(UsageError, match="not parked"):
            act(run.id)
        with pytest.raises(UsageError, match="not parked"):
            act("unknown-1")
    assert run.outcome.state == "pending"


def test_below_the_servers_floor_an_outcome_is_final(world):
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    a.sync()
    assert not run.outcome.final
    world.server.prune(0)
    later = a.run(create_counter, id="y")
    a.sync()

    assert (run.outcome.state, run.outcome.final) == ("accepted", True)
    assert not later.outcome.final


@pytest.mark.spec("R1")
def test_outcomes_survive_a_restart(world):
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    b.run(create_counter, id="x")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(add, id="x", by=1)
    b.run(buy, id="pen")
    a.run(create_counter, id="mine")
    a.run(add, id="x", by=1)
    a.run(buy, id="pen")
    a.sync()
    world.settle(b, a)
    world.server.policy = refuse("alice")
    a.run(add, id="x", by=2)
    discarded = a.run(add, id="x", by=2)
    a.sync()
    a.discard(discarded.id)
    a.run(add, id="mine", by=1)
    before = a.outcomes()
    assert [o.state for o in before] == [
        "accepted",
        "changed",
        "rejected",
        "parked",
        "discarded",
        "pending",
    ]
    a.close()

    again = world.replica("alice", "a.db")

    assert again.outcomes() == before
    assert [again.outcome(o.id) for o in before] == before


@pytest.mark.spec("F3", "F5", "R1")
def test_outcomes_survive_pruning(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(create_counter, id="x")
    b.run(put_on_sale, id="pen", stock=1)
    world.settle(b, a)
    b.run(add, id="x", by=1)
    b.run(buy, id="pen")
    a.run(create_counter, id="mine")
    a.run(add, id="x", by=1)
    a.run(buy, id="pen")
    a.sync()
    world.settle(b, a)
    before, tables = a.outcomes(), [rows(a, t) for t in ("counter", "item", "sale")]

    assert a.prune() == 7

    assert a.log() == []
    assert a.outcomes() == before
    assert [o.state for o in before] == ["accepted", "changed", "rejected"]
    assert [rows(a, t) for t in ("counter", "item", "sale")] == tables


def test_invalid_names_the_row(make_world):
    world = make_world({"alice": {"all", "hidden"}, "bob": {"all"}})
    a, b = world.synced("alice"), world.synced("bob")
    a.run(give_badge, name="chief", scope="hidden")
    a.sync()
    run = b.run(give_badge, name="chief")
    b.sync()

    assert (run.outcome.state, run.outcome.reason) == ("parked", "invalid")
    assert f"badge {run.result}" in run.outcome.detail


# ---- waiting -----------------------------------------------------------------------


def test_waiting_ends_when_the_server_has_it(world):
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    found = []
    waiting = threading.Thread(target=lambda: found.append(run.wait()))
    waiting.start()
    a.sync()
    waiting.join(30)
    assert [outcome.state for outcome in found] == ["accepted"]
    assert run.wait(0).state == "accepted"


def test_waiting_ends_when_it_is_parked_and_when_it_is_discarded(world):
    a = world.synced("alice")
    world.server.policy = refuse("alice")
    run = a.run(create_counter, id="x")
    found = []
    waiting = threading.Thread(target=lambda: found.append(run.wait()))
    waiting.start()
    a.sync()
    waiting.join(30)
    assert [outcome.state for outcome in found] == ["parked"]
    a.discard(run.id)
    assert run.wait(0).state == "discarded"


def test_waiting_in_vain_is_a_timeout(world):
    run = world.synced("alice").run(create_counter, id="x")
    with pytest.raises(TimeoutError, match="still pending"):
        run.wait(timeout_s=0)
