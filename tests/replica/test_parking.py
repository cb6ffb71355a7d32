"""One refused action is set aside; everything after it goes on without it (H1, section 8)."""

import pytest
from tests.replica.shop import add, create_counter, give_badge, put_on_sale, sell


def may_not(user, **columns):
    """A policy that forbids this user rows with these values."""

    def policy(who, op, table, row):
        return who != user or any(row.get(name) != value for name, value in columns.items())

    return policy


@pytest.fixture
def hidden_world(make_world):
    """Bob does not see what Alice keeps under `hidden`."""
    return make_world({"alice": {"all", "hidden"}, "bob": {"all"}})


@pytest.mark.spec("H1")
def test_one_denied_action_is_parked_and_the_rest_goes_on(world, counts):
    a = world.synced("alice")
    world.server.policy = may_not("alice", id="y")
    runs = [a.run(create_counter, id=id) for id in "xyz"]

    report = a.sync()

    assert [run.outcome.state for run in runs] == ["accepted", "parked", "accepted"]
    assert runs[1].outcome.reason == "denied"
    assert counts(a) == counts(world.server) == {"x": 0, "z": 0}
    assert (report.uploaded, report.parked) == (2, 1)
    assert a.state == "in step"


@pytest.mark.spec("H1")
def test_what_built_on_a_parked_action_is_replayed_without_it(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    a.sync()
    world.server.policy = may_not("alice", n=10)
    parked = a.run(add, id="x", by=10)
    after = a.run(add, id="x", by=1)
    assert after.result == 11

    a.sync()

    assert parked.outcome.state == "parked"
    assert after.outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 1}


@pytest.mark.spec("H1", "A7")
def test_what_cannot_be_without_the_parked_one_is_rejected_by_the_applications_rule(world, counts):
    a = world.synced("alice")
    world.server.policy = may_not("alice", n=0)
    parked = a.run(create_counter, id="x")
    orphaned = a.run(add, id="x", by=1)

    a.sync()

    assert parked.outcome.state == "parked"
    assert orphaned.outcome.state == "rejected"
    assert orphaned.outcome.seq is not None, "uploaded without patches"
    assert counts(a) == counts(world.server) == {}


@pytest.mark.spec("H1", "H5")
def test_a_conflict_with_a_row_hidden_from_the_user_parks_the_action_as_invalid(
    hidden_world, rows, counts
):
    world = hidden_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(give_badge, name="chief", scope="hidden")
    a.sync()
    first = b.run(create_counter, id="x")
    invalid = b.run(give_badge, name="chief")
    last = b.run(give_badge, name="clerk")
    b.sync()

    assert [r.outcome.state for r in (first, invalid, last)] == ["accepted", "parked", "accepted"]
    assert invalid.outcome.reason == "invalid"
    assert [row["name"] for row in rows(b, "badge")] == ["clerk"]
    assert "hidden" not in str(rows(b, "badge"))
    assert sorted(row["name"] for row in world.server.rows("badge")) == ["chief", "clerk"]
    assert counts(b) == {"x": 0}


@pytest.mark.spec("H1")
def test_a_retry_of_what_is_still_invalid_parks_it_again_and_of_what_is_not_succeeds(
    hidden_world, rows
):
    world = hidden_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(give_badge, name="chief", scope="hidden")
    a.sync()
    run = b.run(give_badge, name="chief")
    b.sync()

    b.retry(run.id)
    assert run.outcome.state == "pending"
    assert len(rows(b, "badge")) == 1
    b.sync()
    assert (run.outcome.state, run.outcome.reason) == ("parked", "invalid")
    assert rows(b, "badge") == []
    assert [o.id for o in b.outcomes()] == [run.id]


@pytest.mark.spec("O5")
def test_the_n_of_a_parked_or_discarded_action_is_never_used_again(world):
    a = world.synced("alice", "a.db")
    world.server.policy = may_not("alice", n=0)
    ids = []
    for _ in range(2):
        ids.append(a.run(create_counter, id="x").id)
        a.sync()
    a.discard(ids[1])
    a.close()
    a = world.synced("alice", "a.db")
    ids.append(a.run(create_counter, id="x").id)
    a.retry(ids[0])
    a.sync()
    ids.append(a.run(create_counter, id="x").id)

    assert len({id[:24] for id in ids}) == 1, "the client id stays"
    ns = [int(id.rpartition("-")[2]) for id in ids]
    assert ns == sorted(set(ns)), "holes are no harm"


@pytest.mark.spec("O5", "O1")
def test_after_pruning_everything_ids_and_order_keys_go_on_rising(world):
    a = world.synced("alice", "a.db")
    first = a.run(create_counter, id="x")
    [before] = a.log()
    a.sync()
    a.prune()
    a.close()
    world.clock.now_ms -= 1_000
    a = world.synced("alice", "a.db")

    again = a.run(add, id="x", by=1)

    assert first.id.endswith("-1")
    assert again.id.endswith("-2")
    [after] = a.log()
    assert after.order_key > before.order_key
    assert a.sync().uploaded == 1


@pytest.mark.spec("F3")
def test_pruning_stops_at_a_parked_action(world):
    a = world.synced("alice")
    a.run(create_counter, id="w")
    a.sync()
    world.server.policy = may_not("alice", id="x")
    parked = a.run(create_counter, id="x")
    a.run(create_counter, id="y")
    a.sync()

    assert a.prune() == 1
    assert [r.args["id"] for r in a.log()] == ["y"]
    world.server.policy = None
    a.retry(parked.id)
    assert [r.args["id"] for r in a.log()] == ["x", "y"]
    a.sync()
    assert parked.outcome.state == "accepted"


@pytest.mark.spec("H1")
def test_of_two_refused_actions_each_is_parked_for_its_own_reason(hidden_world):
    world = hidden_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(give_badge, name="chief", scope="hidden")
    a.sync()
    world.server.policy = may_not("bob", id="no")
    runs = [
        b.run(create_counter, id="no"),
        b.run(give_badge, name="chief"),
        b.run(create_counter, id="yes"),
    ]
    b.sync()
    assert [r.outcome.state for r in runs] == ["parked", "parked", "accepted"]
    assert [r.outcome.reason for r in runs] == ["denied", "invalid", None]


@pytest.mark.spec("A9", "H1")
def test_a_child_of_what_was_parked_is_rejected(world, rows):
    a = world.synced("alice")
    world.server.policy = may_not("alice", id="pen")
    parent = a.run(put_on_sale, id="pen", stock=1)
    child = a.run(sell, id="pen")
    a.sync()
    assert parent.outcome.state == "parked"
    assert child.outcome.state == "rejected"
    assert rows(a, "sale") == world.server.rows("sale") == []


@pytest.mark.spec("R4")
@pytest.mark.parametrize("given_up", [False, True], ids=["parked", "discarded and pruned past"])
def test_what_one_answer_refused_and_the_next_one_accepted_is_accepted(world, counts, given_up):
    """Both requests were on their way when the user gained the right."""
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    engine, server = a._engine, world.server
    server.policy = lambda *_: False
    refused = engine.ask()
    refusal = server.sync("alice", refused)
    server.policy = None
    stored = engine.ask()
    answer = server.sync("alice", stored)
    engine.take(refused, refusal)
    assert run.outcome.state == "parked"
    if given_up:
        a.discard(run.id)
        engine.store.writer.execute("UPDATE synchrotron_replica SET floor = clock")

    taken = engine.take(stored, answer)

    assert run.outcome.state == "accepted"
    assert taken.next.rebase == given_up
    a.sync()
    assert counts(a) == counts(server) == {"x": 0}
    assert run.outcome.state == "accepted"
