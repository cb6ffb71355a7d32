"""Actions that meet late end as if they had run in order (S3, S7)."""

from itertools import permutations

import pytest
from tests.replica.shop import (
    OutOfStock,
    add,
    app,
    buy,
    claim,
    claim_undeclared,
    create_counter,
    create_task,
    drop_counter,
    put_on_sale,
)

from synchrotron.testing.oracle import serial_tables


@pytest.mark.spec("S3", "S7")
def test_a_late_action_is_not_overwritten_by_what_was_computed_without_it(world, counts):
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    c.run(add, id="x", by=10)  # offline for now
    a.run(add, id="x", by=1)
    a.sync()
    b.sync()
    b.run(add, id="x", by=1)
    b.sync()
    a.sync()
    a.run(add, id="x", by=1)
    a.sync()

    c.sync()

    assert counts(world.server) == {"x": 13}, "serial at that very commit"
    world.settle(a, b, c)
    assert [counts(of) for of in (a, b, c, world.server)] == [{"x": 13}] * 4
    assert len(world.server.history) == 5, "corrections are no actions of their own"


@pytest.mark.spec("S3")
def test_corrections_replace_patches_in_place(world):
    a, c = world.synced("alice"), world.synced("carol")
    a.run(create_counter, id="x")
    world.settle(a, c)
    c.run(add, id="x", by=10)
    early = a.run(add, id="x", by=1)
    a.sync()

    report = c.sync()

    assert report.corrected == 1
    patches = {record.id: known for record, _, known in world.server.log()}
    [known] = patches[early.id].values()
    assert known.patch.values == {"n": 11}


@pytest.mark.spec("S7")
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_in_whatever_order_replicas_sync_the_result_is_the_serial_one(world, rows, order):
    replicas = [world.synced(user) for user in ("alice", "bob", "carol")]
    replicas[0].run(put_on_sale, id="pen", stock=2)
    replicas[0].run(create_task, id="t")
    world.settle(*replicas)
    for replica in replicas:
        replica.run(buy, id="pen")
        replica.run(claim, id="t")

    for i in order:
        replicas[i].sync()
    world.settle(*replicas)

    expected = serial_tables(app, world.server.history)
    assert [row["buyer"] for row in sorted(expected["sale"], key=lambda s: s["buyer"])] == [
        "alice",
        "bob",
    ]
    assert expected["task"][0]["owner"] == "alice"
    for table in ("item", "sale", "task"):
        assert world.server.rows(table) == expected[table]
        assert all(rows(replica, table) == expected[table] for replica in replicas)
    [rejected] = [o for o in replicas[2].outcomes() if o.state == "rejected"]
    assert "OutOfStock" in rejected.detail


@pytest.mark.spec("S7", "A7")
def test_what_a_rejected_action_leaves_room_for_comes_true_for_another(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b)
    a.run(buy, id="pen")
    b.run(buy, id="pen")
    b.sync()  # Bob's sale stands for now
    a.sync()
    world.settle(a, b)

    assert [row["buyer"] for row in world.server.rows("sale")] == ["alice"]
    assert rows(b, "sale") == rows(a, "sale") == world.server.rows("sale")
    with pytest.raises(OutOfStock):
        b.run(buy, id="pen")


@pytest.mark.spec("A10")
def test_a_declared_action_that_changed_nothing_is_replayed_by_all(world, rows):
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    b.run(create_task, id="t")  # first in order, but last to arrive
    c.run(claim, id="t")  # there is no task yet: it changes nothing
    world.settle(c, a)
    assert [record.name for record in a.log()] == ["claim"]

    b.sync()

    assert rows(b, "task")[0]["owner"] == "carol"
    assert world.server.rows("task")[0]["owner"] == "carol"
    world.settle(a, c)
    assert rows(a, "task") == rows(c, "task") == world.server.rows("task")


@pytest.mark.spec("A10")
def test_undeclared_it_is_known_to_its_author_alone_until_it_changes_something(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_task, id="t")
    a.run(claim, id="t")
    world.settle(a, b)

    b.run(claim_undeclared, id="t")
    world.settle(a, b)

    assert [r.name for r in b.log()][-1] == "claim_undeclared"
    assert "claim_undeclared" not in [r.name for r in a.log()]


@pytest.mark.spec("S2")
def test_only_what_is_ordered_after_the_earliest_change_is_replayed(world):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    for _ in range(20):
        a.run(add, id="x", by=1)
    world.settle(a, b)
    b.run(add, id="x", by=100)
    a.run(add, id="x", by=1)
    a.sync()

    report = b.sync()

    assert report.received == 1
    assert report.replayed <= 1
    assert a.sync().replayed <= 2


@pytest.mark.spec("S4")
def test_once_in_step_syncing_sends_nothing_more(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    a.run(drop_counter, id="x")
    b.run(add, id="x", by=1)
    world.settle(b, a)

    for replica in (a, b):
        report = replica.sync()
        assert (report.uploaded, report.corrected, report.received, report.replayed) == (0,) * 4
        assert report.rounds == 1
    assert counts(world.server) == counts(a) == counts(b) == {}
