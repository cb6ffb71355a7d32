"""A server that was restored from a backup (H11)."""

import pytest
from tests.replica.shop import add, create_counter

pytestmark = pytest.mark.spec("H11")


@pytest.fixture
def after_backup(world):
    """Both replicas know one action more than the backup does."""
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    backup = world.server.backup()
    lost = a.run(add, id="x", by=1)
    world.settle(a, b)
    return a, b, backup, lost


def test_own_records_that_the_server_lost_become_pending_again(world, after_backup, counts):
    a, b, backup, lost = after_backup
    world.server.restore(backup)
    assert counts(world.server) == {"x": 0}

    report = a.sync()

    assert (report.rebased, report.uploaded) == (1, 1)
    assert lost.outcome.state == "accepted"
    world.settle(b, a)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 1}
    assert len(world.server.history) == 2


def test_pending_actions_are_kept(world, after_backup, counts):
    a, b, backup, _ = after_backup
    pending = b.run(add, id="x", by=10)
    world.server.restore(backup)

    b.sync()

    assert pending.outcome.state == "accepted"
    assert counts(b) == counts(world.server) == {"x": 10}, "Alice has not been here yet"
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 11}


def test_a_history_that_went_on_differently_is_noticed_though_its_seqs_fit(
    world, after_backup, counts
):
    a, b, backup, lost = after_backup
    world.server.restore(backup)
    c = world.synced("carol")
    for _ in range(5):
        c.run(add, id="x", by=100)
    c.sync()

    world.settle(a, b, c)

    assert lost.outcome.state == "accepted"
    assert counts(a) == counts(b) == counts(c) == counts(world.server) == {"x": 501}


def test_whoever_synced_nothing_since_the_backup_notices_nothing(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    backup = world.server.backup()
    a.run(add, id="x", by=1)
    a.sync()
    world.server.restore(backup)
    assert b.sync().rebased == 0
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 1}


def test_what_was_pruned_here_and_lost_there_is_not_forgotten_silently(world, after_backup, counts):
    a, _, backup, lost = after_backup
    a.prune()
    world.server.restore(backup)

    a.sync()

    assert counts(a) == counts(world.server)
    assert lost.outcome.state in ("accepted", "parked")


def test_running_goes_on_with_new_ids_after_it(world, after_backup, counts):
    a, _, backup, lost = after_backup
    world.server.restore(backup)
    a.sync()
    later = a.run(add, id="x", by=5)
    a.sync()
    assert later.id != lost.id
    assert later.outcome.state == "accepted"
    assert counts(world.server) == {"x": 6}
