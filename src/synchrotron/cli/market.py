"""The demo's application: a market stall that Alice and Bob run together.

Its rules are plain Python in its actions. Nothing in it knows of syncing.
"""

from __future__ import annotations

from synchrotron import App, Context

app = App(
    "market",
    schema="""
        CREATE TABLE member (
            user_id TEXT PRIMARY KEY,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
        CREATE TABLE product (
            name TEXT PRIMARY KEY,
            stock INTEGER NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
        CREATE TABLE sale (
            id TEXT PRIMARY KEY,
            product TEXT NOT NULL REFERENCES product (name),
            jars INTEGER NOT NULL,
            seller TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
        CREATE TABLE counter (
            name TEXT PRIMARY KEY,
            n INTEGER NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
        CREATE TABLE task (
            name TEXT PRIMARY KEY,
            owner TEXT,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
        CREATE TABLE note (
            name TEXT PRIMARY KEY,
            text TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('stall') STORED
        );
    """,
    audiences="SELECT user_id, audience_key FROM member",
)
stall_action = app.action(audience="stall")


class Refused(Exception):
    """A rule of the stall says no."""


class OutOfStock(Refused):
    """Nobody sells what is not there."""


class AlreadyClaimed(Refused):
    """A task has one owner."""


class NoteGone(Refused):
    """A note that was thrown away stays away."""


@stall_action
def open_stall(ctx: Context, *, members: list[str], jars: int) -> None:
    ctx.executemany("INSERT INTO member (user_id) VALUES (?)", [(user,) for user in members])
    ctx.execute("INSERT INTO product (name, stock) VALUES ('honey', ?)", (jars,))
    ctx.execute("INSERT INTO counter (name, n) VALUES ('visitors', 0)")
    ctx.execute("INSERT INTO task (name) VALUES ('bake bread')")
    ctx.execute("INSERT INTO note (name, text) VALUES ('prices', 'honey: 5')")


@stall_action
def sell(ctx: Context, *, product: str, jars: int) -> str:
    [row] = ctx.execute("SELECT stock FROM product WHERE name = ?", (product,))
    left: int = row["stock"] - jars
    if left < 0:
        raise OutOfStock(f"only {row['stock']} left")
    ctx.execute("UPDATE product SET stock = ? WHERE name = ?", (left, product))
    ctx.execute(
        "INSERT INTO sale (id, product, jars, seller) VALUES (?, ?, ?, ?)",
        (ctx.new_id("sale"), product, jars, ctx.user),
    )
    return f"{left} left"


@stall_action
def count(ctx: Context, *, counter: str, by: int) -> str:
    """Read, then write: where rows are merged, this is how updates are lost."""
    [row] = ctx.execute("SELECT n FROM counter WHERE name = ?", (counter,))
    n: int = row["n"] + by
    ctx.execute("UPDATE counter SET n = ? WHERE name = ?", (n, counter))
    return f"{n} so far"


@stall_action
def claim(ctx: Context, *, task: str) -> str:
    [row] = ctx.execute("SELECT owner FROM task WHERE name = ?", (task,))
    if row["owner"] is not None:
        raise AlreadyClaimed(f"{row['owner']} does it")
    ctx.execute("UPDATE task SET owner = ? WHERE name = ?", (ctx.user, task))
    return f"{ctx.user} does it"


@stall_action
def rewrite(ctx: Context, *, note: str, text: str) -> str:
    if not ctx.execute("SELECT name FROM note WHERE name = ?", (note,)):
        raise NoteGone(f"{note!r} is gone")
    ctx.execute("UPDATE note SET text = ? WHERE name = ?", (text, note))
    return text


@stall_action
def throw_away(ctx: Context, *, note: str) -> str:
    ctx.execute("DELETE FROM note WHERE name = ?", (note,))
    return "gone"
