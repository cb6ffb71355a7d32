"""The application of these tests: counters, stock, claims, badges, projects and their todos."""

from __future__ import annotations

from synchrotron import App, Context

SCHEMA = """
    CREATE TABLE counter (
        id TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        scope TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS (scope) STORED
    );
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        stock INTEGER NOT NULL CHECK (stock >= 0),
        scope TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS (scope) STORED
    );
    CREATE TABLE sale (
        id TEXT PRIMARY KEY,
        item_id TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        buyer TEXT NOT NULL,
        scope TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS (scope) STORED
    );
    CREATE TABLE task (
        id TEXT PRIMARY KEY,
        owner TEXT,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
    CREATE TABLE badge (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        scope TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS (scope) STORED
    );
    CREATE TABLE project (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || id) STORED
    );
    CREATE TABLE project_member (
        id TEXT PRIMARY KEY,
        project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
        user_id TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
    );
    CREATE TABLE todo (
        id TEXT PRIMARY KEY,
        project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
        text TEXT NOT NULL,
        done BOOLEAN NOT NULL DEFAULT FALSE,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
    );
"""
AUDIENCES = "SELECT user_id, audience_key FROM project_member"
app = App("shop", schema=SCHEMA, audiences=AUDIENCES)


class OutOfStock(Exception):
    """The application's own rule."""


def lacking(*names: str) -> App:
    """The application as it was before it had these actions."""
    older = App("shop", schema=SCHEMA, audiences=AUDIENCES)
    older.actions = {key: a for key, a in app.actions.items() if key[0] not in names}
    return older


# ---- counters ----------------------------------------------------------------------


@app.action(audience="{scope}")
def create_counter(ctx: Context, *, id: str, scope: str = "all", n: int = 0) -> None:
    ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, ?, ?)", (id, n, scope))


@app.action(audience="all")
def create_noted(ctx: Context, *, id: str, note: str) -> None:
    """A record as long as one likes."""
    create_counter(ctx, id=id)


@app.action(audience="{scope}")
def add(ctx: Context, *, id: str, by: int, scope: str = "all") -> int:
    """Read and write, as a lost update needs it."""
    rows = ctx.execute("SELECT n FROM counter WHERE id = ? AND scope = ?", (id, scope))
    if not rows:
        raise LookupError(f"there is no counter {id}")
    n: int = rows[0]["n"] + by
    ctx.execute("UPDATE counter SET n = ? WHERE id = ?", (n, id))
    return n


@app.action(audience="{scope}")
def drop_counter(ctx: Context, *, id: str, scope: str = "all") -> None:
    ctx.execute("DELETE FROM counter WHERE id = ? AND scope = ?", (id, scope))


@app.action
def copy(ctx: Context, *, source: str, to: str) -> None:
    """Undeclared: what it changes depends on what this user sees."""
    rows = ctx.execute("SELECT n FROM counter WHERE id = ?", (source,))
    n = rows[0]["n"] if rows else -1
    ctx.execute("UPDATE counter SET n = ? WHERE id = ?", (n, to))


@app.action
def sort_in(ctx: Context, *, id: str, by: str, limit: int, low: str, high: str) -> None:
    """Make a counter: in which audience depends on what another one counts."""
    [row] = ctx.execute("SELECT n FROM counter WHERE id = ?", (by,))
    scope = high if row["n"] >= limit else low
    ctx.execute("INSERT INTO counter (id, n, scope) VALUES (?, ?, ?)", (id, row["n"], scope))


# ---- stock, claims, badges ---------------------------------------------------------


@app.action(audience="{scope}")
def put_on_sale(ctx: Context, *, id: str, stock: int, scope: str = "all") -> None:
    ctx.execute("INSERT INTO item (id, stock, scope) VALUES (?, ?, ?)", (id, stock, scope))


@app.action(audience="{scope}")
def buy(ctx: Context, *, id: str, amount: int = 1, scope: str = "all") -> str:
    rows = ctx.execute("SELECT stock FROM item WHERE id = ?", (id,))
    if not rows or rows[0]["stock"] < amount:
        raise OutOfStock(f"no {amount} of {id}")
    ctx.execute("UPDATE item SET stock = stock - ? WHERE id = ?", (amount, id))
    return sell(ctx, id=id, scope=scope)


@app.action(audience="{scope}")
def sell(ctx: Context, *, id: str, scope: str = "all") -> str:
    sale = ctx.new_id("sale")
    ctx.execute(
        "INSERT INTO sale (id, item_id, buyer, scope) VALUES (?, ?, ?, ?)",
        (sale, id, ctx.user, scope),
    )
    return sale


@app.action(audience="{scope}")
def take_off_sale(ctx: Context, *, id: str, scope: str = "all") -> None:
    ctx.execute("DELETE FROM item WHERE id = ?", (id,))


@app.action(audience="all")
def create_task(ctx: Context, *, id: str) -> None:
    ctx.execute("INSERT INTO task (id) VALUES (?)", (id,))


@app.action(audience="all")
def claim(ctx: Context, *, id: str) -> None:
    """Declared, since a claim that comes too late changes nothing."""
    ctx.execute("UPDATE task SET owner = ? WHERE id = ? AND owner IS NULL", (ctx.user, id))


@app.action
def claim_undeclared(ctx: Context, *, id: str) -> None:
    claim(ctx, id=id)


@app.action(audience="{scope}")
def give_badge(ctx: Context, *, name: str, scope: str = "all") -> str:
    badge = ctx.new_id("badge")
    ctx.execute("INSERT INTO badge (id, name, scope) VALUES (?, ?, ?)", (badge, name, scope))
    return badge


@app.action(audience="all")
def rename_badge(ctx: Context, *, id: str, name: str) -> None:
    ctx.execute("UPDATE badge SET name = ? WHERE id = ?", (name, id))


# ---- projects ----------------------------------------------------------------------


@app.action(audience="project:{id}")
def create_project(ctx: Context, *, id: str) -> None:
    ctx.execute("INSERT INTO project (id, name) VALUES (?, ?)", (id, id))
    invite(ctx, project=id, user=ctx.user)


@app.action(audience="project:{project}")
def invite(ctx: Context, *, project: str, user: str) -> None:
    ctx.execute(
        "INSERT INTO project_member (id, project_id, user_id) VALUES (?, ?, ?)",
        (ctx.new_id("project_member", user), project, user),
    )


@app.action(audience="project:{project}")
def remove_member(ctx: Context, *, project: str, user: str) -> None:
    ctx.execute("DELETE FROM project_member WHERE project_id = ? AND user_id = ?", (project, user))


@app.action(audience="project:{project}")
def create_todo(ctx: Context, *, project: str, text: str) -> str:
    todo = ctx.new_id("todo")
    ctx.execute("INSERT INTO todo (id, project_id, text) VALUES (?, ?, ?)", (todo, project, text))
    return todo


@app.action(audience="project:{project}")
def finish_todo(ctx: Context, *, project: str, id: str) -> None:
    ctx.execute("UPDATE todo SET done = TRUE WHERE id = ?", (id,))


@app.action(audience="project:{project}")
def reword(ctx: Context, *, project: str, id: str, text: str) -> None:
    ctx.execute("UPDATE todo SET text = ? WHERE id = ?", (text, id))


# ---- what is hard to undo ----------------------------------------------------------


@app.action(audience="all")
def stock_and_sell(ctx: Context, *, id: str) -> None:
    put_on_sale(ctx, id=id, stock=1)
    sell(ctx, id=id)


@app.action(audience="all")
def clear_sales(ctx: Context) -> None:
    ctx.execute("DELETE FROM sale WHERE true")


@app.action(audience="all")
def drop_badge(ctx: Context, *, id: str) -> None:
    ctx.execute("DELETE FROM badge WHERE id = ?", (id,))


@app.action(audience="all")
def replace_badge(ctx: Context, *, id: str, name: str) -> None:
    drop_badge(ctx, id=id)
    give_badge(ctx, name=name)


@app.action(audience="all")
def pass_on(ctx: Context, *, ids: list[str]) -> None:
    """Each badge gets the name of the one before it, the first a new one."""
    names = [ctx.execute("SELECT name FROM badge WHERE id = ?", (id,))[0]["name"] for id in ids]
    ctx.execute("UPDATE badge SET name = 'new' WHERE id = ?", (ids[-1],))
    for id, name in reversed(list(zip(ids[:-1], names[1:], strict=True))):
        ctx.execute("UPDATE badge SET name = ? WHERE id = ?", (name, id))


@app.action(audience=["{one}", "{two}"])
def create_two(ctx: Context, *, one: str, two: str) -> None:
    create_counter(ctx, id=one, scope=one)
    create_counter(ctx, id=two, scope=two)


@app.action(audience=lambda declared, id: declared)
def create_in_one(ctx: Context, *, declared: list[str], id: str) -> None:
    create_counter(ctx, id=id, scope=declared[-1])
