"""A replica in a process of its own, which works until it is killed.

    python worker.py ADDRESS

Reads lines `PATH SEED PRUNES`, and for each forks a child that opens the replica in that file,
runs actions and reconciles, for ever. The child speaks to the server at ADDRESS, and tells
it of each run as soon as `run` has returned.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from itertools import count
from multiprocessing.connection import Client, Connection
from typing import Any

from tests.crashes.ledger import ITEMS, add, app, create, move, remove, sell

from synchrotron import Replica
from synchrotron.core.messages import (
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
    decode_answer,
    decode_chunks,
    encode,
)


class Pipe:
    """A transport over a connection to another process."""

    user = "alice"

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        self._connection.send(("exchange", encode(request)))
        return decode_answer(self._connection.recv())

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        self._connection.send(("snapshot", encode(request)))
        return decode_chunks(iter(self._connection.recv()))

    def wait(self, ms: int) -> None:
        pass


def act(replica: Replica, dice: random.Random) -> str | None:
    """Run one action; give its id if it did not raise."""
    item, other = dice.choice(ITEMS), dice.choice(ITEMS)
    run: Any
    try:
        match dice.randrange(8):
            case 0:
                run = replica.run(create, item=item)
            case 1 | 2 | 3:
                run = replica.run(add, item=item, by=dice.randrange(1, 9))
            case 4 | 5:
                run = replica.run(sell, item=item)
            case 6:
                run = replica.run(move, item=item, to=other)
            case _:
                run = replica.run(remove, item=item)
    except LookupError:
        return None
    return str(run.id)


def work(path: str, address: str, seed: int, *, prunes: bool) -> None:
    """Act and reconcile, until the end of this process."""
    connection = Client(address)
    dice = random.Random(seed)
    replica = app.open(path, transport=Pipe(connection))
    connection.send(("ready", None))
    for turn in count(1):
        id = act(replica, dice)
        if id is not None:
            connection.send(("ran", id))
        if dice.randrange(6) == 0:
            replica.sync()
        if prunes and turn % 16 == 0:
            replica.prune(keep=dice.randrange(20))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the killed are not waited for
    for line in sys.stdin:
        path, seed, prunes = line.rsplit(maxsplit=2)
        pid = os.fork()
        if not pid:
            work(path, sys.argv[1], int(seed), prunes=prunes == "1")
        print(pid, flush=True)


if __name__ == "__main__":
    main()
