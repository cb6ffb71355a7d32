"""Undo: an action of its own that reverses another one, wherever it is replayed."""

import pytest
from tests.replica import shop
from tests.replica.shop import (
    add,
    buy,
    claim,
    create_counter,
    create_project,
    create_task,
    create_todo,
    drop_counter,
    give_badge,
    put_on_sale,
    sell,
    take_off_sale,
)

from synchrotron import App
from synchrotron.core.patches import RowKey
from synchrotron.errors import ActionDefinitionError, CannotUndo, Closed, UnknownOutcome

X = RowKey("counter", ("x",))


def test_an_undo_takes_back_what_an_action_made_changed_and_deleted(world, counts):
    a = world.synced("alice")
    made = a.run(create_counter, id="x", n=3)
    added = a.run(add, id="x", by=4)
    dropped = a.run(drop_counter, id="x")
    steps = [counts(a)]
    for run in (dropped, added, made):
        undo = a.undo(run.id)
        assert (undo.result.reversed, undo.result.left_alone) == ((X,), {})
        steps.append(counts(a))
    assert steps == [{}, {"x": 7}, {"x": 3}, {}]


@pytest.mark.spec("U1")
def test_an_undo_is_an_action_that_all_replicas_replay(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    added = a.run(add, id="x", by=4)
    world.settle(a, b)
    undo = a.undo(added.id)
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 0}
    assert undo.outcome.state == "accepted"
    record = b.log()[-1]
    assert (record.id, record.name, record.audiences) == (undo.id, "synchrotron:undo", ("all",))
    assert record.args["of"] == added.id


@pytest.mark.spec("U2")
def test_a_row_that_was_changed_since_is_left_alone_and_named(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=5)
    bought = a.run(buy, id="pen", amount=2)
    world.settle(a, b)
    b.run(buy, id="pen", amount=1)
    world.settle(b, a)

    undo = a.undo(bought.id)

    assert undo.result.reversed == (RowKey("sale", (bought.result,)),)
    assert undo.result.left_alone == {RowKey("item", ("pen",)): "it was changed since"}
    assert [row["stock"] for row in a.query("SELECT stock FROM item")] == [2]
    assert len(a.query("SELECT * FROM sale")) == 1


@pytest.mark.spec("U2")
def test_a_row_that_was_deleted_or_made_again_is_left_alone(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    added, dropped = a.run(add, id="x", by=4), a.run(drop_counter, id="x")
    assert a.undo(added.id).result.left_alone == {X: "it was deleted since"}
    a.run(create_counter, id="x", n=9)
    assert a.undo(dropped.id).result.left_alone == {X: "there is such a row again"}
    assert counts(a) == {"x": 9}


@pytest.mark.spec("U2")
def test_a_change_of_other_columns_does_not_keep_a_change_from_being_undone(world):
    a = world.synced("alice")
    a.run(create_project, id="p")
    todo = a.run(create_todo, project="p", text="milk")
    app = a._definition
    finished = a.run(app.actions["finish_todo", 1], project="p", id=todo.result)
    a.run(app.actions["reword", 1], project="p", id=todo.result, text="bread")
    a.undo(finished.id)
    assert [(r["text"], r["done"]) for r in a.query("SELECT * FROM todo")] == [("bread", False)]
    undo = a.undo(todo.id)
    assert undo.result.left_alone == {RowKey("todo", (todo.result,)): "it was changed since"}


@pytest.mark.spec("U1")
def test_where_a_late_action_comes_in_between_an_undo_decides_anew(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x", n=1)
    world.settle(a, b)
    b.run(add, id="x", by=10)  # offline, and before what follows
    added = a.run(add, id="x", by=4)
    undo = a.undo(added.id)
    a.sync()
    assert counts(world.server) == {"x": 1}

    world.settle(b, a)

    # 1, 11, 15: not the 5 that the undo knew, so the row is left alone.
    assert counts(a) == counts(b) == counts(world.server) == {"x": 15}
    assert undo.outcome.state == "changed"


@pytest.mark.spec("U1")
def test_a_late_change_of_another_row_or_column_leaves_an_undo_as_it_is(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x", n=1)
    a.run(create_counter, id="y", n=1)
    world.settle(a, b)
    b.run(add, id="y", by=10)
    added = a.run(add, id="x", by=4)
    undo = a.undo(added.id)
    a.sync()
    world.settle(b, a)
    assert counts(a) == counts(b) == counts(world.server) == {"x": 1, "y": 11}
    assert undo.outcome.state == "accepted"


@pytest.mark.spec("U1")
def test_a_replica_that_knows_no_history_of_the_undone_action_replays_the_undo_alike(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x", n=1)
    added = a.run(add, id="x", by=4)
    world.settle(a, b)
    b.run(create_counter, id="z")  # to be ordered before the undo, and sent after it
    b.prune()
    fresh = world.synced("carol")
    a.undo(added.id)
    a.sync()
    world.settle(fresh, b, a, fresh)
    for each in (a, b, fresh, world.server):
        assert counts(each) == {"x": 1, "z": 0}


def test_undoing_an_undo_brings_it_back_and_so_on(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    run = a.run(add, id="x", by=4)
    for n in (0, 4, 0, 4):
        run = a.undo(run.id)
        world.settle(a, b)
        assert counts(a) == counts(b) == {"x": n}


def test_undoing_twice_leaves_alone_what_was_undone_already(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    added = a.run(add, id="x", by=4)
    a.undo(added.id)
    again = a.undo(added.id)
    assert (again.result.reversed, again.result.left_alone) == ((), {X: "it was changed since"})
    with pytest.raises(CannotUndo, match="changed nothing"):
        a.undo(again.id)
    assert counts(a) == {"x": 0}


def test_anyones_action_can_be_undone_by_who_may_write_there(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_task, id="t")
    claimed = a.run(claim, id="t")
    world.settle(a, b)
    undo = b.undo(claimed.id)
    world.settle(b, a)
    assert a.query("SELECT owner FROM task")[0]["owner"] is None
    assert undo.outcome.state == "accepted"


# ---- foreign keys, cascades, UNIQUE ----------------------------------------------------


@pytest.mark.spec("U3")
def test_what_a_cascade_took_comes_back(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=5)
    a.run(buy, id="pen")
    a.run(buy, id="pen")
    before = rows(a, "sale"), rows(a, "item")
    gone = a.run(take_off_sale, id="pen")
    world.settle(a, b)
    assert rows(b, "sale") == []
    undo = a.undo(gone.id)
    assert len(undo.result.reversed) == 3
    world.settle(a, b)
    assert (rows(b, "sale"), rows(b, "item")) == before


@pytest.mark.spec("U3")
def test_a_row_that_others_point_to_is_left_alone(world, rows):
    """Its deletion would take along what someone else has made since."""
    a, b = world.synced("alice"), world.synced("bob")
    made = a.run(put_on_sale, id="pen", stock=5)
    world.settle(a, b)
    sold = b.run(sell, id="pen")
    world.settle(b, a)
    pen = RowKey("item", ("pen",))
    assert a.undo(made.id).result.left_alone == {pen: "other rows point to it"}
    assert len(rows(a, "sale")) == 1
    a.undo(sold.id)
    assert a.undo(made.id).result.reversed == (pen,)
    world.settle(a, b)
    assert rows(b, "item") == rows(b, "sale") == []


@pytest.mark.spec("U3")
def test_rows_that_point_to_each_other_go_together(world, rows):
    a = world.synced("alice")
    a.run(shop.app.actions["stock_and_sell", 1], id="pen")
    run = a.run(shop.app.actions["stock_and_sell", 1], id="ink")
    undo = a.undo(run.id)
    assert len(undo.result.reversed) == 2
    assert [row["id"] for row in rows(a, "item")] == ["pen"]
    assert [row["item_id"] for row in rows(a, "sale")] == ["pen"]


@pytest.mark.spec("U3")
def test_a_row_that_may_not_go_before_those_that_point_to_it_goes_after_them():
    strict = App(
        "strict",
        schema="""
            CREATE TABLE box (id TEXT PRIMARY KEY,
                audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
            CREATE TABLE thing (id TEXT PRIMARY KEY,
                box_id TEXT NOT NULL REFERENCES box (id) ON DELETE RESTRICT,
                audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
        """,
    )

    @strict.action(audience="all")
    def pack(ctx, *, box: str) -> None:
        ctx.execute("INSERT INTO box (id) VALUES (?)", (box,))
        ctx.execute("INSERT INTO thing (id, box_id) VALUES ('ball', ?)", (box,))

    with strict.open(":memory:", user="alice") as replica:
        packed = replica.run(pack, box="red")
        assert replica.undo(packed.id).result.left_alone == {}
        assert replica.query("SELECT id FROM box") == replica.query("SELECT id FROM thing") == []


@pytest.mark.spec("U3")
def test_a_row_whose_parent_is_gone_is_left_alone(world, rows):
    a = world.synced("alice")
    a.run(put_on_sale, id="pen", stock=5)
    a.run(put_on_sale, id="ink", stock=5)
    a.run(buy, id="pen")
    a.run(buy, id="ink")
    cleared = a.run(shop.app.actions["clear_sales", 1])
    a.run(take_off_sale, id="pen")
    undo = a.undo(cleared.id)
    assert len(undo.result.reversed) == 1
    [why] = undo.result.left_alone.values()
    assert "points to item with id = 'pen', which is not there" in why
    assert [row["item_id"] for row in rows(a, "sale")] == ["ink"]


@pytest.mark.spec("U3")
def test_a_unique_value_that_is_taken_by_now_is_not_taken_back(world, rows):
    a = world.synced("alice")
    red = a.run(give_badge, name="red")
    dropped = a.run(shop.app.actions["drop_badge", 1], id=red.result)
    a.run(give_badge, name="red")
    undo = a.undo(dropped.id)
    assert undo.result.left_alone == {
        RowKey("badge", (red.result,)): "UNIQUE constraint failed: badge.name"
    }
    assert len(rows(a, "badge")) == 1


@pytest.mark.spec("U3")
def test_unique_values_that_were_passed_on_go_back_in_turn(world, rows):
    """c was freed for b, and b for a: they go back from the end, in whatever order they come."""
    a, b = world.synced("alice"), world.synced("bob")
    ids = [a.run(give_badge, name=name).result for name in ("a", "b", "c")]
    before = rows(a, "badge")
    passed = a.run(shop.app.actions["pass_on", 1], ids=ids)
    assert rows(a, "badge") != before
    world.settle(a, b)
    undo = b.undo(passed.id)
    assert undo.result.left_alone == {}
    world.settle(b, a)
    assert rows(a, "badge") == rows(b, "badge") == before


@pytest.mark.spec("U3")
def test_what_the_undone_action_made_gives_its_unique_value_back(world, rows):
    a = world.synced("alice")
    old = a.run(give_badge, name="red").result
    before = rows(a, "badge")
    replaced = a.run(shop.app.actions["replace_badge", 1], id=old, name="red")
    assert rows(a, "badge") != before
    assert a.undo(replaced.id).result.left_alone == {}
    assert rows(a, "badge") == before


# ---- what cannot be undone -------------------------------------------------------------


def test_an_action_without_effect_here_cannot_be_undone_and_the_error_says_why(world):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b)
    b.run(buy, id="pen")
    rejected = a.run(buy, id="pen")
    b.sync()
    world.settle(a)
    assert rejected.outcome.state == "rejected"
    with pytest.raises(CannotUndo, match=r"was rejected \(OutOfStock: .*nothing to undo"):
        a.undo(rejected.id)

    nothing = a.run(claim, id="nothing")
    with pytest.raises(CannotUndo, match="changed nothing"):
        a.undo(nothing.id)

    world.server.policy = lambda *_: False
    parked = a.run(create_counter, id="x")
    a.sync()
    with pytest.raises(CannotUndo, match="is parked and has no effect: discard it"):
        a.undo(parked.id)
    a.discard(parked.id)
    with pytest.raises(CannotUndo, match="was discarded"):
        a.undo(parked.id)


def test_an_action_whose_history_is_pruned_or_unknown_cannot_be_undone(world):
    a = world.synced("alice")
    made = a.run(create_counter, id="x")
    a.sync()
    a.prune()
    with pytest.raises(CannotUndo, match=r"is pruned.*write an action that does the reverse"):
        a.undo(made.id)
    with pytest.raises(UnknownOutcome, match="not an action that this replica has in its log"):
        a.undo("nothing")
    assert a.log() == []
    a.close()
    with pytest.raises(Closed):
        a.undo(made.id)


@pytest.mark.spec("U4")
def test_an_undo_shows_nobody_rows_of_an_audience_that_he_does_not_see(make_world):
    world = make_world({"alice": {"all", "secret"}, "bob": {"all"}})
    a, b = world.synced("alice"), world.synced("bob")
    both = a.run(shop.app.actions["create_two", 1], one="all", two="secret")
    with pytest.raises(CannotUndo, match=r"several audiences \(all, secret\)"):
        a.undo(both.id)
    declared = a.run(shop.app.actions["create_in_one", 1], declared=["all", "secret"], id="hidden")
    undo = a.undo(declared.id)
    world.settle(a, b)
    assert undo.outcome.state == "accepted"
    assert "hidden" not in str([record for record in b.log() if record.id == undo.id])
    assert undo.id in [record.id for record in a.log()]


# ---- parked undos, other versions ------------------------------------------------------


def test_an_undo_that_the_server_denies_is_parked_and_what_was_undone_stands(world, counts):
    a = world.synced("alice")
    a.run(create_counter, id="x")
    added = a.run(add, id="x", by=4)
    a.sync()
    world.server.policy = lambda *_: False
    undo = a.undo(added.id)
    assert counts(a) == {"x": 0}
    a.sync()
    assert undo.outcome.state == "parked"
    assert counts(a) == counts(world.server) == {"x": 4}


@pytest.mark.spec("S10")
def test_a_version_that_knows_no_undo_treats_it_as_opaque(world, counts):
    older = shop.lacking()
    older.built_in = {}
    a, b = world.synced("alice"), world.synced("bob", app=older)
    a.run(create_counter, id="x")
    added = a.run(add, id="x", by=4)
    world.settle(a, b)
    b.run(create_counter, id="early")
    a.undo(added.id)
    a.sync()
    world.settle(b, a)
    assert counts(a) == counts(b) == {"early": 0, "x": 0}


@pytest.mark.spec("S11")
def test_an_undo_of_columns_that_a_schema_lacks_is_opaque_there(world, counts):
    """The older one would find x unchanged, since it does not see what was changed since."""
    newer = App(
        "shop", schema=shop.SCHEMA, migrations=["ALTER TABLE counter ADD COLUMN colour TEXT"]
    )
    newer.actions = dict(shop.app.actions)

    @newer.action(audience="all")
    def paint(ctx, *, id: str, colour: str) -> None:
        ctx.execute("UPDATE counter SET colour = ?, n = n + 1 WHERE id = ?", (colour, id))
        ctx.execute("UPDATE counter SET n = n + 1 WHERE id <> ?", (id,))

    @newer.action(audience="all")
    def bleach(ctx, *, id: str) -> None:
        ctx.execute("UPDATE counter SET colour = NULL WHERE id = ?", (id,))

    world.server.install(newer)
    a, b = world.synced("alice", app=newer), world.synced("bob")
    a.run(create_counter, id="x")
    a.run(create_counter, id="y")
    painted = a.run(paint, id="x", colour="red")
    a.run(bleach, id="x")
    world.settle(a, b)
    b.run(create_counter, id="early")
    undo = a.undo(painted.id)
    assert undo.result == ((RowKey("counter", ("y",)),), {X: "it was changed since"})
    a.sync()
    world.settle(b, a)
    assert counts(a) == counts(b) == counts(world.server) == {"early": 0, "x": 1, "y": 0}


def test_names_of_our_own_actions_are_taken():
    with pytest.raises(ActionDefinitionError, match="names in synchrotron: are reserved"):

        @shop.app.action(name="synchrotron:undo")
        def undo(ctx) -> None: ...


def test_an_undo_is_told_like_any_run(world):
    a = world.synced("alice")
    heard = []
    made = a.run(create_counter, id="x")
    a.on("tables", heard.append)
    live = a.live("SELECT * FROM counter")
    assert len(next(live)) == 1
    a.undo(made.id)
    assert heard == [{"counter"}]
    assert next(live) == []
