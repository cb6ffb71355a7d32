"""A shared to-do list: its tables, who sees them, and everything that can be done to them.

This is the whole of the application but for its screen. It runs on every replica; the server
knows the tables and the `audiences` query, and none of the code.
"""

from synchrotron import App, Context, Row

app = App(
    "todo",
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
        CREATE TABLE todo (
            id TEXT PRIMARY KEY,
            project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
            text TEXT NOT NULL,
            done_by TEXT,
            made_at TIMESTAMP NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
        );
    """,
    # Whoever is a member of a project sees its rows and may write them; nobody else does.
    audiences="SELECT user_id, audience_key FROM project_member",
)


class Refused(Exception):
    """A rule of the list. Where one is broken on replay, the action's author is told."""


@app.action
def create_project(ctx: Context, *, name: str) -> str:
    project = ctx.new_id("project")
    ctx.execute("INSERT INTO project (id, name) VALUES (?, ?)", (project, name))
    join(ctx, project, ctx.user)
    return project


@app.action(audience="project:{project}")
def invite(ctx: Context, *, project: str, user: str) -> None:
    """Add a member. Their replicas receive the project with their next sync."""
    if user in members(ctx, project):
        raise Refused(f"{user} is a member already")
    join(ctx, project, user)


@app.action(audience="project:{project}")
def add(ctx: Context, *, project: str, text: str) -> str:
    todo = ctx.new_id("todo")
    ctx.execute(
        "INSERT INTO todo (id, project_id, text, made_at) VALUES (?, ?, ?, ?)",
        (todo, project, text, ctx.now),
    )
    return todo


@app.action(audience="project:{project}")
def finish(ctx: Context, *, project: str, todo: str) -> None:
    """Only the first who finishes a todo has finished it, whoever syncs first."""
    done_by = find(ctx, todo)["done_by"]
    if done_by is not None:
        raise Refused(f"{done_by} had done it already")
    ctx.execute("UPDATE todo SET done_by = ? WHERE id = ?", (ctx.user, todo))


@app.action(audience="project:{project}")
def reopen(ctx: Context, *, project: str, todo: str) -> None:
    find(ctx, todo)
    ctx.execute("UPDATE todo SET done_by = NULL WHERE id = ?", (todo,))


@app.action(audience="project:{project}")
def reword(ctx: Context, *, project: str, todo: str, text: str) -> None:
    find(ctx, todo)
    ctx.execute("UPDATE todo SET text = ? WHERE id = ?", (text, todo))


@app.action(audience="project:{project}")
def remove(ctx: Context, *, project: str, todo: str) -> None:
    find(ctx, todo)
    ctx.execute("DELETE FROM todo WHERE id = ?", (todo,))


# ---- what the actions share; helpers are ordinary functions -------------------------------


def join(ctx: Context, project: str, user: str) -> None:
    # The id is derived from both: the same member twice is the same row, on every replica.
    ctx.execute(
        "INSERT INTO project_member (id, project_id, user_id) VALUES (?, ?, ?)",
        (f"{project}/{user}", project, user),
    )


def members(ctx: Context, project: str) -> list[str]:
    rows = ctx.execute("SELECT user_id FROM project_member WHERE project_id = ?", (project,))
    return [row["user_id"] for row in rows]


def find(ctx: Context, todo: str) -> Row:
    rows = ctx.execute("SELECT text, done_by FROM todo WHERE id = ?", (todo,))
    if not rows:
        raise Refused("somebody had removed it")
    return rows[0]
