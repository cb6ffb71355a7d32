"""How long an upload holds the counter, which numbers the commits of all: so many fit a second.

One replica uploads 1, 100 or 5,000 actions at a time, while a connection beside it looks again
and again whether the row is locked. Held for a part of all looks is held for that part of the
time. It is held until the commit is on the disk, and no second process makes it shorter.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from benchmarks.application import create_project
from benchmarks.http import USERS, create, database_in_a_cluster, over_http, server_process
from benchmarks.measuring import in_turns, tell
from benchmarks.server import exchange
from synchrotron import Replica

UPLOADS = {1: 400, 100: 60, 5_000: 6}
TURNS = 20
COMMITS = (1_000, 10_000)
COMMITTING = """
    DO $$ BEGIN FOR i IN 1..{count} LOOP
        UPDATE synchrotron.counter SET seq = seq; COMMIT;
    END LOOP; END $$
"""
LOOK_EVERY_S = 0.0005
# To read the counter takes an AccessShareLock; to lock its row a stronger one.
IS_LOCKED = """
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE relation = 'synchrotron.counter'::regclass AND mode <> 'AccessShareLock'
    )
"""


class Looks:
    """How often the counter was found locked."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._ends = threading.Event()
        self._found: list[bool] = []

    def __enter__(self) -> Looks:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def begin(self) -> None:
        """Forget what was found so far."""
        self._found.clear()

    @property
    def locked(self) -> float:
        """In which part of the looks."""
        return sum(self._found) / len(self._found)

    def _look(self) -> None:
        with psycopg.connect(self._database, autocommit=True) as connection:
            while not self._ends.wait(LOOK_EVERY_S):
                [locked] = connection.execute(IS_LOCKED).fetchone() or (False,)
                self._found.append(locked)


def measure(replica: Replica, database: str, actions: int, uploads: int) -> list[object]:
    with Looks(database) as looks:
        time.sleep(0.5)  # it is connected
        looks.begin()
        begin_s = time.perf_counter()
        for _ in range(uploads):
            create(replica, actions)
            exchange(replica)
        taken_ms = (time.perf_counter() - begin_s) * 1000 / uploads
        held_ms = taken_ms * looks.locked
    return [actions, taken_ms, held_ms, 1000 / held_ms, actions * 1000 / held_ms]


def behind_a_reader(replica: Replica, database: str) -> list[list[object]]:
    """A sync without news and an upload, while someone reads for long, as a snapshot does.

    What is replaced meanwhile is kept for the reader, also all versions of the counter.
    """

    def upload() -> None:
        create(replica, 1)
        replica.sync()

    rows: list[list[object]] = []

    def add(name: str) -> None:
        us = in_turns(TURNS, noop=replica.sync, upload=upload)
        [size] = busy.execute("SELECT pg_relation_size('synchrotron.counter')").fetchone() or (0,)
        rows.append([name, us["noop"] / 1000, us["upload"] / 1000, size / 1000])

    with psycopg.connect(database) as reader, psycopg.connect(database) as busy:
        busy.autocommit = True
        add("nobody reads")
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT FROM synchrotron.counter")
        for commits in COMMITS:
            busy.execute(COMMITTING.format(count=commits).encode())
            add(f"someone reads, and {commits:,} commits came since")
        reader.rollback()
        upload()
        add("they have ended")
    return rows


def main() -> None:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        database = opened.enter_context(database_in_a_cluster(folder))
        world = over_http(folder, opened.enter_context(server_process(database)))
        opened.callback(world.close)
        replica = world.replica("ann")
        replica.run(create_project, id="p1", members=list(USERS))
        replica.sync()
        reading = behind_a_reader(replica, database)
        rows = [measure(replica, database, *size) for size in UPLOADS.items()]
    tell(
        "counter: how long an upload holds the counter",
        ["actions", "run and uploaded, ms", "held ms", "commits/s at most", "actions/s at most"],
        rows,
    )
    tell(
        "counter-read: the counter's versions that a long reader keeps",
        ["meanwhile", "sync without news, ms", "upload of 1, ms", "the counter's table, kB"],
        reading,
    )


if __name__ == "__main__":
    main()
