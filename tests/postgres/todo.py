"""The application of these tests: projects with members and todos, some of them owned."""

from __future__ import annotations

from synchrotron import App, Context

SCHEMA = """
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
        owner TEXT,
        done BOOLEAN NOT NULL DEFAULT FALSE,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
    );
"""
AUDIENCES = "SELECT user_id, audience_key FROM project_member"
OWNERS_EDIT = """
    CREATE POLICY owners_edit ON todo FOR UPDATE
        USING (owner IS NULL OR owner = synchrotron.user_id())
        WITH CHECK (true);
"""


def make_app(policies: str | None = None, schema: str = SCHEMA) -> App:
    app = App("todo", schema=schema, audiences=AUDIENCES, policies=policies)

    @app.action
    def create_project(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO project (id, name) VALUES (?, ?)", (id, id))
        join(ctx, id, ctx.user)

    @app.action(audience="project:{project}")
    def invite(ctx: Context, *, project: str, user: str) -> None:
        join(ctx, project, user)

    @app.action(audience="project:{project}")
    def leave(ctx: Context, *, project: str) -> None:
        ctx.execute(
            "DELETE FROM project_member WHERE project_id = ? AND user_id = ?", (project, ctx.user)
        )

    @app.action(audience="project:{project}")
    def create_todo(ctx: Context, *, project: str, id: str, owner: str | None = None) -> None:
        ctx.execute(
            "INSERT INTO todo (id, project_id, text, owner) VALUES (?, ?, ?, ?)",
            (id, project, id, owner),
        )

    @app.action(audience="project:{project}")
    def edit(ctx: Context, *, project: str, id: str, text: str) -> None:
        ctx.execute("UPDATE todo SET text = ? WHERE id = ?", (text, id))

    @app.action(audience="project:{project}")
    def give(ctx: Context, *, project: str, id: str, to: str) -> None:
        ctx.execute("UPDATE todo SET owner = ? WHERE id = ?", (to, id))

    @app.action(audience="project:{project}")
    def remove(ctx: Context, *, project: str, id: str) -> None:
        ctx.execute("DELETE FROM todo WHERE id = ?", (id,))

    return app


def join(ctx: Context, project: str, user: str) -> None:
    key = f"{project}-{user}"
    ctx.execute(
        "INSERT INTO project_member (id, project_id, user_id) VALUES (?, ?, ?)",
        (key, project, user),
    )
