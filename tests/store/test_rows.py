"""Applying and undoing: rows are made what they were, whatever stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from synchrotron import App, Context, Replica
from synchrotron.core.ids import Audience
from synchrotron.core.patches import DELETE, Patch, Target, insert, update
from synchrotron.errors import ForeignKeyError
from synchrotron.testing.memory_server import MemoryServer

Do = Callable[..., Any]
PEOPLE = """
    CREATE TABLE room (
        id TEXT PRIMARY KEY, house TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS (house) STORED
    );
    CREATE TABLE guest (
        id TEXT PRIMARY KEY, bed INTEGER UNIQUE, n DOUBLE PRECISION, note BYTEA,
        room TEXT REFERENCES room (id) ON DELETE CASCADE,
        audience_key TEXT NOT NULL DEFAULT 'guests'
    );
"""


class Clock:
    """Everyone's clock; it moves when it is read."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        self.ms += 10
        return self.ms


class House:
    """A server and replicas: alice sees all, bob sees the guests only."""

    def __init__(self, app: App) -> None:
        self.clock = Clock()
        everything = {"guests", "h1"}
        self.server = MemoryServer(
            app, audiences={"alice": everything, "bob": {"guests"}}, clock=self.clock
        )
        self.alice, self.bob = (
            app.open(":memory:", transport=self.server.connect(user), clock=self.clock)
            for user in ("alice", "bob")
        )
        self.alice.sync()
        self.bob.sync()

    def sync(self) -> None:
        for _ in range(2):
            self.bob.sync()
            self.alice.sync()

    def guests(self, replica: Replica) -> list[Any]:
        return replica.query("SELECT * FROM guest ORDER BY id")

    def agrees(self) -> bool:
        rows = [dict(row) for row in self.server.rows("guest")]
        return self.guests(self.alice) == self.guests(self.bob) == rows


@pytest.fixture
def house(application: Callable[..., App]) -> House:
    return House(application(PEOPLE))


# ---- UNIQUE swaps --------------------------------------------------------------------

SWAP = (
    "UPDATE guest SET bed = NULL WHERE id = 'a'",
    "UPDATE guest SET bed = 1 WHERE id = 'b'",
    "UPDATE guest SET bed = 2 WHERE id = 'a'",
)


def test_a_swap_of_unique_values_is_applied_as_one_change(house: House, do: Do) -> None:
    do(house.alice, "INSERT INTO guest (id, bed) VALUES ('a', 1), ('b', 2)")
    house.alice.sync()
    do(house.alice, *SWAP)
    house.sync()
    assert house.agrees()
    assert [row["bed"] for row in house.guests(house.bob)] == [2, 1]


@pytest.mark.spec("S7")
def test_a_swap_is_undone_and_replayed(house: House, do: Do) -> None:
    do(house.alice, "INSERT INTO guest (id, bed) VALUES ('a', 1), ('b', 2)")
    house.sync()
    do(house.bob, "UPDATE guest SET n = coalesce(n, 0) + bed")
    do(house.alice, *SWAP)
    house.alice.sync()
    house.bob.sync()
    assert house.alice.sync().replayed == 1
    assert house.agrees()
    assert [(row["bed"], row["n"]) for row in house.guests(house.alice)] == [(2, 1.0), (1, 2.0)]


def test_a_swap_by_opaque_code_is_applied_from_its_patches(
    application: Callable[..., App], do: Do
) -> None:
    app, older = application(PEOPLE), application(PEOPLE)

    @app.action(audience="guests")
    def swap(ctx: Context) -> None:
        for statement in SWAP:
            ctx.execute(statement)

    clock = Clock()
    server = MemoryServer(app, audiences={"alice": {"guests"}, "bob": {"guests"}}, clock=clock)
    alice = app.open(":memory:", transport=server.connect("alice"), clock=clock)
    bob = older.open(":memory:", transport=server.connect("bob"), clock=clock)
    do(alice, "INSERT INTO guest (id, bed) VALUES ('a', 1), ('b', 2)")
    alice.sync()
    bob.sync()
    do(bob, "UPDATE guest SET n = bed WHERE id = 'a'")
    alice.run(swap)
    alice.sync()
    bob.sync()
    alice.sync()
    bob.sync()
    rows = [dict(row) for row in server.rows("guest")]
    assert alice.query("SELECT * FROM guest ORDER BY id") == rows
    assert bob.query("SELECT * FROM guest ORDER BY id") == rows
    assert [(row["bed"], row["n"]) for row in rows] == [(2, 1.0), (1, None)]


# ---- every value comes back -----------------------------------------------------------


def test_undo_puts_back_every_value_as_it_was(house: House, do: Do) -> None:
    do(
        house.alice,
        "INSERT INTO guest (id, bed, n, note) VALUES ('a', NULL, 0.1, x'00ff')",
        "INSERT INTO guest (id, bed, note) VALUES ('b', 7, x'')",
    )
    house.sync()
    before = house.guests(house.bob)
    do(house.alice, "INSERT INTO guest (id) VALUES ('z')")
    do(house.bob, "UPDATE guest SET n = 5, note = NULL, bed = NULL")
    do(house.bob, "DELETE FROM guest")
    house.alice.sync()
    engine = house.bob._engine
    effects = engine.store.log.since("")[-2:]
    with engine._changing_state() as state:
        from synchrotron.replica.revision import Revision

        revision = Revision(engine.store, engine._runner, state)
        for entry in effects:
            revision.remove(entry)
        revision.carry_out()
    assert house.guests(house.bob) == before
    assert [type(row["n"]) for row in house.guests(house.bob)] == [float, type(None)]


# ---- foreign keys to rows that the user cannot see -------------------------------------


@pytest.mark.spec("S6", "A9")
def test_a_row_that_points_to_a_hidden_row_is_applied_and_undone(house: House, do: Do) -> None:
    do(house.alice, "INSERT INTO room (id, house) VALUES ('r', 'h1')")
    do(house.bob, "INSERT INTO guest (id, n) VALUES ('own', 1)")
    do(house.alice, "INSERT INTO guest (id, room) VALUES ('a', 'r')")
    house.alice.sync()
    house.bob.sync()
    assert house.bob.query("SELECT * FROM room") == []
    assert [row["room"] for row in house.guests(house.bob)] == ["r", None]
    do(house.bob, "UPDATE guest SET n = 2 WHERE id = 'a'")
    do(house.alice, "UPDATE guest SET bed = 3 WHERE id = 'a'")
    house.sync()
    assert house.agrees()
    assert [(row["bed"], row["n"]) for row in house.guests(house.bob)] == [(3, 2.0), (None, 1.0)]


def test_a_hidden_parents_delete_takes_its_visible_children(house: House, do: Do) -> None:
    do(house.alice, "INSERT INTO room (id, house) VALUES ('r', 'h1')")
    do(house.alice, "INSERT INTO guest (id, room) VALUES ('a', 'r'), ('b', NULL)")
    house.sync()
    do(house.bob, "UPDATE guest SET n = 1")
    do(house.alice, "DELETE FROM room")
    house.sync()
    assert house.agrees()
    assert [row["id"] for row in house.guests(house.bob)] == ["b"]


def test_a_row_that_points_to_a_hidden_row_may_be_deleted(house: House, do: Do) -> None:
    do(house.alice, "INSERT INTO room (id, house) VALUES ('r', 'h1')")
    do(house.alice, "INSERT INTO guest (id, room) VALUES ('a', 'r')")
    house.sync()
    do(house.bob, "DELETE FROM guest WHERE id = 'a'")
    house.sync()
    assert house.agrees()
    assert house.guests(house.alice) == []


def test_a_row_that_points_to_a_hidden_row_is_updated_not_replaced(house: House, do: Do) -> None:
    """To SQLite a replaced row is a new one, whose parent is not there."""
    do(house.alice, "INSERT INTO room (id, house) VALUES ('r', 'h1')")
    do(house.alice, "INSERT INTO guest (id, room) VALUES ('a', 'r')")
    house.sync()
    values = "INTO guest (id, room, n) VALUES ('a', 'r', 1)"
    with pytest.raises(ForeignKeyError, match=r"write INSERT … ON CONFLICT"):
        do(house.bob, f"REPLACE {values}")
    do(house.bob, f"INSERT {values} ON CONFLICT (id) DO UPDATE SET n = excluded.n")
    house.sync()
    assert house.agrees()
    assert house.guests(house.alice)[0]["n"] == 1.0


@pytest.mark.spec("A9")
@pytest.mark.parametrize(
    "statements",
    [
        ["INSERT INTO guest (id, room) VALUES ('b', 'nowhere')"],
        [
            "INSERT INTO guest (id, room) VALUES ('b', 'nowhere')",
            "DELETE FROM guest WHERE id = 'a'",
        ],
        [
            "INSERT INTO guest (id, room) VALUES ('b', 'nowhere')",
            "UPDATE guest SET room = NULL WHERE id = 'a'",
        ],
        ["UPDATE guest SET room = 'nowhere' WHERE id = 'a'"],
    ],
)
def test_a_hidden_parent_hides_no_foreign_key_error(
    house: House, do: Do, statements: list[str]
) -> None:
    """SQLite counts open foreign keys; an orphan that leaves must not pay for a new one."""
    do(house.alice, "INSERT INTO room (id, house) VALUES ('r', 'h1')")
    do(house.alice, "INSERT INTO guest (id, room) VALUES ('a', 'r')")
    house.sync()
    with pytest.raises(ForeignKeyError, match="nowhere"):
        do(house.bob, *statements)
    assert house.agrees()


# ---- audiences -----------------------------------------------------------------------


@pytest.mark.spec("S9")
@pytest.mark.parametrize("patch", [DELETE, update({"bed": 7}), insert({"id": "a", "bed": 7})])
def test_a_patch_passes_over_a_row_of_another_audience(house: House, do: Do, patch: Patch) -> None:
    do(house.alice, "INSERT INTO guest (id, bed) VALUES ('a', 1)")
    before = house.guests(house.alice)
    rows = house.alice._engine.store.rows
    with rows.unchecked():
        assert rows.apply({Target("guest", ("a",), Audience("h1")): patch}) == {}
    assert house.guests(house.alice) == before
