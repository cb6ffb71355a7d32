"""Reconciling m own actions with n others', and what of it is the replica's share.

Two replicas of one project and a server in memory. Ann has uploaded n actions, Bob has run m
that lie between them; then Bob syncs, or, in turns, a Bob who leaves nothing in place does.
The replica's share is asking and taking in: the rest of a sync is the server's.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo
from benchmarks.measuring import tell
from synchrotron import Replica
from synchrotron.testing import MemoryServer

SIZES = (1, 100, 1_000)
HISTORIES = (1_000, 10_000, 100_000)
BEHIND = (1, 100, 1_000)
"""So many with as many, behind each history. What was reconciled is history from then on."""
TURNS = {1: 30, 100: 7, 1_000: 3}
BATCH = 5_000


class Pair:
    """Ann and Bob, in step."""

    def __init__(self, folder: Path, name: str, *, replay_all: bool = False) -> None:
        self._ids = map(str, itertools.count())
        self._now_ms = itertools.count(1_000_000).__next__
        server = MemoryServer(app, {u: {"project:p1"} for u in ("ann", "bob")}, clock=self._now_ms)
        self.ann, self.bob = (
            app.open(
                folder / f"{user}-{name}.db",
                transport=server.connect(user),
                clock=self._now_ms,
                replay_all=replay_all,
            )
            for user in ("ann", "bob")
        )
        self.ann.sync()
        self.bob.sync()
        self.ann.run(create_project, id="p1")
        self.settle()

    def settle(self) -> None:
        for replica in (self.ann, self.bob, self.ann):
            replica.sync()

    def grow(self, history: int) -> None:
        """Put so many actions behind what is to be reconciled."""
        for done in range(0, history, BATCH):
            for _ in range(min(BATCH, history - done)):
                self.create(self.ann)
            self.settle()

    def create(self, replica: Replica) -> None:
        replica.run(create_todo, id=next(self._ids), project_id="p1")

    def reconcile(self, m: int, n: int) -> tuple[float, float]:
        """Milliseconds in all, and of them the replica's."""
        mine, its = iter(range(m)), iter(range(n))
        for one, other in itertools.zip_longest(its, mine):
            if one is not None:
                self.create(self.ann)
            if other is not None:
                self.create(self.bob)
        self.ann.sync()
        all_ms, share_ms = sync_ms(self.bob)
        self.settle()
        return all_ms, share_ms

    def close(self) -> None:
        self.ann.close()
        self.bob.close()


def sync_ms(replica: Replica) -> tuple[float, float]:
    """As `Replica.sync` does it, with a look at the clock on both sides of the transport."""
    engine, transport = replica._engine, replica._syncing.transport
    assert transport is not None
    share_s, upload, again = 0.0, True, True
    begin_s = time.perf_counter()
    while again:
        before_s = time.perf_counter()
        request = engine.ask(upload=upload)
        share_s += time.perf_counter() - before_s
        answer = transport.exchange(request)
        before_s = time.perf_counter()
        following = engine.take(request, answer).next
        share_s += time.perf_counter() - before_s
        again, upload = following.again, following.upload
    return (time.perf_counter() - begin_s) * 1_000, share_s * 1_000


@contextmanager
def pairs(*names: str) -> Iterator[dict[str, Pair]]:
    with TemporaryDirectory() as folder:
        made = {name: Pair(Path(folder), name, replay_all=name == "all") for name in names}
        try:
            yield made
        finally:
            for pair in made.values():
                pair.close()


def main() -> None:
    sizes()
    histories()


def sizes() -> None:
    rows = []
    for m, n in itertools.product(SIZES, SIZES):
        with pairs("in place", "all") as made:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
            for _ in range(TURNS[max(m, n)]):
                for name, pair in made.items():
                    found[name].append(pair.reconcile(m, n))
        total_ms, share_ms = (median(times) for times in zip(*found["in place"], strict=True))
        _, all_ms = (median(times) for times in zip(*found["all"], strict=True))
        rows.append([f"{m:,} + {n:,}", total_ms, share_ms, all_ms, all_ms / share_ms])
    tell(
        "reconcile: own actions with others', server in memory",
        ["own + others'", "in all ms", "replica ms", "replaying all ms", "ratio"],
        rows,
    )


def histories() -> None:
    """Behind each history, in turns with the same behind the first of them."""
    rows = []
    with pairs("short", "long") as made:
        made["short"].grow(HISTORIES[0])
        grown = 0
        for history in HISTORIES:
            made["long"].grow(history - grown)
            grown = history
            for size in BEHIND:
                found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
                for _ in range(TURNS[size]):
                    for name, pair in made.items():
                        found[name].append(pair.reconcile(size, size))
                (_, short_ms), (total_ms, share_ms) = (
                    tuple(median(ms) for ms in zip(*times, strict=True)) for times in found.values()
                )
                work = f"{size:,} + {size:,}"
                rows.append([work, history, total_ms, share_ms, short_ms, share_ms / short_ms])
    tell(
        "reconcile-behind: the same behind a history, server in memory",
        ["work", "actions", "in all ms", "replica ms", f"behind {HISTORIES[0]:,} ms", "ratio"],
        rows,
    )


if __name__ == "__main__":
    main()
