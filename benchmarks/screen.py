"""From a run to the rows on a screen: a live query on another replica, woken by events.

Two replicas keep in step in the background, and a live query waits for its rows on the one
that is told, beside one that does so on the writer's own replica. Of the time between, each of
the two waits 10 ms on purpose (`GATHER_S`), so that what follows closely goes together.

    python -m benchmarks.screen        # 100 runs each
    python -m benchmarks.screen 10
"""

from __future__ import annotations

import sys
import time
from statistics import median, quantiles

from benchmarks.http import World, create, worlds
from benchmarks.measuring import tell
from synchrotron import Replica
from synchrotron.replica.background import GATHER_S

RUNS = 100
PAUSE_S = 0.05
"""Nobody types without a pause; and what came before is over."""
SQL = "SELECT count(*) AS n FROM todo"


def to_screen_ms(writer: Replica, reader: Replica, runs: int) -> list[float]:
    """From each run on one replica until a live query on the other has its row."""
    times_ms = []
    with reader.live(SQL) as screen:
        [row] = next(screen)
        for _ in range(runs):
            time.sleep(PAUSE_S)
            begin_s = time.perf_counter()
            create(writer, 1)
            expected = row["n"] + 1
            while row["n"] < expected:
                [row] = next(screen)
            times_ms.append((time.perf_counter() - begin_s) * 1000)
    return times_ms


def measure(world: World, runs: int) -> tuple[list[float], list[float]]:
    """On the writer's own screen, and on another replica's."""
    writer, reader = world.replica("ann"), world.replica("bob")
    own_ms = to_screen_ms(writer, writer, runs)
    writer.sync()
    reader.sync()
    with writer.syncing(), reader.syncing():
        to_screen_ms(writer, reader, 1)  # both listen
        return own_ms, to_screen_ms(writer, reader, runs)


def main(runs: int = RUNS) -> None:
    with worlds() as made:
        found = {name: measure(world, runs) for name, world in made.items()}
    rows = [
        [name, median(other), quantiles(other, n=20)[-1], max(other), median(own),
         median(other) / (2 * GATHER_S * 1000)]
        for name, (own, other) in found.items()
    ]  # fmt: skip
    tell(
        f"screen: from a run to a live query's rows, {runs} each",
        ["server", "median ms", "95th percentile ms", "longest ms", "own screen ms",
         "of what is waited on purpose"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
