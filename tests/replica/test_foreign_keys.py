"""Foreign keys on replay: a parent may be missing, or only hidden from this user (A9)."""

import pytest
from tests.replica.shop import (
    add,
    create_counter,
    create_project,
    create_todo,
    invite,
    lacking,
    put_on_sale,
    sell,
    take_off_sale,
)

from synchrotron import Context

pytestmark = pytest.mark.spec("A9")


def corrections(wire):
    return [c for request in wire.sent for c in request.corrections]


def test_where_the_parent_is_hidden_what_is_known_stands(make_world, rows):
    world = make_world({"alice": {"all", "hidden"}, "bob": {"all"}})
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1, scope="hidden")
    b.run(create_counter, id="early")  # Bob has standing over what comes after
    sale = a.run(sell, id="pen", scope="all")
    a.sync()

    world.settle(b, a)

    assert [row["id"] for row in rows(b, "sale")] == [sale.result]
    assert rows(b, "item") == []
    assert world.server.rows("sale") == rows(a, "sale") == rows(b, "sale")
    assert corrections(world.wires[b]) == []
    assert sale.outcome.state == "accepted"


def test_where_the_parent_is_known_to_be_deleted_the_action_raises(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b)
    b.run(take_off_sale, id="pen")  # first in order
    sale = a.run(sell, id="pen")
    a.sync()

    world.settle(b, a)

    assert rows(a, "sale") == rows(b, "sale") == world.server.rows("sale") == []
    assert sale.outcome.state == "rejected"
    assert "ForeignKeyError" in sale.outcome.detail


def test_where_the_insert_of_the_parent_was_removed_the_action_raises(world, rows):
    app = lacking()

    @app.action(audience="all")
    def put_if(ctx: Context, *, id: str, by: str, limit: int) -> None:
        """Put something on sale, if a counter counts so much."""
        if ctx.execute("SELECT n FROM counter WHERE id = ?", (by,))[0]["n"] < limit:
            raise LookupError("not enough")
        put_on_sale(ctx, id=id, stock=1)

    a, b = world.synced("alice", app=app), world.synced("bob", app=app)
    a.run(create_counter, id="x", n=5)
    world.settle(a, b)
    b.run(add, id="x", by=-1)
    put = a.run(put_if, id="pen", by="x", limit=5)
    sale = a.run(sell, id="pen")
    a.sync()
    assert len(world.server.rows("sale")) == 1

    world.settle(b, a)

    assert put.outcome.state == sale.outcome.state == "rejected"
    for table in ("item", "sale"):
        assert rows(a, table) == rows(b, table) == world.server.rows(table) == []


@pytest.mark.spec("A8")
def test_a_cascade_is_part_of_its_actions_patches_and_meets_what_came_between(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=5)
    world.settle(a, b)
    sale = b.run(sell, id="pen")  # first in order, arrives late
    a.run(take_off_sale, id="pen")
    a.sync()

    world.settle(b, a)

    assert rows(a, "sale") == rows(b, "sale") == world.server.rows("sale") == []
    assert sale.outcome.state == "accepted"
    _, _, patches = world.server.log()[-1]
    assert {(t.table, k.patch.op) for t, k in patches.items()} == {
        ("item", "delete"),
        ("sale", "delete"),
    }


def test_rows_under_a_hidden_parent_can_be_undone_and_replayed(make_world, rows):
    world = make_world({"alice": {"all", "hidden"}, "bob": {"all"}, "carol": {"all"}})
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(put_on_sale, id="pen", stock=1, scope="hidden")
    c.run(create_counter, id="x")
    sale = a.run(sell, id="pen", scope="all")
    world.settle(a, b)
    b.run(create_counter, id="y")
    c.sync()  # it sorts before the sale

    world.settle(b, a, c)

    for replica in (a, b, c):
        assert [row["id"] for row in rows(replica, "sale")] == [sale.result]


def test_joining_later_shows_the_parent_under_the_rows_that_were_there(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    a.run(create_todo, project="p", text="Buy milk")
    a.run(invite, project="p", user="bob")
    world.settle(a, b)
    b.run(create_todo, project="p", text="Buy bread")
    world.settle(b, a)
    assert rows(a, "todo") == rows(b, "todo") == world.server.rows("todo")
    assert len(rows(a, "todo")) == 2


@pytest.mark.spec("A9", "R2")
def test_what_was_rejected_stays_so_where_the_missing_parent_cannot_be_told_from_a_hidden_one(
    world, rows
):
    a, b, c = world.synced("alice"), world.synced("bob"), world.synced("carol")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b, c)
    sale = b.run(sell, id="pen")
    a.run(take_off_sale, id="pen")
    a.sync()
    world.server.prune(keep=0)
    c.sync()
    c.run(create_counter, id="early")
    b.sync()  # it starts anew from a snapshot, which has no pen
    assert sale.outcome.state == "rejected"

    world.settle(c, b)  # what Carol did comes before, and the sale is run again

    assert sale.outcome.state == "rejected"
    assert rows(b, "sale") == world.server.rows("sale") == []
