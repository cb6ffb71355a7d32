"""An application made to be hard to keep in sync: every action reads before it writes."""

from __future__ import annotations

from synchrotron import App, Context


class Refused(Exception):
    """The application's own rule."""


SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        room TEXT NOT NULL,
        n INTEGER NOT NULL DEFAULT 0,
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
    CREATE TABLE note (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        seen INTEGER,
        audience_key TEXT GENERATED ALWAYS AS ('user:' || owner) STORED
    );
"""


def make_app(*, without: frozenset[str] = frozenset()) -> App:
    """The application, or an older one that lacks some of its actions."""
    app = App("ledger", schema=SCHEMA)

    def action(function):  # type: ignore[no-untyped-def]
        if function.__name__ in without:
            return function
        rooms = "room:{room}"
        both = ["room:{room}", "room:{to}"]
        audience = {"note": "user:{owner}", "tally": None, "move": both, "wander": both}
        return app.action(audience=audience.get(function.__name__, rooms))(function)

    def find(ctx: Context, room: str, item: str):  # type: ignore[no-untyped-def]
        rows = ctx.execute("SELECT * FROM item WHERE id = ? AND room = ?", (item, room))
        return rows[0] if rows else None

    @action
    def create(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute(
            "INSERT INTO item (id, room, slot) VALUES (?, ?, ?)", (item, room, f"slot {item}")
        )

    @action
    def add(ctx: Context, *, room: str, item: str, by: int) -> None:
        row = find(ctx, room, item)
        if row is not None:
            ctx.execute("UPDATE item SET n = ? WHERE id = ?", (row["n"] + by, item))

    @action
    def take(ctx: Context, *, room: str, item: str) -> None:
        row = find(ctx, room, item)
        if row is None or row["n"] < 1:
            raise Refused(f"no {item} left")
        ctx.execute("UPDATE item SET n = n - 1 WHERE id = ?", (item,))
        price = round(ctx.random.random() * 10, 2)
        ctx.execute("INSERT INTO sale (item_id, room, price) VALUES (?, ?, ?)", (item, room, price))

    @action
    def retitle(ctx: Context, *, room: str, item: str, title: str | None) -> None:
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (title, item, room))

    @action
    def remove(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute("DELETE FROM item WHERE id = ? AND room = ?", (item, room))

    @action
    def claim(ctx: Context, *, room: str, item: str) -> None:
        ctx.execute(
            "UPDATE item SET owner = ? WHERE id = ? AND room = ? AND owner IS NULL",
            (ctx.user, item, room),
        )

    @action
    def sweep(ctx: Context, *, room: str) -> None:
        ctx.execute("DELETE FROM item WHERE room = ? AND n <= 0", (room,))

    @action
    def swap(ctx: Context, *, room: str, item: str, other: str) -> None:
        one, two = find(ctx, room, item), find(ctx, room, other)
        if one is None or two is None or item == other:
            raise Refused("nothing to swap")
        ctx.execute("UPDATE item SET slot = NULL WHERE id = ?", (item,))
        ctx.execute("UPDATE item SET slot = ? WHERE id = ?", (one["slot"], other))
        ctx.execute("UPDATE item SET slot = ? WHERE id = ?", (two["slot"], item))

    @action
    def chain(ctx: Context, *, room: str, item: str) -> None:
        total = ctx.execute("SELECT sum(length(title) + 1) AS total FROM item")[0]["total"]
        sales = ctx.execute("SELECT count(*) AS n FROM sale")[0]["n"]
        title = "x" * (((total or 0) + sales) % 5)
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (title, item, room))

    @action
    def move(ctx: Context, *, room: str, item: str, to: str) -> None:
        row = find(ctx, room, item)
        if row is None or room == to:
            raise Refused("nothing to move")
        ctx.execute("DELETE FROM item WHERE id = ?", (item,))
        ctx.execute(
            "INSERT INTO item (id, room, n, title) VALUES (?, ?, ?, ?)",
            (ctx.new_id("item", item), to, row["n"], row["title"]),
        )

    @action
    def wander(ctx: Context, *, room: str, to: str, item: str) -> None:
        """Which room it lands in depends on what is there: a replay may change it."""
        crowded = ctx.execute("SELECT count(*) AS n FROM item WHERE room = ?", (room,))[0]["n"]
        ctx.execute("DELETE FROM item WHERE id = ? AND n < 1", (item,))
        if not ctx.execute("SELECT 1 AS there FROM item WHERE id = ?", (item,)):
            place = to if crowded % 2 else room
            ctx.execute("INSERT INTO item (id, room) VALUES (?, ?)", (item, place))

    @action
    def note(ctx: Context, *, owner: str, note: str) -> None:
        ctx.execute("INSERT OR IGNORE INTO note (id, owner) VALUES (?, ?)", (note, owner))

    @action
    def tally(ctx: Context, *, room: str) -> None:
        total = ctx.execute("SELECT sum(n) AS total FROM item")[0]["total"]
        ctx.execute("UPDATE note SET seen = ?", (total,))
        ctx.execute("UPDATE item SET title = 'tallied' WHERE id = 'i0' AND room = ?", (room,))

    @action
    def leak(ctx: Context, *, room: str, item: str) -> None:
        notes = ctx.execute("SELECT count(*) AS n FROM note")[0]["n"]
        ctx.execute("UPDATE item SET title = ? WHERE id = ? AND room = ?", (str(notes), item, room))

    return app
