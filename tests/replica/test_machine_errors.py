"""Errors of the machine abort a reconcile, and never become history (A7, S1)."""

from typing import Any

import apsw
import pytest
from tests.replica import shop

from synchrotron import App, Context
from synchrotron.errors import MachineError

pytestmark = pytest.mark.spec("A7", "S1")


class Trouble:
    """What goes wrong inside `work`, as long as a test wants it to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.swallow: Any = ()
        self.in_statement = False
        self.statement = "UPDATE counter SET n = 2 * n WHERE id = ?"
        self.app = App("shop", schema=shop.SCHEMA)
        for action in (shop.create_counter, shop.add):
            self.app.actions[action.name, action.version] = action
        self.work = self.app.action(name="work", audience="all")(self._work)

    def _work(self, ctx: Context, *, id: str) -> None:
        self.in_statement = True
        try:
            ctx.execute(self.statement, (id,))
            if self.error is not None:
                raise self.error
        except self.swallow:
            pass
        finally:
            self.in_statement = False
        ctx.execute("UPDATE counter SET n = n + 1 WHERE id = ?", (id,))


def contents(replica: Any) -> list[Any]:
    """Everything in a replica's database but the number of its requests."""
    read = replica._engine.store.writer.execute
    tables = [t for (t,) in read("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    found: list[Any] = [(t, list(read(f"SELECT * FROM {t}"))) for t in tables if t[:5] != "synch"]
    for table in ("synchrotron_action", "synchrotron_outcome", "synchrotron_renamed"):
        # `sent_in` is noted before the request leaves
        columns = [row[1] for row in read(f"PRAGMA table_info({table})") if row[1] != "sent_in"]
        found.append((table, list(read(f"SELECT {', '.join(columns)} FROM {table}"))))
    found.append(list(read("SELECT cursor, floor, clock, n, audiences FROM synchrotron_replica")))
    return found


@pytest.fixture
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture
def about_to_replay(world, trouble):
    """Alice has run `work`; taking in Bob's earlier action will replay it."""
    a, b = (world.synced(user, app=trouble.app) for user in ("alice", "bob"))
    b.run(shop.create_counter, id="x", n=1)
    world.settle(b, a)
    b.run(shop.add, id="x", by=10)
    a.run(trouble.work, id="x")
    b.sync()
    return a


def finishes(world, replica, counts):
    replica.sync()
    assert counts(replica) == counts(world.server) == {"x": 23}
    assert [outcome.state for outcome in replica.outcomes()] == ["accepted"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (apsw.FullError("database or disk is full"), MachineError),
        (apsw.IOError("disk I/O error"), MachineError),
        (apsw.BusyError("database is locked"), MachineError),
        (apsw.ReadOnlyError("attempt to write a readonly database"), MachineError),
        (MemoryError(), MachineError),
        (RecursionError("maximum recursion depth exceeded"), MachineError),
        (OSError(28, "No space left on device"), MachineError),
        (PermissionError(13, "Permission denied"), MachineError),
        (MachineError("by itself"), MachineError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(1), SystemExit),
        (GeneratorExit(), GeneratorExit),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_it_leaves_everything_as_it_was(world, trouble, about_to_replay, counts, error, raised):
    before = contents(about_to_replay)
    trouble.error = error

    with pytest.raises(raised):
        about_to_replay.sync()

    assert contents(about_to_replay) == before
    assert counts(about_to_replay) == {"x": 3}
    assert about_to_replay.state == "offline"
    trouble.error = None
    finishes(world, about_to_replay, counts)


def raising(error: BaseException) -> Any:
    def fail() -> bool:
        raise error

    return fail


@pytest.mark.parametrize("swallow", [(), Exception, BaseException])
@pytest.mark.parametrize("statement", ["SELECT n FROM counter WHERE id = ?", "UPDATE"])
@pytest.mark.parametrize(
    ("failing", "raised"),
    [
        (lambda: True, MachineError),  # SQLite's own InterruptError
        (raising(MemoryError()), MachineError),
        (raising(RecursionError()), MachineError),
        (raising(KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["interrupt", "memory", "recursion", "keyboard"],
)
def test_so_does_one_inside_a_statement_even_if_the_action_swallows_it(
    world, trouble, about_to_replay, counts, statement, failing, raised, swallow
):
    before = contents(about_to_replay)
    usual, trouble.swallow = trouble.statement, swallow
    if statement != "UPDATE":  # which SQLite answers with a rollback, so that nothing is left
        trouble.statement = statement
    about_to_replay._engine.store.writer.set_progress_handler(
        lambda: failing() if trouble.in_statement else False, 1
    )

    with pytest.raises(raised):
        about_to_replay.sync()

    about_to_replay._engine.store.writer.set_progress_handler(None)
    trouble.statement = usual
    assert contents(about_to_replay) == before
    finishes(world, about_to_replay, counts)


@pytest.mark.parametrize("swallow", [(), Exception])
def test_so_does_a_disk_that_is_really_full(world, rows, swallow):
    app = App("shop", schema=shop.SCHEMA)
    app.actions["create_counter", 1] = shop.create_counter

    @app.action(audience="all")
    def big(ctx: Context) -> None:
        try:
            size = len(ctx.execute("SELECT id FROM counter")) * 1_000_000
            ctx.execute("INSERT INTO badge (id, name, scope) VALUES ('b', ?, 'all')", ("x" * size,))
        except swallow:
            pass

    a, b = world.synced("alice", "a.db", app=app), world.synced("bob", app=app)
    b.run(shop.create_counter, id="x")
    a.run(big)
    b.sync()
    before = contents(a)
    execute = a._engine.store.writer.execute
    pages = execute("PRAGMA page_count").get
    execute(f"PRAGMA max_page_count = {pages + 20}")

    with pytest.raises(MachineError, match=r"full"):
        a.sync()

    assert contents(a) == before
    execute("PRAGMA max_page_count = 1000000")
    a.sync()
    assert len(rows(a, "badge")[0]["name"]) == 1_000_000


@pytest.mark.parametrize(
    "error", [PermissionError("only on Mondays"), OSError("no"), LookupError("x"), AssertionError()]
)
def test_an_error_that_the_application_raised_itself_is_its_own_word(
    world, trouble, about_to_replay, counts, error
):
    trouble.error = error

    about_to_replay.sync()

    [outcome] = about_to_replay.outcomes()
    assert outcome.state == "rejected"
    assert outcome.detail == f"{type(error).__name__}: {error}"
    assert counts(about_to_replay) == counts(world.server) == {"x": 11}


def test_recursion_that_is_really_too_deep_aborts(world, about_to_replay, trouble, counts):
    before = contents(about_to_replay)

    def deep(n: int) -> int:
        return deep(n + 1) + 1

    original = trouble._work
    trouble.work.function = lambda ctx, *, id: deep(0)
    with pytest.raises(MachineError, match="RecursionError"):
        about_to_replay.sync()
    assert contents(about_to_replay) == before
    trouble.work.function = original
    finishes(world, about_to_replay, counts)


def test_an_interruption_as_a_transaction_begins_leaves_none_open() -> None:
    """SQLite may notice it after BEGIN has done its work."""
    with shop.app.open(":memory:", user="alice") as replica:
        writer = replica._engine.store.writer
        interrupted = 0
        for instructions in range(1, 80):
            once = iter((True,))
            writer.set_progress_handler(lambda once=once: next(once, False), instructions)
            try:
                replica.run(shop.create_counter, id=f"a {instructions}")
            except (MachineError, apsw.InterruptError):
                interrupted += 1
            writer.set_progress_handler(None)
            replica.run(shop.create_counter, id=f"b {instructions}")
        assert interrupted > 0
