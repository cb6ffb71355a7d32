"""Actions whose code a replica lacks are applied, and never corrected by it (S10)."""

import logging

import pytest
from tests.replica import shop
from tests.replica.shop import add, create_counter, give_badge, lacking

from synchrotron import Context


def corrections(wire):
    return [c for request in wire.sent for c in request.corrections]


@pytest.mark.spec("S10")
def test_an_unknown_action_is_applied_as_it_is_known(world, counts):
    a, old = world.synced("alice"), world.synced("bob", app=lacking("add"))
    a.run(create_counter, id="x")
    a.run(add, id="x", by=5)
    world.settle(a, old)

    assert counts(old) == {"x": 5}
    assert [record.name for record in old.log()] == ["create_counter", "add"]


@pytest.mark.spec("S10", "S7")
def test_it_is_corrected_by_others_only(world, counts):
    older = lacking("add")
    raise_to = older.action(name="raise_to", audience="all")(_raise_to)
    a = world.synced("alice")
    old = world.synced("bob", app=older)
    a.run(create_counter, id="x")
    world.settle(a, old)
    old.run(raise_to, id="x", n=10)  # first in order
    a.run(add, id="x", by=1)
    a.sync()

    old.sync()

    assert counts(old) == counts(world.server) == {"x": 1}
    assert corrections(world.wires[old]) == []


def _raise_to(ctx: Context, *, id: str, n: int) -> None:
    ctx.execute("UPDATE counter SET n = ? WHERE id = ? AND n < ?", (n, id, n))


@pytest.mark.spec("S10")
def test_both_codes_together_come_to_the_result_of_those_who_have_it(world, counts):
    a, b = world.synced("alice"), world.synced("carol")
    old = world.synced("bob", app=lacking("add"))
    a.run(create_counter, id="x")
    world.settle(a, b, old)
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    old.sync()
    assert counts(old) == {"x": 1}
    b.sync()

    world.settle(old, a, b)

    assert [counts(of) for of in (a, b, old, world.server)] == [{"x": 11}] * 4
    assert corrections(world.wires[old]) == []


@pytest.mark.spec("S10")
def test_an_unknown_version_is_unknown(world, counts):
    newer = lacking()
    newer_add = newer.action(name="add", version=2, audience="{scope}")(_add_twice)
    a, old = world.synced("alice", app=newer), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, old)
    old.run(add, id="x", by=1)
    a.run(newer_add, id="x", by=1)
    world.settle(a, old)

    assert counts(a) == counts(old) == counts(world.server) == {"x": 3}
    assert [c.action_id for c in corrections(world.wires[old])] == []


def _add_twice(ctx: Context, *, id: str, by: int, scope: str = "all") -> int:
    return add(ctx, id=id, by=2 * by, scope=scope)


@pytest.mark.spec("S10")
def test_own_pending_actions_whose_code_is_gone_keep_what_they_did(world, counts):
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(create_counter, id="early")
    run = a.run(add, id="x", by=5)
    a.close()
    b.sync()

    older = world.synced("alice", "a.db", app=lacking("add"))

    assert counts(older) == counts(world.server) == {"early": 0, "x": 5}
    assert older.outcome(run.id).state == "accepted"


@pytest.mark.spec("S10")
def test_what_is_known_but_does_not_fit_is_left_out_and_reported(world, rows, caplog):
    older = lacking("give_badge")
    give = older.action(name="give", audience="all")(give_badge.function)
    a, old = world.synced("alice"), world.synced("bob", app=older)
    mine = old.run(give, name="chief")  # first in order
    theirs = a.run(give_badge, name="chief")
    a.sync()
    # What Bob runs there is a conflict, and of Alice's action he has no code.
    with caplog.at_level(logging.WARNING, "synchrotron"):
        old.sync()

    assert f"give_badge {theirs.id}" in caplog.text
    assert "cannot be applied here" in caplog.text
    assert (mine.outcome.state, mine.outcome.reason) == ("parked", "invalid")
    assert rows(old, "badge") == world.server.rows("badge") == rows(a, "badge")


@pytest.mark.spec("A10", "A7")
def test_an_action_that_leaves_its_declared_audience_on_replay_has_no_effect(make_world, counts):
    app = lacking()

    @app.action(audience=["all", "low"])
    def sort_low(ctx: Context, *, id: str, by: str) -> None:
        shop.sort_in(ctx, id=id, by=by, limit=10, low="low", high="high")

    club = {"all", "low", "high"}
    world = make_world({"alice": club, "bob": club})
    a, b = world.synced("alice", app=app), world.synced("bob", app=app)
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(add, id="x", by=10)
    run = a.run(sort_low, id="y", by="x")
    a.sync()
    assert counts(world.server) == {"x": 0, "y": 0}

    world.settle(b, a)

    assert counts(a) == counts(b) == counts(world.server) == {"x": 10}
    assert run.outcome.state == "rejected"
    assert "AudienceRefused" in run.outcome.detail
