"""The application that is measured: todos in projects, one row an action."""

from __future__ import annotations

from collections.abc import Sequence

from synchrotron import App, Context

app = App(
    "bench",
    schema="""
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
        CREATE INDEX project_member_by_user ON project_member (user_id);
        CREATE TABLE todo (
            id TEXT PRIMARY KEY,
            project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
            text TEXT NOT NULL,
            done BOOLEAN NOT NULL DEFAULT FALSE,
            due TIMESTAMP,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
        );
    """,
    audiences="SELECT user_id, audience_key FROM project_member",
)


@app.action(audience="project:{id}")
def create_project(ctx: Context, *, id: str, members: Sequence[str] = ()) -> None:
    ctx.execute("INSERT INTO project (id, name) VALUES (?, ?)", (id, "a project"))
    ctx.executemany(
        "INSERT INTO project_member (id, project_id, user_id) VALUES (?, ?, ?)",
        [(ctx.new_id("project_member"), id, user) for user in members],
    )


@app.action(audience="project:{project_id}")
def add_member(ctx: Context, *, project_id: str, user: str) -> None:
    ctx.execute(
        "INSERT INTO project_member (id, project_id, user_id) VALUES (?, ?, ?)",
        (ctx.new_id("project_member"), project_id, user),
    )


@app.action(audience="project:{project_id}")
def create_todo(ctx: Context, *, id: str, project_id: str) -> None:
    ctx.execute(
        "INSERT INTO todo (id, project_id, text) VALUES (?, ?, ?)", (id, project_id, "Buy milk")
    )


@app.action(audience="project:{project_id}")
def create_todos(ctx: Context, *, count: int, project_id: str) -> None:
    """Many rows in one action."""
    rows = [(ctx.new_id("todo"), project_id, "Buy milk") for _ in range(count)]
    ctx.executemany("INSERT INTO todo (id, project_id, text) VALUES (?, ?, ?)", rows)


@app.action(audience="project:{project_id}")
def finish(ctx: Context, *, id: str, project_id: str) -> None:
    ctx.execute("UPDATE todo SET done = TRUE WHERE id = ?", (id,))


@app.action(audience="project:{project_id}")
def rename(ctx: Context, *, id: str, text: str, project_id: str) -> None:
    ctx.execute("UPDATE todo SET text = ? WHERE id = ?", (text, id))
