"""A guestbook: much is written side by side, and some of it looks at the rest (S12)."""

from collections.abc import Callable
from typing import Any

from synchrotron import App, Context
from synchrotron.errors import ConstraintError

SCHEMA = """
    CREATE TABLE page (
        id TEXT PRIMARY KEY, text TEXT, name TEXT UNIQUE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE entry (
        id TEXT PRIMARY KEY, n INTEGER, audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
    CREATE TABLE reply (
        id TEXT PRIMARY KEY, n INTEGER,
        entry_id TEXT NOT NULL REFERENCES entry (id) ON DELETE CASCADE,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
"""


def guestbook(runs: list[str]) -> App:
    """An application that notes each run of an action."""
    app = App("guestbook", schema=SCHEMA)

    def action(function: Callable[..., None]) -> None:
        app.action(audience="all")(function)

    @action
    def sign(ctx: Context, *, id: str) -> None:
        runs.append(f"sign {id}")
        ctx.execute("INSERT INTO entry (id, n) VALUES (?, 1)", (id,))

    @action
    def raise_to(ctx: Context, *, id: str, n: int) -> None:
        runs.append(f"raise {id}")
        ctx.execute("UPDATE entry SET n = ? WHERE id = ?", (n, id))

    @action
    def add(ctx: Context, *, id: str, by: int) -> None:
        runs.append(f"add {id}")
        ctx.execute("UPDATE entry SET n = n + ? WHERE id = ?", (by, id))

    @action
    def strike(ctx: Context, *, id: str) -> None:
        runs.append(f"strike {id}")
        ctx.execute("DELETE FROM entry WHERE id = ?", (id,))

    @action
    def strike_all(ctx: Context) -> None:
        runs.append("strike all")
        ctx.execute("DELETE FROM entry")

    @action
    def reply(ctx: Context, *, id: str, to: str) -> None:
        runs.append(f"reply {id}")
        ctx.execute("INSERT INTO reply (id, n, entry_id) VALUES (?, 1, ?)", (id, to))

    @action
    def write(ctx: Context, *, id: str, name: str) -> None:
        runs.append(f"write {id}")
        ctx.execute("INSERT INTO page (id, name) VALUES (?, ?)", (id, name))

    @action
    def count(ctx: Context, *, page: str) -> None:
        runs.append(f"count {page}")
        n = ctx.execute("SELECT count(*) AS n FROM entry WHERE n > 0")[0]["n"]
        ctx.execute("INSERT INTO page (id, text) VALUES (?, ?)", (page, str(n)))

    @action
    def sign_if_free(ctx: Context, *, id: str, page: str) -> None:
        runs.append(f"sign if free {id}")
        try:
            ctx.execute("INSERT INTO entry (id, n) VALUES (?, 7)", (id,))
        except ConstraintError:
            ctx.execute("INSERT INTO page (id, text) VALUES (?, 'taken')", (page,))

    @action
    def sign_unless_there(ctx: Context, *, id: str) -> None:
        runs.append(f"sign unless there {id}")
        ctx.execute("INSERT OR IGNORE INTO entry (id, n) VALUES (?, 9)", (id,))

    @action
    def touch(ctx: Context, *, id: str, to: str, page: str) -> None:
        """It makes a row and takes it away: no patch, but the row must not have been there."""
        runs.append(f"touch {id}")
        ctx.execute("INSERT INTO reply (id, n, entry_id) VALUES (?, 0, ?)", (id, to))
        ctx.execute("DELETE FROM reply WHERE id = ?", (id,))
        ctx.execute("INSERT INTO page (id, text) VALUES (?, 'touched')", (page,))

    _add_samples(app)
    return app


def _add_samples(app: App) -> None:
    def of_entry(rng, query):
        id = query.one(rng, "SELECT id FROM entry")
        return None if id is None else {"id": id}

    def new(prefix: str) -> Callable[..., dict[str, Any]]:
        return lambda rng, query: {prefix: f"{prefix} {rng.randrange(10_000)}"}

    def with_number(name: str) -> Callable[..., Any]:
        def sample(rng, query):
            args = of_entry(rng, query)
            return args and args | {name: rng.randrange(9)}

        return sample

    def for_reply(rng, query):
        args = of_entry(rng, query)
        return args and {"id": f"reply {rng.randrange(30)}", "to": args["id"]}

    def taken_or_free(rng, query):
        return {"id": f"id {rng.randrange(40 if rng.chance(0.3) else 10_000)}"}

    samples: dict[str, Callable[..., Any]] = {
        "sign": taken_or_free,
        "raise_to": with_number("n"),
        "add": with_number("by"),
        "strike": of_entry,
        "strike_all": lambda rng, query: {} if rng.chance(0.1) else None,
        "reply": for_reply,
        "write": lambda rng, query: new("id")(rng, query) | {"name": f"name {rng.randrange(6)}"},
        "count": new("page"),
        "sign_if_free": lambda rng, query: taken_or_free(rng, query) | new("page")(rng, query),
        "sign_unless_there": taken_or_free,
        "touch": lambda rng, query: (
            (args := for_reply(rng, query)) and args | new("page")(rng, query)
        ),
    }
    for (name, _), action in app.actions.items():
        action.sample(samples[name])
