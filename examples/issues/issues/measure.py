"""python -m issues.measure: what a large data set costs, as a table.

The server is in this process (`MemoryServer`), or with --postgres the one that `synchrotron dev`
starts: PostgreSQL and HTTP, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from issues.app import add_comment, app, close_issue, open_issue
from issues.data import fill, projects
from synchrotron import Replica
from synchrotron.testing import MemoryServer

Open = Callable[[str], Replica]
"""Opens a replica of a user, in a file of its own."""

SHARED = projects()[0]
TURNS = 20
OFFLINE = 100
"""Actions that each of two users runs before they meet."""
QUERIES = {
    "the 50 newest open issues of a project, with their comments counted": (
        """
        SELECT number, title, author,
            (SELECT count(*) FROM comment WHERE issue_id = issue.id) AS comments
        FROM issue WHERE project_id = :project AND closed_by IS NULL
        ORDER BY number DESC LIMIT 50
        """
    ),
    "open issues by label, over all projects": """
        SELECT label, count(*) AS issues FROM issue_label
        JOIN issue ON issue.id = issue_id WHERE closed_by IS NULL GROUP BY label ORDER BY label
    """,
    "a search for two words (FTS5)": (
        "SELECT title FROM issue_text WHERE issue_text MATCH 'crashes train' LIMIT 50"
    ),
    "one issue with its comments": """
        SELECT text, comment.author FROM issue JOIN comment ON issue_id = issue.id
        WHERE issue.project_id = :project AND number = 7 ORDER BY at
    """,
}


class Figure(NamedTuple):
    what: str
    measured: str


def measure(open_replica: Open, folder: Path, count: int, turns: int = TURNS) -> Iterator[Figure]:
    """Fill a replica, and take the figures one after another, each as a median of so many turns."""
    alice = open_replica("alice")
    begin_s = time.perf_counter()
    size = fill(alice, count, user="alice")
    rows = rows_of(alice)
    took_s = time.perf_counter() - begin_s
    yield Figure(
        f"{size.issues:,} issues, {size.comments:,} comments, {size.labels:,} labels, "
        f"{size.drafts:,} private drafts, by {len(alice.log()):,} actions",
        f"{took_s:.1f} s, {rows / took_s:,.0f} rows a second",
    )
    took_s = seconds(alice.sync)
    yield Figure("all of it to the server", f"{took_s:.1f} s, {rows / took_s:,.0f} rows a second")
    bob = open_replica("bob")
    took_s = seconds(bob.sync)
    yield Figure(
        "a new replica of bob, who is in every other project",
        f"{took_s:.1f} s, {rows_of(bob):,} rows, {megabytes(folder / 'bob.db'):.1f} MB",
    )
    for what, sql in QUERIES.items():
        yield Figure(what, milliseconds(turns, partial(bob.query, sql, {"project": SHARED})))
    yield Figure("a live query, from a comment to its rows here", live_here(bob, turns))
    comment = partial(comment_and_sync, alice)
    yield Figure("a comment, run and synced", milliseconds(turns, comment))
    yield Figure("one comment taken in", milliseconds(turns, bob.sync, before=comment))
    yield Figure(f"{OFFLINE} actions each, offline, then in step", meeting(alice, bob))
    yield Figure(
        "a live query, from a comment here to its rows there", live_there(alice, bob, turns)
    )
    alice.close()
    bob.close()


def rows_of(replica: Replica) -> int:
    counted = (f"SELECT count(*) AS n FROM {table}" for table in app.schema.tables)
    return sum(replica.query(sql)[0]["n"] for sql in counted)


def megabytes(file: Path) -> float:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*")) / 1e6


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def milliseconds(turns: int, work: Callable[[], object], before: Callable[[], object] = int) -> str:
    """The median of some turns."""
    times_s = []
    for _ in range(turns):
        before()
        times_s.append(seconds(work))
    return f"{statistics.median(times_s) * 1000:.2f} ms"


def an_issue(replica: Replica) -> str:
    rows = replica.query("SELECT id FROM issue WHERE project_id = ? AND number = 7", (SHARED,))
    return str(rows[0]["id"])


def comment_and_sync(replica: Replica) -> None:
    replica.run(add_comment, project_id=SHARED, issue=an_issue(replica), text="Here too.")
    replica.sync()


def live_here(replica: Replica, turns: int) -> str:
    issue = an_issue(replica)
    comments = replica.live("SELECT id FROM comment WHERE issue_id = ?", (issue,))
    next(comments)

    def comment() -> None:
        replica.run(add_comment, project_id=SHARED, issue=issue, text="Once more.")
        next(comments)

    found = milliseconds(turns, comment)
    comments.close()
    return found


def live_there(alice: Replica, bob: Replica, turns: int) -> str:
    """Both are kept in step in the background."""
    issue = an_issue(alice)
    with alice.syncing(), bob.syncing():
        alice.run(add_comment, project_id=SHARED, issue=issue, text="And now?").wait(60)
        comments = bob.live("SELECT id FROM comment WHERE issue_id = ?", (issue,))
        seen = len(next(comments))

        def comment() -> None:
            nonlocal seen
            alice.run(add_comment, project_id=SHARED, issue=issue, text="And now?")
            while len(rows := next(comments)) <= seen:
                pass
            seen = len(rows)

        found = milliseconds(turns, comment)
        comments.close()
    return found


def meeting(alice: Replica, bob: Replica) -> str:
    """Both open issues and close the same ones, and then they meet."""
    alice.sync()
    bob.sync()
    both = bob.query(
        "SELECT id FROM issue WHERE project_id = ? AND closed_by IS NULL ORDER BY number LIMIT ?",
        (SHARED, OFFLINE // 2),
    )
    for row in both:
        for replica in (alice, bob):
            replica.run(close_issue, project_id=SHARED, issue=row["id"])
            replica.run(open_issue, project_id=SHARED, title="Another one")
    begin_s = time.perf_counter()
    reports = [replica.sync() for replica in (alice, bob, alice)]
    took_s = time.perf_counter() - begin_s
    replayed = sum(report.replayed for report in reports)
    late = sum(o.state == "rejected" for replica in (alice, bob) for o in replica.outcomes())
    return f"{took_s:.2f} s, {replayed} replayed, {late} closed by the other"


# ---- where the server is -----------------------------------------------------------------


@contextmanager
def in_process(folder: Path) -> Iterator[Open]:
    server = MemoryServer(app)
    yield lambda user: app.open(folder / f"{user}.db", transport=server.connect(user))


@contextmanager
def on_postgres(folder: Path) -> Iterator[Open]:
    """What `synchrotron dev` starts; it prints a token of each user."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "synchrotron", "dev", "issues.app:app", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(folder)},  # new data each time
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    tokens: dict[str, str] = {}
    try:
        for line in process.stdout:
            if line.startswith("token"):
                _, _, user, token = line.split()
                tokens[user.rstrip(":")] = token
            if line.startswith("replica = "):
                break
        time.sleep(1)  # it serves at once after that
        url = f"http://127.0.0.1:{port}"
        yield lambda user: app.open(folder / f"{user}.db", server=url, token=tokens[user])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m issues.measure", description=__doc__)
    parser.add_argument("--issues", type=int, default=20_000, help="how many; 20000 if left out")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL and HTTP")
    options = parser.parse_args()
    where = on_postgres if options.postgres else in_process
    table = Table("", "measured", title="Issues", title_justify="left")
    console = Console()
    with TemporaryDirectory() as name, where(Path(name)) as open_replica:
        for figure in measure(open_replica, Path(name), options.issues):
            table.add_row(*figure)
            console.print(f"{figure.what}: {figure.measured}", style="dim")
    console.print(table)


if __name__ == "__main__":
    main()
