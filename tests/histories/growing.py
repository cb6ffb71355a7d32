"""Random histories of an application that grows: replicas of every version, side by side.

    python growing.py --seeds 0:300

There are three versions. Each replica starts with one of them, and its file is opened by a
newer one at any moment, with actions pending; the server is migrated at any moment too. In
the end everyone syncs as they are, and each must hold what the server has, as far as its
schema goes; then all are upgraded, and all must hold all, which is what the newest version
gives for all actions in order (S7).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from synchrotron import App, Context, Replica
from synchrotron.errors import Blocked, CannotUndo, SynchrotronError
from synchrotron.testing.memory_server import MemoryServer
from synchrotron.testing.oracle import serial_tables, tables_of

Step = tuple[int, int, int, int]
SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
"""
MIGRATIONS = (
    """
    ALTER TABLE item ADD COLUMN colour TEXT NOT NULL DEFAULT 'plain';
    ALTER TABLE item ADD COLUMN price NUMERIC(8, 2) DEFAULT 1.5;
    ALTER TABLE item ADD COLUMN twin TEXT REFERENCES item (id) ON DELETE SET NULL;
    """,
    """
    CREATE TABLE label (
        id TEXT PRIMARY KEY,
        item_id TEXT REFERENCES item (id) ON DELETE SET NULL,
        text TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
    ALTER TABLE item ADD COLUMN loud BOOLEAN NOT NULL DEFAULT FALSE;
    CREATE INDEX label_item ON label (item_id);
    """,
)
NEWEST = len(MIGRATIONS)
ITEMS = ("a", "b", "c")
ROUNDS_MAX = 40
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""In memory where there is such a folder: what is flushed here outlives nothing."""


class Failed(AssertionError):
    """An oracle is violated."""


@cache
def make_app(version: int) -> App:
    """The application as it was after so many migrations. Old actions stay beside new ones."""
    app = App("growing", schema=SCHEMA, migrations=MIGRATIONS[:version])
    action = app.action

    @action(audience="all")
    def create(ctx: Context, *, item: str) -> None:
        ctx.execute("INSERT OR IGNORE INTO item (id, n) VALUES (?, 0)", (item,))

    @action(audience="all")
    def add(ctx: Context, *, item: str) -> None:
        ctx.execute("UPDATE item SET n = n + 1 WHERE id = ?", (item,))

    @action(audience="all")
    def pour(ctx: Context, *, item: str) -> None:
        """What it does depends on every row that is there."""
        total = ctx.execute("SELECT coalesce(sum(n), 0) AS n FROM item")[0]["n"]
        ctx.execute("UPDATE item SET n = ? WHERE id = ?", (total + 1, item))

    @action(audience="all")
    def drop(ctx: Context, *, item: str) -> None:
        ctx.execute("DELETE FROM item WHERE id = ?", (item,))

    if version >= 1:

        @action(name="add", version=2, audience="all")
        def add_and_paint(ctx: Context, *, item: str) -> None:
            ctx.execute("UPDATE item SET n = n + 1, colour = colour || n WHERE id = ?", (item,))

        @action(audience="all")
        def paint(ctx: Context, *, item: str) -> None:
            rows = ctx.execute("SELECT n, price FROM item WHERE id = ?", (item,))
            for row in rows:
                ctx.execute(
                    "UPDATE item SET colour = ?, price = price + 1 WHERE id = ?",
                    (f"red {row['n']}", item),
                )

        @action(audience="all")
        def tie(ctx: Context, *, item: str) -> None:
            ctx.execute("UPDATE item SET twin = (SELECT min(id) FROM item) WHERE id = ?", (item,))

    if version >= 2:

        @action(audience="all")
        def label(ctx: Context, *, item: str) -> None:
            if ctx.execute("SELECT 1 AS there FROM item WHERE id = ?", (item,)):
                text = str(ctx.execute("SELECT count(*) AS n FROM label")[0]["n"])
                ctx.execute("INSERT INTO label (item_id, text) VALUES (?, ?)", (item, text))

        @action(audience="all")
        def shout(ctx: Context, *, item: str) -> None:
            ctx.execute("UPDATE item SET loud = NOT loud WHERE id = ?", (item,))

    return app


@dataclass
class Peer:
    """A replica of some version, on a file."""

    user: str
    path: str
    version: int
    replica: Replica


class World:
    """One history as it runs."""

    def __init__(self, *, trace: bool = False) -> None:
        self.trace = trace
        self.now_ms = 1_000_000
        self.dice = random.Random(7)
        self.apps = [make_app(version) for version in range(NEWEST + 1)]
        self.served = 0
        users = ("ann", "bob", "cyd", "dee")
        sets = {user: {"all"} for user in users}
        self.server = MemoryServer(self.apps[0], sets, self.clock, entropy=self.dice.randbytes)
        self.folder = tempfile.TemporaryDirectory(dir=FOLDER)
        self.made: dict[str, Peer] = {}
        self.seen: Counter[str] = Counter()
        # The last one has all code from the beginning, and so can correct what others cannot.
        self.peers = [
            self.join(user, at) for at, user in zip((0, 0, 1, NEWEST), users, strict=True)
        ]

    def clock(self) -> int:
        return self.now_ms

    def join(self, user: str, version: int) -> Peer:
        path = f"{self.folder.name}/{user}.db"
        return Peer(user, path, version, self.open(user, path, version))

    def open(self, user: str, path: str, version: int) -> Replica:
        return self.apps[version].open(
            path,
            transport=self.server.connect(user),
            clock=self.clock,
            entropy=self.dice.randbytes,
        )

    # ---- steps --------------------------------------------------------------------

    def step(self, step: Step) -> None:
        kind, who, x, y = step
        self.now_ms += (0, 1, 1, 5, 30)[(kind + x) % 5]
        peer = self.peers[who % len(self.peers)]
        if kind < 55:
            self.act(peer, x, y)
        elif kind < 60:
            self.undo(peer, x)
        elif kind < 90:
            self.sync(peer)
        elif kind < 96:
            self.upgrade(peer)
        elif self.served < NEWEST:
            self.serve(self.served + 1)

    def act(self, peer: Peer, x: int, y: int) -> None:
        names = ["create", "create", "add", "pour", "drop", "paint", "paint", "label", "shout"]
        names += ["tie", "add 2"]
        name, _, version = names[x % len(names)].partition(" ")
        action = self.apps[peer.version].actions.get((name, int(version or 1)))
        if action is not None:
            run = peer.replica.run(action, item=ITEMS[y % 3])
            self.made[run.id] = peer
            self.say(peer, f"{name} {version} {ITEMS[y % 3]} -> {run.id[-6:]}")

    def undo(self, peer: Peer, x: int) -> None:
        log = peer.replica.log()
        if log:
            try:
                run = peer.replica.undo(log[-1 - x % min(len(log), 4)].id)
            except CannotUndo as error:
                self.say(peer, f"cannot undo: {error}")
            else:
                self.made[run.id] = peer
                self.say(peer, f"undoes {log[-1 - x % min(len(log), 4)].id[-6:]}: {run.result}")

    def sync(self, peer: Peer) -> None:
        try:
            report = peer.replica.sync()
        except Blocked as error:
            if peer.version <= self.served:
                raise Failed(f"{peer.user} is blocked: {error}") from error
            self.seen["blocked"] += 1
            return
        if peer.version > self.served:
            raise Failed(f"{peer.user} is ahead of the server, and was let in (S11)")
        self.seen.update(replayed=report.replayed, corrected=report.corrected)
        self.seen.update(rebased=report.rebased, parked=report.parked)
        self.say(peer, f"syncs: {report}")

    def upgrade(self, peer: Peer) -> None:
        if peer.version == NEWEST:
            return
        before = [(o.id, o.state) for o in peer.replica.outcomes()], len(peer.replica.log())
        peer.replica.close()
        peer.version += 1
        peer.replica = self.open(peer.user, peer.path, peer.version)
        after = [(o.id, o.state) for o in peer.replica.outcomes()], len(peer.replica.log())
        if before != after:
            raise Failed(f"{peer.user} lost history by a migration: {before} {after}")
        self.seen["upgraded"] += 1
        self.seen["pending"] += any(state == "pending" for _, state in after[0])
        self.say(peer, f"is version {peer.version} now")

    def serve(self, version: int) -> None:
        self.server.install(self.apps[version])
        self.served = version
        if self.trace:
            print(f"server is version {version} now")

    # ---- the end ------------------------------------------------------------------

    def settle(self) -> None:
        for _ in range(ROUNDS_MAX):
            before = self.server._state.seq
            for peer in self.peers:
                self.now_ms += 1
                self.sync(peer)
            if self.server._state.seq == before:
                return
        raise Failed("corrections go on for ever (S4)")

    def check(self, when: str) -> None:
        for peer in self.peers:
            self.check_holds(peer, when)
        self.check_nothing_lost()

    def check_holds(self, peer: Peer, when: str) -> None:
        """A replica holds what the server has, as far as its schema goes (S8, S11)."""
        have = tables_of(peer.replica._engine.store)
        want = {
            name: [{column: _stored(row[column]) for column in rows} for row in self.rows(name)]
            for name, rows in self.columns(peer).items()
        }
        if have != want:
            raise Failed(f"{peer.user} diverged {when}:\n  has  {have}\n  want {want}")

    def columns(self, peer: Peer) -> dict[str, list[str]]:
        tables = self.apps[peer.version].schema.tables
        return {name: [c.name for c in table.all_columns] for name, table in tables.items()}

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.server.rows(table)

    def check_nothing_lost(self) -> None:
        accepted = {record.id for record in self.server.history}
        for id, peer in self.made.items():
            state = peer.replica.outcome(id).state
            if (id in accepted) == (state in ("parked", "pending", "discarded")):
                raise Failed(f"{id} of {peer.user} is {state}")

    def check_serial(self) -> None:
        want = serial_tables(self.apps[NEWEST], self.server.history)
        have = tables_of(self.peers[-1].replica._engine.store)
        if have != want:
            raise Failed(f"not serial (S7):\n  has  {have}\n  want {want}")

    def say(self, peer: Peer, what: str) -> None:
        if self.trace:
            print(f"{peer.user} ({peer.version}): {what}")


def _stored(value: Any) -> Any:
    """A value of the server's rows as replicas hold it."""
    return value if isinstance(value, str | int | None) else float(value)


def play(steps: Sequence[Step], *, trace: bool = False) -> World:
    """Run a history to its end. Raises `Failed`."""
    world = World(trace=trace)
    try:
        for step in steps:
            world.step(step)
        world.serve(NEWEST)
        world.settle()
        world.check("side by side")
        for peer in world.peers:
            while peer.version < NEWEST:
                world.upgrade(peer)
        world.settle()
        world.check("in the end")
        world.check_serial()
    finally:
        for peer in world.peers:
            peer.replica.close()
        world.folder.cleanup()
    return world


def random_steps(seed: int) -> list[Step]:
    dice = random.Random(seed)
    return [
        (dice.randrange(100), dice.randrange(60), dice.randrange(60), dice.randrange(60))
        for _ in range(dice.randint(10, 60))
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:100", help="from:to")
    parser.add_argument("--trace", action="store_true", help="tell every step")
    options = parser.parse_args()
    for seed in range(*map(int, options.seeds.split(":"))):
        try:
            play(random_steps(seed), trace=options.trace)
        except (Failed, SynchrotronError, AssertionError) as failure:
            print(f"seed {seed}: {failure!r:.3000}")
            return 1
    print("all histories hold every oracle")
    return 0


if __name__ == "__main__":
    sys.exit(main())
