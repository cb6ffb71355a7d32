"""Running actions: results, atomicity, arguments, and what cannot be an action."""

import sqlite3
from typing import Any

import pytest
from tests.replica import shop
from tests.replica.shop import OutOfStock, add, buy, create_counter, put_on_sale

from synchrotron import App, Context
from synchrotron.errors import (
    ActionDefinitionError,
    ArgumentError,
    AudienceRefused,
    ConstraintError,
    ForeignKeyError,
    MachineError,
    NotReadOnly,
    QueryError,
    StatementRefused,
    UnknownAction,
    UnknownOutcome,
    UsageError,
    WriteOutsideAction,
)


def fresh() -> App:
    """An application of the test's own, on the shop's schema."""
    return App("shop", schema=shop.SCHEMA)


def test_a_run_gives_what_the_action_returned(world, counts):
    replica = world.replica()
    replica.run(create_counter, id="x")

    run = replica.run(add, id="x", by=5)

    assert run.result == 5
    assert run.id == replica.log()[-1].id
    assert run.outcome.state == "pending"
    assert counts(replica) == {"x": 5}


@pytest.mark.spec("A1", "A6")
def test_an_action_that_raises_leaves_nothing_behind_not_even_an_id(world, rows):
    replica = world.replica()
    first = replica.run(put_on_sale, id="pen", stock=1)

    with pytest.raises(OutOfStock, match="no 2 of pen"):
        replica.run(buy, id="pen", amount=2)

    assert rows(replica, "item")[0]["stock"] == 1
    assert [record.id for record in replica.log()] == [first.id]
    assert [outcome.id for outcome in replica.outcomes()] == [first.id]
    assert replica.run(buy, id="pen").id.endswith("-2")


@pytest.mark.spec("A6")
def test_what_an_action_wrote_before_it_raised_is_rolled_back(world, rows):
    app = fresh()

    @app.action
    def half(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, 1, 'all')", (id,))
        raise RuntimeError("then it fails")

    replica = world.replica(app=app)
    with pytest.raises(RuntimeError, match="then it fails"):
        replica.run(half, id="x")
    assert rows(replica, "counter") == []
    assert replica.log() == []


@pytest.mark.spec("A6")
@pytest.mark.parametrize(
    ("error", "reaches_the_caller_as"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(), SystemExit),
        (OSError(28, "disk full"), OSError),
        (MemoryError(), MachineError),
    ],
)
def test_an_error_of_the_machine_at_the_first_run_leaves_nothing_behind_either(
    world, rows, error, reaches_the_caller_as
):
    app = fresh()

    @app.action
    def stopped(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, 1, 'all')", (id,))
        raise error

    replica = world.replica(app=app)
    with pytest.raises(reaches_the_caller_as):
        replica.run(stopped, id="x")
    assert rows(replica, "counter") == []
    assert replica.log() == []
    replica.run(app.action(create_counter.function), id="x")


@pytest.mark.spec("A5")
def test_arguments_are_stored_by_name_with_their_defaults(world):
    app = fresh()

    @app.action
    def note(ctx: Context, first: str, second: int = 2, *, third: bool = False) -> None: ...

    replica = world.replica(app=app)
    replica.run(note, "a")
    replica.run(note, "a", 3, third=True)

    assert [record.args for record in replica.log()] == [
        {"first": "a", "second": 2, "third": False},
        {"first": "a", "second": 3, "third": True},
    ]


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((), {"id": "x"}),
        ((), {"id": "x", "by": "1"}),
        ((), {"id": "x", "by": 1, "extra": 1}),
        (("x",), {"by": 1, "id": "x"}),
        (("x", 1, "all", 4), {}),
        ((), {"id": "x\0", "by": 1}),
        ((), {"id": "\ud800", "by": 1}),
        ((), {"id": None, "by": 1}),
        ((), {"id": "x", "by": 2**64}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_the_run(world, args, kwargs):
    replica = world.replica()
    with pytest.raises(ArgumentError, match=r"action 'add' \(version 1\)"):
        replica.run(add, *args, **kwargs)
    assert replica.log() == []


def test_an_action_called_from_another_is_part_of_it(world, rows):
    replica = world.replica()
    replica.run(put_on_sale, id="pen", stock=3)

    run = replica.run(buy, id="pen")  # it calls `sell`

    assert [row["id"] for row in rows(replica, "sale")] == [run.result]
    assert [record.name for record in replica.log()] == ["put_on_sale", "buy"]


def test_running_an_action_from_within_one_is_refused(world):
    app = fresh()
    replica: Any = None

    @app.action
    def inner(ctx: Context) -> None: ...

    @app.action
    def outer(ctx: Context) -> None:
        replica.run(inner)

    replica = world.replica(app=app)
    with pytest.raises(UsageError, match=r"call inner\(ctx, …\)"):
        replica.run(outer)
    assert replica.log() == []
    replica.run(inner)


@pytest.mark.parametrize(
    "use",
    [
        lambda replica, run: replica.sync(),
        lambda replica, run: replica.undo(run.id),
        lambda replica, run: replica.retry(run.id),
        lambda replica, run: replica.discard(run.id),
        lambda replica, run: replica.prune(),
        lambda replica, run: replica.close(),
    ],
    ids=["sync", "undo", "retry", "discard", "prune", "close"],
)
def test_an_action_does_nothing_else_with_its_replica(world, counts, use):
    app = shop.lacking()
    replica: Any = None

    @app.action
    def meddle(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, 0, 'all')", (id,))
        use(replica, before)

    replica = world.replica("alice", "a.db", app=app)
    before = replica.run(app.actions["create_counter", 1], id="x")
    with pytest.raises(UsageError, match="can do nothing else with its replica"):
        replica.run(meddle, id="y")
    assert counts(replica) == {"x": 0}
    assert replica.sync().uploaded == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"client_id": "x"}, "client_id: 'x' is not a client id"),
        ({"client_id": 7}, "client_id: "),
        ({"user": "a\ud800"}, "holds a lone surrogate"),
        ({"user": "a\0"}, "holds a NUL"),
        ({"user": 7}, "user 7 is no str"),
    ],
)
def test_who_a_replica_is_is_checked_when_it_is_opened(world, wrong, message):
    with pytest.raises(UsageError, match=message):
        shop.app.open(world.folder / "a.db", **{"user": "alice", **wrong})
    assert not (world.folder / "a.db").exists()


def test_a_clock_may_give_fractions_of_a_millisecond(world):
    with shop.app.open(":memory:", user="alice", clock=lambda: 1_700_000_000_000.7) as replica:
        replica.run(create_counter, id="x")
        [record] = replica.log()
        assert record.now.timestamp() == 1_700_000_000


@pytest.mark.parametrize(
    "sql", ["SELECT :a AS x", "INSERT INTO counter (id, n, scope) VALUES (:a, 0, 'all')"]
)
def test_a_parameter_without_a_value_is_named(world, sql):
    app = shop.lacking()

    @app.action
    def ask(ctx: Context, *, values: list[dict[str, str]]) -> None:
        if sql.startswith("INSERT") and len(values) > 1:
            ctx.executemany(sql, values)
        for each in values:
            ctx.execute(sql, each)

    replica = world.replica("alice", app=app)
    for values in ([{"b": "1"}], [{"a": "1"}, {"b": "1"}]):
        with pytest.raises(StatementRefused, match="parameter :a, and no value"):
            replica.run(ask, values=values)
    if sql.startswith("SELECT"):
        for wrong in (replica.query, replica.live):
            with pytest.raises(QueryError, match="parameter :a, and no value"):
                wrong(sql, {"b": 1})


def test_what_is_not_an_action_of_this_application_is_refused(world):
    replica = world.replica(app=shop.lacking("add"))

    def undecorated(ctx: Context) -> None: ...

    with pytest.raises(UnknownAction, match=r"decorate it with @app\.action"):
        replica.run(undecorated)
    with pytest.raises(UnknownAction, match="'add'"):
        replica.run(add, id="x", by=1)
    assert replica.log() == []


async def _coroutine(ctx: Context) -> None: ...


async def _async_generator(ctx: Context) -> Any:
    yield


def _generator(ctx: Context) -> Any:
    yield


def _no_context() -> None: ...


def _rest(ctx: Context, *args: int) -> None: ...


def _named_rest(ctx: Context, **kwargs: int) -> None: ...


def _positional(ctx: Context, x: int, /) -> None: ...


def _untyped(ctx: Context, x) -> None: ...  # type: ignore[no-untyped-def]


def _custom(ctx: Context, x: sqlite3.Connection) -> None: ...


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    "function",
    [
        _coroutine,
        _async_generator,
        _generator,
        _no_context,
        _rest,
        _named_rest,
        _positional,
        _untyped,
        _custom,
    ],
)
def test_a_function_whose_runs_cannot_be_recorded_is_refused_when_it_is_defined(function):
    with pytest.raises(ActionDefinitionError, match=function.__name__):
        fresh().action(function)


def test_two_actions_with_one_name_need_versions(world):
    app = fresh()
    app.action(name="f")(lambda ctx: "old")
    with pytest.raises(ActionDefinitionError, match="defined twice"):
        app.action(name="f")(lambda ctx: "new")
    newer = app.action(name="f", version=2)(lambda ctx: "new")

    replica = world.replica(app=app)
    assert replica.run(newer).result == "new"
    assert [(r.name, r.version) for r in replica.log()] == [("f", 2)]


@pytest.mark.spec("A3")
def test_a_context_ends_with_its_action(world):
    app = fresh()
    kept: list[Context] = []

    @app.action
    def keep(ctx: Context) -> None:
        kept.append(ctx)

    world.replica(app=app).run(keep)
    for use in (
        lambda ctx: ctx.execute("SELECT 1"),
        lambda ctx: ctx.executemany("DELETE FROM counter WHERE id = ?", [("x",)]),
        lambda ctx: ctx.new_id("counter"),
    ):
        with pytest.raises(StatementRefused, match="after the action ended"):
            use(kept[0])


@pytest.mark.spec("A3")
def test_a_replay_gets_the_same_ids_time_and_dice(world, rows):
    app = fresh()
    seen: list[Any] = []

    @app.action
    def look(ctx: Context) -> None:
        ctx.execute("SELECT * FROM counter")  # an earlier one comes late
        dice = ctx.execute("SELECT random() AS a, datetime('now') AS b, randomblob(4) AS c")[0]
        ids = [ctx.new_id("counter"), ctx.new_id("counter"), ctx.new_id("counter", "k", 1)]
        assert len(set(ids)) == 3
        seen.append((ctx.now, ctx.random.random(), *ids, *dict(dice).values(), ctx.user))

    app.action(create_counter.function)
    create = app.actions["create_counter", 1]
    a, b = (world.synced(user, app=app) for user in ("alice", "bob"))
    b.run(create, id="early")
    a.run(look)
    a.sync()
    b.sync()
    world.settle(a, b)

    assert len(seen) >= 2, "it was replayed"
    assert len(set(seen)) == 1


def test_a_replica_without_a_user_reads_but_does_not_run(world):
    replica = shop.app.open(":memory:", clock=world.clock)
    assert replica.query("SELECT * FROM counter") == []
    with pytest.raises(UsageError, match="user="):
        replica.run(create_counter, id="x")
    replica.close()


def test_the_record_says_what_ran(world):
    replica = world.replica("alice")
    replica.run(create_counter, id="x", scope="all")

    [record] = replica.log()
    assert (record.name, record.version, record.user) == ("create_counter", 1, "alice")
    assert record.args == {"id": "x", "n": 0, "scope": "all"}
    assert record.audiences == ("all",)
    assert record.id == f"{record.client_id}-1"
    assert record.order_key.endswith(record.client_id)
    assert len(record.seed) == 32


@pytest.mark.spec("A10", "A11")
def test_at_its_first_run_an_action_may_not_leave_the_audiences_it_declares(world):
    app = fresh()

    @app.action(audience="mine")
    def stray(ctx: Context) -> None:
        ctx.execute("INSERT INTO counter (id, n, scope) VALUES ('x', 0, 'other')")

    @app.action
    def moved(ctx: Context) -> None:
        ctx.execute("INSERT INTO counter (id, n, scope) VALUES ('x', 0, 'one')")

    @app.action
    def moving(ctx: Context) -> None:
        ctx.execute("UPDATE counter SET scope = 'two'")

    replica = world.replica(app=app)
    with pytest.raises(AudienceRefused, match="declares mine"):
        replica.run(stray)
    replica.run(moved)
    with pytest.raises(AudienceRefused, match="delete it and insert it under a new key"):
        replica.run(moving)
    assert [record.name for record in replica.log()] == ["moved"]


@pytest.mark.spec("A9")
def test_a_foreign_key_is_checked_at_the_end_of_the_action(world, rows):
    app = fresh()

    @app.action
    def backwards(ctx: Context) -> None:
        ctx.execute("INSERT INTO sale (id, item_id, buyer, scope) VALUES ('s', 'i', 'b', 'all')")
        ctx.execute("INSERT INTO item (id, stock, scope) VALUES ('i', 1, 'all')")

    @app.action
    def orphan(ctx: Context) -> None:
        ctx.execute("INSERT INTO sale (id, item_id, buyer, scope) VALUES ('o', '?', 'b', 'all')")

    replica = world.replica(app=app)
    replica.run(backwards)
    with pytest.raises(ForeignKeyError, match="sale o points to item"):
        replica.run(orphan)
    assert [row["id"] for row in rows(replica, "sale")] == ["s"]


def test_an_action_can_catch_what_a_constraint_refuses_and_go_on(world, counts):
    app = fresh()

    @app.action
    def ensure(ctx: Context, *, id: str) -> bool:
        try:
            ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, 0, 'all')", (id,))
        except ConstraintError:
            return False
        return True

    replica = world.replica(app=app)
    assert replica.run(ensure, id="x").result is True
    assert replica.run(ensure, id="x").result is False
    assert counts(replica) == {"x": 0}


@pytest.mark.spec("A2")
def test_queries_read_and_change_nothing(world, counts):
    replica = world.replica(path="a.db")
    replica.run(create_counter, id="x")
    with pytest.raises(WriteOutsideAction, match=r"replica\.run"):
        replica.query("UPDATE counter SET n = 7")
    with pytest.raises(WriteOutsideAction):
        replica.query("DELETE FROM synchrotron_action")
    with pytest.raises(NotReadOnly):
        replica.query("PRAGMA user_version = 7")
    with pytest.raises(QueryError, match="SQLite refuses"):
        replica.query("SELECT nothing FROM counter")
    with pytest.raises(QueryError, match="one statement"):
        replica.query("SELECT 1; SELECT 2")
    assert counts(replica) == {"x": 0}


def test_an_unknown_outcome_is_an_error_of_its_own(world):
    replica = world.replica()
    for id in ("nothing", f"{'a' * 24}-1", ""):
        with pytest.raises(UnknownOutcome):
            replica.outcome(id)


@pytest.mark.spec("A5")
@pytest.mark.parametrize(
    "value", [2**53 + 1, -(2**63), 1.0, 5e-324, "a\u2028b", [], {"": None}, True, None]
)
def test_an_argument_is_read_back_as_it_was_given(world, value):
    app = fresh()
    seen: list[Any] = []

    @app.action
    def keep(ctx: Context, *, value: Any) -> None:
        seen.append(value)

    replica = world.synced(app=app)
    replica.run(keep, value=value)
    replica.sync()
    other = world.synced(app=app)
    stored = [*(r.args["value"] for r in replica.log()), world.server.history[0].args["value"]]
    for found in (*seen, *stored):
        assert found == value
        assert type(found) is type(value)
    assert other.log() == []
