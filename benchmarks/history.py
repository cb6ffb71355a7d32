"""What grows with history: the same work behind 1,000, 10,000 and 100,000 actions.

Two servers with a database each, over HTTP into durable PostgreSQL: one stays young, one gets
the history. Whatever is measured is measured on both, in turns. Then what does grow: late
actions on one row with ever more patches, what an action takes on the disk, and folding it all.

    python -m benchmarks.history                # 1,000, 10,000 and 100,000
    python -m benchmarks.history 1000 5000
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.application import create_project, create_todo, rename
from benchmarks.http import (
    USERS,
    World,
    create,
    database_in_a_cluster,
    over_http,
    seconds,
    server_process,
)
from benchmarks.measuring import in_turns, tell
from benchmarks.server import download, exchange, late_and_last_ms
from synchrotron import Replica
from synchrotron.server.postgres import PostgresAuthority
from synchrotron.server.retention import BATCH_MAX

HISTORIES = (1_000, 10_000, 100_000)
PER_UPLOAD = 5_000
TURNS = 40
LATE = 20
PATCHES = (1, 100, 1_000, 10_000)
LATE_ON_A_ROW = 5
SQL = "SELECT * FROM todo WHERE id = ?"
SIZES = """
    SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid)
    FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = %s::regnamespace
    ORDER BY pg_total_relation_size(c.oid) DESC
"""


class Place:
    """A server with its database, and three replicas in step: two of Ann, one of Bob."""

    def __init__(self, world: World, database: str) -> None:
        self.world, self.database = world, database
        self.ann, self.bob, self.asker = (world.replica(user) for user in ("ann", "bob", "ann"))

    def grow(self, count: int) -> None:
        """Put so many more actions into the history."""
        self.settle()
        for done in range(0, count, PER_UPLOAD):
            create(self.ann, min(PER_UPLOAD, count - done))
            exchange(self.ann)
        self.settle()

    def settle(self) -> None:
        for replica in (self.ann, self.bob, self.asker, self.ann):
            replica.sync()

    def reconcile_ms(self) -> float:
        """Ann's pending action comes before one of Bob's, which she has not heard of."""
        self.settle()
        create(self.ann, 1)
        create(self.bob, 1)
        self.bob.sync()
        return seconds(self.ann.sync) * 1000

    def query(self) -> object:
        return self.ann.query(SQL, ("1",))

    def run(self) -> None:
        create(self.ann, 1)


@contextmanager
def places() -> Iterator[tuple[Place, Place]]:
    """One that stays young, and one that gets the history."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        made = []
        for name in ("young", "old"):
            database = opened.enter_context(database_in_a_cluster(folder / name))
            world = over_http(folder, opened.enter_context(server_process(database)))
            opened.callback(world.close)
            first = world.replica("ann")
            first.run(create_project, id="p1", members=list(USERS))
            first.sync()
            made.append(Place(world, database))
        young, old = made
        yield young, old


# ---- what must not grow ------------------------------------------------------------------


def asleep(place: Place) -> Replica:
    """A replica that has run something, and sleeps while history grows."""
    replica = place.world.replica("cid")
    create(replica, LATE)
    return replica


def rates(place: Place, sleeper: Replica, came: int) -> list[float]:
    """How many actions a second can be put into the history, and taken in by who missed all."""
    [before] = sleeper.query("SELECT count(*) AS n FROM todo")
    grow_s = seconds(lambda: place.grow(came))
    take_s = seconds(lambda: download(sleeper))
    [after] = sleeper.query("SELECT count(*) AS n FROM todo")
    return [came / grow_s, (after["n"] - before["n"]) / take_s]


def behind(young: Place, old: Place, sleeper: Replica, history: int) -> list[list[object]]:
    """Milliseconds of each work behind a history, and without one.

    A late action, behind all of the history, is compared with one that comes last there.
    """
    runs = in_turns(TURNS, times=10, young=young.run, old=old.run)
    young.settle()
    old.settle()
    queries = in_turns(TURNS, times=10, young=young.query, old=old.query)
    noops = in_turns(TURNS, young=young.asker.sync, old=old.asker.sync)
    pairs = [(young.reconcile_ms(), old.reconcile_ms()) for _ in range(TURNS)]
    young_ms, old_ms = (median(times) for times in zip(*pairs, strict=True))
    last_ms, late_ms = late_and_last_ms(sleeper, LATE)
    found = {
        "run": (runs["old"] / 1000, runs["young"] / 1000),
        "query by key": (queries["old"] / 1000, queries["young"] / 1000),
        "sync without news": (noops["old"] / 1000, noops["young"] / 1000),
        "reconcile 1 + 1": (old_ms, young_ms),
        "a late action": (late_ms, last_ms),
    }
    return [[work, history, *both, both[0] / both[1]] for work, both in found.items()]


# ---- what does ---------------------------------------------------------------------------


def late_on_a_row(place: Place) -> list[list[float]]:
    """How long an action takes that comes before all but the first patch of a row."""
    rows = []
    for patches in PATCHES:
        id = f"row of {patches}"
        place.ann.run(create_todo, id=id, project_id="p1")
        place.settle()
        sleeper = place.world.replica("cid")

        def name(replica: Replica, text: str, id: str = id) -> None:
            replica.run(rename, id=id, text=text, project_id="p1")

        for n in range(LATE_ON_A_ROW):
            name(sleeper, f"late {n}")
        for n in range(patches):
            name(place.ann, f"{n}")
        place.ann.sync()
        last, late = late_and_last_ms(sleeper, LATE_ON_A_ROW, lambda replica: name(replica, "last"))
        rows.append([patches, late, last, late / last])
        place.settle()
    return rows


def sizes(place: Place) -> list[list[object]]:
    """Bytes an action, of each of the server's tables, of its indexes, and of a replica's file."""
    with psycopg.connect(place.database) as connection:
        [actions] = connection.execute("SELECT count(*) FROM synchrotron.actions").fetchone() or ()
        rows: list[list[object]] = [
            [f"{schema}.{name}", actions, table / actions, indexes / actions]
            for schema in ("synchrotron", "public")
            for name, table, indexes in connection.execute(SIZES, (schema,)).fetchall()
            if table + indexes > 10 * actions
        ]
    return [*rows, ["a replica's file", actions, file_size(place.bob) / actions, 0.0]]


def pruned(database: str) -> list[list[object]]:
    """Fold the history into the rows, a batch at a time: so long must uploads wait for it."""

    async def prune_all() -> tuple[int, float]:
        async with PostgresAuthority(database) as authority:
            begin_s = time.perf_counter()
            count = await authority.prune(keep=0)
            return count, time.perf_counter() - begin_s

    count, taken_s = asyncio.run(prune_all())
    batches = math.ceil(count / BATCH_MAX)
    return [[count, batches, taken_s, count / taken_s, taken_s / batches]]


def file_size(replica: Replica) -> int:
    """Of a replica's file, with all of it in one place."""
    [row] = replica.query(
        "SELECT page_count * page_size AS n FROM pragma_page_count, pragma_page_size"
    )
    return int(row["n"])


def main(histories: tuple[int, ...] = HISTORIES) -> None:
    works: list[list[object]] = []
    filled: list[list[object]] = []
    bytes_each: list[list[object]] = []
    with places() as (young, old):
        sleepers = [asleep(old) for _ in histories]
        for (before, history), sleeper in zip(pairwise((0, *histories)), sleepers, strict=True):
            filled.append([history, *rates(old, sleeper, history - before)])
            works += behind(young, old, sleeper, history)
            bytes_each += sizes(old)
        on_a_row = late_on_a_row(young)
        folded = pruned(old.database)
    tell(
        "history: the same work behind a history, over HTTP and PostgreSQL",
        ["work", "actions", "ms", "ms without", "ratio"],
        works,
    )
    tell(
        "history-rates: filling it, and a replica that missed all of it",
        ["actions", "run and uploaded, and taken in by two, per s", "taken in by another, per s"],
        filled,
    )
    tell(
        "history-row: an action that comes before others on the same row",
        ["patches after it", "late ms", "last ms", "ratio"],
        on_a_row,
    )
    tell(
        "history-bytes: what an action takes, with one row in each",
        ["table", "actions", "bytes of the table", "bytes of its indexes"],
        bytes_each,
    )
    tell(
        f"history-pruned: folding the history into the rows, at most {BATCH_MAX:,} at a time",
        ["actions", "batches", "s", "actions/s", "s a batch"],
        folded,
    )


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or HISTORIES)
