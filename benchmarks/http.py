"""Over HTTP, end to end: the server in a process of its own, tokens, JSON, zstd and all.

Each figure stands beside the same work in process, and the two are measured in turns. The
server's history is in memory, so what is told is the price of the wire and of a replica.
`python -m benchmarks.http serve MEMBERS` is that process.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo, create_todos
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.server.asgi import asgi
from synchrotron.server.serving import Serving
from synchrotron.server.tokens import sign
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_authority import MemoryAuthority

SECRET = "a secret for benchmarks, of 32 bytes or more"
USERS = ("ann", "bob", "cid")
NOOPS = 200
UPLOAD = 1_000
DOWNLOAD = 5_000
SNAPSHOT = 100_000
TURNS = 5
LATENCIES = 50

_ids = map(str, itertools.count())


def serve() -> None:
    """Serve a history in memory, whose address is the first line."""
    server = MemoryServer(app, {user: {"project:p1"} for user in USERS})
    options = {"jwt_secret": SECRET, "requests_per_minute": 10**9, "actions_max": 10**6}
    serving = Serving(asgi(authority=MemoryAuthority(server), **options), "127.0.0.1", 0)

    def tell_address() -> None:
        while not serving.started:
            time.sleep(0.01)
        print(f"http://127.0.0.1:{serving.port}", flush=True)

    threading.Thread(target=tell_address, daemon=True).start()
    serving.run()


class World:
    """Replicas of one server, which is reached in process or over HTTP."""

    def __init__(self, folder: Path, open_for: Callable[[Path, str], Replica]) -> None:
        self._folder = folder
        self._open = open_for
        self._opened: list[Replica] = []

    def replica(self, user: str) -> Replica:
        """A new replica, in step."""
        replica = self._open(self._folder / f"{next(_ids)}.db", user)
        self._opened.append(replica)
        replica.sync()
        return replica

    def close(self) -> None:
        for replica in self._opened:
            replica.close()


@contextmanager
def worlds() -> Iterator[dict[str, World]]:
    """One in process, one over HTTP, each with a project."""
    command = [sys.executable, "-m", "benchmarks.http", "serve"]
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        server = MemoryServer(app, {user: {"project:p1"} for user in USERS})
        tokens = {user: sign(SECRET, user, time.time(), 3600) for user in USERS}
        both = {
            "in process": World(
                Path(folder), lambda path, user: app.open(path, transport=server.connect(user))
            ),
            "http": World(
                Path(folder), lambda path, user: app.open(path, server=url, token=tokens[user])
            ),
        }
        try:
            for world in both.values():
                first = world.replica("ann")
                first.run(create_project, id="p1")
                first.sync()
            yield both
            for world in both.values():
                world.close()
        finally:
            process.terminate()
            process.wait()


def create(replica: Replica, count: int) -> None:
    for _ in range(count):
        replica.run(create_todo, id=next(_ids), project_id="p1")


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def noop_us(both: dict[str, World]) -> dict[str, float]:
    replicas = {name: world.replica("ann") for name, world in both.items()}
    return in_turns(NOOPS, **{name: replica.sync for name, replica in replicas.items()})


def upload_per_s(world: World, writer: Replica) -> float:
    create(writer, UPLOAD)
    return UPLOAD / seconds(writer.sync)


def download_per_s(world: World) -> tuple[float, float]:
    """Actions taken in per second, and the longest that a run had to wait meanwhile, in ms."""
    reader, writer = world.replica("bob"), world.replica("ann")
    create(writer, DOWNLOAD)
    writer.sync()
    waits_s: list[float] = []
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.05):
            waits_s.append(seconds(lambda: create(reader, 1)))

    rate = DOWNLOAD / seconds(reader.sync)
    create(writer, DOWNLOAD)
    writer.sync()
    thread = threading.Thread(target=write)
    thread.start()
    reader.sync()
    done.set()
    thread.join()
    return rate, max(waits_s) * 1000


def latency_ms(world: World) -> float:
    """From a run on one replica until another one has it, both syncing."""
    writer, reader = world.replica("ann"), world.replica("bob")
    came = threading.Event()
    reader.on("tables", lambda _: came.set())
    times_ms = []
    with writer.syncing(), reader.syncing():
        create(writer, 1)
        came.wait(10)
        for _ in range(LATENCIES):
            time.sleep(0.05)
            came.clear()
            create(writer, 1)
            times_ms.append(seconds(lambda: came.wait(10)) * 1000)
    return median(times_ms)


def main() -> None:
    with worlds() as both:
        noops = noop_us(both)
        writers = {name: world.replica("ann") for name, world in both.items()}
        uploads: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(TURNS):
            for name, world in both.items():
                uploads[name].append(upload_per_s(world, writers[name]))
        latencies = {name: latency_ms(world) for name, world in both.items()}
        downloads = {name: download_per_s(world) for name, world in both.items()}
        later = noop_us(both)
        rows = dict.fromkeys(both, 0)
        snapshots = {}
        for name, world in both.items():
            writer = world.replica("cid")
            rows[name] = writer.query("SELECT count(*) AS n FROM todo")[0]["n"]
            for _ in range((SNAPSHOT - rows[name]) // 1000):
                writer.run(create_todos, count=1000, project_id="p1")
                writer.sync()
            snapshots[name] = seconds(lambda world=world: world.replica("bob"))
    here, there = "in process", "http"
    tell(
        "http: the server in memory, in process and over HTTP in a process of its own",
        ["work", here, there, "ratio"],
        [
            [work, figures[here], figures[there], figures[there] / figures[here]]
            for work, figures in {
                "noop exchange, us": noops,
                f"noop behind {(TURNS * UPLOAD + 2 * DOWNLOAD) // 1000}k actions, us": later,
                "upload, actions/s": {n: median(rates) for n, rates in uploads.items()},
                "download and replay, actions/s": {n: d[0] for n, d in downloads.items()},
                "longest wait of a run meanwhile, ms": {n: d[1] for n, d in downloads.items()},
                "from run to the other replica, ms": latencies,
                f"new replica of {SNAPSHOT // 1000}k rows, s": snapshots,
            }.items()
        ],
    )


if __name__ == "__main__":
    serve() if sys.argv[1:2] == ["serve"] else main()
