"""Files, replicas and servers of different versions of one application."""

from functools import cache

import pytest
from tests.replica.conftest import EVERYONE

from synchrotron import App
from synchrotron.core.patches import RowKey
from synchrotron.errors import Blocked, NewerFile
from synchrotron.testing import MemoryServer

SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
"""
MIGRATIONS = (
    """
    ALTER TABLE item ADD COLUMN colour TEXT NOT NULL DEFAULT 'plain';
    ALTER TABLE item ADD COLUMN price NUMERIC(8, 2) DEFAULT 1.5;
    """,
    """
    CREATE TABLE label (
        id TEXT PRIMARY KEY,
        item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
    """,
)


@cache
def version(number):
    """The application after so many migrations."""
    app = App("shelf", schema=SCHEMA, migrations=MIGRATIONS[:number])

    @app.action(audience="all")
    def put(ctx, *, id: str, n: int = 0) -> None:
        ctx.execute("INSERT INTO item (id, n) VALUES (?, ?)", (id, n))

    @app.action(audience="all")
    def add(ctx, *, id: str, by: int) -> None:
        [row] = ctx.execute("SELECT n FROM item WHERE id = ?", (id,))
        ctx.execute("UPDATE item SET n = ? WHERE id = ?", (row["n"] + by, id))

    @app.action(audience="all")
    def drop(ctx, *, id: str) -> None:
        ctx.execute("DELETE FROM item WHERE id = ?", (id,))

    if number >= 1:

        @app.action(name="add", version=2, audience="all")
        def add_and_paint(ctx, *, id: str, by: int) -> None:
            sql = "UPDATE item SET n = n + ?, colour = 'red' WHERE id = ?"
            ctx.execute(sql, (by, id))

    if number >= 2:

        @app.action(audience="all")
        def stick(ctx, *, id: str) -> None:
            ctx.execute("INSERT INTO label (item_id) VALUES (?)", (id,))

    return app


@pytest.fixture
def shelf(tmp_path, world):
    """Open replicas of any version, on files, beside a server that starts as the first."""

    class Shelf:
        def __init__(self):
            self.server = MemoryServer(version(0), EVERYONE, world.clock, entropy=world.entropy)
            self.opened = []

        def open(self, user, number):
            replica = version(number).open(
                tmp_path / f"{user}.db",
                transport=self.server.connect(user),
                clock=world.clock,
                entropy=world.entropy,
            )
            self.opened.append(replica)
            return replica

        def synced(self, user, number):
            replica = self.open(user, number)
            replica.sync()
            return replica

        def upgrade(self, replica, user, number):
            replica.close()
            return self.open(user, number)

        def serve(self, number):
            self.server.install(version(number))

    shelf = Shelf()
    yield shelf
    for replica in shelf.opened:
        replica.close()


def run(replica, name, number=1, **args):
    return replica.run(replica._definition.actions[name, number], **args)


def items(of):
    rows = of.rows("item") if isinstance(of, MemoryServer) else of.query("SELECT * FROM item")
    return {row["id"]: tuple(str(value) for value in list(row.values())[1:]) for row in rows}


def plain(n, price="1.50"):
    """A row of the newest schema from before there were colours and prices."""
    return (str(n), "all", "plain", price)


# ---- an old file, opened by a newer version ----------------------------------------------


@pytest.mark.spec("G2")
def test_an_old_file_keeps_what_is_pending_and_its_history(shelf, world):
    a, b = shelf.synced("alice", 0), shelf.synced("bob", 0)
    run(a, "put", id="x", n=1)
    world.settle(a, b)
    early = run(b, "add", id="x", by=10)  # ordered before what alice has pending
    added, made = run(a, "add", id="x", by=2), run(a, "put", id="y")
    gone = run(a, "put", id="z"), run(a, "drop", id="z")
    log, outcomes = [record.id for record in a.log()], a.outcomes()

    shelf.serve(1)
    a = shelf.upgrade(a, "alice", 1)

    assert [record.id for record in a.log()] == log
    assert a.outcomes() == outcomes
    assert items(a) == {"x": plain(3), "y": plain(0)}
    b.sync()
    report = a.sync()  # undoes and replays what an older version ran
    assert (report.rebased, report.replayed) == (0, 4)
    assert items(a) == items(shelf.server) == {"x": plain(13), "y": plain(0)}
    assert len(a.log()) == len(log) + 1
    for each in (added, made, *gone):
        assert a.outcome(each.id).state == "accepted"
    b.sync()
    assert {id: row[:1] for id, row in items(b).items()} == {"x": ("13",), "y": ("0",)}
    assert early.outcome.state == "accepted"


@pytest.mark.spec("G2")
def test_what_an_older_version_did_is_no_change_and_no_correction_when_it_is_replayed(shelf, world):
    """A patch of a whole row means the defaults of the columns that its author did not have."""
    a, b = shelf.synced("alice", 0), shelf.synced("bob", 0)
    run(b, "put", id="other")  # so that there is something to replay for
    made = run(a, "put", id="x")
    a.sync()
    shelf.serve(1)
    a = shelf.upgrade(a, "alice", 1)
    b.sync()
    reports = [a.sync(), b.sync(), a.sync()]
    assert reports[0].replayed == 1
    assert [report.corrected for report in reports] == [0, 0, 0]
    assert a.outcome(made.id).state == "accepted"
    assert items(a) == items(shelf.server)

    run(a, "put", id="early")
    run(b, "put", id="late")
    b.sync()
    assert a.sync().corrected == 0
    assert items(a) == items(shelf.server)


@pytest.mark.spec("U2")
def test_an_undo_from_before_a_migration_sees_what_newer_versions_have_changed(shelf, world):
    shelf.serve(1)
    a, b = shelf.synced("alice", 0), shelf.synced("bob", 1)
    made = run(a, "put", id="x")
    world.settle(a, b)
    run(b, "add", 2, id="x", by=0)
    undo = a.undo(made.id)
    assert "colour" not in a.log()[-1].args["rows"][0]["new"]
    a = shelf.upgrade(a, "alice", 1)
    world.settle(b, a)
    assert items(a) == items(b) == items(shelf.server) == {"x": ("0", "all", "red", "1.50")}
    assert a.outcome(undo.id).state == "accepted"


@pytest.mark.spec("G2")
def test_rows_from_before_can_be_undone_after_a_migration(shelf, world):
    a = shelf.synced("alice", 0)
    made, dropped = run(a, "put", id="x", n=7), run(a, "drop", id="x")
    shelf.serve(1)
    a = shelf.upgrade(a, "alice", 1)
    a.undo(dropped.id)
    assert items(a) == {"x": plain(7)}
    painted = run(a, "add", 2, id="x", by=0)
    assert a.undo(made.id).result.left_alone == {RowKey("item", ("x",)): "it was changed since"}
    a.undo(painted.id)
    a.undo(made.id)
    assert items(a) == {}
    a.sync()
    assert items(shelf.server) == {}


@pytest.mark.spec("G2")
def test_an_old_version_of_an_action_stays_beside_the_new_one(shelf, world):
    a, b = shelf.synced("alice", 0), shelf.synced("bob", 0)
    run(a, "put", id="x")
    world.settle(a, b)
    run(b, "add", id="x", by=100)
    old = run(a, "add", id="x", by=1)
    shelf.serve(1)
    a = shelf.upgrade(a, "alice", 1)
    b.sync()
    a.sync()  # replayed by the code of version 1
    assert items(a) == items(shelf.server) == {"x": plain(101)}
    run(a, "add", 2, id="x", by=1)
    a.sync()
    assert items(a)["x"] == ("102", "all", "red", "1.50")
    assert [(r.name, r.version) for r in a.log()][-2:] == [("add", 1), ("add", 2)]
    assert a.outcome(old.id).state == "accepted"


def test_a_migration_runs_once_however_many_come_at_once_and_a_file_does_not_go_back(shelf):
    a = shelf.open("alice", 0)
    run(a, "put", id="x")
    for number in (2, 2):
        a = shelf.upgrade(a, "alice", number)
        assert items(a) == {"x": plain(0)}
        assert a.query("SELECT * FROM label") == []
    a.close()
    with pytest.raises(NewerFile, match=r"has seen 2 migrations .* has 1: upgrade the application"):
        shelf.open("alice", 1)


@pytest.mark.spec("G4")
def test_a_version_that_has_a_file_open_while_a_newer_one_migrates_it_writes_no_more(shelf, world):
    """It would write rows without the columns that it does not know."""
    old = shelf.synced("alice", 0)
    run(old, "put", id="x")
    newer = shelf.open("alice", 1)
    run(newer, "add", 2, id="x", by=1)
    for write in (lambda: run(old, "add", id="x", by=1), old.sync, lambda: old.prune()):
        with pytest.raises(NewerFile, match=r"migrated by a newer version meanwhile.*upgrade"):
            write()
    assert [row["n"] for row in old.query("SELECT n FROM item")] == [1]
    shelf.serve(1)
    newer.sync()
    assert items(newer) == items(shelf.server) == {"x": ("1", "all", "red", "1.50")}


# ---- old and new replicas, side by side ---------------------------------------------------


@pytest.mark.spec("S11")
def test_an_older_replica_leaves_out_what_it_does_not_know_and_reads_it_after_a_migration(
    shelf, world
):
    shelf.serve(2)
    new, old = shelf.synced("alice", 2), shelf.synced("bob", 0)
    run(new, "put", id="x")
    run(new, "add", 2, id="x", by=1)
    run(new, "stick", id="x")
    pending = run(old, "put", id="y")
    world.settle(new, old)
    assert {id: row[:1] for id, row in items(old).items()} == {"x": ("1",), "y": ("0",)}
    assert pending.outcome.state == "accepted"
    assert items(new)["y"] == plain(0)
    late = run(old, "add", id="y", by=5)

    old = shelf.upgrade(old, "bob", 2)

    assert items(old)["x"] == plain(1), "offline, it has what it had"
    assert old.sync().rebased == 1
    world.settle(new, old)
    assert items(old) == items(new) == items(shelf.server)
    assert items(old)["x"] == ("1", "all", "red", "1.50")
    assert len(old.query("SELECT * FROM label")) == 1
    assert old.outcome(late.id).state == "accepted"


@pytest.mark.spec("S11")
def test_where_nothing_was_left_out_a_migration_costs_no_snapshot(shelf, world):
    a = shelf.synced("alice", 0)
    run(a, "put", id="x")
    a.sync()
    shelf.serve(1)
    a = shelf.upgrade(a, "alice", 1)
    assert a.sync().rebased == 0
    assert len(a.log()) == 1


@pytest.mark.spec("S11")
@pytest.mark.parametrize("how", ["events", "floor rows", "snapshot"])
def test_what_was_left_out_is_read_anew_however_it_came(shelf, world, how):
    shelf.serve(1)
    new = shelf.synced("alice", 1)
    old = shelf.synced("bob", 0)
    run(new, "put", id="x")
    run(new, "add", 2, id="x", by=1)
    if how != "events":
        new.sync()
        shelf.server.prune(0)
    if how == "floor rows":
        shelf.server.audiences["bob"].discard("all")
        old.sync()
        shelf.server.audiences["bob"].add("all")
    world.settle(new, old)
    assert [row["n"] for row in old.query("SELECT n FROM item")] == [1]
    old = shelf.upgrade(old, "bob", 1)
    old.sync()
    assert items(old) == items(shelf.server) == {"x": ("1", "all", "red", "1.50")}


@pytest.mark.spec("S11")
def test_an_older_replica_never_corrects_what_touches_columns_that_it_does_not_know(shelf, world):
    shelf.serve(1)
    new, old = shelf.synced("alice", 1), shelf.synced("bob", 0)
    run(old, "put", id="y")  # pending before what is new: standing over everything
    run(new, "put", id="x")  # it has this code, but not all the columns of this row
    new.sync()
    assert old.sync().corrected == 0
    world.settle(new, old)
    run(old, "add", id="x", by=10)
    run(new, "add", 2, id="x", by=1)
    run(new, "drop", id="y")
    new.sync()
    assert old.sync().corrected == 0
    world.settle(new, old)  # who knows them does
    assert items(new) == items(shelf.server) == {"x": ("11", "all", "red", "1.50")}
    assert [row["n"] for row in old.query("SELECT n FROM item")] == [11]


@pytest.mark.spec("S11")
def test_no_warning_tells_of_tables_that_are_left_out_on_purpose(shelf, world, caplog):
    shelf.serve(2)
    new, old = shelf.synced("alice", 2), shelf.synced("bob", 0)
    run(new, "put", id="x")
    run(new, "stick", id="x")
    world.settle(new, old)
    assert "cannot be applied" not in caplog.text


# ---- ahead of the server ---------------------------------------------------------------------


@pytest.mark.spec("S11")
def test_a_replica_ahead_of_the_server_works_offline_until_that_is_migrated(shelf, world):
    a, b = shelf.synced("alice", 0), shelf.synced("bob", 0)
    run(a, "put", id="x")
    world.settle(a, b)
    a = shelf.upgrade(a, "alice", 1)
    painted = run(a, "add", 2, id="x", by=1)
    with pytest.raises(Blocked, match=r"server has seen 0 migrations, this replica 1.*install"):
        a.sync()
    run(a, "add", 2, id="x", by=1)
    assert painted.outcome.state == "pending"
    run(b, "put", id="y")
    b.sync()

    shelf.serve(1)
    a.sync()
    assert items(a) == items(shelf.server) == {"x": ("2", "all", "red", "1.50"), "y": plain(0)}
    assert painted.outcome.state == "accepted"


@pytest.mark.spec("G3")
def test_a_server_keeps_its_rows_and_history_when_it_is_migrated(shelf, world):
    a = shelf.synced("alice", 0)
    run(a, "put", id="x", n=4)
    a.sync()
    before = shelf.server.history
    shelf.serve(2)
    assert items(shelf.server) == {"x": plain(4)}
    assert shelf.server.history == before
    assert shelf.server.rows("label") == []
    fresh = shelf.synced("bob", 2)
    assert items(fresh) == {"x": plain(4)}
