"""Cost follows the divergence: the same work behind short and long histories, in turns.

Two replicas of one project, all history above their floors, a server in memory. Each turn
one replica runs an action and syncs; the other, which has run one after it, takes it in
before its own, and sends that. `benchmarks.reconcile` has actions that must be undone.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.testing import MemoryServer

HISTORIES = (1_000, 50_000)
BATCH = 5_000
ROUNDS = 60


class World:
    """Two replicas in step, behind a history of so many actions."""

    def __init__(self, folder: Path, history: int) -> None:
        self.ids = map(str, itertools.count())
        self.now_ms = 1_000_000
        sets = {user: {"project:p1"} for user in ("alice", "bob")}
        server = MemoryServer(app, sets, clock=self.clock)
        self.ann, self.bob = (
            app.open(
                folder / f"{user}-{history}.db", transport=server.connect(user), clock=self.clock
            )
            for user in sets
        )
        self.ann.sync()
        self.bob.sync()
        self.ann.run(create_project, id="p1")
        for i in range(1, history):
            self.create(self.ann)
            if i % BATCH == 0:
                self.ann.sync()
                self.bob.sync()
        self.settle()

    def clock(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def create(self, replica: Replica) -> None:
        replica.run(create_todo, id=next(self.ids), project_id="p1")

    def settle(self) -> None:
        self.ann.sync()
        self.bob.sync()
        self.ann.sync()

    def diverge(self) -> None:
        """Bob's action comes first, and is synced; Ann's is pending."""
        self.settle()
        self.create(self.bob)
        self.create(self.ann)
        self.bob.sync()

    def close(self) -> None:
        self.ann.close()
        self.bob.close()


def main() -> None:
    with TemporaryDirectory() as folder:
        worlds = {history: World(Path(folder), history) for history in HISTORIES}
        runs = in_turns(1_000, **{str(h): lambda w=w: w.create(w.ann) for h, w in worlds.items()})
        reconciled: dict[str, list[float]] = {str(history): [] for history in worlds}
        for _ in range(ROUNDS):
            for history, world in worlds.items():
                world.diverge()
                once = in_turns(1, sync=world.ann.sync)
                reconciled[str(history)].append(once["sync"])
        medians = {name: sorted(times)[len(times) // 2] for name, times in reconciled.items()}
        for world in worlds.values():
            world.close()
    short, long = map(str, HISTORIES)
    tell(
        f"divergence: medians of {ROUNDS} turns, on files, the server in memory",
        ["work", f"behind {short}, us", f"behind {long}, us", "ratio"],
        [
            ["reconcile 1 + 1", medians[short], medians[long], medians[long] / medians[short]],
            ["run", runs[short], runs[long], runs[long] / runs[short]],
        ],
    )


if __name__ == "__main__":
    main()
