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


@pytest.mark.parametrize("how", ["pruned", "rebased"])
def test_what_left_the_log_here_and_was_lost_there_comes_back(world, after_backup, counts, how):
    a, b, backup, lost = after_backup
    if how == "pruned":
        a.prune(keep=0)
    else:
        wish = a._engine.ask_snapshot()
        a._engine.take_snapshot(wish, world.server.snapshot("alice", wish))
    assert a.log() == []
    world.server.restore(backup)
    assert counts(world.server) == {"x": 0}

    a.sync()

    assert lost.outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 1}
    assert len(world.server.history) == 2, "what it had is not accepted again"
    world.settle(b, a)
    assert counts(b) == {"x": 1}


def test_a_snapshot_from_before_the_server_was_put_back_once_more_loses_nothing(
    world, after_backup, counts
):
    """The snapshot says that the action is accepted, and comes when that is not so any more."""
    a, _, backup, lost = after_backup
    later = world.server.backup()
    world.server.restore(later)
    wish = a._engine.ask_snapshot(new_epoch=True)
    chunks = list(world.server.snapshot("alice", wish))
    world.server.restore(backup)
    a._engine.take_snapshot(wish, chunks, new_epoch=True)
    assert lost.outcome.state == "accepted"

    world.settle(a)

    assert lost.outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 1}


def test_running_goes_on_with_new_ids_after_it(world, after_backup, counts):
    a, _, backup, lost = after_backup
    world.server.restore(backup)
    a.sync()
    later = a.run(add, id="x", by=5)
    a.sync()
    assert later.id != lost.id
    assert later.outcome.state == "accepted"
    assert counts(world.server) == {"x": 6}


@pytest.mark.parametrize("backup_has_it", [True, False])
def test_own_records_under_an_id_that_a_copy_gave_up_are_neither_lost_nor_run_twice(
    world, counts, backup_has_it
):
    """Accepted as a-1, kept by a file that is client b by now, and then the server is put back."""
    early = world.server.backup()
    a = world.synced("alice", "a.db")
    create = a.run(create_counter, id="x")
    add_one = a.run(add, id="x", by=1)
    a.sync()
    a.close()
    world.copy_file("a.db", "copy.db")
    a = world.replica("alice", "a.db")
    a.sync()
    late = world.server.backup()
    a.close()
    world.copy_file("copy.db", "a.db")
    a = world.replica("alice", "a.db")
    a.sync()
    renamed = a.run(add, id="x", by=10)
    assert renamed.id.rpartition("-")[0] != create.id.rpartition("-")[0]
    a.sync()

    world.server.restore(late if backup_has_it else early)
    world.settle(a)

    outcomes = [a.outcome(run.id) for run in (create, add_one, renamed)]
    assert [outcome.state for outcome in outcomes] == ["accepted"] * 3, outcomes
    assert counts(a) == counts(world.server) == {"x": 11}
    assert len(world.server.history) == 3


def test_a_commit_above_the_cursor_that_the_server_lost_is_noticed(world, counts):
    """The answer to an upload came after the floor had moved: its download was void."""
    a = world.synced("alice")
    a.run(create_counter, id="x")
    world.settle(a)
    backup = world.server.backup()
    lost = a.run(add, id="x", by=1)
    request = a._engine.ask(upload=True)
    answer = world.server.sync("alice", request)
    assert a.prune() == 1
    a._engine.take(request, answer)
    assert lost.outcome.state == "accepted"
    world.server.restore(backup)

    a.sync()

    assert lost.outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 1}


@pytest.mark.parametrize("discard", [False, True], ids=["parked", "discarded"])
@pytest.mark.parametrize("pruned", [False, True], ids=["stored", "pruned"])
def test_what_was_parked_and_is_there_after_all_is_told_under_whatever_id(
    make_world, counts, pruned, discard
):
    """The server is put back twice, the second time to a later backup that has the action."""
    world = make_world(audiences={"alice": {"all", "hidden"}})
    early = world.server.backup()
    a = world.synced("alice", "a.db")
    run = a.run(create_counter, id="x", scope="hidden")
    a.sync()
    a.close()
    world.copy_file("a.db", "copy.db")
    a = world.replica("alice", "a.db")
    a.sync()
    if pruned:
        world.server.prune(keep=0)
    late = world.server.backup()
    a.close()
    world.copy_file("copy.db", "a.db")
    a = world.replica("alice", "a.db")
    a.sync()
    assert not run.id.startswith(a._engine.state().client_id), "it is given up"
    world.server.restore(early)
    world.server.audiences["alice"].discard("hidden")
    a.sync()
    assert (a.outcome(run.id).state, a.outcome(run.id).reason) == ("parked", "left")
    if discard:
        a.discard(run.id)

    world.server.restore(late)
    world.server.audiences["alice"].add("hidden")
    world.settle(a)

    outcome = a.outcome(run.id)
    if pruned:
        withdrawn = "discarded" if discard else "parked"
        assert (outcome.state, outcome.reason) == (withdrawn, "restored")
    else:
        assert outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 0}
    assert len(world.server.history) == 1
