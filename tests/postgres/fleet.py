"""Server processes and replica processes for tests, over sockets of this machine.

    python -m tests.postgres.fleet serve DATABASE SOCKET
    python -m tests.postgres.fleet work SOCKETS FOLDER SEED REPLICAS ACTIONS

Replicas run so many actions each, or, for 0, as many as they can until FOLDER holds `stop`.

A message is its length in 4 bytes and its JSON. A request opens with the user and what it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.crashes.ledger import ITEMS, add, app, create, move, remove, sell

from synchrotron import Replica
from synchrotron.core.messages import (
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
    decode_answer,
    decode_chunks,
    decode_request,
    decode_snapshot_request,
    encode,
)
from synchrotron.errors import Offline, SynchrotronError
from synchrotron.server.postgres import PostgresAuthority

HEADER = 4
OFFLINE_MAX = 2000
"""So often may a server be away before its replicas give up."""
USERS = ("alice", "bob", "carol", "dave")


class Call(msgspec.Struct):
    """One request on its way to a server process."""

    user: str
    what: str
    body: bytes


# ---- the server's side ----------------------------------------------------------------


async def serve(database: str, path: str) -> None:
    async with PostgresAuthority(database) as authority:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    size = int.from_bytes(await reader.readexactly(HEADER))
                    call = msgspec.json.decode(await reader.readexactly(size), type=Call)
                    for message in await _answers(authority, call):
                        writer.write(len(message).to_bytes(HEADER) + message)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_unix_server(answer, path)
        print("ready", flush=True)
        await server.serve_forever()


async def _answers(authority: PostgresAuthority, call: Call) -> list[bytes]:
    """The messages of an answer, and an empty one; or none, where it failed."""
    try:
        if call.what == "exchange":
            answers: list[Any] = [await authority.sync(call.user, decode_request(call.body))]
        else:
            request = decode_snapshot_request(call.body)
            answers = [chunk async for chunk in authority.snapshot(call.user, request)]
    except Offline as error:
        return [b"!" + str(error).encode()]
    return [*map(encode, answers), b""]


# ---- the replica's side ---------------------------------------------------------------


class Wire:
    """A transport to whichever server process answers. Counts the kinds of answers."""

    def __init__(self, sockets: list[str], user: str, dice: random.Random) -> None:
        self.user = user
        self._sockets = sockets
        self._dice = dice
        self._socket: socket.socket | None = None
        self.kinds: Counter[str] = Counter()

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        [answer] = self._call("exchange", encode(request))
        decoded = decode_answer(answer)
        self.kinds[type(decoded).__name__] += 1
        return decoded

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        return decode_chunks(iter(self._call("snapshot", encode(request))))

    def wait(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def _call(self, what: str, body: bytes) -> list[bytes]:
        try:
            return self._ask(msgspec.json.encode(Call(self.user, what, body)))
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            raise Offline(str(error)) from error

    def _ask(self, message: bytes) -> list[bytes]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(60)
            self._socket.connect(self._dice.choice(self._sockets))
        self._socket.sendall(len(message).to_bytes(HEADER) + message)
        answers: list[bytes] = []
        while answer := self._receive(int.from_bytes(self._receive(HEADER))):
            if answer.startswith(b"!"):
                raise OSError(answer.decode())
            answers.append(answer)
        return answers

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        received = b""
        while len(received) < size:
            more = self._socket.recv(size - len(received))
            if not more:
                raise OSError("the server has gone")
            received += more
        return received


class Worker:
    """One replica that acts and syncs."""

    def __init__(self, sockets: list[str], path: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.wire = Wire(sockets, USERS[seed % len(USERS)], self.dice)
        self.replica: Replica = app.open(path, transport=self.wire)
        self.ran: list[str] = []
        self.rounds_max = 0
        self.offline = 0

    def work(self, actions: int, stop: Path) -> None:
        done = 0
        while done < actions or (actions == 0 and not stop.exists()):
            self.act()
            done += 1
            if self.dice.randrange(3) == 0:
                self.sync()
            if actions == 0:
                time.sleep(0.02)
        self.sync()

    def act(self) -> None:
        item, other = self.dice.choice(ITEMS), self.dice.choice(ITEMS)
        run: Any
        try:
            match self.dice.randrange(8):
                case 0 | 1:
                    run = self.replica.run(create, item=item)
                case 2 | 3:
                    run = self.replica.run(add, item=item, by=self.dice.randrange(1, 9))
                case 4 | 5:
                    run = self.replica.run(sell, item=item)
                case 6:
                    run = self.replica.run(move, item=item, to=other)
                case _:
                    run = self.replica.run(remove, item=item)
        except LookupError:
            return
        self.ran.append(run.id)

    def sync(self) -> None:
        """Until in step, however often the server is away."""
        while True:
            try:
                report = self.replica.sync()
            except Offline:
                self.offline += 1
                if self.offline > OFFLINE_MAX:
                    os._exit(1)
                time.sleep(0.05)
            else:
                self.rounds_max = max(self.rounds_max, report.rounds)
                return

    def report(self) -> dict[str, Any]:
        outcomes = Counter(self.replica.outcome(id).state for id in self.ran)
        return {
            "ran": self.ran,
            "kinds": self.wire.kinds,
            "rounds_max": self.rounds_max,
            "offline": self.offline,
            "outcomes": outcomes,
        }


def work(sockets: list[str], folder: Path, seed: int, replicas: int, actions: int) -> None:
    """Replicas at once, each in a thread; then the reports, a line of JSON each."""
    everyone_has = told_by_parent()
    workers = [Worker(sockets, folder / f"{seed + i}.db", seed + i) for i in range(replicas)]
    threads = [threading.Thread(target=w.work, args=(actions, folder / "stop")) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("worked", flush=True)
    everyone_has.wait()
    for worker in workers:
        worker.sync()
        print(msgspec.json.encode(worker.report()).decode(), flush=True)
        worker.replica.close()


def told_by_parent() -> threading.Event:
    """Set by a line from the parent. A process whose parent has died ends."""
    told = threading.Event()

    def listen() -> None:
        while sys.stdin.readline():
            told.set()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return told


def main() -> None:
    match sys.argv[1:]:
        case ["serve", database, path]:
            logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # killed all the time
            told_by_parent()
            try:
                asyncio.run(serve(database, path))
            except Offline:  # PostgreSQL was killed: whoever started this starts it again
                os._exit(1)
        case ["work", sockets, folder, seed, replicas, actions]:
            try:
                work(sockets.split(","), Path(folder), int(seed), int(replicas), int(actions))
            except SynchrotronError as error:
                print(f"failed: {error!r}", flush=True)
                os._exit(1)


if __name__ == "__main__":
    main()
