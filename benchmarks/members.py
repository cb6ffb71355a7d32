"""What grows with memberships: an action that adds one, and one that adds a todo, among many.

So many users are in ten projects each. The exchange of an action that changes who is a member
is measured in turns with that of one that does not, and with a sync without news; this also
once the index is gone by which a user's memberships are found.

    python -m benchmarks.members              # 1,000, 10,000 and 100,000 memberships
    python -m benchmarks.members 100 1000
"""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.application import add_member, app, create_todo
from benchmarks.filled import cluster, filled
from benchmarks.http import SECRET, server_process
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.server.tokens import sign

MEMBERSHIPS = (1_000, 10_000, 100_000)
PROJECTS = 10
TURNS = 15
_ids = map(str, itertools.count())


def add_todo(replica: Replica) -> None:
    replica.run(create_todo, id=next(_ids), project_id="p1")
    replica.sync()


def add_someone(replica: Replica) -> None:
    replica.run(add_member, project_id="p1", user=f"new{next(_ids)}")
    replica.sync()


def measure(cluster: str, memberships: int) -> list[object]:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        users = [f"user{n}" for n in range(memberships // PROJECTS)]
        database = opened.enter_context(filled(cluster, users=users, projects=PROJECTS))
        url = opened.enter_context(server_process(database))
        token = sign(SECRET, users[0], time.time(), 3600)
        replica = opened.enter_context(app.open(folder / "replica.db", server=url, token=token))
        replica.sync()
        times_us = in_turns(
            TURNS,
            noop=replica.sync,
            todo=lambda: add_todo(replica),
            member=lambda: add_someone(replica),
        )
        with psycopg.connect(database) as connection:
            connection.execute("DROP INDEX project_member_by_user")
        unindexed = in_turns(TURNS, noop=replica.sync)["noop"] / 1000
    noop, todo, member = (us / 1000 for us in times_us.values())
    return [memberships, noop, todo, member, member / todo, unindexed]


def main(sizes: tuple[int, ...] = MEMBERSHIPS) -> None:
    with cluster() as url:
        rows = [measure(url, memberships) for memberships in sizes]
    tell(
        "members: an exchange among so many memberships, over HTTP and PostgreSQL",
        ["memberships", "without news, ms", "adding a todo, ms", "adding a member, ms", "ratio",
         "without news and without an index, ms"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or MEMBERSHIPS)
