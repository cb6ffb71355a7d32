"""Rules of SPEC.md that take a whole history to show, and are held nowhere else."""

from collections.abc import Iterator

import apsw
import pytest
from tests.replica import shop
from tests.replica.conftest import EVERYONE, Wire
from tests.replica.shop import add, create_counter, give_badge
from tests.servers import new_server

from synchrotron import App, Context
from synchrotron.core.messages import SyncAnswer, SyncRequest
from synchrotron.errors import Offline

# ---- O6: one run is accepted once, whatever its ids --------------------------------


@pytest.fixture
def bounced(world):
    """A file with a pending action: copied, then bounced by the gate, then out of reach."""
    a, b = world.synced("alice", "a.db"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    run = a.run(add, id="x", by=10)
    a.close()
    world.copy_file("a.db", "copy.db")
    b.run(add, id="x", by=1)
    b.sync()
    a = world.replica("alice", "a.db")
    world.wires[a].lose("", "request")
    with pytest.raises(Offline):
        a.sync()
    return a, run.id


@pytest.mark.spec("O6")
@pytest.mark.parametrize("pruned", [False, True])
def test_a_copy_that_is_put_back_twice_brings_its_action_once(world, counts, bounced, pruned):
    """The second time nothing is stored under the action's id: only its seed tells."""
    _, id = bounced
    for path in ("first.db", "second.db"):
        world.copy_file("copy.db", path)
        copy = world.replica("alice", path)
        copy.sync()
        assert copy.outcome(id).state == "accepted"
        assert counts(copy) == counts(world.server) == {"x": 11}
        if pruned:
            world.server.prune(0)
    assert len(world.server.history) == 3


@pytest.mark.spec("O6", "R4")
def test_where_a_former_id_was_pruned_the_action_is_parked_and_not_dropped(world, counts, bounced):
    a, id = bounced
    copy = world.replica("alice", "copy.db")
    world.wires[copy].lose("", "request")
    with pytest.raises(Offline):
        copy.sync()  # superseded: the action has a new id, under which it does not arrive
    renamed = copy.outcome(id)
    assert (renamed.id != id, renamed.state) == (True, "pending")
    a.sync()
    world.server.prune(0)

    copy.sync()

    outcome = copy.outcome(id)
    assert (outcome.state, outcome.reason) == ("parked", "restored")
    assert counts(copy) == counts(a) == counts(world.server) == {"x": 11}


# ---- O7: on the disk before it is sent ---------------------------------------------


class Disk(apsw.VFS):
    """The files of a disk, and which of them hold something that is not flushed yet."""

    def __init__(self) -> None:
        self.unflushed: set[str] = set()
        self.base = apsw.vfs_names()[0]
        super().__init__("unflushed", "", makedefault=True)

    def xOpen(self, name, flags):
        return DiskFile(self, name, flags)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        super().__init__(disk.base, name, flags)

    def xWrite(self, data, offset):
        self._disk.unflushed.add(self._name)
        super().xWrite(data, offset)

    def xSync(self, flags):
        super().xSync(flags)
        self._disk.unflushed.discard(self._name)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.unregister()


@pytest.mark.spec("O7")
def test_what_leaves_the_machine_is_on_the_disk(disk, world):
    seen = []

    class Watching(Wire):
        def exchange(self, request: SyncRequest) -> SyncAnswer:
            seen.append((len(request.actions), set(disk.unflushed)))
            return super().exchange(request)

    a = world.replica("alice", "a.db")
    a._syncing._transport = Watching(world.server.connect("alice"), world.clock)
    a.run(create_counter, id="x")
    assert any(name.endswith("-wal") for name in disk.unflushed), "a run alone is not flushed"
    a.sync()
    a.run(add, id="x", by=1)
    a.sync()

    assert sum(actions for actions, _ in seen) == 2
    assert [unflushed for _, unflushed in seen] == [set()] * len(seen)
    a.close()


# ---- H1: actions and corrections are judged together -------------------------------


def badges() -> App:
    app = App("shop", schema=shop.SCHEMA)
    app.actions["give_badge", 1] = give_badge

    @app.action(audience="all")
    def rename_badge(ctx: Context, *, name: str, to: str) -> None:
        ctx.execute("UPDATE badge SET name = ? WHERE name = ?", (to, name))

    return app


@pytest.mark.spec("H1", "S7")
def test_an_addition_that_needs_an_action_of_its_upload_is_stored_with_it(world, rows):
    app = badges()
    a, b, c = (world.synced(user, app=app) for user in ("alice", "bob", "carol"))
    a.run(give_badge, name="red")
    world.settle(a, b)
    early = b.run(app.actions["rename_badge", 1], name="red", to="old")
    late = c.run(give_badge, name="red")
    c.sync()
    assert late.outcome.state == "rejected", "there is a red one, as far as anyone knows"

    report = b.sync()

    assert (early.outcome.state, report.parked, report.corrected) == ("accepted", 0, 1)
    assert sorted(row["name"] for row in world.server.rows("badge")) == ["old", "red"]
    world.settle(a, b, c)
    assert late.outcome.state == "changed"
    assert rows(a, "badge") == rows(b, "badge") == rows(c, "badge") == world.server.rows("badge")


# ---- S11: a schema that is behind --------------------------------------------------


@pytest.mark.spec("S11")
def test_a_replica_whose_schema_is_behind_leaves_out_what_it_does_not_know(world, counts):
    newer = App(
        "shop",
        schema=shop.SCHEMA,
        migrations=[
            "ALTER TABLE counter ADD COLUMN colour TEXT;"
            "CREATE TABLE paint (id TEXT PRIMARY KEY,"
            " audience_key TEXT GENERATED ALWAYS AS ('all') STORED)"
        ],
    )
    newer.actions.update(shop.app.actions)

    @newer.action(audience="all")
    def paint(ctx: Context, *, id: str) -> None:
        ctx.execute("UPDATE counter SET colour = 'red', n = n + 100 WHERE id = ?", (id,))
        ctx.execute("INSERT INTO paint DEFAULT VALUES")

    server = new_server(newer, EVERYONE, world.clock, entropy=world.entropy)

    def synced(user, app):
        wire = Wire(server.connect(user), world.clock)
        replica = app.open(":memory:", transport=wire, clock=world.clock, entropy=world.entropy)
        replica.sync()
        return replica

    with synced("alice", newer) as new, synced("bob", shop.app) as old:
        old.run(create_counter, id="x")
        world.settle(old, new)
        old.run(add, id="x", by=1)
        new.run(paint, id="x")
        world.settle(new, old, new)

        assert counts(old) == counts(new) == counts(server) == {"x": 101}
        assert "colour" not in dict(old.query("SELECT * FROM counter")[0])
        [row] = server.rows("counter")
        assert row["colour"] == "red"
        assert len(server.rows("paint")) == 1
        [painted] = [e for e in old._engine.store.log.since("") if e.record.name == "paint"]
        known = {target.table: effect.known.patch for target, effect in painted.effects.items()}
        assert known["counter"].values["colour"] == "red", "in its log it is kept"
        assert "paint" in known


# ---- R3: what `changed` compares ---------------------------------------------------


@pytest.mark.spec("R3")
@pytest.mark.parametrize("lost", ["", "answer"])
def test_changed_compares_with_what_was_accepted_and_ends_where_that_holds_again(world, lost):
    """Also where the answer was lost, and all that ever comes is the patch as corrected."""
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    b.run(add, id="x", by=1)
    c.run(add, id="x", by=-1)
    run = a.run(add, id="x", by=10)
    world.wires[a].lose(lost)
    if lost:
        with pytest.raises(Offline):
            a.sync()
    else:
        a.sync()
        assert run.outcome.state == "accepted"

    b.sync()
    a.sync()
    assert (run.outcome.state, run.outcome.detail) == ("changed", "other effects on counter x")

    c.sync()
    a.sync()
    ended = {"": "accepted", "answer": "changed"}  # what was stored at first never came
    assert run.outcome.state == ended[lost]


@pytest.mark.spec("R3")
def test_what_a_replay_changes_before_acceptance_is_not_changed(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    b.run(create_counter, id="x")
    world.settle(b, a)
    b.run(add, id="x", by=1)
    run = a.run(add, id="x", by=10)
    b.sync()

    a.sync()

    assert counts(a) == {"x": 11}
    assert run.outcome.state == "accepted"


# ---- S11: a file that is migrated ---------------------------------------------------


def painting(migrated: bool) -> App:
    """The shop, before and after its counters have a colour."""
    migrations = ["ALTER TABLE counter ADD COLUMN colour TEXT NOT NULL DEFAULT 'plain'"]
    app = App("shop", schema=shop.SCHEMA, migrations=migrations if migrated else [])
    app.actions.update(shop.app.actions)
    if migrated:

        @app.action(audience="all")
        def paint(ctx: Context, *, id: str) -> None:
            ctx.execute("UPDATE counter SET colour = 'red' WHERE id = ?", (id,))

    return app


@pytest.fixture
def painters(world, tmp_path):
    """A server that is migrated; opens replicas of it, each on a file of its own."""
    server = new_server(painting(True), EVERYONE, world.clock, entropy=world.entropy)
    opened = []

    def open(user, *, migrated):
        wire = Wire(server.connect(user), world.clock)
        replica = painting(migrated).open(
            tmp_path / f"{user}.db", transport=wire, clock=world.clock, entropy=world.entropy
        )
        opened.append(replica)
        return replica

    yield server, open
    for replica in opened:
        replica.close()


def action_of(replica, name):
    return replica._definition.actions[name, 1]


@pytest.mark.spec("S11")
def test_a_migrated_file_undoes_what_it_ran_before(painters, world, counts):
    """Its images are from before the column."""
    server, open = painters
    old = open("alice", migrated=False)
    old.run(create_counter, id="x")
    old.sync()
    server.policy = lambda *_: False
    parked = old.run(add, id="x", by=1)
    old.sync()
    assert parked.outcome.state == "parked"
    server.policy = None
    old.run(add, id="x", by=10)
    old.close()
    new = open("alice", migrated=True)

    new.retry(parked.id)  # it runs before the other one, offline

    assert counts(new) == {"x": 11}
    new.sync()
    assert counts(new) == counts(server) == {"x": 11}


@pytest.mark.spec("S11")
def test_a_migrated_file_gets_what_it_had_to_leave_out(painters, world, rows):
    server, open = painters
    old, other = open("alice", migrated=False), open("bob", migrated=True)
    old.run(create_counter, id="x")
    world.settle(old, other)
    other.run(action_of(other, "paint"), id="x")
    world.settle(other, old)
    pending = old.run(add, id="x", by=1)
    old.close()
    new = open("alice", migrated=True)

    new.sync()

    assert rows(new, "counter") == server.rows("counter")
    assert rows(new, "counter")[0]["colour"] == "red"
    assert new.outcome(pending.id).state == "accepted"


@pytest.mark.spec("S11")
def test_a_row_by_an_author_whose_schema_is_behind_has_the_columns_defaults(painters, world, rows):
    server, open = painters
    old, new = open("alice", migrated=False), open("bob", migrated=True)
    world.settle(old, new)
    del new._definition.actions["create_counter", 1]  # what is known is all there is (S10)
    old.run(create_counter, id="x")
    old.sync()

    new.sync()
    assert rows(new, "counter") == server.rows("counter")
    assert rows(new, "counter")[0]["colour"] == "plain"
