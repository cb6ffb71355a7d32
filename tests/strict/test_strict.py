"""Strict mode as a whole: what is run twice, what comes of it, and when it is on."""

from __future__ import annotations

import gc
import linecache
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from synchrotron import App, Context, Replica
from synchrotron.errors import (
    ConstraintError,
    DeterminismWarning,
    ImpureAction,
    MachineError,
    RefusedInAction,
)
from synchrotron.testing import MemoryServer

SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        text TEXT UNIQUE,
        tags JSON,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
    CREATE TABLE part (
        id TEXT PRIMARY KEY,
        item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
"""


@pytest.fixture
def app() -> App:
    return App("items", schema=SCHEMA)


@pytest.fixture
def open_strictly(app: App) -> Iterator[Callable[..., Replica]]:
    opened: list[Replica] = []

    def open(path: str | Path = ":memory:", app: App = app, **options: Any) -> Replica:
        opened.append(app.open(path, **{"user": "alice", "strict": True, **options}))
        return opened[-1]

    yield open
    for replica in opened:
        replica.close()


@pytest.mark.spec("A3")
def test_an_action_runs_twice_and_is_recorded_once(app: App, open_strictly: Any) -> None:
    runs: list[Any] = []

    @app.action
    def add(ctx: Context, *, text: str) -> str:
        runs.append((ctx.now, ctx.action_id, ctx.random.random()))
        id = ctx.new_id("item")
        ctx.execute("INSERT INTO item (id, text) VALUES (?, ?)", (id, text))
        ctx.execute("INSERT INTO part (item_id) VALUES (?)", (id,))
        return id

    replica = open_strictly()
    run = replica.run(add, text="a")
    assert len(runs) == 2
    assert runs[0] == runs[1]
    assert [row["id"] for row in replica.query("SELECT id FROM item")] == [run.result]
    assert len(replica.query("SELECT * FROM part")) == 1
    assert len(replica.log()) == 1


def test_what_strict_mode_sends_is_what_would_be_sent_otherwise(
    app: App, open_strictly: Any
) -> None:
    @app.action(audience="all")
    def add(ctx: Context, *, text: str) -> None:
        ctx.execute("INSERT INTO item (id, text) VALUES (?, ?)", (text, text))

    server = MemoryServer(app, {"alice": {"all"}, "bob": {"all"}})
    strict = open_strictly(transport=server.connect("alice"))
    with app.open(":memory:", transport=server.connect("bob"), strict=False) as other:
        strict.run(add, text="a")
        other.run(add, text="b")
        strict.sync()
        other.sync()
        strict.sync()
        rows = [dict(row) for row in strict.query("SELECT * FROM item ORDER BY id")]
        assert rows == server.rows("item")
        assert rows == [dict(row) for row in other.query("SELECT * FROM item ORDER BY id")]
        assert len(rows) == 2


def test_each_run_gets_its_arguments_as_they_were(app: App, open_strictly: Any) -> None:
    @app.action
    def consume(ctx: Context, *, tags: list[str]) -> None:
        while tags:
            ctx.execute("INSERT INTO item (text) VALUES (?)", (tags.pop(),))

    replica = open_strictly()
    replica.run(consume, tags=["a", "b"])
    assert len(replica.query("SELECT * FROM item")) == 2
    assert replica.log()[0].args == {"tags": ["a", "b"]}


def test_what_an_action_raises_both_times_reaches_the_caller(app: App, open_strictly: Any) -> None:
    class OutOfStock(Exception):
        pass

    @app.action
    def refuse(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id) VALUES ('a')")
        raise OutOfStock("none left")

    @app.action
    def violate(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id, text) VALUES ('a', 'x'), ('b', 'x')")

    @app.action
    def point_nowhere(ctx: Context) -> None:
        ctx.execute("INSERT INTO part (item_id) VALUES ('gone')")

    replica = open_strictly()
    for action, error in ((refuse, OutOfStock), (violate, ConstraintError)):
        with pytest.raises(error):
            replica.run(action)
    with pytest.raises(RefusedInAction, match="points to item"):
        replica.run(point_nowhere)
    assert replica.query("SELECT * FROM item") == []
    assert replica.log() == []


def test_an_error_of_the_machine_is_nobodys_impurity(app: App, open_strictly: Any) -> None:
    errors = [OSError(28, "disk full"), MemoryError()]

    @app.action
    def fail(ctx: Context) -> None:
        if errors:
            raise errors.pop()

    replica = open_strictly()
    with pytest.raises(MachineError):
        replica.run(fail)
    with pytest.raises(OSError, match="disk full"):
        replica.run(fail)
    replica.run(fail)
    assert len(replica.log()) == 1


def test_an_action_that_raises_one_time_only_is_refused(app: App, open_strictly: Any) -> None:
    times: list[int] = []

    @app.action
    def once(ctx: Context) -> None:
        times.append(1)
        if len(times) == 2:
            raise LookupError("the second time")
        ctx.execute("INSERT INTO item (id) VALUES ('a')")

    replica = open_strictly()
    with pytest.raises(ImpureAction, match="one ended well, and one raised LookupError"):
        replica.run(once)
    assert replica.query("SELECT * FROM item") == []


def test_results_without_a_value_are_not_compared(app: App, open_strictly: Any) -> None:
    class Thing:
        pass

    @app.action
    def give(ctx: Context) -> Any:
        return [Thing(), {"a": {1, 2}}]

    assert isinstance(open_strictly().run(give).result[0], Thing)


def test_a_difference_of_types_alone_is_a_difference(app: App, open_strictly: Any) -> None:
    values: list[Any] = [1, True]

    @app.action
    def tag(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id, tags) VALUES ('a', ?)", ([values.pop()],))

    with pytest.raises(ImpureAction, match="item a became"):
        open_strictly().run(tag)


def test_an_action_within_an_action_is_judged_with_it_at_its_own_line(
    app: App, open_strictly: Any
) -> None:
    @app.action
    def inner(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (text) VALUES (?)", (str(time.time()),))

    @app.action
    def outer(ctx: Context) -> None:
        inner(ctx)

    with pytest.raises(ImpureAction) as caught:
        open_strictly().run(outer)
    first = outer.function.__code__.co_firstlineno
    assert "action 'outer'" in str(caught.value)
    assert f"{__file__}:{inner.function.__code__.co_firstlineno + 2}, in inner" in str(caught.value)
    assert f"called at {__file__}:{first + 2}, in outer" in str(caught.value)


def test_what_the_garbage_collector_calls_is_not_the_actions_doing(
    app: App, open_strictly: Any
) -> None:
    @app.action
    def allocate(ctx: Context) -> None:
        for _ in range(50):
            cycle: list[Any] = [[] for _ in range(100)]
            cycle.append(cycle)

    def look_at_the_clock(phase: str, info: dict[str, int]) -> None:
        time.perf_counter()

    replica = open_strictly()
    threshold = gc.get_threshold()
    gc.callbacks.append(look_at_the_clock)
    gc.set_threshold(10)
    try:
        replica.run(allocate)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look_at_the_clock)
    assert len(replica.log()) == 1


def test_the_garbage_collector_is_as_it_was(app: App, open_strictly: Any) -> None:
    @app.action
    def nothing(ctx: Context) -> None: ...

    replica = open_strictly()
    assert gc.isenabled()
    replica.run(nothing)
    assert gc.isenabled()
    gc.disable()
    try:
        replica.run(nothing)
        assert not gc.isenabled()
    finally:
        gc.enable()


# ---- when it is on -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "argument", "runs"),
    [
        (None, None, 1),
        ("", None, 1),
        ("0", None, 1),
        ("false", None, 1),
        ("1", None, 2),
        ("yes", None, 2),
        ("1", False, 1),
        ("0", True, 2),
    ],
)
def test_the_environment_says_whether_a_replica_is_strict_unless_the_caller_does(
    monkeypatch: pytest.MonkeyPatch, app: App, variable: str | None, argument: Any, runs: int
) -> None:
    monkeypatch.delenv("SYNCHROTRON_STRICT", raising=False)
    if variable is not None:
        monkeypatch.setenv("SYNCHROTRON_STRICT", variable)
    times: list[int] = []

    @app.action
    def count(ctx: Context) -> None:
        times.append(1)

    with app.open(":memory:", user="alice", strict=argument) as replica:
        replica.run(count)
    assert len(times) == runs


def test_replays_are_not_judged(app: App, open_strictly: Any) -> None:
    """One that raised would be a rejection on this replica alone."""
    server = MemoryServer(app, {"alice": {"all"}, "bob": {"all"}})
    stray: list[int] = []

    @app.action(audience="all")
    def stray_count(ctx: Context, *, id: str) -> None:
        stray.append(1)
        ctx.execute("INSERT INTO item (id, text) VALUES (?, ?)", (id, f"{id}-{len(stray)}"))

    bob = app.open(":memory:", transport=server.connect("bob"), strict=False)
    alice = open_strictly(transport=server.connect("alice"))
    with bob:
        bob.run(stray_count, id="a")
        bob.sync()
        alice.sync()
        bob.run(stray_count, id="b")
        bob.sync()
        alice.sync()
        rows = alice.query("SELECT * FROM item ORDER BY id")
        assert [dict(row) for row in rows] == server.rows("item")
        assert all(outcome.state != "rejected" for outcome in bob.outcomes())


# ---- action versions -----------------------------------------------------------------------


def action_from(source: str, app: App, **options: Any) -> Any:
    """An action whose source is this text, as if it stood in a file."""
    file = f"<action {hash(source)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names: dict[str, Any] = {"Context": Context, "decorated": lambda function: function}
    exec(compile(source, file, "exec"), names)
    return app.action(**options)(names["add"])


OLD = "def add(ctx: Context) -> None:\n    ctx.execute(\"INSERT INTO item (id) VALUES ('a')\")\n"
SPACED = (
    "def add( ctx: Context ) -> None:\n    'What it does.'\n    # why\n"
    "    ctx.execute(\n        \"INSERT INTO item (id) VALUES ('a')\")\n"
)
DECORATED = f"@decorated\n{OLD}"
NEW = OLD.replace("'a'", "'b'")


def test_an_action_that_was_changed_without_a_new_version_is_warned_of(
    tmp_path: Path, open_strictly: Any
) -> None:
    file = tmp_path / "r.db"
    before = App("items", schema=SCHEMA)
    with open_strictly(file, before) as replica:
        replica.run(action_from(OLD, before))

    after = App("items", schema=SCHEMA)
    changed = action_from(NEW, after)
    with pytest.warns(DeterminismWarning, match=r"'add' \(version 1\) was changed.*version=2"):
        open_strictly(file, after).close()
    # As long as history holds it.
    with pytest.warns(DeterminismWarning, match="was changed"):
        replica = open_strictly(file, after)
    replica.run(changed)
    replica.close()
    with pytest.warns(DeterminismWarning, match="was changed"):
        open_strictly(file, after)


@pytest.mark.parametrize("source", [OLD, SPACED, DECORATED])
def test_comments_spaces_docstrings_and_decorators_are_no_change(
    tmp_path: Path, open_strictly: Any, source: str
) -> None:
    file = tmp_path / "r.db"
    before, after = App("items", schema=SCHEMA), App("items", schema=SCHEMA)
    with open_strictly(file, before) as replica:
        replica.run(action_from(OLD, before))
    action_from(source, after)
    open_strictly(file, after)


def test_a_new_version_beside_the_old_one_is_no_change(tmp_path: Path, open_strictly: Any) -> None:
    file = tmp_path / "r.db"
    before, after = App("items", schema=SCHEMA), App("items", schema=SCHEMA)
    with open_strictly(file, before) as replica:
        replica.run(action_from(OLD, before))
    action_from(OLD, after)
    newer = action_from(NEW, after, version=2)
    replica = open_strictly(file, after)
    replica.run(newer)
    assert [record.version for record in replica.log()] == [1, 2]


def test_a_change_of_what_nobody_holds_in_history_is_taken_over(
    tmp_path: Path, open_strictly: Any
) -> None:
    file = tmp_path / "r.db"
    before, after = App("items", schema=SCHEMA), App("items", schema=SCHEMA)
    server = MemoryServer(before, {"alice": {"all"}})
    with open_strictly(file, before, transport=server.connect("alice")) as replica:
        replica.run(action_from(OLD, before))
        replica.sync()
        assert replica.prune() == 1
    changed = action_from(NEW, after)
    with open_strictly(file, after) as replica:
        replica.run(changed)
    open_strictly(file, after)


def test_a_replica_that_never_was_strict_keeps_no_sources(tmp_path: Path, app: App) -> None:
    action = action_from(OLD, app)
    with app.open(tmp_path / "r.db", user="alice", strict=False) as replica:
        replica.run(action)
    with apsw.Connection(str(tmp_path / "r.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name GLOB '*source*'")
        assert tables.fetchall() == []
