"""The application whose replicas are killed: stock, with its sales, and a unique place."""

from __future__ import annotations

from synchrotron import App, Context

ITEMS = ("cup", "jar", "pen")

app = App(
    "ledger",
    schema="""
        CREATE TABLE item (
            id TEXT PRIMARY KEY,
            n INTEGER NOT NULL CHECK (n >= 0),
            place TEXT UNIQUE,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
        CREATE TABLE sale (
            id TEXT PRIMARY KEY,
            item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
            left_over INTEGER NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
    """,
)


def stock(ctx: Context, item: str) -> int:
    rows = ctx.execute("SELECT n FROM item WHERE id = ?", (item,))
    if not rows:
        raise LookupError(f"there is no {item}")
    n: int = rows[0]["n"]
    return n


@app.action(audience="all")
def create(ctx: Context, *, item: str) -> None:
    ctx.execute("INSERT OR IGNORE INTO item (id, n, place) VALUES (?, 5, ?)", (item, item))


@app.action(audience="all")
def add(ctx: Context, *, item: str, by: int) -> None:
    ctx.execute("UPDATE item SET n = ? WHERE id = ?", (stock(ctx, item) + by, item))


@app.action(audience="all")
def sell(ctx: Context, *, item: str) -> None:
    left = stock(ctx, item) - 1
    if left < 0:
        raise LookupError(f"no {item} left")
    ctx.execute("UPDATE item SET n = ? WHERE id = ?", (left, item))
    ctx.execute("INSERT INTO sale (item_id, left_over) VALUES (?, ?)", (item, left))


@app.action(audience="all")
def move(ctx: Context, *, item: str, to: str) -> None:
    """Two items change places."""
    places = {row["id"]: row["place"] for row in ctx.execute("SELECT id, place FROM item")}
    if item in places and to in places:
        ctx.execute("UPDATE item SET place = NULL WHERE id = ?", (item,))
        ctx.execute("UPDATE item SET place = ? WHERE id = ?", (places[item], to))
        ctx.execute("UPDATE item SET place = ? WHERE id = ?", (places[to], item))


@app.action(audience="all")
def remove(ctx: Context, *, item: str) -> None:
    ctx.execute("DELETE FROM item WHERE id = ?", (item,))
