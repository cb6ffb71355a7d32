"""The application: projects with issues, labels and comments, and everyone's private drafts."""

from __future__ import annotations

import msgspec

from synchrotron import App, Context

app = App(
    "issues",
    schema="""
        CREATE TABLE project (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || id) STORED
        );
        CREATE TABLE project_member (
            project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
            user_id TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED,
            PRIMARY KEY (project_id, user_id)
        );
        CREATE TABLE label (
            project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED,
            PRIMARY KEY (project_id, name)
        );
        CREATE TABLE issue (
            id TEXT PRIMARY KEY,
            project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            title TEXT NOT NULL CHECK (title <> ''),
            body TEXT NOT NULL,
            author TEXT NOT NULL,
            opened_at TIMESTAMP NOT NULL,
            closed_by TEXT,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
        );
        CREATE INDEX issue_by_number ON issue (project_id, number);
        CREATE TABLE issue_label (
            issue_id TEXT NOT NULL REFERENCES issue (id) ON DELETE CASCADE,
            label TEXT NOT NULL,
            project_id TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED,
            PRIMARY KEY (issue_id, label),
            FOREIGN KEY (project_id, label) REFERENCES label (project_id, name)
        );
        CREATE INDEX issue_label_by_label ON issue_label (project_id, label);
        CREATE TABLE comment (
            id TEXT PRIMARY KEY,
            issue_id TEXT NOT NULL REFERENCES issue (id) ON DELETE CASCADE,
            project_id TEXT NOT NULL,
            author TEXT NOT NULL,
            text TEXT NOT NULL,
            at TIMESTAMP NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
        );
        CREATE INDEX comment_by_issue ON comment (issue_id, at);
        CREATE TABLE draft (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            title TEXT NOT NULL,
            body TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('user:' || owner) STORED
        );
        CREATE TABLE desk (
            user_id TEXT PRIMARY KEY,
            audience_key TEXT GENERATED ALWAYS AS ('user:' || user_id) STORED
        );
    """,
    # A desk makes its user the one member of the audience in which their drafts are.
    audiences="""
        SELECT user_id, audience_key FROM project_member
        UNION ALL SELECT user_id, audience_key FROM desk
    """,
    policies="""
        CREATE POLICY own_desk ON desk FOR INSERT WITH CHECK (user_id = synchrotron.user_id());
        CREATE POLICY own_drafts ON draft FOR INSERT WITH CHECK (owner = synchrotron.user_id());
    """,
    # For the search field: what this replica sees, by words.
    local="""
        CREATE VIRTUAL TABLE issue_text USING fts5 (id UNINDEXED, title, body);
        CREATE TRIGGER issue_text_added AFTER INSERT ON issue BEGIN
            INSERT INTO issue_text VALUES (new.id, new.title, new.body);
        END;
        CREATE TRIGGER issue_text_removed AFTER DELETE ON issue BEGIN
            DELETE FROM issue_text WHERE id = old.id;
        END;
    """,
)


class AlreadyClosed(Exception):
    """Somebody else closed it first."""


class NewIssue(msgspec.Struct):
    """An issue that is imported, with its labels and comments."""

    title: str
    body: str
    author: str
    labels: list[str] = []
    comments: list[tuple[str, str]] = []
    """Author and text of each."""
    closed_by: str | None = None


@app.action(audience="user:{user}")
def take_desk(ctx: Context, *, user: str) -> None:
    ctx.execute("INSERT INTO desk (user_id) VALUES (?)", (user,))


@app.action(audience="project:{project_id}")
def create_project(
    ctx: Context, *, project_id: str, name: str, members: list[str], labels: list[str]
) -> None:
    ctx.execute("INSERT INTO project (id, name) VALUES (?, ?)", (project_id, name))
    ctx.executemany(
        "INSERT INTO project_member (project_id, user_id) VALUES (?, ?)",
        [(project_id, user) for user in sorted({ctx.user, *members})],
    )
    ctx.executemany(
        "INSERT INTO label (project_id, name) VALUES (?, ?)",
        [(project_id, label) for label in labels],
    )


@app.action(audience="project:{project_id}")
def import_issues(ctx: Context, *, project_id: str, issues: list[NewIssue]) -> None:
    """Many issues at once, with all that belongs to them."""
    first = next_number(ctx, project_id)
    ids = [ctx.new_id("issue", position) for position in range(len(issues))]
    ctx.executemany(
        """
        INSERT INTO issue (id, project_id, number, title, body, author, opened_at, closed_by)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            (id, project_id, number, new.title, new.body, new.author, ctx.now, new.closed_by)
            for number, (id, new) in enumerate(zip(ids, issues, strict=True), first)
        ],
    )
    ctx.executemany(
        "INSERT INTO issue_label (issue_id, label, project_id) VALUES (?, ?, ?)",
        [
            (id, label, project_id)
            for id, new in zip(ids, issues, strict=True)
            for label in new.labels
        ],
    )
    ctx.executemany(
        """
        INSERT INTO comment (id, issue_id, project_id, author, text, at)
        VALUES (?, ?, ?, ?, ?, ?)
        """,
        [
            (ctx.new_id("comment", id, position), id, project_id, author, text, ctx.now)
            for id, new in zip(ids, issues, strict=True)
            for position, (author, text) in enumerate(new.comments)
        ],
    )


@app.action(audience="project:{project_id}")
def open_issue(ctx: Context, *, project_id: str, title: str, body: str = "") -> str:
    issue = ctx.new_id("issue")
    ctx.execute(
        """
        INSERT INTO issue (id, project_id, number, title, body, author, opened_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (issue, project_id, next_number(ctx, project_id), title, body, ctx.user, ctx.now),
    )
    return issue


def next_number(ctx: Context, project_id: str) -> int:
    """For people to read. It may be another after a replay: what refers to an issue has its id."""
    [row] = ctx.execute(
        "SELECT coalesce(max(number), 0) + 1 AS next FROM issue WHERE project_id = ?", (project_id,)
    )
    return int(row["next"])


@app.action(audience="project:{project_id}")
def add_comment(ctx: Context, *, project_id: str, issue: str, text: str) -> None:
    ctx.execute(
        "INSERT INTO comment (issue_id, project_id, author, text, at) VALUES (?, ?, ?, ?, ?)",
        (issue, project_id, ctx.user, text, ctx.now),
    )


@app.action(audience="project:{project_id}")
def add_label(ctx: Context, *, project_id: str, issue: str, label: str) -> None:
    ctx.execute(
        """
        INSERT INTO issue_label (issue_id, label, project_id) VALUES (?, ?, ?)
        ON CONFLICT DO NOTHING
        """,
        (issue, label, project_id),
    )


@app.action(audience="project:{project_id}")
def close_issue(ctx: Context, *, project_id: str, issue: str) -> None:
    found = ctx.execute("SELECT closed_by FROM issue WHERE id = ?", (issue,))
    if not found:
        raise LookupError("there is no such issue any more")
    [row] = found
    if row["closed_by"] is not None:
        raise AlreadyClosed(f"{row['closed_by']} has closed it already")
    ctx.execute("UPDATE issue SET closed_by = ? WHERE id = ?", (ctx.user, issue))


@app.action(audience="user:{owner}")
def save_draft(ctx: Context, *, owner: str, title: str, body: str) -> str:
    draft = ctx.new_id("draft")
    ctx.execute(
        "INSERT INTO draft (id, owner, title, body) VALUES (?, ?, ?, ?)",
        (draft, owner, title, body),
    )
    return draft


@app.action(audience=["user:{owner}", "project:{project_id}"])
def publish_draft(
    ctx: Context, *, owner: str, project_id: str, draft: str, title: str, body: str
) -> str:
    """Move a draft into a project. Others replay it and do not see the draft: so it brings all."""
    ctx.execute("DELETE FROM draft WHERE id = ? AND owner = ?", (draft, owner))
    return open_issue(ctx, project_id=project_id, title=title, body=body)
