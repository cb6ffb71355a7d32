"""What grows with rows: a new replica of 10,000, 100,000 and 1,000,000, and work in it.

The rows are in one project of one user, in PostgreSQL, and come over HTTP. Then the same work
is done in all of the replicas, in turns.

    python -m benchmarks.rows               # 10,000, 100,000 and 1,000,000
    python -m benchmarks.rows 1000 5000
"""

from __future__ import annotations

import itertools
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.application import app, create_todo
from benchmarks.filled import cluster, filled
from benchmarks.history import file_size
from benchmarks.http import SECRET, seconds, server_process_of
from benchmarks.measuring import in_turns, tell
from benchmarks.processors import Processors
from synchrotron import Replica
from synchrotron.server.tokens import sign

ROWS = (10_000, 100_000, 1_000_000)
TURNS = 50


def new_replica(
    opened: ExitStack, cluster: str, folder: Path, rows: int
) -> tuple[Replica, list[object]]:
    """A replica of so many rows, which goes on living; and what it took to get there."""
    begin_s = time.perf_counter()
    database = opened.enter_context(filled(cluster, users=["ann"], todos=rows))
    filled_s = time.perf_counter() - begin_s
    url, pid = opened.enter_context(server_process_of(database))
    token = sign(SECRET, "ann", time.time(), 3600)
    replica = opened.enter_context(app.open(folder / f"{rows}.db", server=url, token=token))
    processors = Processors(pid, database)
    before = processors.used()
    taken_s = seconds(replica.sync)
    used = processors.used().since(before)
    [row] = replica.query("SELECT count(*) AS n FROM todo")
    assert row["n"] == rows, f"{row['n']} of {rows} rows came"
    with psycopg.connect(database) as connection:
        [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or ()
    return replica, [
        rows,
        taken_s,
        rows / taken_s,
        used.server,
        used.postgres,
        processors.server_mb(),
        file_size(replica) / rows,
        size / rows,
        rows / filled_s,
    ]


def some_ids(replica: Replica) -> list[str]:
    """From all over the table, as random ids are."""
    found = replica.query("SELECT id FROM todo ORDER BY random() LIMIT ?", (TURNS * 10,))
    return [row["id"] for row in found]


def main(sizes: tuple[int, ...] = ROWS) -> None:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        url = opened.enter_context(cluster())
        made = [new_replica(opened, url, folder, rows) for rows in sizes]
        replicas = {str(rows): replica for rows, (replica, _) in zip(sizes, made, strict=True)}
        runs = in_turns(TURNS, times=10, **{n: creating(r) for n, r in replicas.items()})
        queries = in_turns(TURNS, times=10, **{n: asking(r) for n, r in replicas.items()})
        for replica in replicas.values():
            replica.sync()
        syncs = in_turns(TURNS, **{n: r.sync for n, r in replicas.items()})
    tell(
        "rows: a new replica of so many rows, over HTTP and PostgreSQL",
        ["rows", "s", "rows/s", "server s", "postgres s", "server MB", "replica B each",
         "database B each", "adopted/s"],
        [row for _, row in made],
    )  # fmt: skip
    first = str(sizes[0])
    tell(
        "rows-work: the same work among so many rows",
        ["rows", "run us", "ratio", "query by key us", "ratio ", "sync without news us", "ratio  "],
        [
            [
                rows,
                *itertools.chain(*((t[name], t[name] / t[first]) for t in (runs, queries, syncs))),
            ]
            for rows, name in zip(sizes, map(str, sizes), strict=True)
        ],
    )


def creating(replica: Replica) -> Callable[[], object]:
    return lambda: replica.run(create_todo, id=str(uuid.uuid4()), project_id="p1")


def asking(replica: Replica) -> Callable[[], object]:
    ids = itertools.cycle(some_ids(replica))
    return lambda: replica.query("SELECT * FROM todo WHERE id = ?", (next(ids),))


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or ROWS)
