"""How long a query takes while a replica takes in what others did.

Bob's replica takes in pages of Ann's actions in one thread, and asks for a row by its key in
another. Queries have a connection of their own and read the last commit: they wait for no
lock, but share Python's interpreter with the replay.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from benchmarks.measuring import tell
from benchmarks.reconcile import Pair

ACTIONS = 1_500
QUIET = 1_000
SQL = "SELECT * FROM todo WHERE id = ?"


def main() -> None:
    with TemporaryDirectory() as folder:
        pair = Pair(Path(folder), "bob")
        for _ in range(ACTIONS):
            pair.create(pair.ann)
        pair.ann.sync()

        def query_us() -> float:
            begin_ns = time.perf_counter_ns()
            pair.bob.query(SQL, ("1",))
            return (time.perf_counter_ns() - begin_ns) / 1_000

        quiet = [query_us() for _ in range(QUIET)]
        syncing = threading.Thread(target=pair.bob.sync)
        busy = []
        syncing.start()
        while syncing.is_alive():
            busy.append(query_us())
            time.sleep(0.001)  # as an application that draws, not one that only asks
        pair.close()
    tell(
        f"queries: by key, while {ACTIONS:,} actions are taken in",
        ["replica", "queries", "median us", "99th percentile us", "longest us"],
        [
            [name, len(us), median(us), quantiles(us, n=100)[98], max(us)]
            for name, us in (("at rest", quiet), ("taking in", busy))
        ],
    )


if __name__ == "__main__":
    main()
