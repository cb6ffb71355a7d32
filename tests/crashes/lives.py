"""Many lives of one replica, each ended by `kill -9` at a random moment.

    python -m tests.crashes.lives --lives 1000 --seed 7

The replica works in a process of its own (`worker`), against a server in this one, beside
a second replica here. After each death the file is opened and looked at before it syncs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import apsw
from tests.crashes.ledger import ITEMS, add, app, create, sell

from synchrotron import Replica
from synchrotron.core.messages import decode_request, decode_snapshot_request, encode
from synchrotron.testing import MemoryServer
from synchrotron.testing.oracle import serial_tables, tables_of

LIFE_MS_MAX = 50
LIVES_OF_A_FILE = 3
ROOT = Path(__file__).parents[2]


class Failed(AssertionError):
    """What was found after a death violates an invariant."""


class Workers:
    """Where children are forked from, with everything imported already."""

    def __init__(self, address: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.worker", address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, path: Path, seed: int, *, prunes: bool) -> int:
        """Start a child; give its process id."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{path} {seed} {int(prunes)}\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        self._parent.communicate()


class Life:
    """One child, from its connection to its death."""

    def __init__(self, server: MemoryServer, connection: Connection[Any, Any]) -> None:
        self.ready = threading.Event()
        self.ran: list[str] = []
        self.failure: BaseException | None = None
        self._server = server
        self._connection = connection
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                self._answer(*self._connection.recv())
        except (EOFError, ConnectionError):
            pass  # killed; what it sent before was read first
        except BaseException as error:
            self.failure = error
        finally:
            self.ready.set()
            self._connection.close()

    def _answer(self, kind: str, what: Any) -> None:
        match kind:
            case "ready":
                self.ready.set()
            case "ran":
                self.ran.append(what)
            case "exchange":
                answer = self._server.sync("alice", decode_request(what))
                self._connection.send(encode(answer))
            case "snapshot":
                chunks = self._server.snapshot("alice", decode_snapshot_request(what))
                self._connection.send([encode(chunk) for chunk in chunks])

    def end(self, pid: int) -> None:
        if not self._thread.is_alive():
            raise Failed("the replica's process ended by itself")
        os.kill(pid, signal.SIGKILL)
        self._thread.join()
        if self.failure is not None:
            raise Failed("the server could not answer") from self.failure


class World:
    """A file that is worked on in several lives, its server, and another replica."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.file = folder / f"{seed}.db"
        self.dice = random.Random(seed)
        self.prunes = seed % 2 == 0
        everyone = {"alice": {"all"}, "bob": {"all"}}
        self.server = MemoryServer(app, everyone)
        self.other = app.open(":memory:", transport=self.server.connect("bob"))
        self.ran: list[str] = []

    def live(self, workers: Workers, listener: Listener) -> None:
        """One life, with conflicting work elsewhere, and its sudden end."""
        pid = workers.fork(self.file, self.dice.randrange(2**32), prunes=self.prunes)
        life = Life(self.server, listener.accept())
        if not life.ready.wait(60):
            raise Failed("the replica did not come up")
        ends_s = time.monotonic() + self.dice.random() * LIFE_MS_MAX / 1000
        while time.monotonic() < ends_s:
            self.work_elsewhere()
        life.end(pid)
        self.ran += life.ran

    def work_elsewhere(self) -> None:
        item = self.dice.choice(ITEMS)
        try:
            match self.dice.randrange(4):
                case 0:
                    self.other.run(create, item=item)
                case 1:
                    self.other.run(add, item=item, by=1)
                case 2:
                    self.other.run(sell, item=item)
                case _:
                    self.other.sync()
        except LookupError:
            pass
        time.sleep(self.dice.random() / 200)

    # ---- what is found afterwards ---------------------------------------------------

    def look(self) -> None:
        """What must hold of the file as the killed process left it."""
        check_file(self.file)
        with app.open(self.file, transport=self.server.connect("alice")) as replica:
            outcomes = {outcome.id: outcome for outcome in replica.outcomes()}
            self._nothing_lost(outcomes)
            self._nothing_sent_before_it_was_durable(replica, outcomes)
            self._rows_are_what_its_log_gives(replica)

    def _nothing_lost(self, outcomes: dict[Any, Any]) -> None:
        if lost := [id for id in self.ran if id not in outcomes]:
            raise Failed(f"runs that had returned are gone: {lost}")

    def _nothing_sent_before_it_was_durable(
        self, replica: Replica, outcomes: dict[Any, Any]
    ) -> None:
        client = replica._engine.state().client_id
        own = [record for record in self.server.history if record.client_id == client]
        if unknown := [record.id for record in own if record.id not in outcomes]:
            raise Failed(f"the server has what the file has not (O7): {unknown}")

    def _rows_are_what_its_log_gives(self, replica: Replica) -> None:
        if replica._engine.state().floor is None:
            want = serial_tables(app, replica.log())
            have = tables_of(replica._engine.store)
            if have != want:
                raise Failed(f"half of something (A1, S1):\n  has  {have}\n  want {want}")

    def settle(self) -> None:
        """After its last life: all in step, everything accepted once, and serial."""
        with app.open(self.file, transport=self.server.connect("alice")) as replica:
            for one in (replica, self.other, replica, self.other):
                one.sync()
            outcomes = {outcome.id: outcome for outcome in replica.outcomes()}
            self._nothing_lost(outcomes)
            if waiting := [o for o in outcomes.values() if o.seq is None]:
                raise Failed(f"the queue does not empty: {waiting}")
            want = serial_tables(app, self.server.history)
            for one in (replica, self.other):
                if tables_of(one._engine.store) != want:
                    raise Failed(f"{one} diverged (S7)")
        seeds = [record.seed for record in self.server.history]
        ids = {record.id for record in self.server.history}
        if not len(seeds) == len(set(seeds)) == len(ids):
            raise Failed("an action was accepted twice")
        if missing := set(self.ran) - ids:
            raise Failed(f"runs that had returned were never accepted: {sorted(missing)}")

    def close(self) -> None:
        self.other.close()


def check_file(file: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    connection = apsw.Connection(str(file))
    # Reading the tables for the check needs no function of ours.
    found = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    if found != [("ok",)]:
        raise Failed(f"{file} is damaged: {found}")


def live_and_die(lives: int, seed: int) -> Counter[str]:
    """So many lives, a new file after some. Raises `Failed`."""
    counts: Counter[str] = Counter(files=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Listener(str(folder / "server")) as listener:
            workers = Workers(str(folder / "server"))
            try:
                for first in range(0, lives, LIVES_OF_A_FILE):
                    world = World(folder, seed + counts["files"])
                    counts["files"] += 1
                    for _ in range(min(LIVES_OF_A_FILE, lives - first)):
                        world.live(workers, listener)
                        world.look()
                        counts["lives"] += 1
                    world.settle()
                    counts["runs"] += len(world.ran)
                    counts["accepted"] += len(world.server.history)
                    world.close()
            finally:
                workers.close()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lives", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    try:
        counts = live_and_die(options.lives, options.seed)
    except Failed as failure:
        print(f"failed: {failure}")
        return 1
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), "and all holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
