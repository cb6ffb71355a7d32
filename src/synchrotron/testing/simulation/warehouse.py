"""An application made to be hard to keep in sync: every action reads before it writes.

Counters, stock that runs out, claims, deletes against edits, moves between audiences,
cascades, UNIQUE values that are swapped, NULLs, predicate reads, random numbers and new
ids; reads of what others cannot see, and actions whose effect depends on the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synchrotron.app.action import Templates
from synchrotron.app.context import Context
from synchrotron.app.row import Row
from synchrotron.application import App
from synchrotron.testing.simulation.dice import Dice
from synchrotron.testing.simulation.sampling import Query

ROOMS = ("red", "blue")
SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        room TEXT NOT NULL,
        n INTEGER NOT NULL DEFAULT 0 CHECK (n >= 0),
        title TEXT,
        owner TEXT,
        slot TEXT UNIQUE,
        audience_key TEXT GENERATED ALWAYS AS ('room:' || room) STORED
    );
    CREATE TABLE sale (
        id TEXT PRIMARY KEY,
        item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        room TEXT NOT NULL,
        price DOUBLE PRECISION,
        audience_key TEXT GENERATED ALWAYS AS ('room:' || room) STORED
    );
    CREATE TABLE label (
        item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        word TEXT NOT NULL,
        room TEXT NOT NULL,
        times INTEGER,
        audience_key TEXT GENERATED ALWAYS AS ('room:' || room) STORED,
        PRIMARY KEY (item_id, word)
    );
    CREATE TABLE note (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        seen INTEGER,
        item_id TEXT REFERENCES item (id) ON DELETE SET NULL,
        audience_key TEXT GENERATED ALWAYS AS ('user:' || owner) STORED
    );
    CREATE TABLE member (
        room TEXT NOT NULL,
        user_id TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('room:' || room) STORED,
        PRIMARY KEY (room, user_id)
    );
"""
COLOUR = "ALTER TABLE item ADD COLUMN colour TEXT NOT NULL DEFAULT 'plain'"
MEMBERS = "SELECT user_id, 'room:' || room AS audience_key FROM member"
INVARIANTS = (
    "SELECT * FROM item WHERE n < 0",
    "SELECT s.id FROM sale AS s LEFT JOIN item AS i ON i.id = s.item_id WHERE i.room <> s.room",
)


class Refused(Exception):
    """The application's own rule."""


Sampler = Callable[[Dice, Query], dict[str, Any] | None]


def make_warehouse(
    *, private: bool = True, members: bool = False, without: frozenset[str] = frozenset()
) -> App:
    """The application.

    `private`: with rows that only their owners see. `members`: rooms have members, who are
    rows. `without`: an older one that lacks these actions, and, where `paint` is among them,
    the column that it needs.
    """
    app = App(
        "warehouse",
        schema=SCHEMA,
        migrations=() if "paint" in without else (COLOUR,),
        audiences=MEMBERS if members else None,
    )
    shelf = _Author(app, without)
    _add_items(shelf)
    _add_order_dependent(shelf)
    if private:
        _add_private(shelf)
    if members:
        _add_members(shelf)
    return app


class _Author:
    """Registers actions with their samples."""

    def __init__(self, app: App, without: frozenset[str]) -> None:
        self._app = app
        self._without = without

    def action(
        self, sampler: Sampler, audience: Templates | None = "room:{room}"
    ) -> Callable[[Callable[..., None]], None]:
        def register(function: Callable[..., None]) -> None:
            if function.__name__ not in self._without:
                self._app.action(audience=audience)(function).sample(sampler)

        return register


# ---- samples ----------------------------------------------------------------------


def _room(rng: Dice, query: Query) -> str:
    return str(rng.choice(ROOMS))


def _some_item(rng: Dice, query: Query, where: str = "true") -> dict[str, Any] | None:
    rows = query(f"SELECT id, room FROM item WHERE {where}")
    if rows and rng.chance(0.9):
        row = rng.choice(rows)
        return {"room": row["room"], "item": row["id"]}
    if rng.chance(0.7):
        return None
    room = _room(rng, query)
    return {"room": room, "item": f"{room[0]}-{rng.randrange(4)}"}


def _free_item(rng: Dice, query: Query) -> dict[str, Any] | None:
    room = _room(rng, query)
    there = {row["id"] for row in query("SELECT id FROM item")}
    free = [name for name in (f"{room[0]}-{i}" for i in range(4)) if name not in there]
    return {"room": room, "item": rng.choice(free)} if free else None


def _of_item(where: str = "true", **more: Callable[[Dice, Query], Any]) -> Sampler:
    def sample(rng: Dice, query: Query) -> dict[str, Any] | None:
        args = _some_item(rng, query, where)
        return None if args is None else args | {k: make(rng, query) for k, make in more.items()}

    return sample


def _of_room(rng: Dice, query: Query) -> dict[str, Any] | None:
    return {"room": _room(rng, query)}


# ---- the actions ------------------------------------------------------------------


def _find(ctx: Context, room: str, item: str) -> Row | None:
    rows = ctx.execute("SELECT * FROM item WHERE id = ? AND room = ?", (item, room))
    return rows[0] if rows else None


def _add_items(shelf: _Author) -> None:
    @shelf.action(_free_item)
    def create(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute(
            "INSERT INTO item (id, room, n, slot) VALUES (?, ?, 1, ?)",
            (item, room, f"slot {item}"),
        )

    @shelf.action(_of_item(by=lambda rng, _: rng.choice((1, 2, 10))))
    def add(ctx: Context, *, room: str, item: str, by: int) -> None:
        row = _find(ctx, room, item)
        if row is not None:
            ctx.execute("UPDATE item SET n = ? WHERE id = ?", (row["n"] + by, item))

    @shelf.action(_of_item("n > 0"))
    def take(ctx: Context, *, room: str, item: str) -> None:
        row = _find(ctx, room, item)
        if row is None or row["n"] < 1:
            raise Refused(f"no {item} left")
        ctx.execute("UPDATE item SET n = n - 1 WHERE id = ?", (item,))
        price = round(ctx.random.random() * 10, 2)
        ctx.execute("INSERT INTO sale (item_id, room, price) VALUES (?, ?, ?)", (item, room, price))

    @shelf.action(_of_item(title=lambda rng, _: rng.choice((None, "x", "y", "z"))))
    def retitle(ctx: Context, *, room: str, item: str, title: str | None) -> None:
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (title, item, room))

    @shelf.action(_of_item("n < 2"))
    def remove(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute("DELETE FROM item WHERE id = ? AND room = ?", (item, room))

    @shelf.action(_of_item("owner IS NULL"))
    def claim(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute(
            "UPDATE item SET owner = ? WHERE id = ? AND room = ? AND owner IS NULL",
            (ctx.user, item, room),
        )

    @shelf.action(_of_item(word=lambda rng, _: rng.choice(("new", "old"))))
    def label(ctx: Context, *, room: str, item: str, word: str) -> None:
        if _find(ctx, room, item) is None:
            raise Refused(f"no {item} to label")
        ctx.execute(
            "INSERT INTO label (item_id, word, room, times) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (item_id, word) DO UPDATE SET times = times + 1",
            (item, word, room),
        )

    @shelf.action(_of_item(colour=lambda rng, _: rng.choice(("green", "plain", "grey"))))
    def paint(ctx: Context, *, room: str, item: str, colour: str) -> None:
        ctx.execute(
            "UPDATE item SET colour = ? WHERE id = ? AND room = ? AND colour <> ?",
            (colour, item, room, colour),
        )


def _add_order_dependent(shelf: _Author) -> None:
    both = ["room:{room}", "room:{to}"]

    def of_two_items(rng: Dice, query: Query) -> dict[str, Any] | None:
        room = _room(rng, query)
        rows = [row["id"] for row in query("SELECT id FROM item WHERE room = ?", (room,))]
        if len(rows) < 2:
            return None
        item, other = rng.sample(rows, 2)
        return {"room": room, "item": item, "other": other}

    def to_other_room(rng: Dice, query: Query) -> dict[str, Any] | None:
        args = _some_item(rng, query)
        return None if args is None else args | {"to": ROOMS[args["room"] == ROOMS[0]]}

    def to_wander(rng: Dice, query: Query) -> dict[str, Any] | None:
        room, to = rng.sample(ROOMS, 2)
        return {"room": room, "to": to, "item": f"w-{rng.randrange(2)}"}

    @shelf.action(_of_room)
    def sweep(ctx: Context, *, room: str) -> None:
        ctx.execute("DELETE FROM item WHERE room = ? AND n <= 0", (room,))
        ctx.execute("UPDATE item SET n = n + 1 WHERE room = ? AND n % 3 = 1", (room,))

    @shelf.action(of_two_items)
    def swap(ctx: Context, *, room: str, item: str, other: str) -> None:
        one, two = _find(ctx, room, item), _find(ctx, room, other)
        if one is None or two is None or item == other:
            raise Refused("nothing to swap")
        ctx.execute("UPDATE item SET slot = NULL WHERE id = ?", (item,))
        ctx.execute("UPDATE item SET slot = ? WHERE id = ?", (one["slot"], other))
        ctx.execute("UPDATE item SET slot = ? WHERE id = ?", (two["slot"], item))

    @shelf.action(of_two_items)
    def grab(ctx: Context, *, room: str, item: str, other: str) -> None:
        """Fails on a UNIQUE value, unless the other has lost its slot."""
        ctx.execute(
            "UPDATE item SET slot = ? WHERE id = ? AND room = ?", (f"slot {other}", item, room)
        )

    @shelf.action(_of_item())
    def chain(ctx: Context, *, room: str, item: str) -> None:
        total = ctx.execute(
            "SELECT sum(length(title) + n + 1) AS total FROM item WHERE room = ?", (room,)
        )[0]["total"]
        sales = ctx.execute("SELECT count(*) AS n FROM sale WHERE room = ?", (room,))[0]["n"]
        title = "x" * (((total or 0) + sales) % 5)
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (title, item, room))

    @shelf.action(to_other_room, both)
    def move(ctx: Context, *, room: str, item: str, to: str) -> None:
        row = _find(ctx, room, item)
        if row is None or room == to:
            raise Refused("nothing to move")
        ctx.execute("DELETE FROM item WHERE id = ?", (item,))
        ctx.execute(
            "INSERT INTO item (id, room, n, title) VALUES (?, ?, ?, ?)",
            (ctx.new_id("item", item), to, row["n"], row["title"]),
        )

    @shelf.action(to_wander, both)
    def wander(ctx: Context, *, room: str, to: str, item: str) -> None:
        """Which room it lands in depends on what is there: a replay may change it."""
        crowded = ctx.execute("SELECT count(*) AS n FROM item WHERE room = ?", (room,))[0]["n"]
        ctx.execute("DELETE FROM item WHERE id = ? AND n < 1", (item,))
        if not ctx.execute("SELECT 1 AS there FROM item WHERE id = ?", (item,)):
            place = to if crowded % 2 else room
            ctx.execute("INSERT INTO item (id, room) VALUES (?, ?)", (item, place))


def _add_private(shelf: _Author) -> None:
    def own_note(rng: Dice, query: Query) -> dict[str, Any] | None:
        return {"owner": query.user, "note": f"{query.user}-{rng.randrange(3)}"}

    def about(rng: Dice, query: Query) -> dict[str, Any] | None:
        item = _some_item(rng, query)
        note = query.one(rng, "SELECT id FROM note")
        if item is None or note is None:
            return None
        return {"owner": query.user, "note": note, "item": item["item"]}

    @shelf.action(own_note, "user:{owner}")
    def note(ctx: Context, *, owner: str, note: str) -> None:
        seen = ctx.execute("SELECT count(*) AS n FROM note")[0]["n"]
        ctx.execute(
            "INSERT INTO note (id, owner, seen) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET seen = coalesce(seen, 0) + 1",
            (note, owner, seen),
        )

    @shelf.action(about, "user:{owner}")
    def refer(ctx: Context, *, owner: str, note: str, item: str) -> None:
        ctx.execute("UPDATE note SET item_id = ? WHERE id = ? AND owner = ?", (item, note, owner))

    @shelf.action(_of_item(), None)
    def tally(ctx: Context, *, room: str, item: str) -> None:
        total = ctx.execute("SELECT sum(n) AS total FROM item")[0]["total"]
        ctx.execute("UPDATE note SET seen = ?", (total,))
        ctx.execute("UPDATE item SET title = 'tallied' WHERE id = ? AND room = ?", (item, room))

    @shelf.action(_of_item())
    def leak(ctx: Context, *, room: str, item: str) -> None:
        notes = ctx.execute("SELECT count(*) AS n FROM note")[0]["n"]
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (str(notes), item, room))


def _add_members(shelf: _Author) -> None:
    def own_room(rng: Dice, query: Query) -> dict[str, Any] | None:
        rooms = [room for room in ROOMS if not query("SELECT 1 FROM member WHERE room = ?", [room])]
        return {"room": rng.choice(rooms), "user": query.user} if rooms else None

    def guest(rng: Dice, query: Query) -> dict[str, Any] | None:
        room = query.one(rng, "SELECT DISTINCT room FROM member")
        return None if room is None else {"room": room, "user": rng.choice(query.users)}

    def goodbye(rng: Dice, query: Query) -> dict[str, Any] | None:
        return guest(rng, query) if rng.chance(0.3) else None

    @shelf.action(own_room)
    def found(ctx: Context, *, room: str, user: str) -> None:
        if ctx.execute("SELECT 1 AS there FROM member WHERE room = ?", (room,)):
            raise Refused(f"{room} was founded before")
        ctx.execute("INSERT INTO member (room, user_id) VALUES (?, ?)", (room, user))

    @shelf.action(guest)
    def invite(ctx: Context, *, room: str, user: str) -> None:
        ctx.execute("INSERT OR IGNORE INTO member (room, user_id) VALUES (?, ?)", (room, user))

    @shelf.action(goodbye)
    def leave(ctx: Context, *, room: str, user: str) -> None:
        ctx.execute("DELETE FROM member WHERE room = ? AND user_id = ?", (room, user))
